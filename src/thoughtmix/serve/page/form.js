// The prompt and its settings: what the form holds, as the request that it means.

import { $, h } from "./dom.js";
import * as options from "./options.js";
import { number, spoken, t } from "./words.js";
import { thinkerName, thinkerSummary } from "./words_thinkers.js";

let info = { thinkers: [], limits: {} };

/** actions: submit(), changed(). */
export function start(actions) {
  $("form").noValidate = true; // what is wrong is said by `read`
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    actions.submit();
  });
  for (const area of document.querySelectorAll(".composer textarea")) {
    area.addEventListener("keydown", enter);
    area.addEventListener("input", () => fit(area));
  }
  addEventListener("resize", () => document.querySelectorAll(".composer textarea").forEach(fit));
  $("creativity").addEventListener("input", shown);
  $("temperature").addEventListener("input", shown);
  $("thinker").addEventListener("change", () => {
    drawOptions();
    shown();
  });
  $("examples").addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    $("prompt").value = chip.textContent;
    fit($("prompt"));
    $("prompt").focus();
  });
  document.addEventListener("language", draw);
}

/** Enter sends the form; Shift+Enter breaks the line, and Enter that chooses among the proposals of an input method does nothing. */
function enter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.altKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}

/** A text area as high as its text. */
export function fit(area) {
  area.style.setProperty("height", "auto");
  if (area.scrollHeight === 0) return; // not seen now: its height is not known
  area.style.setProperty("height", `${Math.min(area.scrollHeight + 2, 320)}px`);
}

/** What the server offers. */
export function offer(given) {
  const first = info.thinkers.length === 0;
  info = given;
  const most = info.limits ?? {};
  if (most.thoughts) $("n").max = most.thoughts;
  if (most.tokens) $("max_tokens").max = most.tokens;
  draw();
  if (first && info.thinkers.some(({ name }) => name === info.suggested)) {
    $("thinker").value = info.suggested; // what a newcomer sees first is what the command line does
    drawOptions();
    shown();
  }
}

/** The thinker of a name; of no name, the one that the server takes then. */
const thinkerOf = (name) => info.thinkers.find((thinker) => thinker.name === (name || info.thinker));

const withRole = (thinker, role) => Object.entries(thinker.option_schema?.properties ?? {}).find(([, option]) => option.role === role) ?? [];

/** The thinker that rewrites a text: {thinker, text, strength, language: names of its options, strengths, languages}; undefined: there is none. */
export function rewriter() {
  const thinker = info.thinkers.find((each) => withRole(each, "text").length);
  if (!thinker) return undefined;
  const [[text], [strength, how], [language, which]] = ["text", "strength", "language"].map((role) => withRole(thinker, role));
  return { thinker: thinker.name, text, strength, language, strengths: how?.enum ?? [], languages: which?.enum ?? [] };
}

/** Of the thinkers whose text comes as it is written, one whose creativity is the temperature, or one whose is not: the model's own if it is such a one. */
export function streaming(heated) {
  const fit = info.thinkers.filter((thinker) => thinker.streams && thinker.creativity_is_temperature === heated);
  return fit.find(({ name }) => name === info.thinker) ?? fit[0];
}

/** Who goes on with a thought that this thinker made: itself, or who draws as plainly as can be. undefined: nobody. */
export function continuer(name) {
  const fit = info.thinkers.filter((thinker) => thinker.continues);
  return fit.find((thinker) => thinker.name === name) ?? fit.find((thinker) => thinker.creativity_is_temperature) ?? fit[0];
}

function draw() {
  const chosen = $("thinker").value;
  $("thinker").replaceChildren(h("option", { value: "" }, t("ownThinker")), ...info.thinkers.map(({ name }) => h("option", { value: name }, thinkerName(name))));
  if (info.thinkers.some(({ name }) => name === chosen)) $("thinker").value = chosen;
  $("examples").replaceChildren(...["example1", "example2", "example3"].map((word) => h("li", {}, h("button", { type: "button", class: "chip" }, t(word)))));
  drawOptions();
  shown();
}

function drawOptions() {
  const name = $("thinker").value;
  $("options").hidden = options.draw($("options-list"), name ? thinkerOf(name) : undefined) === 0;
}

/** Whether the temperature stands in creativity's place: for some thinkers they are the same, and only one may be given. */
const heated = () => Boolean(thinkerOf($("thinker").value)?.creativity_is_temperature) && $("temperature").value !== "";

function shown() {
  const name = $("thinker").value;
  $("creativity-out").textContent = heated() ? "–" : number(Number($("creativity").value));
  $("creativity").disabled = heated();
  const { words, lang } = thinkerSummary(thinkerOf(name));
  $("thinker-note").textContent = heated() ? t("heatInstead") : !name && info.thinker ? t("autoNote", { name: thinkerName(info.thinker), summary: words }) : words;
  if (lang !== spoken() && !heated()) $("thinker-note").setAttribute("lang", lang); // the server's words
  else $("thinker-note").removeAttribute("lang");
}

/** A number field, or undefined when it is empty. */
export const numeric = (id) => ($(id).value === "" || !Number.isFinite($(id).valueAsNumber) ? undefined : $(id).valueAsNumber);

/** Show the settings of a session that was opened. */
export function fill(settings) {
  const known = info.thinkers.some(({ name }) => name === settings.thinker);
  $("prompt").value = settings.prompt;
  $("thinker").value = known ? settings.thinker : "";
  for (const [id, value] of Object.entries({ n: settings.n, seed: settings.seed, max_tokens: settings.maxTokens, temperature: settings.temperature, top_p: settings.topP, min_p: settings.minP })) {
    if (id !== "n" || value <= Number($("n").max)) $(id).value = value ?? $(id).defaultValue;
  }
  if (Number.isFinite(settings.creativity)) $("creativity").value = settings.creativity;
  drawOptions();
  if (known) options.fill(settings.options ?? {});
  shown();
  fit($("prompt"));
}

/** The settings as they stand. The first field that the browser finds wrong is reported and null returned. */
export function read() {
  if (!$("form").checkValidity()) {
    $("more").open ||= Boolean($("more").querySelector(":invalid"));
    $("form").reportValidity();
    return null;
  }
  const thinker = $("thinker").value || undefined;
  return {
    prompt: $("prompt").value.trim(), thinker, n: numeric("n") ?? 8, seed: numeric("seed") ?? 0, maxTokens: numeric("max_tokens") ?? 96,
    creativity: heated() ? undefined : numeric("creativity"), temperature: numeric("temperature"),
    topP: numeric("top_p"), minP: numeric("min_p"), options: options.read(), model: info.model,
  };
}
