// N thoughts side by side, growing as they stream; sorted and filtered when they stand.

import { $, h, perFrame, say } from "./dom.js";
import { put } from "./markdown.js";
import { number, t } from "./words.js";

const DENSE = 16; // of more thoughts each shows its beginning until it is asked for all
const SORTABLE = 4; // of fewer there is nothing to sort
const parts = new WeakMap(); // thought -> the elements of its card that change
let session = null;
let actions = {};
let order = []; // the roots as they are shown

const SORTS = {
  number: null, likely: (x) => x.perToken, relevant: (x) => x.scores?.relevance, far: (x) => session.farness(x),
  complete: (x) => Number(x.complete) + (x.finish === "stop" ? 0.5 : 0), long: (x) => x.text.length,
};

/** actions: noise(thought), canNoise(), hasNoise(), goOn(thought), canGoOn(), openTree(thought), point(thought or null). */
export function start(given) {
  actions = given;
  const point = (event) => actions.point(session?.roots.find((x) => x.label === event.target.closest?.(".card")?.dataset.label) ?? null);
  $("cards").addEventListener("pointerover", point);
  $("cards").addEventListener("pointerleave", () => actions.point(null));
  $("cards").addEventListener("focusin", point);
  $("sort").addEventListener("change", arrange);
  $("filter").addEventListener("input", perFrame(arrange));
  $("show").addEventListener("change", arrange);
  document.addEventListener("language", () => {
    drawSorts();
    if (session) draw(session, true);
  });
}

function drawSorts() {
  const chosen = $("sort").value || "number";
  $("sort").replaceChildren(...Object.keys(SORTS).map((name) => h("option", { value: name, selected: name === chosen }, t(`sort_${name}`))));
}

/** What may be shown alone: all, whole ones, picked ones, a group of the map. */
function drawShow() {
  const chosen = $("show").value;
  const groups = session.groups.map(({ label, thoughts }, i) => ({ value: `group ${i}`, text: `${label || t("group", { n: i + 1 })} (${number(thoughts.filter((x) => !x.parent).length, 0)})` }));
  const fixed = ["all", "complete", "open", ...(session.picking ? ["picked"] : [])].map((value) => ({ value, text: t(`show_${value}`) }));
  const all = [...fixed, ...groups];
  $("show").replaceChildren(...all.map(({ value, text }) => h("option", { value, selected: value === chosen }, text)));
}

/** A card for each root thought. */
export function draw(given, anew = given !== session) {
  if (given !== session) $("filter").value = $("show").value = "";
  session = given;
  const many = session.roots.length;
  $("sorting").hidden = many < SORTABLE;
  $("cards").classList.toggle("dense", many > DENSE);
  drawShow();
  if (anew) {
    $("cards").replaceChildren(...session.roots.map(card)); // else the focus would be lost
    order = [...session.roots];
  }
  session.roots.forEach(update);
  arrange();
}

/** Show only the thoughts of a group of the map; null: all. */
export function showGroup(place) {
  $("show").value = place === null ? "all" : `group ${place}`;
  arrange();
}

/** Which cards are seen, and in which order. */
function arrange() {
  if (!session) return;
  const by = SORTS[$("sort").value];
  const value = (x) => by(x) ?? -Infinity;
  const standing = session.roots.every((x) => x.done);
  const wanted = by && standing ? [...session.roots].sort((a, b) => value(b) - value(a)) : [...session.roots];
  if (wanted.some((thought, i) => order[i] !== thought)) {
    const had = document.activeElement;
    $("cards").append(...wanted.map((thought) => $(`card-${thought.label}`)));
    if (had?.closest?.("#cards")) had.focus({ preventScroll: true });
  }
  order = wanted;
  const words = $("filter").value.trim().toLowerCase();
  const show = $("show").value;
  const group = show.startsWith("group ") ? session.groups[Number(show.slice(6))]?.thoughts ?? [] : null;
  const fits = (x) => (!words || x.text.toLowerCase().includes(words)) && (group === null || group.includes(x))
    && (show !== "complete" || x.complete) && (show !== "open" || !x.complete) && (show !== "picked" || x.picked);
  for (const thought of session.roots) $(`card-${thought.label}`).hidden = !fits(thought);
  const seen = shown().length;
  $("shown").textContent = seen < session.roots.length ? t("shownOf", { n: number(seen, 0), all: number(session.roots.length, 0) }) : "";
}

/** The thoughts whose cards are seen, in their order. */
export const shown = () => order.filter((thought) => !$(`card-${thought.label}`)?.hidden);

function card(thought) {
  const id = `card-${thought.label}`;
  const text = h("div", { class: "text", dir: "auto" }, thought.text);
  const state = h("span", { class: "state" });
  const facts = h("p", { class: "facts" });
  const button = (word, act, more = {}) => h("button", { type: "button", class: "small quiet", "aria-describedby": `${id}-title`, onclick: () => act(thought), ...more }, t(word));
  const goOn = button("goOn", (x) => actions.goOn(x), { class: "small", hidden: true });
  const noise = button("noiseOne", (x) => actions.noise(x), { class: "small" });
  const branches = button("tree", (x) => actions.openTree(x), { hidden: true });
  const copy = button("copy", (x) => copyText(x.text));
  const whole = button("wholeText", () => unfold(thought), { hidden: true, "aria-expanded": "false" });
  parts.set(thought, { text, state, facts, goOn, noise, branches, copy, whole, shown: thought.text, put: false });
  return h("li", { class: "card", id, tabindex: "-1", "--hue": thought.hue, "data-label": thought.label, "aria-labelledby": `${id}-title` },
    h("div", { class: "card-head" }, h("h3", { id: `${id}-title` }, h("span", { class: "badge", "aria-hidden": "true" }, thought.label), h("span", { class: "sr" }, t("thought", { label: thought.label }))), state),
    text, facts, h("div", { class: "row card-foot" }, noise, goOn, branches, copy, whole));
}

function unfold(thought) {
  const { text, whole } = parts.get(thought);
  const open = text.classList.toggle("open");
  whole.setAttribute("aria-expanded", String(open));
  whole.textContent = t(open ? "lessText" : "wholeText");
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    say(t("copied"));
  } catch {
    // no permission, or no secure context: nothing was copied and nothing is claimed
  }
}

/** Only what was added goes into the page: long thoughts stay cheap. */
export const grow = perFrame(() => {
  for (const thought of session?.roots ?? []) {
    const part = parts.get(thought);
    if (!part || part.shown === thought.text) continue;
    if (part.put) {
      part.text.classList.remove("rich");
      part.text.replaceChildren(part.shown);
      part.put = false;
    }
    const node = part.text.firstChild ?? part.text.appendChild(document.createTextNode(""));
    if (thought.text.startsWith(part.shown)) node.appendData(thought.text.slice(part.shown.length));
    else node.data = thought.text;
    part.shown = thought.text;
    update(thought);
  }
});

/** How a thought ended, in words. */
const ended = (thought) => ({ stop: t("stop"), sentence: t("sentence"), length: t("length_"), cancelled: t("cancelled") })[thought.finish] ?? "";

export function update(thought) {
  const part = parts.get(thought);
  if (!part) return;
  const card = part.text.parentElement;
  if (thought.done && (!part.put || part.shown !== thought.text)) {
    put(part.text, thought.text);
    Object.assign(part, { shown: thought.text, put: true });
    part.whole.hidden = !$("cards").classList.contains("dense") || part.text.scrollHeight <= part.text.clientHeight + 4;
  }
  part.state.textContent = thought.picked ? t("picked") : session.picking && thought.left ? t(`left_${thought.left.why}`, { of: thought.left.of?.label ?? "" }) : thought.done ? ended(thought) : thought.text ? t("writing") : t("waiting");
  card.classList.toggle("growing", !thought.done);
  card.classList.toggle("picked", thought.picked);
  card.classList.toggle("dim", session.picking && !thought.picked);
  part.noise.setAttribute("aria-disabled", String(!thought.done || !thought.text.trim() || !actions.canNoise())); // not disabled: it keeps the focus
  part.noise.title = actions.hasNoise() ? "" : t("noNoise");
  part.goOn.hidden = !thought.open || !actions.canGoOn(thought);
  part.copy.disabled = !thought.text;
  part.branches.hidden = thought.children.length === 0;
  part.branches.textContent = t("openTree", { n: thought.children.length });
  part.facts.replaceChildren(...facts(thought).map(([value, meaning]) => h("span", { title: meaning }, value)));
}

/** Facts of a thought as [words, what they mean if they do not say it]. */
export function facts(thought) {
  if (!thought.done) return [];
  const out = [];
  if (thought.origin?.specification) out.push([thought.origin.specification, t("specification")]);
  if (thought.origin?.agreement) out.push([t("agreement", { x: thought.origin.agreement }), t("agreementNote")]);
  if (thought.perToken !== null) out.push([t("likeShort", { x: number(thought.perToken) }), t("like")]);
  if (Number.isFinite(thought.scores?.relevance)) out.push([t("relevance", { x: number(thought.scores.relevance) }), t("relevanceNote")]);
  if (Number.isInteger(thought.seed)) out.push([t("ownSeed", { seed: thought.seed }), null]);
  return out;
}

export const focusCard = (thought) => {
  const card = $(`card-${thought.label}`);
  if (card) card.hidden = false;
  card?.scrollIntoView({ block: "nearest" });
  card?.focus({ preventScroll: true });
};

/** The root thought whose card has the focus, or null. */
export const focused = () => session?.roots.find((x) => x.label === document.activeElement?.closest?.(".card")?.dataset.label) ?? null;

/** Mark the card of what is pointed at elsewhere. */
export function point(thoughts) {
  for (const card of $("cards").children) card.classList.toggle("pointed", thoughts.some((x) => x.label === card.dataset.label));
}
