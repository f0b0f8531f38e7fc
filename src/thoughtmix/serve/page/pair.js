// Two thoughts beside each other, with the words that only one of them has marked.

import { $, h } from "./dom.js";
import { number, t } from "./words.js";

/** Split into words and what is between them. */
const words = (text) => text.split(/(\s+)/u).filter((word) => word !== "");

/**
 * Which words of a and of b belong to a longest common subsequence (plain dynamic programming; spaces do not count).
 * Returns two lists of [word, shared].
 */
export function align(a, b) {
  const [p, q] = [words(a), words(b)];
  const key = (word) => (/^\s+$/u.test(word) ? " " : word.toLowerCase().replace(/[\p{P}]/gu, "") || word);
  const table = Array.from({ length: p.length + 1 }, () => new Uint16Array(q.length + 1));
  for (let i = p.length - 1; i >= 0; i -= 1) {
    for (let j = q.length - 1; j >= 0; j -= 1) {
      table[i][j] = key(p[i]) === key(q[j]) ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const left = p.map((word) => [word, false]);
  const right = q.map((word) => [word, false]);
  for (let i = 0, j = 0; i < p.length && j < q.length;) {
    if (key(p[i]) === key(q[j])) {
      left[i][1] = right[j][1] = true;
      i += 1;
      j += 1;
    } else if (table[i + 1][j] >= table[i][j + 1]) i += 1;
    else j += 1;
  }
  return [left, right];
}

const LONGEST = 2000; // words; beyond, the table would be large and marks would say little

/** Open the dialog for two thoughts. */
export function show(a, b, distance) {
  const short = words(a.text).length < LONGEST && words(b.text).length < LONGEST;
  const sides = short ? align(a.text, b.text) : [[[a.text, true]], [[b.text, true]]];
  $("pair-title").textContent = t("pairTitle", { a: a.label, b: b.label });
  $("pair-body").replaceChildren(...[a, b].map((thought, i) => h("section", { "--hue": thought.hue, "aria-label": t("thought", { label: thought.label }) },
    h("h3", {}, h("span", { class: thought.depth ? "badge child" : "badge", "aria-hidden": "true" }, thought.label)),
    h("p", { class: "text", dir: "auto" }, ...sides[i].map(([word, shared]) => (shared || /^\s+$/u.test(word) ? word : h("mark", {}, word)))))));
  const far = distance === null ? "" : `${t("pair", { a: a.label, b: b.label, x: number(distance) })}. `;
  $("pair-note").textContent = `${far}${t("pairNote")}`;
  $("pair").showModal();
}

export function start() {
  $("pair-close").addEventListener("click", () => $("pair").close());
}
