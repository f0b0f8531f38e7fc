// What was thought, as files: the documented thought set, and one page that needs nothing else.

import { download, h, say } from "./dom.js";
import { perToken } from "./cards.js";
import { picture } from "./map.js";
import { number, spoken, t } from "./words.js";

const finite = (object) => Object.fromEntries(Object.entries(object ?? {}).filter(([, value]) => typeof value === "number" && Number.isFinite(value)));

/** A thought as docs/thoughtset.md has it. Token ids do not travel over the HTTP API: the list is empty. */
function plain(thought) {
  const origin = { ...thought.origin, label: thought.label };
  if (thought.parent) origin.parent = thought.parent.label;
  if (thought.strength) origin.strength = thought.strength;
  return {
    text: thought.text, token_ids: thought.token_ids ?? [], seed: Number.isInteger(thought.seed) ? thought.seed : 0,
    logprob: Number.isFinite(thought.logprob) ? thought.logprob : 0, token_logprobs: [], finish: thought.finish ?? "cancelled",
    origin, scores: finite(thought.scores),
  };
}

/** The session as a thought set, version 1: roots first, then what grew from them (told by origin.parent). */
export function thoughtSet(session) {
  const thoughts = [...session.roots, ...session.all.filter((thought) => thought.parent)];
  const { prompt, n, seed, maxTokens, creativity, temperature, topP, minP, options } = session.settings;
  const settings = { n, seed, max_new_tokens: maxTokens, creativity, temperature, top_p: topP, min_p: minP, options };
  const mapped = thoughts.every((thought) => session.mapped.includes(thought));
  return {
    schema: "thoughtmix/thoughtset", version: 1, prompt, messages: [], thinker: session.facts.thinker ?? session.settings.thinker ?? "",
    model: session.facts.model ?? "", settings: JSON.parse(JSON.stringify(settings)),
    metrics: finite(session.facts.metrics), distances: mapped ? thoughts.map((a) => thoughts.map((b) => session.distance(a, b))) : [],
    run: session.facts.run ?? {}, thoughts: thoughts.map(plain),
  };
}

const stem = (session) => `thoughtmix-${session.settings.prompt.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "thoughts"}`;

export function saveJson(session) {
  const name = `${stem(session)}.json`;
  download(name, `${JSON.stringify(thoughtSet(session), null, 2)}\n`, "application/json");
  say(t("saidExport", { name }));
}

const STYLE = `:root{color-scheme:light dark;--ink:#1d2430;--dim:#5a6472;--paper:#faf9f6;--card:#fff;--line:#e2e0da;--l:.525}
@media(prefers-color-scheme:dark){:root{--ink:#e8e6e1;--dim:#a2a9b4;--paper:#15181d;--card:#1d2127;--line:#343a43;--l:.75}}
body{margin:0 auto;max-width:72rem;padding:2rem 1.25rem;background:var(--paper);color:var(--ink);font:1rem/1.6 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.3}h2{font-size:1.05rem;margin:2rem 0 .75rem}p.facts{color:var(--dim)}
ol{list-style:none;padding:0;display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr))}
li{background:var(--card);border:1px solid var(--line);border-left:4px solid oklch(var(--l) .13 var(--hue));border-radius:.6rem;padding:.9rem 1rem}
li.picked{outline:2px solid oklch(var(--l) .13 var(--hue))}li p{margin:.4rem 0;white-space:pre-wrap;overflow-wrap:anywhere}li small{color:var(--dim)}
svg{max-width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.disc{fill:oklch(var(--l) .13 var(--hue))}.ring{fill:none}.kin{stroke:oklch(var(--l) .13 var(--hue));stroke-width:1.5}svg text{fill:var(--card);font:700 12px system-ui,sans-serif}
table{border-collapse:separate;border-spacing:2px;font-size:.8rem}td{padding:.3rem .5rem;text-align:right;border-radius:.25rem}th{padding:.3rem .5rem}
.wide{overflow-x:auto}a{color:inherit}`;

/** One self-contained page. Built as elements and then written out, so that whatever a model wrote stays text. */
export function page(session) {
  const made = document.implementation.createHTMLDocument(session.settings.prompt.slice(0, 80));
  const set = thoughtSet(session);
  const json = btoa(binary(JSON.stringify(set, null, 2)));
  const facts = [set.model, set.thinker, ...Object.entries(set.metrics).map(([name, value]) => `${name} ${number(value)}`)].filter(Boolean).join(" · ");
  made.body.append(
    h("h1", {}, session.settings.prompt), h("p", { class: "facts" }, facts),
    h("p", {}, h("a", { href: `data:application/json;base64,${json}`, download: `${stem(session)}.json` }, t("exportJson"))),
    h("h2", {}, t("thoughts")), h("ol", {}, ...[...session.roots, ...session.all.filter((x) => x.parent)].map((thought) => item(thought))),
    ...(session.mapped.length > 1 ? [h("h2", {}, t("map")), picture(), h("h2", {}, t("heat")), heat(session)] : []),
  );
  const head = `<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><meta name="viewport" content="width=device-width, initial-scale=1">`;
  return `<!doctype html>\n<html lang="${spoken()}"><head>${head}${made.querySelector("title").outerHTML}<style>${STYLE}</style></head>\n${made.body.outerHTML}</html>\n`;
}

function item(thought) {
  const like = perToken(thought);
  const notes = [thought.parent && t("from", { label: thought.parent.label }), like !== null && `${t("like")} ${number(like)}`, t("ownSeed", { seed: thought.seed }), thought.picked && t("picked")];
  return h("li", { "--hue": thought.hue, class: thought.picked ? "picked" : null }, h("b", {}, thought.label), h("p", { dir: "auto" }, thought.text), h("small", {}, notes.filter(Boolean).join(" · ")));
}

function heat(session) {
  const most = Math.max(1e-9, ...session.distances.flat());
  const cell = (value) => {
    const td = h("td", {}, number(value));
    td.style.background = `color-mix(in oklab, transparent, oklch(.65 .15 30) ${Math.round((70 * Math.max(0, value)) / most)}%)`;
    return td;
  };
  return h("div", { class: "wide" }, h("table", {}, h("tr", {}, h("td", {}), ...session.mapped.map((x) => h("th", { scope: "col" }, x.label))),
    ...session.mapped.map((x, i) => h("tr", {}, h("th", { scope: "row" }, x.label), ...session.distances[i].map(cell)))));
}

/** UTF-8 bytes as the characters that btoa takes. */
function binary(text) {
  let out = "";
  for (const byte of new TextEncoder().encode(text)) out += String.fromCharCode(byte);
  return out;
}

export function saveHtml(session) {
  const name = `${stem(session)}.html`;
  download(name, page(session), "text/html");
  say(t("saidExport", { name }));
}
