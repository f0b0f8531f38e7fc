"""What is measured, as data: one entry a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SOURCES = ("specification", "direction", "style", "context", "profile", "mode", "branches", "chain")
"""What of `Thought.origin` may make thoughts differ. Texts are compared by meaning, the others by being the same."""


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
