"""Is what `--select` picks more different than chance, and as good? Over sets that `generate.py` wrote.

    python studies/selection/compare.py SETS.jsonl [-k 5]

Of each set k thoughts are taken in several ways: by `ThoughtSet.select` at several quality floors, by difference alone
(floor 0, before which loops, blanks and copies go), the likeliest, by the quality-weighted determinantal point process
that `select` was before, and at random (whose expected means are those of the whole set). Columns: mean distance by the
embedder that selects; by two that select nothing, cosine of word counts and Jaccard of word sets; log-likelihood, which
selects by its quantile; repetition, share of complete thoughts, and relevance to the prompt. The default floor was
chosen on the prompts of even number; those of odd number report. Differences to random: paired BCa bootstrap over
prompts, and on how many prompts they are above 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from thoughtmix.bench.statistics import mean_difference
from thoughtmix.core.selection import repetition, select_diverse, select_good, wording_distances
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import words

Floats = NDArray[np.float64]
MEASURES = ("embedding", "word counts", "word sets", "likelihood", "repetition", "complete", "relevance")


def main(
    sets: Annotated[Path, typer.Argument(help="Lines of JSON, a thought set each.")],
    k: Annotated[int, typer.Option("-k", help="How many are selected.")] = 5,
) -> None:
    """Print a table for the prompts that chose, and one for those that report."""
    made = [ThoughtSet.from_dict(json.loads(line)) for line in sets.read_text(encoding="utf-8").splitlines()]
    for name, part in (
        ("prompts that chose (even)", made[0::2]),
        ("prompts that report (odd)", made[1::2]),
        ("all", made),
    ):
        print(f"\n{name}: {len(part)} prompts, {k} of {len(part[0])}")
        print(f"{'':14}" + "".join(f"{m:>13}" for m in MEASURES))
        random = np.array([measures(s, range(len(s))) for s in part])
        print(f"{'random':14}" + "".join(f"{v:13.3f}" for v in random.mean(0)))
        for way, pick in WAYS.items():
            found = np.array([measures(s, pick(s, k)) for s in part])
            print(f"{way:14}" + "".join(f"{v:13.3f}" for v in found.mean(0)))
            if way in {"floor 0.5", "floor 0", "before"}:
                rng = np.random.default_rng(0)
                for i in range(4):
                    d = mean_difference(found[:, i], random[:, i], rng)
                    above = int((found[:, i] > random[:, i]).sum())
                    print(f"    {MEASURES[i]:12} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), above on {above}")
    overlap = np.mean([len(set(WAYS["before"](s, k)) & set(WAYS["likeliest"](s, k))) for s in made])
    now = np.mean([len(set(WAYS["floor 0.5"](s, k)) & set(WAYS["likeliest"](s, k))) for s in made])
    print(f"\nof {k} picks, how many are among the {k} likeliest: before {overlap:.2f}, now {now:.2f}")


def measures(made: ThoughtSet, picked: range | list[int]) -> list[float]:
    """One number each of `MEASURES`, of those picked."""
    chosen = [made[i] for i in picked]
    texts = [t.text for t in chosen]
    rows = [[made.distances[i][j] for j in picked] for i in picked]
    return [
        _mean_pair(np.array(rows)),
        _mean_pair(np.array(wording_distances(texts))),
        _mean_pair(_jaccard(texts)),
        float(np.mean([t.mean_logprob for t in chosen])),
        float(np.mean([repetition(t) for t in texts])),
        float(np.mean([t.finish == "stop" for t in chosen])),
        float(np.mean([t.scores["relevance"] for t in chosen])),
    ]


def _jaccard(texts: list[str]) -> Floats:
    each = [set(words(t)) for t in texts]
    return np.array([[1 - len(a & b) / max(1, len(a | b)) for b in each] for a in each])


def _mean_pair(d: Floats) -> float:
    return float(d[np.triu_indices(len(d), 1)].mean())


def _likelihood(made: ThoughtSet) -> list[float]:
    return [t.mean_logprob for t in made]


def _floor(floor: float) -> Callable[[ThoughtSet, int], list[int]]:
    return lambda made, k: select_good(made.texts, made.distances, _likelihood(made), k, floor)


WAYS: dict[str, Callable[[ThoughtSet, int], list[int]]] = {
    "likeliest": lambda made, k: list(np.argsort(-np.array(_likelihood(made)), kind="stable")[:k]),
    "before": lambda made, k: select_diverse(made.distances, _likelihood(made), k),
    **{f"floor {floor:g}": _floor(floor) for floor in (0.0, 0.25, 0.5, 0.6, 0.75)},
}


if __name__ == "__main__":
    typer.run(main)
