// Building elements. Text is only ever set as text: nothing here, or anywhere in the page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value); // CSSOM: allowed without 'unsafe-inline'
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: h("p", {class: "note", onclick: f, "--hue": 20}, "text", child). */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Call f with the latest arguments at most once a frame. */
export function perFrame(f) {
  let latest = null;
  return (...args) => {
    if (latest === null) {
      requestAnimationFrame(() => {
        const given = latest;
        latest = null;
        f(...given);
      });
    }
    latest = args;
  };
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Said politely to screen readers; the same words twice are said twice. */
export function say(text) {
  const element = $("said");
  element.textContent = element.textContent === text ? `${text}\u00a0` : text;
}

/** Offer a text as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name, class: "sr", tabindex: "-1" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Arrow keys, Home and End move focus among items, of which one is reached by Tab. `columns`: items a row. */
export function roving(container, items, columns = () => 1) {
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest("[tabindex]"));
    if (at < 0) return;
    const wide = columns();
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -at, End: all.length - 1 - at };
    const move = moves[event.key];
    if (move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    focusOne(all, all[Math.min(all.length - 1, Math.max(0, at + move))]);
  });
}

/** Of all, only this one is reached by Tab; focus it unless told otherwise. */
export function focusOne(all, one, focus = true) {
  for (const item of all) item.setAttribute("tabindex", item === one ? "0" : "-1");
  if (focus) one?.focus();
}
