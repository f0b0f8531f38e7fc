"""The catalogue, direction by direction: how far each moves a text, what that costs, and whether a blind classifier
recovers its family.

    python studies/noise/directions.py --out out/directions [--strength precise] [--judge MODEL]

Each idea is rewritten once in every direction (kept as it is made; the same command continues). Moved: 1 - cosine of
rewriting and idea (MiniLM). Cost: nats a token under the judge, read as an answer to the idea's own prompt, beside a
rewriting that only asks for better (polish.toml). Without --judge the generator judges itself, which flatters it and is
said in the table. The classifier (ridge regression)
sees the embedding of the rewriting minus that of the idea, learns from the first two thirds of the ideas and is asked
about the others; its chance is 25%. Two nulls, everything learned again each time: labels shuffled among the
rewritings of each idea (does a text betray its family at all?), and labels shuffled over directions, one for all ideas
(is a family easier to learn than another grouping of the same directions?). Unit of the intervals: the idea.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ideas import IDEAS
from numpy.typing import NDArray

from thoughtmix.bench.statistics import bootstrap
from thoughtmix.core.files import write_whole
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.models import load_embedder, load_model
from thoughtmix.noise import Catalogue, SemanticNoiser

CONTROL = str(Path(__file__).with_name("polish.toml"))
PROMPT = "Give me an idea for our town."
Array = NDArray[np.float64]


def rewritings(a: argparse.Namespace, names: list[str], kind: str = "") -> list[dict[str, Any]]:
    """Every rewriting: idea, direction, text, its NLL under the judge; an idea's at a time, from --out when there."""
    path = a.out / f"{kind}{a.strength}-{a.language}.jsonl"
    about = {"strength": a.strength, "language": a.language, "model": a.model, "judge": a.judge, "tokens": a.tokens}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["about"] == about]
    todo = [i for i in range(a.ideas) if i not in {row["idea"] for row in rows}]
    if todo:
        model = load_model(a.model)
        judge = load_model(a.judge) if a.judge else model
        noiser = SemanticNoiser(model, strength=a.strength, language=a.language, files=[CONTROL] if kind else [])
        for i in todo:
            got = noiser.disturb(
                IDEAS[i],
                len(names),
                directions=names,
                prompt=PROMPT,
                max_new_tokens=a.tokens,
                seed=1000 * len(names) * i,
                measure=False,
            )
            nll = judge_nll(PROMPT, [IDEAS[i], *(t.text for t in got)], judge)
            row = {
                "about": about,
                "idea": i,
                "nll": nll.tolist(),
                "judge": judge.name,
                "texts": {str(t.origin["direction"]): t.text for t in got},
            }
            rows.append(row)
            write_whole(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
            print(f"idea {i + 1} of {a.ideas}", flush=True)
    return sorted((row for row in rows if row["idea"] < a.ideas), key=lambda row: int(row["idea"]))


class RidgeClassifier:
    """Ridge regression on one-hot labels, in closed form: what it says of held-out texts is one matrix, whatever the
    labels are, so that learning again after a shuffle costs a product. x: (ideas, directions, d)."""

    def __init__(self, x: Array, held: Array, ridge: float = 1.0) -> None:
        self.held, self.shape = held, x.shape[:2]
        seen, asked = x[~held].reshape(-1, x.shape[2]), x[held].reshape(-1, x.shape[2])
        center = seen.mean(0)
        seen, asked = seen - center, asked - center
        self.hat = asked @ np.linalg.solve(seen.T @ seen + ridge * np.eye(x.shape[2]), seen.T)  # (asked, seen)

    def right(self, labels: Any) -> Array:
        """(held-out ideas, directions) which labels were predicted; labels: (directions,) or (ideas, directions)."""
        kinds = np.broadcast_to(labels, self.shape)
        names = np.unique(kinds)
        hot = (kinds[~self.held].reshape(-1, 1) == names).astype(np.float64)
        predicted = names[(self.hat @ (hot - hot.mean(0)) + hot.mean(0)).argmax(1)].reshape(int(self.held.sum()), -1)
        return np.asarray(predicted == kinds[self.held], dtype=np.float64)


def chances(classifier: RidgeClassifier, families: Any, shuffles: int) -> dict[str, Array]:
    """(shuffles,) shares right under each null."""
    rng = np.random.default_rng(11)
    ideas = range(classifier.shape[0])
    texts = [classifier.right(np.stack([rng.permutation(families) for _ in ideas])).mean() for _ in range(shuffles)]
    groups = [classifier.right(rng.permutation(families)).mean() for _ in range(shuffles)]
    return {"labels shuffled within each idea": np.array(texts), "shuffled over directions": np.array(groups)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strength", default="precise")
    parser.add_argument("--language", default="en")
    parser.add_argument("--model")
    parser.add_argument("--judge")
    parser.add_argument("--ideas", type=int, default=len(IDEAS))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--shuffles", type=int, default=999)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    catalogue = Catalogue.load()
    names = list(catalogue)
    rows, control = rewritings(a, names), rewritings(a, ["polish"], "control-")
    embedder = load_embedder()
    own = embedder.encode([IDEAS[row["idea"]] for row in rows]).astype(np.float64)  # (ideas, d)
    texts = [row["texts"][name] or "." for row in rows for name in names]
    vectors = embedder.encode(texts).astype(np.float64).reshape(len(rows), len(names), -1)
    far = 1 - np.einsum("ikd,id->ik", vectors, own)  # (ideas, directions)
    nll = np.array([row["nll"] for row in rows])
    plain = np.array([row["nll"][1] for row in control])
    cost = nll[:, 1:] - plain[:, None]
    better = embedder.encode([row["texts"]["polish"] or "." for row in control]).astype(np.float64)
    held = np.arange(len(rows)) >= 2 * len(rows) // 3
    families = np.array([catalogue[name].family for name in names])
    moved = vectors - own[:, None]
    classifier = RidgeClassifier(moved, held)
    right = classifier.right(families)
    who = "generator = judge" if a.judge is None else f"judge {rows[0]['judge']}"
    print(
        f"\n{len(rows)} ideas, {a.strength}, {a.language}; {who}; the ideas: {nll[:, 0].mean():.2f} nats a token, "
        f"improved (the control): {plain.mean():.2f}, moved {_interval(1 - (better * own).sum(1))}\n"
    )
    print("| direction | family | moved (95%) | nats a token | minus polish (95%) | family told right |")
    print("|---|---|---|---|---|---|")
    for k, name in enumerate(names):
        show(name, families[k], far[:, [k]], nll[:, [k + 1]], cost[:, [k]], right[:, [k]])
    for family in catalogue.families:
        mine = families == family
        show("all", family, far[:, mine], nll[:, 1:][:, mine], cost[:, mine], right[:, mine])
    print(f"\nfamily of held-out ideas told right: {_interval(right.mean(1))}, chance 25%")
    found = {}
    for null, values in chances(classifier, families, a.shuffles).items():
        found[null] = p = (1 + int((values >= right.mean()).sum())) / (1 + len(values))
        print(f"- {null}: {values.mean():.1%} right, at most {values.max():.1%}; p = {p:.3f}")
    direction = classifier.right(np.array(names))
    print(f"direction itself told right: {_interval(direction.mean(1))}, chance {1 / len(names):.1%}")
    body = {
        "moved": dict(zip(names, far.mean(0).tolist(), strict=True)),
        "family": right.mean(),
        "p": found,
        "cost": dict(zip(names, cost.mean(0).tolist(), strict=True)),
        "direction": direction.mean(),
    }
    write_whole(a.out / f"{a.strength}-{a.language}-figures.json", json.dumps(body, indent=1))


def show(name: str, family: str, far: Array, nll: Array, cost: Array, right: Array) -> None:
    """One line: columns of (ideas, directions)."""
    print(
        f"| {name} | {family} | {_interval(far.mean(1))} | {nll.mean():.2f} | {_interval(cost.mean(1), sign=True)} "
        f"| {right.mean():.0%} |"
    )


def _interval(values: Array, sign: bool = False) -> str:
    """Mean over ideas, with its BCa interval."""
    got = bootstrap(lambda w: w @ values, len(values), np.random.default_rng(5), resamples=4999)
    form = "+.2f" if sign else ".2f"
    return f"{got.value:{form}} ({got.low:{form}} to {got.high:{form}})"


if __name__ == "__main__":
    main()
