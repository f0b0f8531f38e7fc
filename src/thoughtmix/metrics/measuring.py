"""Putting every metric that can be computed on a thought set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thoughtmix.core.selection import LOOPS, repetition, stutters
from thoughtmix.metrics.answers import distinct_k
from thoughtmix.metrics.distance_correlation import transmissions
from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.metrics.soundness import complete
from thoughtmix.metrics.text import distinct_n, duplicate_rate, ead, mean_words, self_bleu
from thoughtmix.models.judge import EndpointJudge

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.models import Embedder, LanguageModel


def measure(
    thoughts: ThoughtSet, embedder: Embedder | None = None, judge: LanguageModel | EndpointJudge | None = None
) -> ThoughtSet:
    """A copy with `metrics`, `distances` and each thought's scores (`relevance`, `distance`, `judge_nll`; of a judge at
    an endpoint `judge_yes`).

    Set-level `relevance`, `judge_nll` and `judge_yes` are means over the thoughts that have them. Without a prompt
    there is no relevance.

    Args:
        embedder: without one, only the metrics of wording are computed.
        judge: without one, there is no NLL. One at an endpoint is asked, for few tell the likelihood of a given text;
            what it does not answer has no score.

    Raises:
        InputError: for an empty set.
    """
    metrics, scores = _of_wording(thoughts)
    run, distances = dict(thoughts.run), thoughts.distances
    if embedder is not None:
        distances = _add_embedded(thoughts, embedder, metrics, scores)
        run["embedder"] = embedder.name
    if judge is not None:
        _add_judged(thoughts, judge, metrics, scores)
        run["judge"] = judge.name
    return dataclasses.replace(
        thoughts,
        thoughts=tuple(t.with_scores(**s) for t, s in zip(thoughts, scores, strict=True)),
        metrics={**thoughts.metrics, **{name: round(value, 6) for name, value in metrics.items()}},
        distances=distances,
        run=run,
    )


def _of_wording(thoughts: ThoughtSet) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Metrics of the set and scores of each thought that need the texts alone."""
    texts = thoughts.texts
    again, twice = [repetition(t) for t in texts], [stutters(t) for t in texts]
    metrics: dict[str, float] = {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "ead": ead(texts),
        "self_bleu": self_bleu(texts),
        "duplicate_rate": duplicate_rate(texts),
        "complete": complete(thoughts),
        "repetition": float(np.mean(again)),
        "mean_words": mean_words(texts),
        "repeating": float(np.mean([share >= LOOPS or count > 0 for share, count in zip(again, twice, strict=True)])),
    }
    scores: list[dict[str, float]] = [
        {"repetition": round(share, 6), **({"stutters": float(count)} if count else {})}
        for share, count in zip(again, twice, strict=True)
    ]
    return metrics, scores


def _add_embedded(
    thoughts: ThoughtSet, embedder: Embedder, metrics: dict[str, float], scores: list[dict[str, float]]
) -> tuple[tuple[float, ...], ...]:
    """What embeddings say, into metrics and scores. Returns the distances (n, n)."""
    vectors = embedder.encode([thoughts.prompt, *thoughts.texts])
    prompt, vectors = vectors[0], vectors[1:]
    d = pairwise_distances(vectors)
    metrics |= {
        "vendi": vendi(vectors),
        "mean_distance": mean_distance(vectors),
        "distinct_k": float(distinct_k(thoughts.texts, d)),
    }
    if thoughts.prompt.strip():  # texts from elsewhere may answer nothing that is known
        near = relevance(vectors, prompt)
        metrics["relevance"] = float(near.mean())
        for score, value in zip(scores, near, strict=True):
            score["relevance"] = round(float(value), 6)
    metrics |= transmissions(
        thoughts.thoughts, d, lambda values: pairwise_distances(np.asarray(embedder.encode(list(values))))
    )
    others = d.sum(1) / max(len(thoughts) - 1, 1)
    for score, far in zip(scores, others, strict=True):
        score["distance"] = round(float(far), 6)
    return tuple(tuple(round(float(v), 6) for v in row) for row in d)


def _add_judged(
    thoughts: ThoughtSet,
    judge: LanguageModel | EndpointJudge,
    metrics: dict[str, float],
    scores: list[dict[str, float]],
) -> None:
    """What a judge says, into metrics and scores."""
    values: Sequence[float | None]
    if isinstance(judge, EndpointJudge):
        name, values = "judge_yes", judge.probabilities(thoughts.prompt, thoughts.texts)
    else:
        name, values = "judge_nll", [float(value) for value in judge_nll(thoughts.prompt, thoughts.texts, judge)]
    known = [value for value in values if value is not None]
    if known:
        metrics[name] = float(np.mean(known))
    for score, value in zip(scores, values, strict=True):
        if value is not None:
            score[name] = round(value, 6)
