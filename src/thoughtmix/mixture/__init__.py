"""Mixture of Thoughts: a transformer whose rows each explore their own way through noisy parallel branches.

From the inside out: router.py draws the route, branch.py holds the branches and their noise, combiner.py mixes their
outputs; layer.py is the three together, model.py the whole transformer, step.py its quicker decoding step. state.py
says whose draws a row uses and where its routes may look. metrics.py and analysis.py say what branches do.

Importing this package imports no torch; the first use of a name does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

_HOME = {  # public name -> module, imported at first use
    "AttentionCombiner": "combiner",
    "MixtureOfThoughtsConfig": "config",
    "MixtureOfThoughtsLayer": "layer",
    "MixtureOfThoughtsTransformer": "model",
    "NoiseInjection": "branch",
    "StandardTransformer": "model",
    "ThoughtBranch": "branch",
    "ThoughtRouter": "router",
    "analyze_thought_patterns": "analysis",
    "visualize_branch_activity": "analysis",
}

__all__ = [
    "RECIPE",
    "AttentionCombiner",
    "MixtureOfThoughtsConfig",
    "MixtureOfThoughtsLayer",
    "MixtureOfThoughtsTransformer",
    "NoiseInjection",
    "StandardTransformer",
    "ThoughtBranch",
    "ThoughtRouter",
    "analyze_thought_patterns",
    "visualize_branch_activity",
]

if TYPE_CHECKING:
    from thoughtmix.mixture.analysis import analyze_thought_patterns, visualize_branch_activity
    from thoughtmix.mixture.branch import NoiseInjection, ThoughtBranch
    from thoughtmix.mixture.combiner import AttentionCombiner
    from thoughtmix.mixture.config import MixtureOfThoughtsConfig
    from thoughtmix.mixture.layer import MixtureOfThoughtsLayer
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer, StandardTransformer
    from thoughtmix.mixture.router import ThoughtRouter

RECIPE: Mapping[str, Any] = {
    "follow": True,
    "routing": "topk",
    "branches_min": 2,
    "branches_max": 2,
    "noise": "none",
    "modes": 8,
    "entropy_weight": 0.0,
    "diversity_weight": 0.0,
}
"""The fields of `MixtureOfThoughtsConfig` that came out best in training (docs/LOG.md): each token's route follows its
state, and a thought differs by its mode."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix.mixture' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.mixture.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
