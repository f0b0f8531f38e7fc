// A thinker's own options as inputs, made from their JSON schema: no option is known by name.

import { h } from "./dom.js";
import { number, t } from "./words.js";
import { optionHelp, optionLabel, valueName } from "./words_thinkers.js";

let shown = []; // {name, option, input}

/** An option's one type, with what bounds it: of "a number or nothing" the number. */
function plain(option, definitions = {}) {
  const kinds = (option.anyOf ?? [option]).map((kind) => (kind.$ref ? definitions[kind.$ref.split("/").pop()] ?? {} : kind)).filter(({ type }) => type !== "null");
  const kind = kinds.length === 1 ? kinds[0] : {};
  return { ...kind, ...option, enum: kind.enum ?? (kind.const === undefined ? undefined : [kind.const]) };
}

const list = (value) => (Array.isArray(value) ? value.join(",") : String(value));

/** A bound that a number field can hold. Bounds that are no values themselves are the server's to refuse. */
const bound = (...values) => values.find((value) => Number.isFinite(value) && Math.abs(value) <= Number.MAX_SAFE_INTEGER);

function inputOf(name, option, value) {
  const attributes = { id: `option-${name}`, name, "aria-describedby": `help-${name}` };
  if (option.enum) {
    const chosen = option.enum.map(String).includes(value) ? value : String(option.default ?? "");
    const own = option.enum.includes(option.default) ? [] : [h("option", { value: "" }, t("ofThinker"))];
    return h("select", attributes, ...own, ...option.enum.map((choice) => h("option", { value: String(choice), selected: String(choice) === chosen }, valueName(String(choice)))));
  }
  if (option.type === "boolean") return h("input", { ...attributes, type: "checkbox", checked: value ?? option.default === true });
  const filled = { ...attributes, placeholder: option.default === null || list(option.default ?? "") === "" ? t("ofThinker") : list(option.default), value: typeof value === "string" ? value : "" };
  if (option.type !== "integer" && option.type !== "number") return h("input", { ...filled, type: "text" });
  return h("input", { ...filled, type: "number", min: bound(option.minimum, option.exclusiveMinimum), max: bound(option.maximum, option.exclusiveMaximum), step: option.type === "integer" ? 1 : "any" });
}

/** The bounds of a number, in words; [] where there are none worth saying. */
function between(option) {
  if (option.type !== "integer" && option.type !== "number") return [];
  const [low, high] = [bound(option.minimum, option.exclusiveMinimum), bound(option.maximum, option.exclusiveMaximum)].map((value) => (Math.abs(value) < 1e5 ? value : undefined));
  const said = (value) => number(value, Number.isInteger(value) ? 0 : 2);
  if (low !== undefined && high !== undefined) return [` ${t("boundBoth", { low: said(low), high: said(high) })}`];
  if (low !== undefined) return [` ${t(option.minimum === undefined ? "boundAbove" : "boundLow", { low: said(low) })}`];
  return high === undefined ? [] : [` ${t("boundHigh", { high: said(high) })}`];
}

/** Draw a thinker's options into an element; what was entered under the same names stays. Returns how many there are. */
export function draw(into, thinker) {
  const entered = Object.fromEntries(shown.map(({ name, option, input }) => [name, option.type === "boolean" ? input.checked : input.value]));
  const { properties = {}, $defs } = thinker?.option_schema ?? {};
  shown = Object.entries(properties).map(([name, option]) => {
    const one = plain(option, $defs);
    return { name, option: one, input: inputOf(name, one, entered[name]) };
  });
  into.replaceChildren(...shown.map(({ name, option, input }) => {
    const label = h("label", { for: input.id }, optionLabel(thinker.name, name));
    const { words, lang } = optionHelp(thinker.name, name, thinker.options?.[name] ?? option.description ?? "");
    const help = h("small", { id: `help-${name}` }, h("span", { lang }, words), ...between(option));
    return h("div", { class: "field" }, ...(option.type === "boolean" ? [h("div", { class: "inline tick" }, input, label)] : [label, input]), help);
  }));
  return shown.length;
}

/** Enter these values. */
export function fill(values) {
  for (const { name, option, input } of shown) {
    if (!(name in values)) continue;
    if (option.type === "boolean") input.checked = Boolean(values[name]);
    else input.value = values[name] === null ? "" : list(values[name]);
  }
}

/** What was entered, by name: without what is left at its default. */
export function read() {
  return Object.fromEntries(shown.map(({ name, option, input }) => [name, valueOf(option, input)]).filter(([, value]) => value !== undefined));
}

function valueOf(option, input) {
  if (option.type === "boolean") return input.checked === (option.default === true) ? undefined : input.checked;
  const text = input.value.trim();
  if (text === "" || (option.enum && text === String(option.default))) return undefined;
  if (option.enum) return option.enum.find((choice) => String(choice) === text);
  if (option.type === "integer" || option.type === "number") return input.valueAsNumber;
  return option.type === "array" ? text.split(",").map((part) => part.trim()).filter(Boolean) : text;
}
