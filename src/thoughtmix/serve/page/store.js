// What is known: the thoughts of this prompt and what grew from them. No drawing here.

import { grouped } from "./clusters.js";

/** Neighbouring numbers get clearly different hues: steps of the golden angle, as in thoughtmix's own reports. */
const hue = (i) => Math.round(200 + 137.508 * i) % 360;

export class Thought {
  constructor(label, parent, colour, seed) {
    Object.assign(this, { label, parent, hue: colour, seed, text: "", logprob: null, origin: {}, scores: {} });
    this.done = false; // it will not grow any more
    this.finish = null; // stop, sentence, length or cancelled
    this.tokens = null; // of it
    this.children = [];
    this.picked = false;
    this.left = null; // why a selection left it out
    this.strength = null; // of the noise that made it
  }

  /** Whether the model was stopped before it ended by itself. */
  get open() {
    return this.done && this.finish !== "stop" && this.text.trim() !== "";
  }

  /** Whether it ended, or at least ends as a sentence does: `thoughtmix.metrics.soundness.is_complete`. */
  get complete() {
    return complete(this.text, this.finish);
  }

  /** Nats a token under the model, the end token aside where tokens are known one by one; null when unknown. */
  get perToken() {
    if (this.logprobs?.length) return mean(this.logprobs);
    return this.tokens > 0 && Number.isFinite(this.logprob) ? this.logprob / this.tokens : null;
  }

  get depth() {
    return this.parent ? this.parent.depth + 1 : 0;
  }
}

const END = /(?:\p{Sentence_Terminal}|…|```|[\p{So}\p{Emoji_Presentation}])[\p{Pe}\p{Pf}\p{Pi}"'*_`\s]*$/u;
const MARK = /(?:^|\n)\s*\d{1,3}[.)]\s*$/u; // the number of an item that never came

export function complete(text, finish) {
  if (!text.trim()) return false;
  return finish === "stop" || (END.test(text) && !MARK.test(text));
}

export const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

/** One prompt's thoughts (roots) and their descendants, with the distances among those that are mapped. */
export class Session {
  constructor(settings) {
    this.settings = settings;
    this.roots = Array.from({ length: settings.n }, (_, i) => new Thought(String(i + 1), null, hue(i), settings.seed + i));
    this.facts = {};
    this.mapped = []; // the thoughts that distances speak of, in their order
    this.at = new Map(); // thought -> its place in them
    this.distances = [];
    this.points = new Map(); // thought -> [x, y] in [0, 1]
    this.groups = []; // of mapped thoughts that belong together: [{label, thoughts}]
    this.selection = null; // what the last one gained
    this.began = Date.now();
    this.id = `${this.began.toString(36)}-${Math.floor(performance.now() * 1000).toString(36)}`;
  }

  get picking() {
    return this.selection !== null;
  }

  /** Mean distance of a root from the other roots; null where it is not known. */
  farness(thought) {
    const far = this.roots.filter((other) => other !== thought).map((other) => this.distance(thought, other)).filter((d) => d !== null);
    return mean(far);
  }

  /** Over all pairs of roots: what grew from them is no answer of the set. */
  get meanDistance() {
    return mean(this.roots.flatMap((a, i) => this.roots.slice(0, i).map((b) => this.distance(a, b))).filter((d) => d !== null));
  }

  groupOf(thought) {
    return this.groups.find(({ thoughts }) => thoughts.includes(thought)) ?? null;
  }

  /** Roots and everything grown from them, a parent before its children. */
  get all() {
    const out = [];
    const walk = (thought) => {
      out.push(thought);
      thought.children.forEach(walk);
    };
    this.roots.forEach(walk);
    return out;
  }

  /** n new children of a thought; their colour is the family's, a little turned. */
  branch(parent, n, seed, strength) {
    const first = parent.children.length;
    const made = Array.from({ length: n }, (_, i) => {
      const number = first + i + 1;
      const turn = (number % 2 ? 1 : -1) * Math.ceil(number / 2) * 9;
      const child = new Thought(`${parent.label}.${number}`, parent, (parent.hue + turn + 360) % 360, seed + i);
      child.strength = strength;
      return child;
    });
    parent.children.push(...made);
    return made;
  }

  /** Children that never got a word leave the tree. */
  forget(children) {
    for (const child of children) {
      if (child.text.trim() === "" && child.parent) child.parent.children = child.parent.children.filter((c) => c !== child);
    }
  }

  setMap(thoughts, distances, points) {
    this.mapped = thoughts;
    this.distances = distances;
    const placed = settle(points, thoughts.map((thought) => this.points.get(thought)));
    this.points = new Map(thoughts.map((thought, i) => [thought, placed[i]]));
    this.at = new Map(thoughts.map((thought, i) => [thought, i]));
    this.groups = grouped(thoughts.map(({ text }) => text), distances, placed).map(({ members, label }) => ({ label, thoughts: members.map((i) => thoughts[i]) }));
  }

  distance(a, b) {
    const [i, j] = [this.at.get(a), this.at.get(b)];
    return i === undefined || j === undefined ? null : this.distances[i][j];
  }
}

/**
 * New points turned and mirrored so that those known before (else undefined) move as little as possible, then fitted
 * into the unit square: the axes of a map of distances mean nothing, so a map must not jump about because they changed.
 * Orthogonal Procrustes in the plane (Schoenemann 1966): the best turn is the angle of sum conj(p) q, as complex numbers.
 */
export function settle(points, before) {
  const known = points.map((_, i) => i).filter((i) => before[i]);
  if (known.length < 2) return points.map(([x, y]) => [x, y]);
  const mean = (list) => [0, 1].map((axis) => known.reduce((sum, i) => sum + list[i][axis], 0) / known.length);
  const [px, py] = mean(points);
  const [bx, by] = mean(before);
  const best = [1, -1].map((flip) => {
    let re = 0;
    let im = 0;
    for (const i of known) {
      const [x, y] = [points[i][0] - px, flip * (points[i][1] - py)];
      const [u, v] = [before[i][0] - bx, before[i][1] - by];
      re += x * u + y * v;
      im += x * v - y * u;
    }
    return { flip, fit: Math.hypot(re, im), angle: Math.atan2(im, re) };
  }).sort((a, b) => b.fit - a.fit)[0];
  const [cos, sin] = [Math.cos(best.angle), Math.sin(best.angle)];
  const turned = points.map(([x0, y0]) => {
    const [x, y] = [x0 - px, best.flip * (y0 - py)];
    return [x * cos - y * sin, x * sin + y * cos];
  });
  const low = [0, 1].map((axis) => Math.min(...turned.map((p) => p[axis])));
  const high = [0, 1].map((axis) => Math.max(...turned.map((p) => p[axis])));
  const span = Math.max(high[0] - low[0], high[1] - low[1], 1e-9);
  return turned.map((p) => [0, 1].map((axis) => (p[axis] - (low[axis] + high[axis]) / 2) / span + 0.5));
}
