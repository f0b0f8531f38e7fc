// What was thought, as files: the documented thought set, and one page that needs nothing else.

import { fileText } from "./api.js";
import { download, h, say } from "./dom.js";
import { put } from "./markdown.js";
import { picture } from "./map.js";
import { fromSession } from "./thoughtset.js";
import { number, spoken, t } from "./words.js";

const stem = (session) => `thoughtmix-${session.settings.prompt.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "thoughts"}`;

export function saveJson(session) {
  const name = `${stem(session)}.json`;
  download(name, `${JSON.stringify(fromSession(session), null, 2)}\n`, "application/json");
  say(t("saidExport", { name }));
}

/** One self-contained page, in the style of thoughtmix's reports. Built as elements and then written out, so that whatever a model wrote stays text. */
export async function page(session) {
  const style = await fileText("page/theme.css");
  const made = document.implementation.createHTMLDocument(session.settings.prompt.slice(0, 80));
  const set = fromSession(session);
  const json = btoa(binary(JSON.stringify(set, null, 2)));
  const facts = [set.model, set.thinker, ...Object.entries(set.metrics).map(([name, value]) => `${name} ${number(value)}`)].filter(Boolean).join(" · ");
  made.body.append(h("main", { class: "sheet" },
    h("h1", { dir: "auto" }, session.settings.prompt), h("p", { class: "summary" }, facts),
    ...(session.mapped.length > 1 ? [h("div", { class: "views" }, h("figure", { class: "map" }, h("figcaption", {}, t("map")), picture()), h("figure", {}, h("figcaption", {}, t("heat")), heat(session)))] : []),
    h("h2", {}, t("thoughts")), h("ol", { class: "cards" }, ...[...session.roots, ...session.all.filter((x) => x.parent)].map((thought) => item(thought))),
    h("p", {}, h("a", { href: `data:application/json;base64,${json}`, download: `${stem(session)}.json` }, t("exportJson")))));
  const theme = document.documentElement.dataset.theme;
  const head = `<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="generator" content="thoughtmix">`;
  return `<!doctype html>\n<html lang="${spoken()}" class="thoughtmix"${theme ? ` data-theme="${theme}"` : ""}><head>${head}${made.querySelector("title").outerHTML}<style>${style}</style></head>\n${made.body.outerHTML}</html>\n`;
}

function item(thought) {
  const notes = [thought.parent && t("from", { label: thought.parent.label }), thought.perToken !== null && t("likeShort", { x: number(thought.perToken) }), t("ownSeed", { seed: thought.seed }), thought.picked && t("picked")];
  const text = h("div", { class: "text", dir: "auto" });
  put(text, thought.text);
  return h("li", { "--hue": thought.hue, class: "card" }, h("h3", {}, h("span", { class: thought.depth ? "badge child" : "badge" }, thought.label)), text, h("footer", {}, notes.filter(Boolean).join(" · ")));
}

function heat(session) {
  const most = Math.max(1e-9, ...session.mapped.map((a) => Math.max(...session.mapped.map((b) => session.distance(a, b)))));
  const crowd = session.mapped.length > 16;
  const cell = (a, b) => {
    const far = session.distance(a, b);
    return h("td", { "--share": (Math.max(0, far) / most).toFixed(3), title: t("pair", { a: a.label, b: b.label, x: number(far) }) }, crowd ? "" : number(far));
  };
  return h("div", { class: "wide" }, h("table", { class: crowd ? "heat dense" : "heat" }, h("tr", {}, h("th", {}), ...session.mapped.map((x) => h("th", { scope: "col" }, x.label))),
    ...session.mapped.map((x) => h("tr", {}, h("th", { scope: "row" }, x.label), ...session.mapped.map((other) => cell(x, other))))));
}

/** UTF-8 bytes as the characters that btoa takes. */
function binary(text) {
  let out = "";
  for (const byte of new TextEncoder().encode(text)) out += String.fromCharCode(byte);
  return out;
}

export async function saveHtml(session) {
  const name = `${stem(session)}.html`;
  download(name, await page(session), "text/html");
  say(t("saidExport", { name }));
}
