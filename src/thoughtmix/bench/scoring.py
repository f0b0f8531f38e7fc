"""From the thoughts of a cell to numbers. Needs no model: embeddings and likelihoods were measured with the cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thoughtmix.bench.novelty import THRESHOLDS, sensitivity
from thoughtmix.bench.tasks import Item, Kind, reader
from thoughtmix.core.errors import InputError
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import pass_at_k


@dataclass(frozen=True, slots=True)
class Axes:
    """What a frontier of one kind of item shows, both to be maximised, and where its hypervolume begins."""

    quality: str
    diversity: str
    reference: tuple[float, float]
    quality_says: str
    diversity_says: str


AXES: dict[Kind, Axes] = {
    "open": Axes("judge_loglik", "vendi", (-4.0, 1.0), "log-likelihood under the judge, nats a token", "Vendi score"),
    "coverage": Axes("valid", "coverage", (0.0, 0.0), "share of valid answers", "distinct valid answers / n"),
    "reasoning": Axes("pass_1", "pass_n", (0.0, 0.0), "pass@1", "pass@n"),
}
# Further differences that the report tests, beyond the two axes.
SECONDARY: dict[Kind, tuple[str, ...]] = {
    "open": ("mean_distance", "distinct_k", "self_bleu", "relevance"),
    "coverage": ("valid",),
    "reasoning": ("pass_1",),
}


def score(record: Mapping[str, Any], item: Item, n: int, threshold: float = 0.3) -> dict[str, float]:
    """Every number of one cell: the set's metrics and rates of what went wrong. threshold: of distinct_k's classes; for
    open prompts its value at others comes too, as `distinct_k@0.2`.

    missing: share of the n thoughts that are not there. unread: share with no answer that could be read. Both count
    against validity and coverage, whose denominator is always n.
    """
    thoughts = ThoughtSet.from_dict(record["set"])
    count = len(thoughts)
    if not 1 <= count <= n:
        raise InputError(f"{record['key']} has {count} thoughts for n={n}.", "A thinker gives 1 to n.")
    out = dict(thoughts.metrics)
    out |= {
        "missing": 1 - count / n,
        "empty": sum(not t.text.strip() for t in thoughts) / n,
        "tokens": float(thoughts.run.get("tokens", 0)),
    }
    if "judge_nll" in out:
        out["judge_loglik"] = -out["judge_nll"]
    if item.kind == "open":
        counts = sensitivity(thoughts.texts, thoughts.distances, (*THRESHOLDS, threshold))
        out |= {f"distinct_k@{t:g}": float(count) for t, count in counts.items()}
        out["distinct_k"] = float(counts[threshold])
        return out
    read = [reader(item)(text) for text in thoughts.texts]
    right = [r.answer for r in read if r.valid]
    out |= {"valid": len(right) / n, "unread": sum(r.answer is None for r in read) / n}
    if item.kind == "coverage":
        out["coverage"] = len(set(right)) / n
    else:
        out |= {f"pass_{k}": pass_at_k(n, len(right), k) for k in _powers(n)}
        out |= {"pass_n": pass_at_k(n, len(right), n), "distinct_right": len(set(right)) / n}
    return out


def _powers(n: int) -> list[int]:
    """1, 2, 4 ... up to n."""
    return [2**i for i in range(n.bit_length()) if 2**i <= n]
