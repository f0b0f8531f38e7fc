"""Metrics of diversity and quality. Each says in its docstring what it is, its range and when it fails."""

from thoughtmix.metrics.answers import (
    coverage,
    distinct_k,
    equivalence_classes,
    near,
    novelty_classes,
    pass_at_k,
    same_words,
    utility_k,
)
from thoughtmix.metrics.catalogue import METRICS, Metric
from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.metrics.measure import measure
from thoughtmix.metrics.text import distinct_n, duplicate_rate, ead, mean_words, self_bleu, words
from thoughtmix.metrics.transmission import transmission, transmissions

__all__ = [
    "METRICS",
    "Metric",
    "coverage",
    "distinct_k",
    "distinct_n",
    "duplicate_rate",
    "ead",
    "equivalence_classes",
    "judge_nll",
    "mean_distance",
    "mean_words",
    "measure",
    "near",
    "novelty_classes",
    "pairwise_distances",
    "pass_at_k",
    "relevance",
    "same_words",
    "self_bleu",
    "transmission",
    "transmissions",
    "utility_k",
    "vendi",
    "words",
]
