// The frame around the panels: which view is open, which theme, which language, and which model writes in it.

import { $ } from "./dom.js";
import { LANGUAGES, speak, spoken, t } from "./words.js";

const VIEWS = ["think", "compare", "diffuse"];
let models = { think: "", diffuse: "" }; // who writes in each view; what is compared is written by the first, too
let actions = { opened() {}, chrome() {} };

export function view(name, focus = false) {
  for (const each of VIEWS) {
    const on = each === name;
    $(`view-${each}`).hidden = !on;
    $(`tab-${each}`).setAttribute("aria-selected", String(on));
    $(`tab-${each}`).tabIndex = on ? 0 : -1;
  }
  if (focus) $(`tab-${name}`).focus();
  $("model").textContent = models[name === "diffuse" ? "diffuse" : "think"];
  actions.opened(name);
  if (location.hash.slice(1) !== name) history.replaceState(null, "", name === "think" ? location.pathname : `#${name}`);
}

const shown = () => VIEWS.find((name) => !$(`view-${name}`).hidden) ?? "think";

/** The models' names, for the header. */
export function name(think, diffuse) {
  models = { think, diffuse };
  $("model").textContent = models[shown() === "diffuse" ? "diffuse" : "think"];
}

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function draw() {
  const to = dark() ? "toLight" : "toDark";
  $("theme").textContent = t(to);
  $("theme").setAttribute("aria-label", t("themeLabel", { theme: t(to) }));
  $("language").textContent = t("language");
  $("language").lang = LANGUAGES.find((other) => other !== spoken());
  document.querySelector("#empty p").textContent = t("empty");
  actions.chrome();
}

function switchTheme() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("thoughtmix.theme", document.documentElement.dataset.theme);
  } catch {
    // storage may be forbidden: the choice then lasts as long as the page
  }
  draw();
}

function startTabs() {
  for (const each of VIEWS) $(`tab-${each}`).addEventListener("click", () => view(each));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = VIEWS.findIndex((each) => event.target.id === `tab-${each}`);
    const to = { ArrowRight: (at + 1) % VIEWS.length, ArrowLeft: (at + VIEWS.length - 1) % VIEWS.length, Home: 0, End: VIEWS.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    view(VIEWS[to], true);
  });
}

/** actions: opened(view), chrome() after theme or language changed. */
export function start(given) {
  actions = given;
  startTabs();
  $("theme").addEventListener("click", switchTheme);
  $("language").addEventListener("click", () => speak(LANGUAGES.find((other) => other !== spoken())));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.addEventListener("language", draw);
}

/** The view that the address names, or the first. */
export const first = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "think");
