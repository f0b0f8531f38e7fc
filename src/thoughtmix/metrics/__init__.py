"""Metrics of diversity and quality. Each says in its docstring what it is, its range and when it fails.

Importing this package imports no numpy. No module here is called like a public name: `from thoughtmix.metrics import
measure` must give the function whether or not a submodule was imported before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.core.lazy import lazy_names

if TYPE_CHECKING:
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
    from thoughtmix.metrics.distance_correlation import transmission, transmissions
    from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
    from thoughtmix.metrics.judge import judge_nll
    from thoughtmix.metrics.measuring import measure
    from thoughtmix.metrics.text import distinct_n, duplicate_rate, ead, mean_words, self_bleu, words

_HOME = {  # public name -> module, imported at first use
    "METRICS": "catalogue",
    "Metric": "catalogue",
    "coverage": "answers",
    "distinct_k": "answers",
    "distinct_n": "text",
    "duplicate_rate": "text",
    "ead": "text",
    "equivalence_classes": "answers",
    "judge_nll": "judge",
    "mean_distance": "embedding",
    "mean_words": "text",
    "measure": "measuring",
    "near": "answers",
    "novelty_classes": "answers",
    "pairwise_distances": "embedding",
    "pass_at_k": "answers",
    "relevance": "embedding",
    "same_words": "answers",
    "self_bleu": "text",
    "transmission": "distance_correlation",
    "transmissions": "distance_correlation",
    "utility_k": "answers",
    "vendi": "embedding",
    "words": "text",
}

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
