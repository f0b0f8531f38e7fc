// Denoising as a film: every branch at every step; how sure the model is as brightness, branches given up fading.

import * as api from "./api.js";
import { numeric } from "./form.js";
import { $, calm, h, say } from "./dom.js";
import { t } from "./words.js";

const BEAT = 90; // milliseconds a frame
const CUT = 8; // frames that a branch is seen to fade before a copy of another takes its place
let able = true;
let writer = ""; // the model that denoises
let actions = { fail() {}, clear() {} };
let frames = [];
let at = 0;
let playing = null; // the timer
let running = null; // the AbortController
let following = true; // show new frames as they come

/** actions: fail(error, again), clear(). */
export function start(given) {
  actions = given;
  $("diffuse-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("diffuse-form").reportValidity()) run();
  });
  $("diffuse-cancel").addEventListener("click", cancel);
  $("play").addEventListener("click", () => (playing ? pause() : play()));
  $("scrub").addEventListener("input", () => {
    following = false;
    pause();
    show(Number($("scrub").value));
  });
  document.addEventListener("language", () => {
    offer(able);
    controls();
    if (frames.length) show(at);
  });
}

/** Whether the server can denoise at all, and with which model. */
export function offer(given, model = writer) {
  able = given;
  writer = model;
  $("diffuse-model").textContent = writer ? t("writesWith", { model: writer }) : "";
  $("diffuse-go").disabled = !able;
  $("diffuse-note").hidden = able;
  $("diffuse-note").textContent = able ? "" : t("noDiffusion");
}

export const busy = () => running !== null;

export function cancel() {
  running?.abort();
}

async function run() {
  cancel();
  pause();
  actions.clear();
  const mine = new AbortController();
  running = mine;
  frames = [];
  following = true;
  $("film-rows").replaceChildren();
  $("diffuse-cancel").hidden = false;
  try {
    const body = { prompt: $("diffuse-prompt").value, branches: numeric("branches"), steps: numeric("steps"), length: numeric("length"), seed: numeric("diffuse-seed") };
    for await (const frame of api.events("api/diffuse", body, mine.signal)) {
      if (!Array.isArray(frame.branches)) continue;
      frames.push(...cut(frames.at(-1), frame), frame);
      $("film").hidden = false;
      $("scrub").max = frames.length - 1;
      if (following && !playing) show(frames.length - 1);
    }
    say(t("saidFilm", { n: alive(frames.at(-1)) }));
  } catch (error) {
    if (running === mine && !api.cancelled(error)) actions.fail(error, run);
  } finally {
    if (running === mine) {
      running = null;
      $("diffuse-cancel").hidden = true;
    }
    controls();
  }
}

/** Where branches were given up between two frames: the first again, with them fading, so that it can be seen. */
function cut(before, after) {
  if (!before) return [];
  const gone = before.branches.map((branch, i) => branch.alive && after.branches[i]?.alive && replaced(branch, after.branches[i]));
  if (!gone.some(Boolean)) return [];
  return Array(CUT).fill({ ...before, branches: before.branches.map((branch, i) => (gone[i] ? { ...branch, alive: false, heir: after.branches[i].name ?? String(after.branches[i].parent + 1) } : branch)) });
}

/** A branch goes on from what it had decided; a copy of another does not. */
function replaced(before, after) {
  if (!Number.isInteger(after.parent)) return false;
  const [old, now] = [Array.from(before.text), Array.from(after.text)];
  const decided = old.map((_, j) => j).filter((j) => before.confidence[j] > 0 && after.confidence[j] > 0);
  const kept = decided.filter((j) => old[j] === now[j]).length;
  return before.parent !== after.parent || kept < decided.length * 0.8;
}

const alive = (frame) => frame?.branches.filter((branch) => branch.alive).length ?? 0;

function play() {
  if (frames.length < 2) return;
  following = false;
  if (at >= frames.length - 1) show(0);
  playing = setInterval(() => {
    if (at < frames.length - 1) show(at + 1);
    else if (!running) pause();
  }, calm() ? BEAT * 5 : BEAT);
  controls();
}

function pause() {
  clearInterval(playing);
  playing = null;
  controls();
}

function controls() {
  $("play").textContent = playing ? t("pause") : t("play");
}

function show(index) {
  at = Math.max(0, Math.min(index, frames.length - 1));
  const frame = frames[at];
  if (!frame) return;
  $("scrub").value = at;
  const where = t("stepOf", { a: frame.step, b: frame.steps });
  $("scrub").setAttribute("aria-valuetext", where);
  $("scrub-out").textContent = `${where} · ${t("aliveOf", { n: alive(frame) })}`;
  const rows = $("film-rows");
  while (rows.children.length > frame.branches.length) rows.lastElementChild.remove();
  frame.branches.forEach((branch, i) => draw(rows.children[i] ?? rows.appendChild(row(i)), branch, i));
}

function row(i) {
  const hue = Math.round(200 + 137.508 * i) % 360;
  return h("li", { class: "film-row", "--hue": hue }, h("div", { class: "film-head" }, h("span", { class: "badge", "aria-hidden": "true" }, String(i + 1)), h("span", { class: "sr name" }), h("span", { class: "state" })), h("p", { class: "canvas", dir: "auto" }));
}

/** Runs of equally sure characters share a span: a branch is a few dozen elements, not hundreds. */
function draw(element, branch, i) {
  const name = branch.name ?? String(i + 1); // places are taken again, names are not: "2c" is the second copy of 2
  const of = name.match(/^\d+(?=\D)/u)?.[0];
  element.querySelector(".name").textContent = t("branch", { n: name });
  element.querySelector(".badge").textContent = name;
  element.querySelector(".state").textContent = branch.alive ? (of ? t("fromBranch", { n: of }) : "") : branch.heir ? t("heir", { n: branch.heir }) : t("given");
  element.classList.toggle("gone", !branch.alive);
  const spans = [];
  let [text, level] = ["", null];
  const close = () => text && spans.push(h("span", { class: `c${level}` }, text));
  Array.from(branch.text).forEach((character, j) => {
    const sure = branch.confidence?.[j] ?? 1;
    const tenth = sure <= 0 ? 0 : Math.max(1, Math.min(9, Math.ceil(sure * 9)));
    if (tenth !== level) {
      close();
      [text, level] = ["", tenth];
    }
    text += tenth === 0 ? "·" : character;
  });
  close();
  element.querySelector(".canvas").replaceChildren(...spans);
}
