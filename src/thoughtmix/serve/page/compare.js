// Creativity beside temperature: one prompt, two ways of getting different answers, each run again as its slider moves.

import * as api from "./api.js";
import { fit, numeric, streaming } from "./form.js";
import { $, h, perFrame, s, say } from "./dom.js";
import { put } from "./markdown.js";
import { mean, Thought } from "./store.js";
import { number, t } from "./words.js";
import { thinkerName } from "./words_thinkers.js";

const PATIENCE = 500; // milliseconds after the slider's last move
const SIDES = [
  { id: "creativity", heated: false, most: 2, value: 1, hue: 285 },
  { id: "temperature", heated: true, most: 2, value: 1, hue: 65 },
]; // thinker: who serves it, undefined where nobody does
let actions = { fail() {}, clear() {}, prompt: () => "" };
let model;
/** What a run is judged by: difference alone would let junk win. */
const FIGURES = {
  different: (result) => ({ value: result.different, shown: (x) => number(x, 1), of: result.n }),
  complete: (result) => ({ value: result.complete, shown: (x) => number(x, 0), of: result.n }),
  relevance: (result) => ({ value: result.relevance, shown: (x) => number(x) }),
};
let tried = []; // {side, value, different, complete, relevance, quality, n}
let triedPrompt = "";

/** actions: fail(error, again), clear(), prompt() the other view's prompt. */
export function start(given) {
  actions = given;
  $("sides").replaceChildren(...SIDES.map(build));
  $("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    both();
  });
  $("compare-cancel").addEventListener("click", cancel);
  document.addEventListener("language", () => {
    SIDES.forEach(words);
    draw();
    verdict();
  });
}

export function offer(info) {
  model = info.model;
  for (const side of SIDES) side.thinker = streaming(side.heated)?.name;
  SIDES.forEach(words);
}

/** The view is opened: it begins with the prompt of the other. */
export function open() {
  if ($("compare-prompt").value === "") $("compare-prompt").value = actions.prompt();
  fit($("compare-prompt"));
}

export const busy = () => SIDES.some((side) => side.running);

export function cancel() {
  for (const side of SIDES) {
    clearTimeout(side.timer);
    side.running?.abort();
  }
}

function build(side) {
  const slider = h("input", { type: "range", id: `slide-${side.id}`, min: 0, max: side.most, step: 0.05, value: side.value });
  const out = h("output", { for: slider.id });
  slider.addEventListener("input", () => {
    side.value = slider.valueAsNumber;
    out.textContent = number(side.value);
    if (!$("compare-live").checked || $("compare-prompt").value.trim() === "") return;
    clearTimeout(side.timer);
    side.timer = setTimeout(() => run(side), PATIENCE);
  });
  Object.assign(side, { slider, out, name: h("span"), note: h("p", { class: "hint" }), figures: h("dl", { class: "figures" }), under: h("p", { class: "hint" }), list: h("ol", { class: "mini" }), bar: h("progress", { max: 1, value: 0, hidden: true }) });
  return h("section", { class: "panel side-run", id: `side-${side.id}`, "--hue": side.hue, "aria-labelledby": `name-${side.id}` },
    h("h3", { id: `name-${side.id}` }, side.name), side.note,
    h("div", { class: "field" }, h("label", { for: slider.id }, h("span", { class: "sr", "data-word": side.id }), out), slider),
    side.figures, side.under, side.bar, side.list);
}

function words(side) {
  const known = Boolean(side.thinker);
  side.name.textContent = t(side.id);
  side.note.textContent = known ? t("sideNote", { name: thinkerName(side.thinker) }) : t("sideAbsent");
  side.out.textContent = number(side.value);
  side.bar.setAttribute("aria-label", `${side.name.textContent}: ${t("progress")}`);
  side.slider.disabled = !known;
  side.list.dataset.empty = t("notYet");
  side.slider.labels[0].querySelector(".sr").textContent = t(side.id);
  figures(side);
}

function figures(side) {
  const result = side.result ?? {};
  side.figures.replaceChildren(...Object.entries(FIGURES).map(([name, figure]) => {
    const { value, shown, of } = figure(result);
    return h("div", { title: t(`${name}Note`) }, h("dt", {}, t(`figure_${name}`)),
      h("dd", { class: "big", "data-figure": name }, value === undefined || value === null ? "–" : shown(value), of && value !== undefined ? h("small", {}, ` ${t("ofAll", { n: number(of, 0) })}`) : ""));
  }));
  side.under.textContent = side.running ? t("running") : [Number.isFinite(result.apart) && `${number(result.apart)} ${t("apart")}`, Number.isFinite(result.quality) && `${number(result.quality)} ${t("quality")}`].filter(Boolean).join(" · ");
}

/** Who is ahead in what, in one line, when both stand. */
function verdict() {
  const [a, b] = SIDES;
  $("verdict").hidden = !a.result || !b.result;
  if ($("verdict").hidden) return;
  const ahead = (x, y) => Object.entries(FIGURES).flatMap(([name, figure]) => {
    const [own, other] = [figure(x.result), figure(y.result)];
    if (!Number.isFinite(own.value) || !Number.isFinite(other.value) || own.shown(own.value) === other.shown(other.value) || own.value < other.value) return [];
    return [t("aheadIn", { what: t(`figure_${name}`), own: own.shown(own.value), other: own.shown(other.value) })];
  });
  const lines = [[a, b], [b, a]].map(([x, y]) => [x, ahead(x, y)]).filter(([, list]) => list.length).map(([x, list]) => t("ahead", { side: `${x.name.textContent} ${number(x.result.value)}`, list: list.join(", ") }));
  $("verdict").textContent = lines.join(" ") || t("aheadNone");
}

function both() {
  if ($("compare-prompt").value.trim() === "") $("compare-prompt").value = actions.prompt();
  if ($("compare-prompt").value.trim() === "") {
    $("compare-prompt").focus();
    return actions.fail(new api.Failure("refused", { text: t("errPrompt") }), null);
  }
  return Promise.all(SIDES.filter(({ thinker }) => thinker).map(run));
}

/** One side anew; what it was doing is cancelled. */
async function run(side) {
  clearTimeout(side.timer);
  side.running?.abort();
  actions.clear();
  const mine = new AbortController();
  side.running = mine;
  busyShown();
  const [value, n] = [side.value, numeric("compare-n") ?? 6];
  const prompt = $("compare-prompt").value.trim();
  if (prompt !== triedPrompt) [tried, triedPrompt] = [[], prompt];
  const thoughts = Array.from({ length: n }, (_, i) => new Thought(String(i + 1), null, side.hue, i));
  const texts = thoughts.map(() => h("div", { class: "text", dir: "auto" }));
  side.list.replaceChildren(...texts.map((p) => h("li", {}, p)));
  Object.assign(side.bar, { hidden: false, value: 0 });
  side.result = undefined;
  figures(side);
  verdict();
  const grow = perFrame(() => thoughts.forEach((thought, i) => { if (texts[i].textContent !== thought.text) texts[i].textContent = thought.text; }));
  try {
    const body = api.completion({ prompt, thinker: side.thinker, n, seed: 0, maxTokens: numeric("compare-tokens") ?? 32, [side.id]: value, model });
    const facts = await api.stream(body, thoughts, { text: grow, end() {}, progress: (done, total) => { side.bar.value = total ? done / total : 0; } }, mine.signal);
    thoughts.forEach((thought, i) => put(texts[i], thought.text));
    side.result = { value, ...result(thoughts, facts) };
    if (side.result.different !== undefined) tried.push({ side, ...side.result });
    const said = Object.entries(FIGURES).map(([name, figure]) => [name, figure(side.result)]).filter(([, { value: x }]) => Number.isFinite(x));
    say(`${side.name.textContent} ${number(value)}: ${said.map(([name, { value: x, shown }]) => `${t(`figure_${name}`)} ${shown(x)}`).join(", ")}`);
  } catch (error) {
    if (side.running === mine && !api.cancelled(error)) actions.fail(error, () => run(side));
  } finally {
    if (side.running === mine) {
      side.running = null;
      side.bar.hidden = true;
      busyShown();
      figures(side);
      verdict();
      draw();
    }
  }
}

function result(thoughts, facts) {
  const pairs = (facts.distances ?? []).flatMap((row, i) => row.slice(0, i));
  const known = (value) => (Number.isFinite(value) ? value : undefined);
  return {
    different: known(facts.metrics?.vendi), complete: thoughts.filter((thought) => thought.complete).length, relevance: known(facts.metrics?.relevance ?? mean(thoughts.map(({ scores }) => scores?.relevance).filter(Number.isFinite))),
    apart: known(mean(pairs)), quality: known(mean(thoughts.map((thought) => thought.perToken).filter((like) => like !== null))), n: thoughts.length,
  };
}

function busyShown() {
  $("compare-cancel").hidden = !busy();
}

/** All that was tried for this prompt: a plot, and the same as a table. */
function draw() {
  $("tried").hidden = tried.length === 0;
  if (!tried.length) return;
  const plot = $("tried-plot");
  plot.removeAttribute("hidden");
  const [width, height, left, low] = [Math.max(280, plot.clientWidth || 640), 300, 46, 52]; // as wide as it is shown: text keeps its size
  const usable = tried.filter(({ relevance }) => relevance !== undefined);
  const range = (values, pad) => [Math.min(...values) - pad, Math.max(...values) + pad];
  const [x0, x1] = range(usable.length ? usable.map(({ relevance }) => relevance) : [0], 0.03);
  const [y0, y1] = [1, Math.max(...tried.map(({ n }) => n))];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - 20);
  const y = (value) => height - low - ((value - y0) / (y1 - y0)) * (height - low - 20);
  const near = (i) => usable.slice(0, i).some((other) => Math.abs(x(other.relevance) - x(usable[i].relevance)) < 44 && Math.abs(y(other.different) - y(usable[i].different)) < 14);
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  plot.toggleAttribute("hidden", usable.length === 0);
  plot.replaceChildren(
    s("line", { class: "axis", x1: left, x2: width - 10, y1: height - low, y2: height - low }), s("line", { class: "axis", x1: left, x2: left, y1: 10, y2: height - low }),
    s("text", { class: "tick", x: width - 12, y: height - 8, "text-anchor": "end" }, `${t("figure_relevance")} →`), s("text", { class: "tick", x: left + 8, y: 18 }, `↑ ${t("figure_different")}`),
    ...[y0, y1].map((value) => s("text", { class: "tick", x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, 0))),
    ...[x0, x1].map((value, i) => s("text", { class: "tick", x: x(value), y: height - low + 16, "text-anchor": i ? "end" : "start" }, number(value, 2))),
    ...usable.map(({ side, value, different, relevance, complete, n }, i) => s("g", { class: `mark ${side.id}`, "--hue": side.hue, "--share": (complete / n).toFixed(2), transform: `translate(${x(relevance).toFixed(1)} ${y(different).toFixed(1)})` },
      side.heated ? s("rect", { x: -5.5, y: -5.5, width: 11, height: 11, rx: 2 }) : s("circle", { r: 6 }), s("text", near(i) ? { x: -10, y: 4, "text-anchor": "end" } : { x: 10, y: 4 }, number(value)))),
  );
  const cell = (value, digits) => h("td", {}, Number.isFinite(value) ? number(value, digits) : "–");
  $("tried-table").replaceChildren(h("thead", {}, h("tr", {}, ...["setting", "figure_different", "figure_complete", "figure_relevance", "colQuality"].map((word) => h("th", { scope: "col" }, t(word))))),
    h("tbody", {}, ...tried.map(({ side, value, different, complete, relevance, quality, n }) => h("tr", {}, h("th", { scope: "row" }, h("i", { class: `key ${side.id}`, "--hue": side.hue, "aria-hidden": "true" }), `${side.name.textContent} ${number(value)}`),
      h("td", {}, `${number(different, 1)} / ${n}`), h("td", {}, `${number(complete, 0)} / ${n}`), cell(relevance, 2), cell(quality, 2)))));
}
