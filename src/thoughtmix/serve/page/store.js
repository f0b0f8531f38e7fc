// What is known: the thoughts of this prompt and what grew from them. No drawing here.

/** Neighbouring numbers get clearly different hues: steps of the golden angle, as in thoughtmix's own reports. */
const hue = (i) => Math.round(200 + 137.508 * i) % 360;

export class Thought {
  constructor(label, parent, colour, seed) {
    Object.assign(this, { label, parent, hue: colour, seed, text: "", logprob: null, origin: {}, scores: {} });
    this.done = false; // it will not grow any more
    this.finish = null; // stop, length or cancelled
    this.children = [];
    this.picked = false;
    this.strength = null; // of the noise that made it
  }

  get depth() {
    return this.parent ? this.parent.depth + 1 : 0;
  }
}

/** One prompt's thoughts (roots) and their descendants, with the distances among those that are mapped. */
export class Session {
  constructor(settings) {
    this.settings = settings;
    this.roots = Array.from({ length: settings.n }, (_, i) => new Thought(String(i + 1), null, hue(i), settings.seed + i));
    this.facts = {};
    this.mapped = []; // the thoughts that distances speak of, in their order
    this.distances = [];
    this.points = new Map(); // thought -> [x, y] in [0, 1]
    this.picking = false;
    this.began = Date.now();
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
  }

  distance(a, b) {
    const i = this.mapped.indexOf(a);
    const j = this.mapped.indexOf(b);
    return i < 0 || j < 0 ? null : this.distances[i][j];
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
