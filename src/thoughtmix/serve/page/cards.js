// N thoughts side by side, growing as they stream.

import { $, h, perFrame, say } from "./dom.js";
import { number, t } from "./words.js";

const parts = new WeakMap(); // thought -> the elements of its card that change
let session = null;
let actions = {};

/** actions: noise(thought), canNoise(), hasNoise(), openTree(thought), point(thought or null). */
export function start(given) {
  actions = given;
  const point = (event) => actions.point(session?.roots.find((x) => x.label === event.target.closest?.(".card")?.dataset.label) ?? null);
  $("cards").addEventListener("pointerover", point);
  $("cards").addEventListener("pointerleave", () => actions.point(null));
  $("cards").addEventListener("focusin", point);
  document.addEventListener("language", () => session && draw(session, true));
}

/** A card for each root thought. */
export function draw(given, anew = given !== session) {
  session = given;
  if (anew) $("cards").replaceChildren(...session.roots.map(card)); // else the focus would be lost
  session.roots.forEach(update);
}

function card(thought) {
  const id = `card-${thought.label}`;
  const text = h("p", { class: "text", dir: "auto" }, thought.text);
  const state = h("span", { class: "state" });
  const facts = h("p", { class: "facts" });
  const noise = h("button", { type: "button", class: "small", onclick: () => actions.noise(thought) }, t("noiseOne"));
  const branches = h("button", { type: "button", class: "small quiet", hidden: true, onclick: () => actions.openTree(thought) });
  const copy = h("button", { type: "button", class: "small quiet", onclick: () => copyText(thought.text) }, t("copy"));
  noise.setAttribute("aria-describedby", `${id}-title`);
  copy.setAttribute("aria-describedby", `${id}-title`);
  parts.set(thought, { text, state, facts, noise, branches, copy, shown: thought.text });
  return h("li", { class: "card", id, tabindex: "-1", "--hue": thought.hue, "data-label": thought.label, "aria-labelledby": `${id}-title` },
    h("div", { class: "card-head" }, h("h3", { id: `${id}-title` }, h("span", { class: "badge", "aria-hidden": "true" }, thought.label), h("span", { class: "sr" }, t("thought", { label: thought.label }))), state),
    text, facts, h("div", { class: "row card-foot" }, noise, branches, copy));
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
    const node = part.text.firstChild ?? part.text.appendChild(document.createTextNode(""));
    if (thought.text.startsWith(part.shown)) node.appendData(thought.text.slice(part.shown.length));
    else node.data = thought.text;
    part.shown = thought.text;
    update(thought);
  }
});

export function update(thought) {
  const part = parts.get(thought);
  if (!part) return;
  const card = part.text.parentElement;
  if (part.shown !== thought.text) {
    part.text.textContent = thought.text;
    part.shown = thought.text;
  }
  const words = { stop: t("stop"), length: t("length_"), cancelled: t("cancelled") };
  part.state.textContent = thought.picked ? t("picked") : thought.done ? (words[thought.finish] ?? "") : thought.text ? t("writing") : t("waiting");
  card.classList.toggle("growing", !thought.done);
  card.classList.toggle("picked", thought.picked);
  card.classList.toggle("dim", session.picking && !thought.picked);
  part.noise.setAttribute("aria-disabled", String(!thought.done || !thought.text.trim() || !actions.canNoise())); // not disabled: it keeps the focus
  part.noise.title = actions.hasNoise() ? "" : t("noNoise");
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
  const like = perToken(thought);
  if (like !== null) out.push([t("likeShort", { x: number(like) }), t("like")]);
  if (Number.isFinite(thought.scores?.relevance)) out.push([t("relevance", { x: number(thought.scores.relevance) }), null]);
  if (Number.isInteger(thought.seed)) out.push([t("ownSeed", { seed: thought.seed }), null]);
  return out;
}

/** Nats a token under the model, the end token aside; null when the server gave no log-probabilities. */
export const perToken = ({ logprobs }) => (logprobs?.length ? logprobs.reduce((sum, each) => sum + each, 0) / logprobs.length : null);

export const focusCard = (thought) => {
  const card = $(`card-${thought.label}`);
  card?.scrollIntoView({ block: "nearest" });
  card?.focus({ preventScroll: true });
};

/** The root thought whose card has the focus, or null. */
export const focused = () => session?.roots.find((x) => x.label === document.activeElement?.closest?.(".card")?.dataset.label) ?? null;

/** Mark the card of what is pointed at elsewhere. */
export function point(thoughts) {
  for (const card of $("cards").children) card.classList.toggle("pointed", thoughts.some((x) => x.label === card.dataset.label));
}
