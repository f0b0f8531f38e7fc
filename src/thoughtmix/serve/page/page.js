// The page as a whole: who calls whom. Each panel is a module of its own; none knows another.

import * as api from "./api.js";
import * as cards from "./cards.js";
import * as chrome from "./chrome.js";
import * as compare from "./compare.js";
import * as diffuse from "./diffuse.js";
import * as exported from "./export.js";
import * as form from "./form.js";
import * as heat from "./heat.js";
import * as history from "./history.js";
import * as keys from "./keys.js";
import * as map from "./map.js";
import * as opening from "./opening.js";
import * as pair from "./pair.js";
import * as select from "./select.js";
import * as tree from "./tree.js";
import { $, say } from "./dom.js";
import { notice } from "./notice.js";
import { Session, Thought } from "./store.js";
import { number, preferred, speak, spoken, t } from "./words.js";
import { thinkerName } from "./words_thinkers.js";

const MAP_EVERY = 1000; // milliseconds between two questions for the map while thoughts grow
let session = null;
let running = null; // the AbortController of what streams, or null
let mapping = null; // the same of the question for the map
let mapTimer = null;
let mapWanted = false;
let served = ""; // the model that writes
let nextSeed = 0; // for noise: every branch its own

// --- thinking ---------------------------------------------------------------------------------------------------

async function think() {
  const settings = form.read();
  if (!settings) return;
  if (!settings.prompt) {
    notice.show(t("errPrompt"));
    $("prompt").focus();
    return;
  }
  running?.abort();
  notice.hide();
  const before = session;
  const mine = take(new Session(settings));
  say(t("saidStart", { n: settings.n }));
  await streamed(mine, mine.roots, api.completion(settings), cards, think);
  if (session !== mine || mine.roots.some((thought) => thought.text)) return;
  session = before; // nothing came: what was there before stays
  drawAll();
}

/** The same with seeds that were not drawn yet. */
function thinkAgain() {
  $("seed").value = nextSeed;
  think();
}

/** Another session is shown from now on. */
function take(given) {
  session = given;
  nextSeed = Math.max(0, ...session.all.map(({ seed }) => (Number.isSafeInteger(seed) ? seed : 0))) + 1;
  drawAll();
  return session;
}

/** One that was thought before, or elsewhere: its prompt and settings are those of the form, too. */
function open(given) {
  running?.abort();
  notice.hide();
  chrome.view("think");
  form.fill(given.settings);
  take(given);
  wantMap(true);
}

/** Stream into these thoughts of this session; whatever happens, finished thoughts stay. again: what to do once more; settle: what to do with what came. */
async function streamed(mine, thoughts, body, panel, again, settle = null) {
  const signal = begin();
  let half = false;
  const on = {
    text() {
      panel.grow();
      wantMap();
    },
    end(thought) {
      cards.update(thought);
      wantMap();
    },
    progress(done, total) {
      progress(done, total);
      if (!half && total && done >= total / 2) {
        half = true;
        say(t("saidHalf"));
      }
    },
  };
  try {
    const facts = await api.stream(body, thoughts, on, signal.signal);
    if (thoughts === mine.roots) mine.facts = facts;
    say(t("saidEnd", { n: thoughts.length }));
  } catch (error) {
    const kept = thoughts.filter((thought) => thought.done).length;
    if (!api.cancelled(error)) fail(error, again, kept);
    else if (running === signal) say(t("saidCancel", { n: kept }));
  } finally {
    for (const thought of thoughts) {
      if (!thought.done) Object.assign(thought, { done: true, finish: "cancelled" });
    }
    if (settle) settle();
    else if (thoughts !== mine.roots) mine.forget(thoughts);
    if (running === signal) end();
    if (session === mine) {
      drawAll();
      wantMap(true);
    }
    history.keep(mine);
  }
}

const canGoOn = (thought) => running === null && thought.open && Boolean(form.continuer(thought.origin?.thinker));

/** Go on with a thought that was cut: from its text, with its seed, whose stream goes on where it stood. */
async function goOn(thought) {
  if (!session || !canGoOn(thought)) return;
  notice.hide();
  const [mine, before, drawn] = [session, { ...thought }, thought.tokens ?? thought.logprobs?.length ?? 0];
  const thinker = form.continuer(thought.origin?.thinker);
  const own = thinker.name === thought.origin?.thinker;
  const { prompt, creativity, temperature, topP, minP, options, maxTokens, model } = mine.settings;
  const heat = own ? { creativity, temperature } : { temperature: Number.isFinite(thought.origin?.temperature) ? thought.origin.temperature : temperature };
  const body = api.completion({ prompt, thinker: thinker.name, n: 1, seed: thought.seed ?? 0, maxTokens: maxTokens ?? 96, ...heat, topP, minP, options: own ? options : undefined, model, begun: { text: before.text, drawn } });
  Object.assign(thought, { done: false, picked: false, left: null });
  mine.selection = null;
  const part = new Thought(thought.label, null, thought.hue, thought.seed);
  const panel = thought.depth ? tree : cards;
  drawAll();
  const grown = {
    grow() {
      thought.text = before.text + part.text;
      panel.grow();
    },
  };
  say(t("saidGoOn", { label: thought.label }));
  await streamed(mine, [part], body, grown, () => goOn(thought), () => {
    const whole = part.finish === "cancelled" && !part.text ? before : part;
    const sum = (a, b) => (Number.isFinite(a) && Number.isFinite(b) ? a + b : null);
    Object.assign(thought, {
      text: before.text + part.text, done: true, finish: whole.finish, logprobs: [...(before.logprobs ?? []), ...(part.logprobs ?? [])],
      tokens: part.text ? drawn + (part.tokens ?? part.logprobs?.length ?? 0) : before.tokens, logprob: part.text ? sum(before.logprob, part.logprob) : before.logprob,
    });
  });
}

function begin() {
  running?.abort();
  running = new AbortController();
  $("cancel").hidden = false;
  $("progress").hidden = false;
  $("bar").removeAttribute("value"); // unknown until the server says
  $("progress-text").textContent = "";
  $("results").setAttribute("aria-busy", "true");
  return running;
}

function end() {
  running = null;
  const hadFocus = document.activeElement === $("cancel");
  $("cancel").hidden = true;
  if (hadFocus) $("think").focus();
  $("progress").hidden = true;
  $("results").removeAttribute("aria-busy");
}

function progress(done, total) {
  $("bar").value = total ? Math.min(1, done / total) : 0;
  $("progress-text").textContent = t("done", { done: number(done, 0), total: number(total, 0) });
}

/** An error as one line with what to do; 401 asks for the token. */
function fail(error, again, kept = 0) {
  if (!(error instanceof api.Failure)) {
    console.error(error);
    error = new api.Failure("reply");
  }
  if (error.kind === "token") return notice.askToken(() => (again ?? connect)());
  return notice.show(error.line(kept), again, error.kind === "busy" ? error.wait : 0, (wait) => Object.assign(error, { wait }).line());
}

function cancelAll() {
  const any = running !== null || compare.busy() || diffuse.busy();
  running?.abort();
  compare.cancel();
  diffuse.cancel();
  return any;
}

// --- branches ---------------------------------------------------------------------------------------------------

async function noise(thought) {
  if (!session || !thought.done || !thought.text.trim() || !form.rewriter() || running) return;
  notice.hide();
  const mine = session;
  const n = Math.min(8, Math.max(1, form.numeric("children") ?? 3));
  const rewriter = form.rewriter();
  const children = mine.branch(thought, n, nextSeed, rewriter.strength ? tree.strength : null);
  const options = { [rewriter.text]: thought.text };
  if (rewriter.strength) options[rewriter.strength] = tree.strength;
  if (rewriter.languages.includes(spoken())) options[rewriter.language] = spoken();
  const { prompt, maxTokens, model } = mine.settings;
  const body = api.completion({ prompt, thinker: rewriter.thinker, n, seed: nextSeed, maxTokens, options, model });
  nextSeed += n;
  drawAll();
  tree.open_(children[0]);
  $("tree-panel").scrollIntoView({ block: "nearest" });
  say(t("saidBranch", { label: thought.label }));
  await streamed(mine, children, body, tree, () => noise(thought));
}

// --- map and heat-map -------------------------------------------------------------------------------------------

/** Ask for the map soon, at most once in MAP_EVERY and one question at a time; now: without waiting. */
function wantMap(now = false) {
  mapWanted = true;
  if (now) {
    clearTimeout(mapTimer);
    mapTimer = null;
    mapping?.abort();
    mapping = null;
    askMap();
  } else mapTimer ??= setTimeout(askMap, MAP_EVERY);
}

async function askMap() {
  mapTimer = null;
  if (!mapWanted || mapping || !session) return;
  mapWanted = false;
  const mine = session;
  const thoughts = mine.all.filter((thought) => thought.text.trim() !== "");
  if (thoughts.length < 2) return;
  const signal = new AbortController();
  mapping = signal;
  try {
    const standing = !running;
    const first = thoughts.filter((thought) => !thought.depth).length; // `all` has a root before its branches: figures are of roots alone
    const inOrder = [...thoughts.filter((thought) => !thought.depth), ...thoughts.filter((thought) => thought.depth)];
    const { points, distances, relevance, metrics } = await api.mapOf(inOrder.map(({ text }) => text), { prompt: standing ? mine.settings.prompt || undefined : undefined, first: first || undefined }, signal.signal);
    if (session !== mine || mapping !== signal) return;
    mine.setMap(inOrder, distances, points);
    if (standing && metrics) mine.facts.metrics = { ...mine.facts.metrics, ...metrics };
    relevance?.forEach((value, i) => { inOrder[i].scores = { ...inOrder[i].scores, relevance: value }; });
    map.update();
    heat.draw(mine);
    if (!running) cards.draw(mine);
    drawActions();
  } catch (error) {
    if (!api.cancelled(error) && !running) fail(error, () => wantMap(true)); // while thoughts grow, the next one will do
  } finally {
    if (mapping === signal) mapping = null;
    if (mapWanted && !mapTimer) mapTimer = setTimeout(askMap, MAP_EVERY);
  }
}

// --- drawing ----------------------------------------------------------------------------------------------------

function drawAll() {
  $("empty").hidden = session !== null;
  $("columns").hidden = $("jumps").hidden = session === null;
  if (!session) return;
  cards.draw(session);
  map.draw(session);
  heat.draw(session);
  tree.draw(session);
  drawActions();
  select.draw(session);
}

function drawActions() {
  if (!session) return;
  $("actions").hidden = running !== null || !session.roots.some((thought) => thought.text);
  const { metrics = {}, run = {}, model, thinker } = session.facts;
  const far = session.meanDistance;
  const parts = [t("summary", { n: session.roots.length })];
  if (Number.isFinite(metrics.vendi) && session.roots.length > 1) parts.push(t("vendi", { x: number(metrics.vendi, 1) }));
  if (far !== null) parts.push(t("meanDistance", { x: number(far) }));
  parts.push(t("completeOf", { n: number(session.roots.filter((thought) => thought.complete).length, 0) }));
  if (Number.isFinite(run.tokens_per_second)) parts.push(t("speed", { x: number(run.tokens_per_second, 0) }));
  if (thinker) parts.push(thinkerName(thinker));
  if (model && model !== served) parts.push(model);
  $("summary").textContent = parts.join(" · ");
  $("k").max = session.roots.length;
  $("unpick").hidden = !session.picking;
}

/** One thing pointed at is marked everywhere. */
function point(thoughts) {
  for (const panel of [cards, map, heat, tree]) panel.point(thoughts);
}

const one = (thought) => point(thought ? [thought] : []);

function openThought(thought) {
  if (thought.depth) tree.open_(thought, true);
  else cards.focusCard(thought);
}

// --- beginning --------------------------------------------------------------------------------------------------

async function connect() {
  try {
    const info = await api.info();
    served = info.model ?? "";
    chrome.name(served, info.diffusion_model ?? served);
    form.offer(info);
    tree.offer(form.rewriter()?.strengths ?? []);
    compare.offer(info);
    diffuse.offer(info.diffusion !== false, info.diffusion_model ?? "");
    if (session) drawAll();
    notice.hide();
  } catch (error) {
    fail(error, connect);
  }
}

function startPanels() {
  const canNoise = () => Boolean(form.rewriter()) && running === null;
  form.start({ submit: think });
  cards.start({ noise, canNoise, goOn, canGoOn, hasNoise: () => Boolean(form.rewriter()), point: one, openTree: (thought) => { tree.open_(thought, true); $("tree-panel").scrollIntoView({ block: "nearest" }); } });
  map.start({ open: openThought, point: one, showGroup: cards.showGroup });
  heat.start({ point, compare: (a, b) => pair.show(a, b, session.distance(a, b)) });
  tree.start({ noise, canNoise, goOn, canGoOn, point: one, compare: (a, b) => pair.show(a, b, session.distance(a, b)) });
  pair.start();
  compare.start({ fail, clear: notice.hide, prompt: () => $("prompt").value.trim() || t("example1") });
  diffuse.start({ fail, clear: notice.hide });
  notice.start();
  select.start({ session: () => (running ? null : session), redraw: drawAll, fail });
  history.start({ open });
  opening.start({ open, refuse: notice.show });
  chrome.start({
    opened(name) {
      if (name === "compare") compare.open();
    },
    chrome() {
      drawActions();
      if (session) select.draw(session);
    },
  });
}

function start() {
  startPanels();
  $("cancel").addEventListener("click", cancelAll);
  $("export-json").addEventListener("click", () => session && exported.saveJson(session));
  $("export-html").addEventListener("click", () => session && exported.saveHtml(session));
  $("again").addEventListener("click", thinkAgain);
  keys.start({
    think: () => !$("view-think").hidden && think(), cancel: cancelAll, pick: select.pick, view: chrome.view, again: () => session && !running && thinkAgain(),
    noise: () => { const thought = tree.focused() ?? cards.focused(); if (thought) noise(thought); },
    step: (by) => {
      if (!session) return;
      const seen = cards.shown();
      const at = seen.indexOf(cards.focused());
      if (seen.length) cards.focusCard(seen[at < 0 ? 0 : Math.min(seen.length - 1, Math.max(0, at + by))]);
    },
  });
  speak(preferred(), false);
  chrome.view(chrome.first());
  connect().then(() => {
    const before = session ?? history.current();
    if (before !== session) open(before);
  });
}

start();
