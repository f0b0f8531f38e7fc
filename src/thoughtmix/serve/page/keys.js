// Keyboard shortcuts. Single keys act only outside of fields, and can be turned off (WCAG 2.1.4).

import { $, h } from "./dom.js";
import { t } from "./words.js";

const LIST = [
  [["Enter"], "keyThink"], [["Shift", "Enter"], "keyLine"], [["Esc"], "keyCancel"], [["/"], "keyPrompt"], [["?"], "keyHelp"], [["j"], ["k"], "keyNext"],
  [["s"], "keyPick"], [["r"], "keyAgain"], [["n"], "keyNoise"], [["1"], ["2"], ["3"], "keyTabs"], [["←"], ["↑"], ["→"], ["↓"], "keyArrows"], [["→"], ["←"], "keyTree"], [["+"], ["-"], ["0"], "keyZoom"],
];
const KEPT = "thoughtmix.keys";

const on = () => $("keys-on").checked;
const typing = (element) => element.closest?.("textarea, select, input:not([type=range]):not([type=checkbox]):not([type=radio])");

function open() {
  if (!$("keys").open) $("keys").showModal();
}

function draw() {
  $("keys-list").replaceChildren(...LIST.map((row) => h("tr", {},
    h("td", {}, ...row.slice(0, -1).map((keys, i) => [i ? " " : "", ...keys.map((key, j) => [j ? "+" : "", h("kbd", {}, key)]).flat()]).flat()), h("td", {}, t(row.at(-1))))));
}

/** actions: think(), cancel() -> whether something ran, pick(), again(), noise(), step(by), view(name). */
export function start(actions) {
  const acts = {
    "/": () => { actions.view("think"); $("prompt").focus(); }, "?": open, j: () => actions.step(1), k: () => actions.step(-1), s: actions.pick, r: actions.again, n: actions.noise,
    1: () => actions.view("think", true), 2: () => actions.view("compare", true), 3: () => actions.view("diffuse", true),
  };
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.defaultPrevented) return; // a dialog has its own keys
    if (event.key === "Escape") {
      if (actions.cancel()) event.preventDefault();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !on() || typing(event.target) || !acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  });
  $("help").addEventListener("click", open);
  $("keys-close").addEventListener("click", () => $("keys").close());
  try {
    $("keys-on").checked = localStorage.getItem(KEPT) !== "off";
  } catch {
    // storage may be forbidden: they are on
  }
  $("keys-on").addEventListener("change", () => {
    try {
      localStorage.setItem(KEPT, on() ? "on" : "off");
    } catch {
      // the choice then lasts as long as the page
    }
  });
  document.addEventListener("language", draw);
}
