"""What is measured, as data: for `thoughtmix metrics`, the documentation and did-you-mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    says: str
    better: Literal["higher", "lower", "neither"]
    span: str
    fails: str
    needs: Literal["text", "embeddings", "judge"] = "text"
    of: Literal["set", "thought"] = "set"


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("vendi", "effective number of different thoughts", "higher", "1..n", "grows with n; the kernel decides", "embeddings"),
        Metric("mean_distance", "mean 1 - cosine over pairs", "higher", "0..n/(n-1)", "topic drift scores well", "embeddings"),
        Metric("distinct_k", "classes of equivalent answers (NoveltyBench)", "higher", "1..n", "nonsense counts as new", "embeddings"),
        Metric("distinct_1", "distinct words / words", "higher", "0..1", "falls with length; garbage scores high"),
        Metric("distinct_2", "distinct word pairs / word pairs", "higher", "0..1", "falls with length; garbage scores high"),
        Metric("distinct_3", "distinct word triples / word triples", "higher", "0..1", "falls with length; garbage scores high"),
        Metric("ead", "distinct words over the number expected", "higher", "0..", "depends on the vocabulary size V"),
        Metric("self_bleu", "mean BLEU of each thought against the others", "lower", "0..1", "paraphrase looks diverse"),
        Metric("duplicate_rate", "exact repeats", "lower", "0..1-1/n", "one changed word is a new text"),
        Metric("mean_words", "mean words a thought", "neither", "0..", "no diversity: it confounds the others"),
        Metric("relevance", "cosine to the prompt", "higher", "-1..1", "rewards repeating the question", "embeddings", "thought"),
        Metric("distance", "mean distance to the other thoughts", "higher", "0..2", "an outlier may be nonsense", "embeddings", "thought"),
        Metric("judge_nll", "nats a token under the judge", "lower", "0..", "rewards blandness and loops", "judge", "thought"),
    )
}  # fmt: skip
