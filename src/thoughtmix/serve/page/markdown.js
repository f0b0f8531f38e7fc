// What models write is often Markdown. A small part of it, as elements: emphasis, code, headings, lists, quotes, rules.
// Nothing here parses HTML, makes a link or asks for a picture: those stay the text that they are.

import { h } from "./dom.js";

const LONGEST = 20_000; // characters; a longer text is shown as it stands
const DEEPEST = 4; // lists in lists, emphasis in emphasis
const INLINE = new RegExp([
  /\\([\\`*_~#>[\]().!+-])/, // an escaped mark
  /(`{1,3})(?!`)([^\n]{1,600}?)(?<!`)\2(?!`)/, // code
  /\*\*(?=[^\s*])((?:[^\n]|\n(?!\n)){0,800}?[^\s])\*\*/, /(?<![\w_])__(?=[^\s_])([^\n]{0,800}?[^\s])__(?![\w_])/, // strong
  /\*(?=[^\s*])([^*\n]{0,400}?[^\s*])\*(?!\*)/, /(?<![\w_])_(?=[^\s_])([^_\n]{0,400}?[^\s_])_(?![\w_])/, // emphasis
  /~~(?=\S)([^\n]{0,400}?\S)~~/, // struck out
].map(({ source }) => source).join("|"), "gu");

/** A line of text as text and elements. */
function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const out = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, escaped, , code, strong, strongToo, em, emToo, gone] = found;
    if (found.index > at) out.push(text.slice(at, found.index));
    at = found.index + whole.length;
    if (escaped !== undefined) out.push(escaped);
    else if (code !== undefined) out.push(h("code", {}, code.trim() || code));
    else if ((strong ?? strongToo) !== undefined) out.push(h("strong", {}, ...inline(strong ?? strongToo, depth + 1)));
    else if ((em ?? emToo) !== undefined) out.push(h("em", {}, ...inline(em ?? emToo, depth + 1)));
    else out.push(h("s", {}, ...inline(gone, depth + 1)));
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

const FENCE = /^\s{0,3}(`{3,}|~{3,})([^`]*)$/u;
const HEADING = /^\s{0,3}(#{1,6})\s+(.+?)\s*#*\s*$/u;
const RULE = /^\s{0,3}([-*_])(?:\s*\1){2,}\s*$/u;
const QUOTE = /^\s{0,3}>\s?(.*)$/u;
const ITEM = /^(\s*)(?:([-*+•])|(\d{1,9})[.)])\s+(.*)$/u;
const blank = (line) => line.trim() === "";
const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

/** Lines as elements, one a block. */
function blocks(lines, depth = 0) {
  const out = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = line.match(FENCE);
    const heading = line.match(HEADING);
    if (blank(line)) i += 1;
    else if (fence) {
      const end = lines.findIndex((other, j) => j > i && other.trim().startsWith(fence[1]) && blank(other.trim().slice(fence[1].length)));
      const last = end < 0 ? lines.length : end; // one that was cut is code to the end
      out.push(h("pre", {}, h("code", {}, lines.slice(i + 1, last).join("\n"))));
      i = last + 1;
    } else if (heading) {
      out.push(h(`h${Math.min(6, heading[1].length + 3)}`, {}, ...inline(heading[2]))); // below the page's own headings
      i += 1;
    } else if (RULE.test(line)) {
      out.push(h("hr"));
      i += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const quoted = [];
      for (; i < lines.length && QUOTE.test(lines[i]); i += 1) quoted.push(lines[i].match(QUOTE)[1]);
      out.push(h("blockquote", {}, ...blocks(quoted, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const [list, next] = listAt(lines, i, depth);
      out.push(list);
      i = next;
    } else {
      const said = [line];
      for (i += 1; i < lines.length && !blank(lines[i]) && !starts(lines[i]); i += 1) said.push(lines[i]);
      out.push(h("p", {}, ...lined(said)));
    }
  }
  return out;
}

/** A list that begins at a line, and the line behind it. What is indented under an item is the item's. */
function listAt(lines, first, depth) {
  const [, indent, , number] = lines[first].match(ITEM);
  const same = (line) => {
    const found = line.match(ITEM);
    return found && found[1].length <= indent.length + 1 && (found[3] === undefined) === (number === undefined) && !RULE.test(line);
  };
  const items = [];
  let i = first;
  while (i < lines.length && same(lines[i])) {
    const own = [lines[i].match(ITEM)[4]];
    for (i += 1; i < lines.length; i += 1) {
      const next = lines[i + 1];
      const under = /^\s{2,}\S/u.test(lines[i]) && !same(lines[i]);
      if (!under && (blank(lines[i]) ? next === undefined || !/^\s{2,}\S/u.test(next) || same(next) : true)) break;
      own.push(lines[i].replace(/^\s{2,4}/u, ""));
    }
    items.push(h("li", {}, ...(own.length > 1 ? loose(own, depth) : inline(own[0]))));
    while (i < lines.length && blank(lines[i]) && i + 1 < lines.length && same(lines[i + 1])) i += 1;
  }
  return [h(number === undefined ? "ul" : "ol", { start: number === undefined || number === "1" ? null : number }, ...items), i];
}

/** An item of several lines: its first line is no paragraph. */
function loose(lines, depth) {
  let many = 1;
  while (many < lines.length && !blank(lines[many]) && !starts(lines[many])) many += 1;
  return [...lined(lines.slice(0, many)), ...blocks(lines.slice(many), depth + 1)];
}

const lined = (lines) => lines.flatMap((line, i) => [...(i ? [h("br")] : []), ...inline(line.trim())]);

const MARKED = /[`*_~\\]|^\s{0,3}#{1,6}\s|^\s*(?:[-+•]|\d{1,9}[.)])\s|^\s{0,3}>|^\s{0,3}-{3}/mu;

/** Put a text into an element: as Markdown where it has any, else as it stands. */
export function put(element, text) {
  const rich = text.length <= LONGEST && MARKED.test(text);
  element.classList.toggle("rich", rich);
  element.replaceChildren(...(rich ? blocks(text.split(/\r?\n/u)) : [text]));
}
