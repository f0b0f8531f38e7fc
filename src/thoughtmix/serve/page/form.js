// The prompt and its settings: what the form holds, as the request that it means.

import { $, h } from "./dom.js";
import { number, t } from "./words.js";

let info = { thinkers: [], limits: {} };
const HEATED = new Set(["sampling", "diffusion"]); // for these creativity is the temperature: only one may be given

/** actions: submit(), changed(). */
export function start(actions) {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    actions.submit();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    actions.submit();
  });
  $("prompt").addEventListener("input", () => fit($("prompt")));
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

/** A text area as high as its text. */
export function fit(area) {
  area.style.setProperty("height", "auto");
  if (area.scrollHeight === 0) return; // not seen now: its height is not known
  area.style.setProperty("height", `${Math.min(area.scrollHeight + 2, 320)}px`);
}

/** What the server offers. */
export function offer(given) {
  info = given;
  const most = info.limits ?? {};
  if (most.thoughts) $("n").max = most.thoughts;
  if (most.tokens) $("max_tokens").max = most.tokens;
  draw();
}

export const has = (thinker) => info.thinkers.some(({ name }) => name === thinker);
export const optionsOf = (thinker) => info.thinkers.find(({ name }) => name === thinker)?.options ?? {};

function draw() {
  const chosen = $("thinker").value;
  $("thinker").replaceChildren(h("option", { value: "" }, t("auto")), ...info.thinkers.map(({ name }) => h("option", { value: name }, name)));
  if (has(chosen)) $("thinker").value = chosen;
  $("examples").replaceChildren(...["example1", "example2", "example3"].map((word) => h("li", {}, h("button", { type: "button", class: "chip" }, t(word)))));
  drawOptions();
  shown();
}

function drawOptions() {
  const options = Object.entries(optionsOf($("thinker").value));
  const values = Object.fromEntries([...$("options-list").querySelectorAll("input")].map((input) => [input.name, input.value]));
  $("options").hidden = options.length === 0;
  $("options-list").replaceChildren(...options.map(([name, help]) => h("div", { class: "field" },
    h("label", { for: `option-${name}` }, name), h("input", { id: `option-${name}`, name, type: "text", value: values[name] ?? "", "aria-describedby": `help-${name}` }),
    h("small", { id: `help-${name}`, lang: "en" }, help))));
}

function shown() {
  const name = $("thinker").value;
  const heated = HEATED.has(name) && $("temperature").value !== "";
  $("creativity-out").textContent = heated ? "–" : number(Number($("creativity").value));
  $("creativity").disabled = heated;
  const summary = info.thinkers.find((thinker) => thinker.name === name)?.summary;
  $("thinker-note").textContent = heated ? t("heatInstead") : summary ?? t("autoNote");
  if (summary && !heated) $("thinker-note").setAttribute("lang", "en"); // the server's words
  else $("thinker-note").removeAttribute("lang");
}

/** A number field, or undefined when it is empty. */
export const numeric = (id) => ($(id).value === "" || !Number.isFinite($(id).valueAsNumber) ? undefined : $(id).valueAsNumber);

/** An option as typed: a number, true or false where it looks like one, else a text. */
const typed = (text) => (/^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text === "true" ? true : text === "false" ? false : text);

/** The settings as they stand. The first field that the browser finds wrong is reported and null returned. */
export function read() {
  if (!$("form").checkValidity()) {
    $("more").open ||= Boolean($("more").querySelector(":invalid"));
    $("form").reportValidity();
    return null;
  }
  const thinker = $("thinker").value || undefined;
  const temperature = numeric("temperature");
  const options = {};
  for (const input of $("options-list").querySelectorAll("input")) if (input.value.trim() !== "") options[input.name] = typed(input.value.trim());
  return {
    prompt: $("prompt").value.trim(), thinker, n: numeric("n") ?? 8, seed: numeric("seed") ?? 0, maxTokens: numeric("max_tokens") ?? 64,
    creativity: HEATED.has(thinker) && temperature !== undefined ? undefined : numeric("creativity"), temperature,
    topP: numeric("top_p"), minP: numeric("min_p"), options, model: info.model,
  };
}
