// The most different k that are good enough, by the server's `select`: what it took, what that gained, what it left out.

import * as api from "./api.js";
import { $, say } from "./dom.js";
import { numeric } from "./form.js";
import { number, t } from "./words.js";

const WHY = ["blank", "copy", "loop", "stock", "quality", "near"]; // as `thoughtmix.core.selection` has them
let actions = { session: () => null, redraw() {}, fail() {} };

/** actions: session() what may be chosen from, or null; redraw(), fail(error, again). */
export function start(given) {
  actions = given;
  $("pick").addEventListener("click", pick);
  $("unpick").addEventListener("click", () => {
    const session = actions.session();
    if (!session) return;
    clear(session);
    actions.redraw();
    $("pick").focus();
  });
}

export async function pick() {
  const session = actions.session();
  const among = session?.roots.filter((thought) => thought.done) ?? [];
  if (!among.some((thought) => thought.text.trim())) return;
  const k = Math.min(among.length, Math.max(1, numeric("k") ?? 3));
  const floor = Math.min(1, Math.max(0, numeric("floor") ?? 0.5));
  try {
    const likes = among.map((thought) => thought.perToken);
    const known = likes.every((like) => like !== null) ? likes : []; // of texts from elsewhere all are as likely
    const { indices, left_out: left = [], facts = {} } = await api.selectOf(among.map(({ text }) => text), known, k, floor);
    if (actions.session() !== session) return;
    clear(session);
    for (const i of indices) if (among[i]) among[i].picked = true;
    for (const { index, why, of } of left) if (among[index] && WHY.includes(why)) among[index].left = { why, of: among[of] };
    session.selection = { k: indices.length, of: among.length, facts, left };
    actions.redraw();
    say(t("saidPicked", { labels: indices.map((i) => among[i]?.label).join(", ") }));
  } catch (error) {
    actions.fail(error, pick);
  }
}

function clear(session) {
  for (const thought of session.all) Object.assign(thought, { picked: false, left: null });
  session.selection = null;
}

/** Say of the session what its selection did, if there was one. */
export function draw(session) {
  $("selection").hidden = !session.picking;
  if (!session.picking) return;
  const { k, of, facts, left } = session.selection;
  const parts = [t("selected", { k: number(k, 0), of: number(of, 0) })];
  if (k > 1 && Number.isFinite(facts.distance)) parts.push(t("selectedFar", { x: number(facts.distance), y: number(facts.random_distance) }));
  const many = (why) => left.filter((each) => each.why === why).length;
  const reasons = WHY.filter(many).map((why) => t(`why_${why}`, { n: many(why) }));
  if (reasons.length) parts.push(t("selectedLeft", { reasons: reasons.join(", ") }));
  $("selection").textContent = parts.join(" ");
}
