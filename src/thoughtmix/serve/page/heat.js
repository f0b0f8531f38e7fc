// Who differs from whom: a table of distances that is read by eye, by pointer and by arrow keys.

import { $, focusOne, h, roving } from "./dom.js";
import { number, t } from "./words.js";

const MOST = 24; // of more thoughts the first: a table wider than that is read by nobody
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
    if (cell) focusOne(cells.flat(), cell, false);
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

const pairOf = (cell) => [...new Set([shown[cell.dataset.i], shown[cell.dataset.j]])];

function name(cell) {
  $("heat-readout").textContent = cell ? cell.getAttribute("aria-label") : extremes();
}

/** The nearest and the farthest pair, in words. */
function extremes() {
  const pairs = shown.flatMap((_, i) => shown.slice(0, i).map((__, j) => [session.distances[i][j], shown[j].label, shown[i].label]));
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
  const wanted = session.mapped.slice(0, MOST);
  const same = wanted.length === shown.length && wanted.every((thought, i) => thought === shown[i]) && cells.length > 0;
  shown = wanted;
  if (!same) build();
  paint();
  if (!$("heat").contains(document.activeElement)) name(null);
}

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
  const pairs = shown.flatMap((_, i) => session.distances[i].slice(0, i));
  const least = Math.min(...pairs);
  const span = Math.max(1e-9, Math.max(...pairs) - least);
  cells.forEach((row, i) => row.forEach((cell, j) => {
    const value = session.distances[i]?.[j] ?? 0;
    cell.style.setProperty("--heat", i === j ? 0 : ((value - least) / span).toFixed(3));
    cell.classList.toggle("self", i === j);
    cell.classList.toggle("dim", session.picking && !(shown[i].picked && shown[j].picked));
    cell.setAttribute("aria-label", i === j ? t("thought", { label: shown[i].label }) : t("pair", { a: shown[i].label, b: shown[j].label, x: number(value) }));
  }));
}

/** Mark rows and columns of what is pointed at elsewhere. */
export function point(thoughts) {
  for (const head of $("heat").querySelectorAll("th[data-label]")) head.classList.toggle("pointed", thoughts.some((x) => x.label === head.dataset.label));
}
