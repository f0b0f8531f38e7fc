// A session as the documented thought set, and a thought set as a session.

import { Session } from "./store.js";
import { t } from "./words.js";

const MOST = 256; // thoughts of a set that the page shows: as many as the server maps
const LONGEST = 20_000_000; // characters of a file

const finite = (object) => Object.fromEntries(Object.entries(object ?? {}).filter(([, value]) => typeof value === "number" && Number.isFinite(value)));
const plainObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/** A thought as docs/thoughtset.md has it. Token ids do not travel over the HTTP API: the list is empty. */
function plain(thought) {
  const origin = { ...thought.origin, label: thought.label };
  delete origin.parent;
  if (thought.parent) origin.parent = thought.parent.label;
  if (thought.strength) origin.strength = thought.strength;
  return {
    text: thought.text, token_ids: thought.token_ids ?? [], seed: Number.isInteger(thought.seed) ? thought.seed : 0,
    logprob: Number.isFinite(thought.logprob) ? thought.logprob : null, token_logprobs: thought.logprobs ?? [], finish: thought.finish ?? "cancelled",
    origin, scores: finite(thought.scores),
  };
}

/** The session as a thought set, version 1: roots first, then what grew from them (told by origin.parent). */
export function fromSession(session) {
  const thoughts = [...session.roots, ...session.all.filter((thought) => thought.parent)];
  const { prompt, n, seed, maxTokens, creativity, temperature, topP, minP, options } = session.settings;
  const settings = { n, seed, max_new_tokens: maxTokens, creativity, temperature, top_p: topP, min_p: minP, options };
  const mapped = thoughts.every((thought) => session.at.has(thought));
  return {
    schema: "thoughtmix/thoughtset", version: 1, prompt, messages: [], thinker: session.facts.thinker ?? session.settings.thinker ?? "",
    model: session.facts.model ?? "", settings: JSON.parse(JSON.stringify(settings)),
    metrics: finite(session.facts.metrics), distances: mapped ? thoughts.map((a) => thoughts.map((b) => session.distance(a, b))) : [],
    run: session.facts.run ?? {}, thoughts: thoughts.map(plain),
  };
}

/** What is wrong with a file, in one line for the user. */
export class NoSet extends Error {}

/** Text of a file as a thought set, or the first of several in a list or a line each. Throws `NoSet`. */
export function parsed(text) {
  if (text.length > LONGEST) throw new NoSet(t("errLarge"));
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    try {
      body = JSON.parse(text.trimStart().split("\n", 1)[0]); // JSON lines: the first
    } catch {
      throw new NoSet(t("errNoJson"));
    }
  }
  const set = Array.isArray(body) ? body[0] : body;
  if (!plainObject(set) || set.schema !== "thoughtmix/thoughtset" || !Array.isArray(set.thoughts) || typeof set.prompt !== "string") throw new NoSet(t("errNoSet"));
  if (!Number.isInteger(set.version) || set.version > 1) throw new NoSet(t("errVersion"));
  if (!set.thoughts.length || !set.thoughts.every((each) => plainObject(each) && typeof each.text === "string")) throw new NoSet(t("errNoSet"));
  return set;
}

/** A session of a checked set. Ancestry is taken where it is one: every chain of parents ends at a root. */
export function toSession(set) {
  const given = set.thoughts.slice(0, MOST);
  const told = plainObject(set.settings) ? set.settings : {};
  const labels = new Map();
  given.forEach((each, i) => {
    const label = each.origin?.label;
    if (typeof label === "string" && !labels.has(label)) labels.set(label, i);
  });
  const parentOf = (i) => {
    const at = labels.get(given[i].origin?.parent);
    return given[i].origin?.label === undefined || at === i ? undefined : at;
  };
  const rooted = given.map((_, i) => {
    const seen = new Set();
    let up = i;
    while (parentOf(up) !== undefined && !seen.has(up)) {
      seen.add(up);
      up = parentOf(up);
    }
    return !seen.has(up);
  });
  const roots = given.map((_, i) => i).filter((i) => parentOf(i) === undefined || !rooted[i]);
  const session = new Session({
    prompt: set.prompt, n: roots.length, seed: number(given[roots[0]].seed) ?? 0, maxTokens: number(told.max_new_tokens) ?? undefined,
    thinker: set.thinker || undefined, creativity: number(told.creativity) ?? undefined, temperature: number(told.temperature) ?? undefined,
    topP: number(told.top_p) ?? undefined, minP: number(told.min_p) ?? undefined, options: plainObject(told.options) ? told.options : {},
  });
  session.facts = { metrics: finite(set.metrics), thinker: String(set.thinker ?? ""), model: String(set.model ?? ""), run: plainObject(set.run) ? set.run : {} };
  const made = new Map();
  roots.forEach((i, place) => fill(made, i, session.roots[place], given[i]));
  for (let left = given.map((_, i) => i).filter((i) => !made.has(i)); left.length;) {
    const ready = left.filter((i) => made.has(parentOf(i)));
    for (const i of ready) {
      const [child] = session.branch(made.get(parentOf(i)), 1, 0, typeof given[i].origin?.strength === "string" ? given[i].origin.strength : null);
      fill(made, i, child, given[i]);
    }
    left = left.filter((i) => !made.has(i));
  }
  return session;
}

function fill(made, i, thought, body) {
  const ids = Array.isArray(body.token_ids) ? body.token_ids : [];
  const logprobs = Array.isArray(body.token_logprobs) ? body.token_logprobs.map(number).filter((value) => value !== null) : [];
  Object.assign(thought, {
    text: body.text, done: true, finish: ["stop", "sentence", "length"].includes(body.finish) ? body.finish : "cancelled", seed: Number.isInteger(body.seed) ? body.seed : null,
    logprob: number(body.logprob), logprobs, tokens: ids.length || logprobs.length || null, token_ids: ids,
    origin: plainObject(body.origin) ? body.origin : {}, scores: finite(body.scores),
  });
  made.set(i, thought);
}
