// The map: near thoughts sit near. It is moved and magnified; dots glide to where they belong, and groups have names.

import { $, calm, focusOne, h, roving, s } from "./dom.js";
import { number, t } from "./words.js";
import { View } from "./view.js";

const MARGIN = 26;
const EASE = 120; // milliseconds in which two thirds of the way are gone
const CROWD = 24; // of more thoughts, smaller dots
let session = null;
let actions = { open() {}, point() {}, showGroup() {} };
let size = { width: 400, height: 300 };
let radius = 13;
const dots = new Map(); // thought -> {g, line, at: [x, y], to: [x, y]} in pixels of the map as a whole
const view = new View();
let moving = false;
let before = 0; // when the last frame was drawn
let chosen = null; // the group that is shown alone, or null

/** actions: open(thought), point(thought or null), showGroup(number or null). */
export function start(given) {
  actions = given;
  const svg = $("map");
  roving(svg, () => [...svg.querySelectorAll("g.dot")]);
  svg.append(s("g", { id: "map-hulls", "aria-hidden": "true" }), s("g", { id: "map-dots" }), s("g", { id: "map-names", "aria-hidden": "true" }));
  new ResizeObserver(([entry]) => {
    const { width, height } = entry.contentRect;
    if (width < 40 || (Math.abs(width - size.width) < 1 && Math.abs(height - size.height) < 1)) return;
    size = { width, height };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    aim(true);
  }).observe(svg);
  view.attach(svg, () => size, zoomed);
  for (const [id, act] of [["map-in", () => view.by(1.5)], ["map-out", () => view.by(1 / 1.5)], ["map-fit", () => view.reset()]]) $(id).addEventListener("click", act);
  document.addEventListener("language", () => {
    if (!session) return;
    draw(session);
    point([]);
  });
}

function zoomed() {
  $("map-fit").disabled = $("map-out").disabled = view.k <= 1;
  $("map").classList.toggle("near", view.k > 1);
  place();
}

/** Another session: nothing of the one before stays. */
export function draw(given) {
  if (given !== session) {
    for (const { g, line } of dots.values()) {
      g.remove();
      line?.remove();
    }
    dots.clear();
    chosen = null;
    session = given;
    view.reset();
  }
  session = given;
  if (!$("map-readout").hasChildNodes()) point([]);
  update();
}

/** Dots for what is placed now, each gliding from where it was. */
export function update() {
  const svg = $("map");
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  radius = session.points.size > CROWD ? 9 : 13;
  svg.classList.toggle("crowd", session.points.size > CROWD);
  for (const [thought, dot] of dots) {
    if (session.points.has(thought)) continue;
    dot.g.remove();
    dot.line?.remove();
    dots.delete(thought);
  }
  for (const thought of session.points.keys()) if (!dots.has(thought)) dots.set(thought, make(thought));
  const any = [...dots.values()];
  if (any.length && !any.some(({ g }) => g.getAttribute("tabindex") === "0")) focusOne(any.map(({ g }) => g), any[0].g, false);
  for (const [thought, { g }] of dots) {
    g.setAttribute("aria-label", t("mapDot", { label: t("thought", { label: thought.label }), text: thought.text.trim().slice(0, 120) || t("empty_") }));
    g.classList.toggle("picked", thought.picked);
    g.classList.toggle("dim", (session.picking && !thought.picked) || (chosen !== null && !session.groups[chosen]?.thoughts.includes(thought)));
    g.querySelector(".disc").setAttribute("r", thought.depth ? radius - 3 : radius);
    g.querySelector(".ring").setAttribute("r", (thought.depth ? radius - 3 : radius) + 4);
  }
  drawGroups();
  aim(false);
}

function make(thought) {
  const at = thought.parent && dots.has(thought.parent) ? dots.get(thought.parent).at : [size.width / 2, size.height / 2];
  const g = s("g", {
    class: thought.depth ? "dot child" : "dot", tabindex: "-1", role: "button", "--hue": thought.hue, "data-label": thought.label, onclick: () => view.still() && actions.open(thought),
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      actions.open(thought);
    },
    onpointerenter: () => actions.point(thought), onpointerleave: () => actions.point(null),
    onfocus: () => actions.point(thought), onblur: () => actions.point(null),
  }, s("circle", { class: "ring" }), s("circle", { class: "disc" }),
  s("text", { "text-anchor": "middle", dy: "0.35em", class: thought.label.length > 3 ? "long" : null }, thought.label));
  const line = thought.parent ? s("line", { class: "kin", "--hue": thought.hue }) : null;
  if (line) $("map-dots").prepend(line);
  $("map-dots").append(g);
  return { g, line, at: [...at], to: [...at] };
}

// --- groups ---

const spots = []; // of each group: its hull and its name

/** A name a group on the map, and a list of them below it. */
function drawGroups() {
  if (chosen !== null && chosen >= session.groups.length) chosen = null;
  const names = session.groups.map(({ label }, i) => label || t("group", { n: i + 1 }));
  spots.splice(0, spots.length, ...session.groups.map(({ thoughts }, i) => ({ thoughts, hull: s("path", { class: "hull" }), name: s("text", { class: "group-name", "text-anchor": "middle" }, names[i]) })));
  $("map-hulls").replaceChildren(...spots.map(({ hull }) => hull));
  $("map-names").replaceChildren(...spots.map(({ name }) => name));
  $("map-legend").hidden = session.groups.length === 0;
  $("map-legend").replaceChildren(...session.groups.map(({ thoughts }, i) => h("button", {
    type: "button", class: "small chip", "aria-pressed": String(chosen === i), onclick: () => {
      chosen = chosen === i ? null : i;
      actions.showGroup(chosen);
      update();
    },
  }, names[i], " ", h("span", { class: "hint" }, number(thoughts.length, 0)))));
}

/** A rounded outline of points (Andrew's monotone chain, 1979), widened by strokes. */
function outline(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (list) => list.reduce((kept, p) => {
    while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), p) <= 0) kept.pop();
    return [...kept, p];
  }, []);
  const ring = sorted.length < 3 ? sorted : [...half(sorted).slice(0, -1), ...half(sorted.reverse()).slice(0, -1)];
  return `M${ring.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}Z`;
}

const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);

// --- places ---

/** Where every dot shall be: points as near as the frame allows, kept from covering each other wholly. */
function aim(jump) {
  if (!session) return;
  const edge = Math.min(size.width, size.height) - 2 * MARGIN;
  const wide = Math.min(size.width - 2 * MARGIN, edge * 1.35); // one scale for both axes, unless the frame is much wider
  const placed = [...session.points].filter(([thought]) => dots.has(thought)).map(([thought, [x, y]]) => ({
    dot: dots.get(thought), x: size.width / 2 + (x - 0.5) * wide, y: size.height / 2 + (y - 0.5) * edge,
  }));
  apart(placed);
  for (const { dot, x, y } of placed) dot.to = [x, y];
  if (jump || calm()) {
    for (const dot of dots.values()) dot.at = [...dot.to];
    place();
  } else if (!moving) {
    moving = true;
    before = performance.now();
    requestAnimationFrame(glide);
  }
}

/** Push dots that cover each other a little apart, a few times: a copy of a thought must still be seen. */
function apart(placed) {
  for (let round = 0; round < 12; round += 1) {
    for (let i = 0; i < placed.length; i += 1) {
      for (let j = 0; j < i; j += 1) {
        const [a, b] = [placed[i], placed[j]];
        const far = Math.hypot(a.x - b.x, a.y - b.y);
        const short = radius * 1.7 - far;
        if (short <= 0) continue;
        const angle = far > 0.01 ? Math.atan2(a.y - b.y, a.x - b.x) : i * 2.4;
        for (const [p, sign] of [[a, 0.5], [b, -0.5]]) {
          p.x = clamp(p.x + Math.cos(angle) * short * sign, size.width);
          p.y = clamp(p.y + Math.sin(angle) * short * sign, size.height);
        }
      }
    }
  }
}

const clamp = (value, most) => Math.min(most - MARGIN + 8, Math.max(MARGIN - 8, value));

/** A frame of it: the same way in the same time, however many frames a second there are. */
function glide(now) {
  const share = 1 - Math.exp(-Math.max(0, Math.min(250, now - before)) / EASE);
  before = now;
  let left = false;
  for (const dot of dots.values()) {
    for (const axis of [0, 1]) {
      const way = dot.to[axis] - dot.at[axis];
      dot.at[axis] += Math.abs(way) < 0.3 ? way : way * share;
      left ||= Math.abs(way) >= 0.3;
    }
  }
  place();
  moving = left;
  if (left) requestAnimationFrame(glide);
}

/** Put everything where the view has it: places move apart when it is magnified, dots and names keep their size. */
function place() {
  const seen = new Map([...dots].map(([thought, { at }]) => [thought, view.seen(at)]));
  for (const [thought, { g, line }] of dots) {
    const at = seen.get(thought);
    g.setAttribute("transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
    const other = line && seen.get(thought.parent);
    line?.classList.toggle("lost", !other);
    if (other) for (const [name, value] of [["x1", other[0]], ["y1", other[1]], ["x2", at[0]], ["y2", at[1]]]) line.setAttribute(name, value.toFixed(1));
  }
  const taken = [];
  for (const { thoughts, hull, name } of spots) {
    const points = thoughts.map((thought) => seen.get(thought)).filter((p) => p && p[0] > 0 && p[1] > 0 && p[0] < size.width && p[1] < size.height);
    hull.toggleAttribute("hidden", points.length === 0);
    name.toggleAttribute("hidden", points.length === 0);
    if (!points.length) continue;
    hull.setAttribute("d", outline(thoughts.map((thought) => seen.get(thought)).filter(Boolean)));
    const at = free(points, name.textContent.length * 3.3 + 4, [...seen.values()], taken);
    taken.push(at);
    name.setAttribute("x", at.x.toFixed(1));
    name.setAttribute("y", at.y.toFixed(1));
  }
}

/** Where a name covers least: above, below or beside its group, or in its middle. half: of its width. */
function free(points, half, dotsAt, taken) {
  const side = (axis, pick) => pick(...points.map((p) => p[axis]));
  const [left, right, top, bottom] = [side(0, Math.min), side(0, Math.max), side(1, Math.min), side(1, Math.max)];
  const [x, y] = [0, 1].map((axis) => points.reduce((sum, p) => sum + p[axis], 0) / points.length);
  const away = radius + 5;
  const inside = ([cx, cy]) => ({ x: Math.min(size.width - half, Math.max(half, cx)), y: Math.min(size.height - 5, Math.max(12, cy)), half });
  const places = [[x, top - away], [x, bottom + away + 9], [right + away + half, y + 4], [left - away - half, y + 4], [x, y + 4], [left, top - away], [right, top - away], [left, bottom + away + 9], [right, bottom + away + 9]].map(inside);
  const covers = (p) => dotsAt.filter(([dx, dy]) => Math.abs(dx - p.x) < half + radius - 2 && Math.abs(dy - (p.y - 4)) < radius + 5).length
    + 20 * taken.filter((q) => Math.abs(q.x - p.x) < q.half + half && Math.abs(q.y - p.y) < 15).length;
  const scores = places.map((p, i) => covers(p) + i / 20);
  return places[scores.indexOf(Math.min(...scores))];
}

/** Mark what is pointed at elsewhere, and say what it is. */
export function point(thoughts) {
  for (const [thought, { g }] of dots) g.classList.toggle("pointed", thoughts.includes(thought));
  const one = thoughts.length === 1 ? thoughts[0] : null;
  $("map-readout").replaceChildren(...(one ? [h("b", { class: "tag", "--hue": one.hue }, one.label), ` ${one.text.trim().slice(0, 140) || t("empty_")}`] : [t("mapHint")]));
}

/** The map as it stands, for an export: a copy without what only a live page needs. */
export function picture() {
  const copy = $("map").cloneNode(true);
  for (const [name, value] of [["id", null], ["class", radius < 13 ? "crowd" : null], ["role", "img"], ["width", size.width], ["height", size.height]]) {
    if (value === null) copy.removeAttribute(name);
    else copy.setAttribute(name, value);
  }
  for (const g of copy.querySelectorAll("g")) for (const name of ["tabindex", "role", "id"]) g.removeAttribute(name);
  return copy;
}
