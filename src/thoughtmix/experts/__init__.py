"""Experts: steer, mix and read the routing of mixture-of-experts models, without retraining them.

families.py finds the layers, control.py says what is changed for a row, gate.py changes it as the model runs,
attached.py keeps the gates; controller.py is the handle on them. extractor.py reads what ran, analysis.py says what
each expert is for, thinker.py makes thoughts of it. Importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Activations": "store",
    "ExpertActivationExtractor": "extractor",
    "ExpertController": "controller",
    "MoELayer": "families",
    "Profile": "profile",
    "Specialization": "specialization",
    "analyze_expert_specialization": "analysis",
    "find_moe_layers": "families",
    "generate_thought_branches": "branches",
}
__all__ = [
    "Activations",
    "ExpertActivationExtractor",
    "ExpertController",
    "MoELayer",
    "Profile",
    "Specialization",
    "analyze_expert_specialization",
    "find_moe_layers",
    "generate_thought_branches",
]

if TYPE_CHECKING:
    from thoughtmix.experts.analysis import analyze_expert_specialization
    from thoughtmix.experts.branches import generate_thought_branches
    from thoughtmix.experts.controller import ExpertController
    from thoughtmix.experts.extractor import ExpertActivationExtractor
    from thoughtmix.experts.families import MoELayer, find_moe_layers
    from thoughtmix.experts.profile import Profile
    from thoughtmix.experts.specialization import Specialization
    from thoughtmix.experts.store import Activations


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix.experts' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.experts.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
