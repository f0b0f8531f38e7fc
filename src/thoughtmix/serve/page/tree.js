// What grew from what: noise a thought and its branches hang below it; each can be read, compared and noised again.

import { $, focusOne, h, perFrame } from "./dom.js";
import { facts } from "./cards.js";
import { put } from "./markdown.js";
import { number, t } from "./words.js";
import { valueName } from "./words_thinkers.js";

let session = null;
let actions = { noise() {}, goOn() {}, compare() {}, canNoise: () => true, canGoOn: () => true, point() {} };
let chosen = null; // the thought that is read beside the tree
const shut = new Set(); // thoughts whose children are folded away
const items = new Map(); // thought -> its treeitem
let strengths = []; // how far a rewriting may go
export let strength = null; // the chosen one

/** actions: noise(thought), goOn(thought), compare(a, b), canNoise(), canGoOn(thought), point(thought or null). */
export function start(given) {
  actions = given;
  $("tree").addEventListener("keydown", key);
  $("tree").addEventListener("focusin", (event) => actions.point(thoughtOf(event.target)));
  $("tree").addEventListener("pointerover", (event) => actions.point(thoughtOf(event.target)));
  $("tree").addEventListener("pointerleave", () => actions.point(null));
  document.addEventListener("language", () => {
    offer(strengths);
    if (session) draw(session);
  });
}

/** The strengths that rewriting has, from precise to bold: the one in the middle is chosen at first. */
export function offer(given) {
  strengths = given;
  if (!strengths.includes(strength)) strength = strengths[Math.floor(strengths.length / 2)] ?? null;
  $("strengths").hidden = strengths.length === 0;
  $("strengths").querySelectorAll("label").forEach((label) => label.remove());
  $("strengths").append(...strengths.map((name) => h("label", {},
    h("input", { type: "radio", name: "strength", value: name, checked: name === strength, onchange: () => { strength = name; } }), h("span", {}, valueName(name)))));
}

const thoughtOf = (element) => session?.all.find((x) => x.label === element.closest("[role=treeitem]")?.dataset.label) ?? null;

/** The families that have branches, a root each. */
export function draw(given) {
  if (given !== session) {
    chosen = null;
    shut.clear();
  }
  session = given;
  const families = session.roots.filter((root) => root.children.length);
  $("tree-panel").hidden = $("jump-tree").hidden = families.length === 0;
  const had = thoughtOf(document.activeElement ?? document.body);
  items.clear();
  $("tree").replaceChildren(...families.map((root, i) => item(root, 1, i + 1, families.length)));
  if (chosen && !items.has(chosen)) chosen = null;
  const first = chosen ?? families[0];
  if (first) focusOne([...items.values()], items.get(first), false);
  if (had && items.has(had)) items.get(had).focus({ preventScroll: true });
  read();
}

function item(thought, level, place, many) {
  const open = !shut.has(thought);
  const label = h("span", { class: "leaf", onclick: () => open_(thought, true) },
    thought.children.length ? h("span", { class: "twig", "aria-hidden": "true", onclick: (event) => { event.stopPropagation(); fold(thought); } }, open ? "▾" : "▸") : h("span", { class: "twig", "aria-hidden": "true" }),
    h("span", { class: thought.depth ? "badge child" : "badge", "aria-hidden": "true" }, thought.label),
    h("span", { class: "sr" }, t("thought", { label: thought.label })),
    h("span", { class: "snippet", dir: "auto" }, snippet(thought)));
  const element = h("li", {
    role: "treeitem", tabindex: "-1", "data-label": thought.label, "--hue": thought.hue, "aria-level": level, "aria-posinset": place,
    "aria-setsize": many, "aria-expanded": thought.children.length ? String(open) : null, "aria-selected": String(thought === chosen),
    class: thought.picked ? "picked" : session.picking ? "dim" : null,
  }, label);
  items.set(thought, element);
  if (thought.children.length && open) {
    element.append(h("ul", { role: "group" }, ...thought.children.map((child, i) => item(child, level + 1, i + 1, thought.children.length))));
  }
  return element;
}

const snippet = (thought) => thought.text.trim().slice(0, 160) || (thought.done ? t("empty_") : t("waiting"));

/** While branches grow: their lines, and the text that is being read. */
export const grow = perFrame(() => {
  for (const [thought, element] of items) {
    const line = element.querySelector(":scope > .leaf > .snippet");
    if (line.textContent !== snippet(thought)) line.textContent = snippet(thought);
  }
  const text = $("node").querySelector(".text");
  if (text && chosen && !chosen.done) {
    text.classList.remove("rich");
    text.textContent = chosen.text;
  }
});

/** Read a thought beside the tree. */
export function open_(thought, focus = false) {
  chosen = thought;
  for (let up = thought.parent; up; up = up.parent) shut.delete(up);
  if (!items.has(thought)) draw(session);
  for (const [other, element] of items) element.setAttribute("aria-selected", String(other === thought));
  focusOne([...items.values()], items.get(thought), focus);
  read();
}

function fold(thought, open = shut.has(thought)) {
  if (open) shut.delete(thought);
  else shut.add(thought);
  draw(session);
  focusOne([...items.values()], items.get(thought));
}

function read() {
  if (!chosen) return $("node").replaceChildren(h("p", { class: "hint" }, t("nodeEmpty")));
  const thought = chosen;
  const far = thought.parent && session.distance(thought, thought.parent);
  const facts_ = [thought.origin?.direction, thought.strength && valueName(thought.strength), Number.isFinite(far) && t("pair", { a: thought.parent.label, b: thought.label, x: number(far) }), ...facts(thought).map(([value]) => value)].filter(Boolean);
  const had = document.activeElement?.closest?.("#node button")?.dataset.act;
  const button = (word, act, off) => h("button", { type: "button", class: "small", "data-act": word, "aria-disabled": String(off), onclick: () => off || act() }, t(word));
  $("node").style.setProperty("--hue", thought.hue);
  $("node").replaceChildren(
    h("h3", {}, h("span", { class: thought.depth ? "badge child" : "badge", "aria-hidden": "true" }, thought.label), h("span", { class: "sr" }, t("thought", { label: thought.label })),
      thought.parent ? h("span", { class: "state" }, t("from", { label: thought.parent.label })) : ""),
    h("div", { class: "text", dir: "auto" }), h("p", { class: "hint" }, facts_.join(" · ")),
    h("div", { class: "row" }, button("noiseOne", () => actions.noise(thought), !thought.done || !thought.text.trim() || !actions.canNoise()),
      thought.open && actions.canGoOn(thought) ? button("goOn", () => actions.goOn(thought), false) : "",
      thought.parent ? button("compareWith", () => actions.compare(thought.parent, thought), !thought.done) : ""));
  put($("node").querySelector(".text"), thought.text);
  return had && $("node").querySelector(`[data-act=${had}]`)?.focus();
}

/** The keys of a tree, as the ARIA practices have them; Enter reads, n noises. */
function key(event) {
  const thought = thoughtOf(event.target);
  if (!thought || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = [...items.keys()]; // in the order they are seen
  const go = (other) => other && focusOne([...items.values()], items.get(other));
  const at = all.indexOf(thought);
  const acts = {
    ArrowDown: () => go(all[at + 1]), ArrowUp: () => go(all[at - 1]), Home: () => go(all[0]), End: () => go(all.at(-1)),
    ArrowRight: () => (thought.children.length && shut.has(thought) ? fold(thought, true) : go(thought.children[0])),
    ArrowLeft: () => (thought.children.length && !shut.has(thought) ? fold(thought, false) : go(items.has(thought.parent) ? thought.parent : null)),
    Enter: () => open_(thought, true), " ": () => open_(thought, true),
  };
  if (!acts[event.key]) return;
  event.preventDefault();
  event.stopPropagation();
  acts[event.key]();
}

/** The thought of the tree that has the focus, or null. */
export const focused = () => (document.activeElement?.closest?.("#tree") ? thoughtOf(document.activeElement) : document.activeElement?.closest?.("#node") ? chosen : null);

/** Mark what is pointed at elsewhere. */
export function point(thoughts) {
  for (const [thought, element] of items) element.classList.toggle("pointed", thoughts.includes(thought));
}
