// One clear line when something is wrong, with what to do; and the dialog that asks for the token.

import { useToken } from "./api.js";
import { $ } from "./dom.js";
import { t } from "./words.js";

let again = null;
let timer = null;
let afterToken = null;
let given = false; // a token was entered before, and was not the right one
let entered = false;

function show(text, retry = null, wait = 0, line = () => text) {
  clearInterval(timer);
  again = retry;
  $("notice-text").textContent = text;
  $("notice").hidden = false;
  $("notice-again").hidden = !retry;
  $("notice-again").disabled = wait > 0;
  if (wait <= 0) return;
  let left = wait; // the count is for the eye: an alert that changes every second would be read out every second
  $("notice-text").setAttribute("aria-live", "off");
  timer = setInterval(() => {
    left -= 1;
    $("notice-text").textContent = line(left);
    if (left > 0) return;
    clearInterval(timer);
    $("notice-text").removeAttribute("aria-live");
    $("notice-again").disabled = false;
  }, 1000);
}

function hide() {
  clearInterval(timer);
  $("notice").hidden = true;
}

/** Ask for the token, then do `then`; closed without one, a line says how to come back. */
function askToken(then) {
  afterToken = then;
  $("token-wrong").hidden = !given;
  entered = false;
  if (!$("token").open) $("token").showModal();
}

function start() {
  $("notice-close").addEventListener("click", hide);
  $("notice-again").addEventListener("click", () => {
    hide();
    again?.();
  });
  $("token-close").addEventListener("click", () => $("token").close());
  $("token").addEventListener("close", () => entered || show(t("errNoToken"), () => askToken(afterToken)));
  $("token-form").addEventListener("submit", () => {
    given = entered = true;
    useToken($("token-value").value);
    $("token-value").value = "";
    afterToken?.();
  });
}

export const notice = { show, hide, askToken, start };
