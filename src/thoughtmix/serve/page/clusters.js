// Which thoughts belong together, and in which words: for the map, the heat-map's order and the filter.

const FEWEST = 12; // of fewer thoughts each is looked at by itself
const MOST = 9; // groups
const COMMON = new Set(("a an and are as at be been but by can could do for from had has have how i if in into is it its like may more most my no not of on one or our out "
  + "she so some than that the their them then there these they this to up us use used using was we were what when which who will with would you your about also just over all he her his him any each other such make made "
  + "au aux avec ce ces cette comme dans de des du elle en est et eux il ils je la le les leur lui ma mais me même mes moi mon ne nos notre nous on ou par pas pour qu que qui sa se ses son sur ta te tes toi ton tu un une vos votre vous été être plus tout tous très faire fait peut").split(" "));

/**
 * Ward's method (1963) on distances, by the update of Lance and Williams (1967): a merge a step, nearest first.
 * distances: rows of 1 - cosine. Returns [[a, b], ...], clusters numbered on from n.
 */
function merges(distances) {
  const n = distances.length;
  const far = distances.map((row) => row.map((d) => d * d));
  const live = Array.from({ length: n }, (_, i) => ({ id: i, size: 1, row: i }));
  const out = [];
  while (live.length > 1) {
    let best = [0, 1];
    for (let i = 1; i < live.length; i += 1) for (let j = 0; j < i; j += 1) if (far[live[i].row][live[j].row] < far[live[best[1]].row][live[best[0]].row]) best = [j, i];
    const [a, b] = [live[best[0]], live[best[1]]];
    const between = far[a.row][b.row];
    for (const c of live) {
      if (c === a || c === b) continue;
      const whole = a.size + b.size + c.size;
      far[a.row][c.row] = far[c.row][a.row] = ((a.size + c.size) * far[a.row][c.row] + (b.size + c.size) * far[b.row][c.row] - c.size * between) / whole;
    }
    out.push([a.id, b.id]);
    live.splice(best[1], 1);
    live[best[0]] = { id: n + out.length - 1, size: a.size + b.size, row: a.row };
  }
  return out;
}

/** Members of the k clusters before the last k - 1 merges. */
function cut(n, joined, k) {
  const members = new Map(Array.from({ length: n }, (_, i) => [i, [i]]));
  joined.slice(0, n - k).forEach(([a, b], step) => {
    members.set(n + step, [...members.get(a), ...members.get(b)]);
    members.delete(a);
    members.delete(b);
  });
  return [...members.values()];
}

/** Mean silhouette (Rousseeuw 1987): how much nearer each is to its own cluster than to the next. */
function silhouette(distances, parts) {
  const mean = (i, part) => part.reduce((sum, j) => sum + (i === j ? 0 : distances[i][j]), 0) / Math.max(1, part.length - (part.includes(i) ? 1 : 0));
  let sum = 0;
  for (const part of parts) {
    if (part.length < 2) continue;
    for (const i of part) {
      const own = mean(i, part);
      const next = Math.min(...parts.filter((other) => other !== part).map((other) => mean(i, other)));
      sum += (next - own) / Math.max(own, next, 1e-9);
    }
  }
  return sum / distances.length;
}

const wordsOf = (text) => new Set((text.toLowerCase().match(/\p{L}[\p{L}'’-]{2,}/gu) ?? []).map((word) => word.replace(/['’]s$/u, "")).filter((word) => !COMMON.has(word)));

/** The words that most of these texts have and few of the others. */
function label(part, words, taken) {
  const inside = new Map();
  for (const i of part) for (const word of words[i]) inside.set(word, (inside.get(word) ?? 0) + 1);
  const all = words.length;
  const score = ([word, count]) => (count / part.length) * Math.log((all + 1) / (words.filter((each) => each.has(word)).length + 0.5));
  const best = [...inside].filter(([word, count]) => !taken.has(word) && (count > 1 || part.length === 1)).sort((a, b) => score(b) - score(a) || (a[0] < b[0] ? -1 : 1)).slice(0, 2).map(([word]) => word);
  best.forEach((word) => taken.add(word));
  return best.join(", ");
}

/** The order of leaves in the tree of merges: near ones are neighbours. */
export function ordered(distances) {
  const n = distances.length;
  if (n < 3) return Array.from({ length: n }, (_, i) => i);
  return cut(n, merges(distances), 1)[0];
}

/**
 * Groups of texts, largest first: [{members: indices, label}]; [] where there are too few, or none stand out. Joined by
 * where they sit on the map, so that a group is one piece of it; how many there are is what the distances say.
 */
export function grouped(texts, distances, points) {
  const n = texts.length;
  if (n < FEWEST || distances.length < n) return [];
  const joined = merges(points.map(([x, y]) => points.map(([u, v]) => Math.hypot(x - u, y - v))));
  let best = { parts: [], fit: 0.02 };
  for (let k = 2; k <= Math.min(MOST, Math.floor(n / 3)); k += 1) {
    const parts = cut(n, joined, k);
    const fit = silhouette(distances, parts);
    if (fit > best.fit) best = { parts, fit };
  }
  const words = texts.map(wordsOf);
  const taken = new Set();
  return best.parts.sort((a, b) => b.length - a.length || a[0] - b[0]).map((members) => ({ members, label: label(members, words, taken) }));
}
