"""Put every metric that can be computed on a thought set."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thoughtmix.metrics.answers import distinct_k
from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.metrics.text import distinct_n, duplicate_rate, ead, mean_words, self_bleu

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.models import Embedder, LanguageModel


def measure(thoughts: ThoughtSet, embedder: Embedder | None = None, judge: LanguageModel | None = None) -> ThoughtSet:
    """A copy with `metrics`, `distances` and each thought's scores (`relevance`, `distance`, `judge_nll`).

    Without an embedder only the metrics of wording; without a judge no NLL. Set-level `relevance` and `judge_nll`
    are means over the thoughts. Raises `InputError` for an empty set.
    """
    texts = thoughts.texts
    metrics: dict[str, float] = {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "ead": ead(texts),
        "self_bleu": self_bleu(texts),
        "duplicate_rate": duplicate_rate(texts),
        "mean_words": mean_words(texts),
    }
    scores: list[dict[str, float]] = [{} for _ in texts]
    run = dict(thoughts.run)
    distances = thoughts.distances
    if embedder is not None:
        vectors = embedder.encode([thoughts.prompt, *texts])
        prompt, vectors = vectors[0], vectors[1:]
        d = pairwise_distances(vectors)
        near = relevance(vectors, prompt)
        metrics |= {
            "vendi": vendi(vectors),
            "mean_distance": mean_distance(vectors),
            "distinct_k": float(distinct_k(texts, d)),
            "relevance": float(near.mean()),
        }
        others = d.sum(1) / max(len(texts) - 1, 1)
        for score, r, far in zip(scores, near, others, strict=True):
            score |= {"relevance": round(float(r), 6), "distance": round(float(far), 6)}
        distances = tuple(tuple(round(float(v), 6) for v in row) for row in d)
        run["embedder"] = embedder.name
    if judge is not None:
        nll = judge_nll(thoughts.prompt, texts, judge)
        metrics["judge_nll"] = float(np.mean(nll))
        for score, value in zip(scores, nll, strict=True):
            score["judge_nll"] = round(float(value), 6)
        run["judge"] = judge.name
    return dataclasses.replace(
        thoughts,
        thoughts=tuple(t.with_scores(**s) for t, s in zip(thoughts, scores, strict=True)),
        metrics={**thoughts.metrics, **{name: round(value, 6) for name, value in metrics.items()}},
        distances=distances,
        run=run,
    )
