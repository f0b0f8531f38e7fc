// What was thought before, kept in this browser: bounded, to be opened again, removed and cleared.

import { $, h } from "./dom.js";
import { fromSession, toSession } from "./thoughtset.js";
import { number, spoken, t } from "./words.js";

const KEPT = "thoughtmix.history";
const WANTED = "thoughtmix.history.on";
const CURRENT = "thoughtmix.current"; // of this tab: what a reload shows again
const MOST = 40; // sessions
const ROOM = 2_000_000; // characters of all
let actions = { open() {} };

const read = (store, key) => {
  try {
    return store.getItem(key);
  } catch {
    return null; // storage may be forbidden: then there is no history
  }
};

function write(store, key, value) {
  try {
    if (value === null) store.removeItem(key);
    else store.setItem(key, value);
    return true;
  } catch {
    return false; // forbidden, or full
  }
}

const wanted = () => read(localStorage, WANTED) !== "off";

/** The entries, newest first: [{id, at, set}]. */
function entries() {
  try {
    const found = JSON.parse(read(localStorage, KEPT) ?? "[]");
    return Array.isArray(found) ? found.filter((each) => each?.id && each.set?.prompt !== undefined) : [];
  } catch {
    return [];
  }
}

/** The newest that there is room for. A browser that has less room gets half as many, and so on. */
function store(all) {
  let kept = all.slice(0, MOST);
  let text = JSON.stringify(kept);
  while (kept.length && (text.length > ROOM || !write(localStorage, KEPT, text))) {
    kept = kept.slice(0, text.length > ROOM ? -1 : Math.floor(kept.length / 2));
    text = JSON.stringify(kept);
  }
  if (!kept.length) write(localStorage, KEPT, null);
  draw();
}

const short = (value) => Math.round(value * 1000) / 1000;

/** Keep a session that stands; one with the same id is replaced. */
export function keep(session) {
  if (!wanted() || !session.roots.some((thought) => thought.text.trim())) return;
  const set = fromSession(session);
  set.distances = []; // asked for anew
  for (const thought of set.thoughts) {
    thought.token_ids = [];
    thought.token_logprobs = thought.token_logprobs.map(short);
  }
  store([{ id: session.id, at: session.began, set }, ...entries().filter(({ id }) => id !== session.id)]);
  write(sessionStorage, CURRENT, session.id);
}

function session(entry) {
  const made = toSession(entry.set);
  made.id = entry.id;
  made.began = entry.at;
  write(sessionStorage, CURRENT, entry.id);
  return made;
}

/** What this tab showed before it was loaded again, or null. */
export function current() {
  const entry = entries().find(({ id }) => id === read(sessionStorage, CURRENT));
  return entry ? session(entry) : null;
}

/** actions: open(session). */
export function start(given) {
  actions = given;
  $("history-open").addEventListener("click", () => {
    draw();
    $("history").showModal();
  });
  $("history-close").addEventListener("click", () => $("history").close());
  $("history-clear").addEventListener("click", () => store([]));
  $("history-on").checked = wanted();
  $("history-on").addEventListener("change", () => write(localStorage, WANTED, $("history-on").checked ? null : "off"));
  document.addEventListener("language", draw);
}

function draw() {
  const all = entries();
  const when = new Intl.DateTimeFormat(spoken(), { dateStyle: "medium", timeStyle: "short" });
  $("history-clear").disabled = all.length === 0;
  $("history-list").replaceChildren(...all.map((entry) => h("li", {},
    h("button", { type: "button", class: "entry", onclick: () => {
      $("history").close();
      actions.open(session(entry));
    } }, h("span", { class: "snippet" }, entry.set.prompt),
    h("span", { class: "hint" }, [when.format(entry.at), t("summary", { n: entry.set.thoughts.length }), entry.set.thinker, entry.set.model].filter(Boolean).join(" · "))),
    h("button", { type: "button", class: "small quiet", "aria-label": t("removeEntry", { prompt: entry.set.prompt }), onclick: () => store(entries().filter(({ id }) => id !== entry.id)) }, "✕"))));
  $("history-empty").hidden = all.length > 0;
  $("history-size").textContent = all.length ? t("historySize", { n: all.length, kb: number((read(localStorage, KEPT) ?? "").length / 1000, 0) }) : "";
}
