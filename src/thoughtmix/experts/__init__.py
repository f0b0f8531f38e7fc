"""Experts: steer, mix and read the routing of mixture-of-experts models, without retraining them.

families.py finds the layers, profile.py says what is changed for a thought, layer_control.py what that is at one layer
as tensors, hooks.py changes it as the model runs; controller.py is the handle on them. extractor.py reads what ran,
analysis.py says what each expert is for, branches.py makes thoughts of it. Importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Activations": "extractor",
    "ExpertActivationExtractor": "extractor",
    "ExpertController": "controller",
    "MoELayer": "families",
    "Profile": "profile",
    "Specialization": "analysis",
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
    from thoughtmix.experts.analysis import Specialization, analyze_expert_specialization
    from thoughtmix.experts.branches import generate_thought_branches
    from thoughtmix.experts.controller import ExpertController
    from thoughtmix.experts.extractor import Activations, ExpertActivationExtractor
    from thoughtmix.experts.families import MoELayer, find_moe_layers
    from thoughtmix.experts.profile import Profile


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix.experts' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.experts.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
