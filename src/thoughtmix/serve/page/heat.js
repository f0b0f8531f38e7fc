// Who differs from whom: a table of distances that is read by eye, by pointer and by arrow keys.

import { ordered } from "./clusters.js";
import { $, focusOne, h, roving } from "./dom.js";
import { number, t } from "./words.js";

const CROWD = 16; // of more thoughts cells are small, near thoughts are neighbours, and numbers are named when pointed at
let session = null;
let actions = {};
let shown = []; // the thoughts of rows and columns
let cells = []; // cells[i][j]

/** actions: point(list of thoughts), compare(a, b). */
export function start(given) {
  actions = given;
  const table = $("heat");
  roving(table, () => cells.flat(), () => shown.length);
  const over = (event) => {
    const cell = event.target.closest?.("td");
    actions.point(cell ? pairOf(cell) : []);
    name(cell);
  };
  table.addEventListener("pointerover", over);
  table.addEventListener("click", (event) => event.target.closest("td") && open(event.target.closest("td")));
  table.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.closest("td")) return;
    event.preventDefault();
    open(event.target.closest("td"));
  });
  table.addEventListener("focusin", (event) => {
    const cell = event.target.closest("td");
    if (cell) {
      $("heat").querySelector('td[tabindex="0"]')?.setAttribute("tabindex", "-1");
      cell.setAttribute("tabindex", "0");
    }
    over(event);
  });
  for (const leave of ["pointerleave", "focusout"]) {
    table.addEventListener(leave, () => {
      actions.point([]);
      name(null);
    });
  }
  document.addEventListener("language", () => session && draw(session));
}

/** What a cell says: of a crowd only when it is asked, thousands of names would be in the way. */
function spoken(cell) {
  const [a, b] = pairOf(cell);
  return b ? t("pair", { a: a.label, b: b.label, x: number(session.distance(a, b) ?? 0) }) : t("thought", { label: a.label });
}

const pairOf = (cell) => [...new Set([shown[cell.dataset.i], shown[cell.dataset.j]])];

function name(cell) {
  if (cell) cell.setAttribute("aria-label", spoken(cell));
  $("heat-readout").textContent = cell ? spoken(cell) : extremes();
}

/** The nearest and the farthest pair, in words. */
function extremes() {
  const pairs = shown.flatMap((a, i) => shown.slice(0, i).map((b) => [session.distance(a, b), b.label, a.label]));
  if (pairs.length < 2) return "";
  const [near, far] = [pairs.reduce((a, b) => (b[0] < a[0] ? b : a)), pairs.reduce((a, b) => (b[0] > a[0] ? b : a))];
  return `${t("closest", { a: near[1], b: near[2], x: number(near[0]) })} ${t("farthest", { c: far[1], d: far[2], y: number(far[0]) })}`;
}

function open(cell) {
  const [a, b] = pairOf(cell);
  if (b) actions.compare(a, b);
}

export function draw(given) {
  session = given;
  const crowd = session.mapped.length > CROWD;
  const wanted = crowd ? ordered(session.distances).map((i) => session.mapped[i]) : session.mapped;
  $("heat").classList.toggle("crowd", crowd);
  $("heat-order").hidden = !crowd;
  const same = wanted.length === shown.length && wanted.every((thought, i) => thought === shown[i]) && cells.length > 0;
  shown = wanted;
  if (!same) build();
  paint();
  if (!$("heat").contains(document.activeElement)) name(null);
}

/** Cells are made once a set of thoughts. */
function build() {
  cells = shown.map((_, i) => shown.map((__, j) => h("td", { role: "gridcell", tabindex: i + j === 0 ? "0" : "-1", "data-i": i, "data-j": j })));
  const head = (thought, scope) => h("th", { scope, "--hue": thought.hue, "data-label": thought.label, "aria-label": t("thought", { label: thought.label }) }, h("span", { class: thought.depth ? "badge tiny child" : "badge tiny" }, thought.label));
  $("heat").replaceChildren(
    h("thead", {}, h("tr", {}, h("th", { class: "corner", "aria-hidden": "true" }), ...shown.map((thought) => head(thought, "col")))),
    h("tbody", {}, ...shown.map((thought, i) => h("tr", {}, head(thought, "row"), ...cells[i]))),
  );
}

/** The set's own nearest pair is the lightest and its farthest the darkest, so that differences can be seen; the label
 * gives the number. */
function paint() {
  const far = shown.map((a) => shown.map((b) => session.distance(a, b) ?? 0));
  const pairs = far.flatMap((row, i) => row.slice(0, i));
  const least = pairs.reduce((a, b) => Math.min(a, b), Infinity);
  const span = Math.max(1e-9, pairs.reduce((a, b) => Math.max(a, b), -Infinity) - least);
  const named = shown.length <= CROWD;
  cells.forEach((row, i) => row.forEach((cell, j) => {
    cell.style.setProperty("--heat", i === j ? 0 : ((far[i][j] - least) / span).toFixed(3));
    cell.classList.toggle("self", i === j);
    cell.classList.toggle("dim", session.picking && !(shown[i].picked && shown[j].picked));
    if (named) cell.setAttribute("aria-label", spoken(cell));
  }));
}

/** Mark rows and columns of what is pointed at elsewhere. */
export function point(thoughts) {
  for (const head of $("heat").querySelectorAll("th[data-label]")) head.classList.toggle("pointed", thoughts.some((x) => x.label === head.dataset.label));
}
