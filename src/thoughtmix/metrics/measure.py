"""What is measured, as data, and putting every metric that can be computed on a thought set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from thoughtmix.core.selection import repeats, repetition, stutters
from thoughtmix.metrics.answers import distinct_k
from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.metrics.soundness import complete, mean_repetition
from thoughtmix.metrics.text import distinct_n, duplicate_rate, ead, mean_words, self_bleu
from thoughtmix.metrics.transmission import SOURCES, transmissions
from thoughtmix.models.judge import EndpointJudge

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.models import Embedder, LanguageModel


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of `thoughtmix metrics`, and what did-you-mean chooses from."""

    name: str
    says: str
    better: Literal["higher", "lower", "neither"]
    span: str
    fails: str
    """When it misleads."""
    blind: str
    """What it cannot see at all."""
    needs: Literal["text", "embeddings", "judge"] = "text"
    of: Literal["set", "thought"] = "set"


_EMBEDDER = (
    "languages and signs that the embedder was not trained on (the packaged one knows English: all Thai is one to it)"
)
_WORDS = "meaning; word order beyond its n-grams; in scripts without spaces a word is one character"
_CATALOGUE = (
    Metric(
        "vendi",
        "effective number of different thoughts",
        "higher",
        "1..n",
        "grows with n; the kernel decides",
        _EMBEDDER,
        "embeddings",
    ),
    Metric(
        "mean_distance",
        "mean 1 - cosine over pairs",
        "higher",
        "0..n/(n-1)",
        "topic drift scores well",
        _EMBEDDER,
        "embeddings",
    ),
    Metric(
        "distinct_k",
        "classes of equivalent answers (NoveltyBench)",
        "higher",
        "1..n",
        "nonsense counts as new; of up to five words, one with a full stop is another",
        f"in longer texts, {_EMBEDDER}",
        "embeddings",
    ),
    Metric("distinct_1", "distinct words / words", "higher", "0..1", "falls with length; garbage scores high", _WORDS),
    Metric(
        "distinct_2",
        "distinct word pairs / word pairs",
        "higher",
        "0..1",
        "falls with length; garbage scores high",
        _WORDS,
    ),
    Metric(
        "distinct_3",
        "distinct word triples / word triples",
        "higher",
        "0..1",
        "falls with length; garbage scores high",
        _WORDS,
    ),
    Metric(
        "ead",
        "distinct words over the number expected",
        "higher",
        "0..",
        "depends on the vocabulary size V",
        f"{_WORDS}, of which V is far too many",
    ),
    Metric(
        "self_bleu",
        "mean BLEU of each thought against the others",
        "lower",
        "0..1",
        "paraphrase looks diverse",
        _WORDS,
    ),
    Metric(
        "duplicate_rate",
        "exact repeats",
        "lower",
        "0..1-1/n",
        "one changed word is a new text",
        "near copies",
    ),
    Metric(
        "complete",
        "share that the model ended, or that end as sentences do",
        "higher",
        "0..1",
        "a text cut just after a full stop counts as whole",
        "whether what is complete is any good",
    ),
    Metric(
        "repetition",
        "mean share of a text's word pairs that stood in it before",
        "lower",
        "0..1",
        "verse and lists repeat on purpose",
        "repetition between texts; texts under a dozen words",
    ),
    Metric(
        "mean_words",
        "mean words a thought",
        "neither",
        "0..",
        "no diversity: it confounds the others",
        "words in scripts without spaces: there it counts characters",
    ),
    Metric(
        "repeating",
        "share of thoughts that are loops, or say a word twice (the the)",
        "lower",
        "0..1",
        "what is said twice on purpose",
        "one idea in other words",
    ),
    Metric(
        "relevance",
        "cosine to the prompt",
        "higher",
        "-1..1",
        "rewards repeating the question",
        _EMBEDDER,
        "embeddings",
        "thought",
    ),
    Metric(
        "distance",
        "mean distance to the other thoughts",
        "higher",
        "0..2",
        "an outlier may be nonsense",
        _EMBEDDER,
        "embeddings",
        "thought",
    ),
    Metric(
        "judge_nll",
        "nats a token under the judge",
        "lower",
        "0..",
        "rewards blandness and loops",
        "whether it is true, or answers the question; languages that the judge does not know",
        "judge",
        "thought",
    ),
    Metric(
        "judge_yes",
        "P(yes) of a judge at an endpoint, asked whether the answer is good",
        "higher",
        "0..1",
        "small judges say yes to everything",
        "what the judge does not know; how two answers differ",
        "judge",
        "thought",
    ),
)
_TRANSMISSION = (
    Metric(
        f"transmission_{source}",
        f"how far answers differ as their {source} does: bias-corrected distance correlation",
        "higher",
        "..1",
        "with few thoughts it is noise; where all values differ and are no texts there is none",
        f"differences that have nothing to do with {source}",
        "embeddings",
    )
    for source in SOURCES
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_CATALOGUE, *_TRANSMISSION)}


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
    texts = thoughts.texts
    metrics: dict[str, float] = {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "ead": ead(texts),
        "self_bleu": self_bleu(texts),
        "duplicate_rate": duplicate_rate(texts),
        "complete": complete(thoughts),
        "repetition": mean_repetition(texts),
        "mean_words": mean_words(texts),
        "repeating": float(np.mean([repeats(t) for t in texts])),
    }
    scores: list[dict[str, float]] = [{"repetition": round(repetition(t), 6)} for t in texts]
    for score, text in zip(scores, texts, strict=True):
        score |= {"stutters": float(count)} if (count := stutters(text)) else {}
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
            **transmissions(
                thoughts.thoughts, d, lambda values: pairwise_distances(np.asarray(embedder.encode(list(values))))
            ),
        }
        others = d.sum(1) / max(len(texts) - 1, 1)
        for score, r, far in zip(scores, near, others, strict=True):
            score |= {"relevance": round(float(r), 6), "distance": round(float(far), 6)}
        distances = tuple(tuple(round(float(v), 6) for v in row) for row in d)
        if not thoughts.prompt.strip():  # texts from elsewhere may answer nothing that is known
            for values_of in (metrics, *scores):
                del values_of["relevance"]
        run["embedder"] = embedder.name
    if isinstance(judge, EndpointJudge):
        values = judge.probabilities(thoughts.prompt, texts)
        known = [value for value in values if value is not None]
        if known:
            metrics["judge_yes"] = float(np.mean(known))
        for score, p in zip(scores, values, strict=True):
            score |= {} if p is None else {"judge_yes": round(p, 6)}
        run["judge"] = judge.name
    elif judge is not None:
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
