// The page as a whole: who calls whom. Each panel is a module of its own; none knows another.

import * as api from "./api.js";
import * as cards from "./cards.js";
import * as compare from "./compare.js";
import * as diffuse from "./diffuse.js";
import * as exported from "./export.js";
import * as form from "./form.js";
import * as heat from "./heat.js";
import * as keys from "./keys.js";
import * as map from "./map.js";
import * as pair from "./pair.js";
import * as tree from "./tree.js";
import { $, say } from "./dom.js";
import { notice } from "./notice.js";
import { Session } from "./store.js";
import { number, preferred, speak, spoken, t } from "./words.js";

const VIEWS = ["think", "compare", "diffuse"];
const MAP_EVERY = 1000; // milliseconds between two questions for the map while thoughts grow
let session = null;
let running = null; // the AbortController of what streams, or null
let mapping = null; // the same of the question for the map
let mapTimer = null;
let mapWanted = false;
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
  session = new Session(settings);
  const mine = session;
  nextSeed = settings.seed + settings.n;
  drawAll();
  say(t("saidStart", { n: settings.n }));
  await streamed(mine, mine.roots, api.completion(settings), cards, think);
  if (session !== mine || mine.roots.some((thought) => thought.text)) return;
  session = before; // nothing came: what was there before stays
  drawAll();
}

/** Stream into these thoughts of this session; whatever happens, finished thoughts stay. again: what to do once more. */
async function streamed(mine, thoughts, body, panel, again) {
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
    if (thoughts !== mine.roots) mine.forget(thoughts);
    if (running === signal) end();
    if (session === mine) {
      drawAll();
      wantMap(true);
    }
  }
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
    const { points, distances } = await api.mapOf(thoughts.map(({ text }) => text), signal.signal);
    if (session !== mine || mapping !== signal) return;
    mine.setMap(thoughts, distances, points);
    map.update();
    heat.draw(mine);
    drawActions();
  } catch (error) {
    if (!api.cancelled(error) && !running) fail(error, () => wantMap(true)); // while thoughts grow, the next one will do
  } finally {
    if (mapping === signal) mapping = null;
    if (mapWanted && !mapTimer) mapTimer = setTimeout(askMap, MAP_EVERY);
  }
}

// --- the most different k ---------------------------------------------------------------------------------------

async function pick() {
  const among = session?.roots.filter((thought) => thought.done && thought.text.trim()) ?? [];
  const k = Math.min(among.length, Math.max(1, form.numeric("k") ?? 3));
  if (!among.length || running) return;
  const mine = session;
  try {
    const likes = among.map((thought) => cards.perToken(thought) ?? thought.logprob ?? 0);
    const { indices } = await api.selectOf(among.map(({ text }) => text), likes, k);
    if (session !== mine) return;
    unpick(false);
    for (const i of indices) if (among[i]) among[i].picked = true;
    mine.picking = true;
    drawAll();
    say(t("saidPicked", { labels: indices.map((i) => among[i]?.label).join(", ") }));
  } catch (error) {
    fail(error, pick);
  }
}

function unpick(draw = true) {
  for (const thought of session.all) thought.picked = false;
  session.picking = false;
  if (draw) {
    drawAll();
    $("pick").focus();
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
}

function drawActions() {
  if (!session) return;
  $("actions").hidden = running !== null || !session.roots.some((thought) => thought.text);
  const { metrics = {}, run = {} } = session.facts;
  const pairs = session.distances.flatMap((row, i) => row.slice(0, i));
  const parts = [t("summary", { n: session.roots.length })];
  if (Number.isFinite(metrics.vendi)) parts.push(t("vendi", { x: number(metrics.vendi, 1) }));
  if (pairs.length) parts.push(t("meanDistance", { x: number(pairs.reduce((a, b) => a + b, 0) / pairs.length) }));
  if (Number.isFinite(run.tokens_per_second)) parts.push(t("speed", { x: number(run.tokens_per_second, 0) }));
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

// --- views, theme, language -------------------------------------------------------------------------------------

function view(name, focus = false) {
  for (const each of VIEWS) {
    const on = each === name;
    $(`view-${each}`).hidden = !on;
    $(`tab-${each}`).setAttribute("aria-selected", String(on));
    $(`tab-${each}`).tabIndex = on ? 0 : -1;
  }
  if (focus) $(`tab-${name}`).focus();
  if (name === "compare") compare.open();
  if (location.hash.slice(1) !== name) history.replaceState(null, "", name === "think" ? location.pathname : `#${name}`);
}

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function chrome() {
  const to = dark() ? "toLight" : "toDark";
  $("theme").textContent = t(to);
  $("theme").setAttribute("aria-label", t("themeLabel", { theme: t(to) }));
  $("language").textContent = t("language");
  $("language").lang = spoken() === "en" ? "fr" : "en";
  document.querySelector("#empty p").textContent = t("empty");
  drawActions();
}

function switchTheme() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("thoughtmix.theme", document.documentElement.dataset.theme);
  } catch {
    // storage may be forbidden: the choice then lasts as long as the page
  }
  chrome();
}

async function connect() {
  try {
    const info = await api.info();
    $("model").textContent = info.model ?? "";
    form.offer(info);
    tree.offer(form.rewriter()?.strengths ?? []);
    compare.offer(info);
    diffuse.offer(info.diffusion !== false);
    if (session) drawAll();
    notice.hide();
  } catch (error) {
    fail(error, connect);
  }
}

function startTabs() {
  for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => view(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = VIEWS.findIndex((name) => event.target.id === `tab-${name}`);
    const to = { ArrowRight: (at + 1) % VIEWS.length, ArrowLeft: (at + VIEWS.length - 1) % VIEWS.length, Home: 0, End: VIEWS.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    view(VIEWS[to], true);
  });
}

function startPanels() {
  const canNoise = () => Boolean(form.rewriter()) && running === null;
  form.start({ submit: think });
  cards.start({ noise, canNoise, hasNoise: () => Boolean(form.rewriter()), point: one, openTree: (thought) => { tree.open_(thought, true); $("tree-panel").scrollIntoView({ block: "nearest" }); } });
  map.start({ open: openThought, point: one });
  heat.start({ point, compare: (a, b) => pair.show(a, b, session.distance(a, b)) });
  tree.start({ noise, canNoise, point: one, compare: (a, b) => pair.show(a, b, session.distance(a, b)) });
  pair.start();
  compare.start({ fail, clear: notice.hide, prompt: () => $("prompt").value.trim() || t("example1") });
  diffuse.start({ fail, clear: notice.hide });
  notice.start();
}

function start() {
  startPanels();
  startTabs();
  $("cancel").addEventListener("click", cancelAll);
  $("pick").addEventListener("click", pick);
  $("unpick").addEventListener("click", () => unpick());
  $("export-json").addEventListener("click", () => session && exported.saveJson(session));
  $("export-html").addEventListener("click", () => session && exported.saveHtml(session));
  $("theme").addEventListener("click", switchTheme);
  $("language").addEventListener("click", () => speak(spoken() === "en" ? "fr" : "en"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", chrome);
  document.addEventListener("language", chrome);
  keys.start({
    think: () => !$("view-think").hidden && think(), cancel: cancelAll, pick: () => session && pick(), view,
    noise: () => { const thought = tree.focused() ?? cards.focused(); if (thought) noise(thought); },
    step: (by) => {
      if (!session) return;
      const at = session.roots.indexOf(cards.focused());
      cards.focusCard(session.roots[at < 0 ? 0 : Math.min(session.roots.length - 1, Math.max(0, at + by))]);
    },
  });
  speak(preferred(), false);
  view(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "think");
  connect();
}

start();
