"""The settings that came out best (docs/LOG.md), without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
"""Fields of `MixtureOfThoughtsConfig`: each token's route follows its state, and a thought differs by its mode."""
