// The map: near thoughts sit near. Dots glide to where they belong; whoever wants less motion sees them arrive.

import { $, calm, focusOne, h, roving, s } from "./dom.js";
import { t } from "./words.js";

const MARGIN = 26;
const RADIUS = 13;
const EASE = 120; // milliseconds in which two thirds of the way are gone
let session = null;
let actions = { open() {}, point() {} };
let size = { width: 400, height: 300 };
const dots = new Map(); // thought -> {g, line, at: [x, y], to: [x, y]} in pixels
let moving = false;
let before = 0; // when the last frame was drawn

/** actions: open(thought), point(thought or null). */
export function start(given) {
  actions = given;
  const svg = $("map");
  roving(svg, () => [...svg.querySelectorAll("g.dot")]);
  new ResizeObserver(([entry]) => {
    const { width, height } = entry.contentRect;
    if (width < 40 || (Math.abs(width - size.width) < 1 && Math.abs(height - size.height) < 1)) return;
    size = { width, height };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    aim(true);
  }).observe(svg);
  document.addEventListener("language", () => {
    if (!session) return;
    draw(session);
    point([]);
  });
}

/** Another session: nothing of the one before stays. */
export function draw(given) {
  if (given !== session) {
    for (const { g, line } of dots.values()) {
      g.remove();
      line?.remove();
    }
    dots.clear();
  }
  session = given;
  update();
}

/** Dots for what is placed now, each gliding from where it was. */
export function update() {
  const svg = $("map");
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  for (const [thought, dot] of dots) {
    if (session.points.has(thought)) continue;
    dot.g.remove();
    dot.line?.remove();
    dots.delete(thought);
  }
  for (const thought of session.points.keys()) if (!dots.has(thought)) dots.set(thought, make(thought, svg));
  const any = [...dots.values()];
  if (any.length && !any.some(({ g }) => g.getAttribute("tabindex") === "0")) focusOne(any.map(({ g }) => g), any[0].g, false);
  for (const [thought, { g }] of dots) {
    g.setAttribute("aria-label", t("mapDot", { label: t("thought", { label: thought.label }), text: thought.text.trim().slice(0, 120) || t("empty_") }));
    g.classList.toggle("picked", thought.picked);
    g.classList.toggle("dim", session.picking && !thought.picked);
  }
  if ($("map-readout").textContent === "") point([]);
  aim(false);
}

function make(thought, svg) {
  const radius = thought.depth ? RADIUS - 3 : RADIUS;
  const g = s("g", {
    class: `dot${thought.depth ? " child" : ""}`, role: "button", tabindex: "-1", "--hue": thought.hue, "data-label": thought.label,
    onclick: () => actions.open(thought),
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      actions.open(thought);
    },
    onpointerenter: () => actions.point(thought), onpointerleave: () => actions.point(null),
    onfocus: () => actions.point(thought), onblur: () => actions.point(null),
  }, s("circle", { class: "ring", r: radius + 4 }), s("circle", { class: "disc", r: radius }),
  s("text", { "text-anchor": "middle", dy: "0.35em", class: thought.label.length > 3 ? "long" : null }, thought.label));
  const line = thought.parent ? s("line", { class: "kin", "--hue": thought.hue }) : null;
  if (line) svg.prepend(line);
  svg.append(g);
  const from = thought.parent && dots.has(thought.parent) ? dots.get(thought.parent).at : [size.width / 2, size.height / 2];
  return { g, line, at: [...from], to: [...from] };
}

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
        const short = RADIUS * 1.7 - far;
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

function place() {
  for (const [thought, { g, line, at }] of dots) {
    g.setAttribute("transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
    const other = line && dots.get(thought.parent);
    line?.classList.toggle("lost", !other);
    if (other) for (const [name, value] of [["x1", other.at[0]], ["y1", other.at[1]], ["x2", at[0]], ["y2", at[1]]]) line.setAttribute(name, value.toFixed(1));
  }
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
  for (const [name, value] of [["id", null], ["role", "img"], ["width", size.width], ["height", size.height]]) {
    if (value === null) copy.removeAttribute(name);
    else copy.setAttribute(name, value);
  }
  for (const g of copy.querySelectorAll("g")) for (const name of ["tabindex", "role"]) g.removeAttribute(name);
  return copy;
}
