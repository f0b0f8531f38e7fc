// Talking to the server: JSON, server-sent events, and errors that say what to do.

import { t } from "./words.js";

const TOKEN = "thoughtmix.token";
let token = "";
try {
  token = sessionStorage.getItem(TOKEN) ?? "";
} catch {
  token = "";
}

export function useToken(value) {
  token = value.trim();
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // storage may be forbidden: the token then lasts as long as the page
  }
}

/** kind: gone, busy, cut, token, refused (the server says what is wrong), server, reply. */
export class Failure extends Error {
  constructor(kind, { status = 0, text = "", wait = 0 } = {}) {
    super(text || kind);
    Object.assign(this, { kind, status, text, wait });
  }

  /** One line: what is wrong and what to do. kept: how many finished thoughts stay. */
  line(kept = 0) {
    switch (this.kind) {
      case "gone": return t("errGone");
      case "busy": return this.wait > 0 ? t("errBusy", { s: this.wait }) : t("errBusyNow");
      case "cut": return t("errCut", { n: kept });
      case "token": return t("errToken");
      case "refused": return this.text;
      case "reply": return t("errReply");
      default: return t("errServer", { status: this.status || this.text });
    }
  }
}

const cancelled = (error) => error instanceof DOMException && error.name === "AbortError";
export { cancelled };

/** fetch that throws `Failure`, or an AbortError when cancelled. */
async function ask(path, { body, signal, method = body === undefined ? "GET" : "POST" } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (cancelled(error)) throw error;
    throw new Failure("gone");
  }
  if (response.ok) return response;
  const text = await said(response);
  if (response.status === 429) {
    throw new Failure("busy", { status: response.status, text, wait: seconds(response.headers.get("Retry-After")) });
  }
  if (response.status === 401) throw new Failure("token", { status: 401, text });
  if (text) throw new Failure("refused", { status: response.status, text });
  throw new Failure("server", { status: response.status, text });
}

/** Retry-After is seconds or a date. */
function seconds(value) {
  if (!value) return 0;
  const wait = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(wait) ? Math.max(0, Math.ceil(wait)) : 0;
}

/** The message of an error in OpenAI's form (or FastAPI's), as one line; "" when there is none. */
async function said(response) {
  try {
    const body = await response.json();
    const message = body.error?.message ?? body.detail ?? "";
    return (typeof message === "string" ? message : JSON.stringify(message)).slice(0, 400);
  } catch {
    return "";
  }
}

async function json(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (cancelled(error)) throw error;
    throw new Failure("reply");
  }
}

export const info = () => json("api/info");
/** prompt: what the texts answer; first: how many of them the figures are of. */
export const mapOf = (texts, { prompt, first }, signal) => json("api/map", { body: { texts, prompt, first }, signal });
export const selectOf = (texts, logprobs, k, floor, signal) => json("api/select", { body: { texts, logprobs, k, quality_floor: floor }, signal });
/** A file of the page's own, as text. */
export const fileText = async (path) => (await ask(path)).text();

/** Server-sent events of a POST, parsed, in order; a comment that tells progress as {progress: {done, total}}. Throws Failure("cut") when the stream ends before [DONE]. */
export async function* events(path, body, signal) {
  const response = await ask(path, { body, signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        throw cancelled(error) || signal?.aborted ? new DOMException("cancelled", "AbortError") : new Failure("cut");
      }
      if (piece.done) throw new Failure("cut");
      rest += decoder.decode(piece.value, { stream: true });
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const progress = block.match(/^: progress (\d+)\/(\d+)$/);
        if (progress) yield { progress: { done: Number(progress[1]), total: Number(progress[2]) } };
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "") continue;
        if (data === "[DONE]") return;
        let event;
        try {
          event = JSON.parse(data);
        } catch {
          throw new Failure("reply");
        }
        if (event.error) throw failed(event.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** An error that came inside a stream. */
function failed(error) {
  const text = String(error.message ?? "").slice(0, 400);
  const status = Number(error.code) || Number(error.status) || 0;
  if (status === 429) return new Failure("busy", { status, text });
  return text ? new Failure("refused", { status, text }) : new Failure("server", { status });
}

const LANDING = 0.33; // in this last share of its tokens a thought ends with its sentence, as at the command line

/** The body of a chat completion from what the form says; undefined fields are left out. begun: {text, drawn} of a thought to go on with. */
export function completion({ prompt, thinker, n, seed, maxTokens, creativity, temperature, topP, minP, options, model, begun }) {
  const messages = [{ role: "user", content: prompt }, ...(begun ? [{ role: "assistant", content: begun.text }] : [])];
  const body = {
    model, messages, n, seed, max_tokens: maxTokens, stream: true, landing: LANDING, drawn: begun?.drawn,
    stream_options: { include_usage: true }, measure: !begun, logprobs: true, thinker, creativity, temperature, top_p: topP, min_p: minP,
  };
  if (options && Object.keys(options).length) body.options = options;
  return JSON.parse(JSON.stringify(body)); // drops what is undefined
}

/** A thought that was made to end with its sentence may have been shown longer than it is. */
function cutBack(thought) {
  const { characters, tokens } = thought;
  delete thought.characters;
  if (!Number.isInteger(characters) || thought.text.length <= characters) return;
  const whole = Array.from(thought.text); // the server counts characters, not halves of them
  if (whole.length <= characters) return;
  thought.text = whole.slice(0, characters).join("");
  if (Number.isInteger(tokens)) thought.logprobs = thought.logprobs?.slice(0, tokens);
}

/**
 * Stream one completion into `thoughts` (one a choice, written to as they grow). on.text(thought) after each change,
 * on.progress(done, total), on.end(thought). Returns the set's own facts: {metrics, distances, thinker, run, model}.
 */
export async function stream(body, thoughts, on, signal) {
  let facts = {};
  let model = "";
  const ended = new Set();
  const most = thoughts.length * (body.max_tokens ?? 1);
  let pieces = 0; // about a token each: what is known of the progress where the server does not say it
  for await (const chunk of events("v1/chat/completions", body, signal)) {
    model = chunk.model ?? model;
    const said = chunk.progress;
    if (said) on.progress((pieces = said.done), said.total);
    for (const choice of chunk.choices ?? []) {
      const thought = thoughts[choice.index];
      if (!thought) continue;
      const piece = choice.delta?.content ?? "";
      if (piece) {
        thought.text += piece;
        pieces += 1;
        on.text(thought);
      }
      if (choice.thoughtmix) Object.assign(thought, choice.thoughtmix);
      const tokens = choice.logprobs?.content ?? [];
      thought.logprobs = [...(thought.logprobs ?? []), ...tokens.map(({ logprob }) => logprob)];
      if (choice.finish_reason) {
        cutBack(thought);
        thought.finish = choice.thoughtmix?.finish ?? (choice.finish_reason === "length" ? "length" : "stop");
        thought.done = true;
        ended.add(thought);
        on.end(thought);
      }
    }
    if (!said && (chunk.choices ?? []).length) on.progress(Math.min(pieces, most), most);
    if (chunk.thoughtmix) facts = chunk.thoughtmix;
  }
  if (ended.size < thoughts.length) throw new Failure("cut");
  return { ...facts, model };
}
