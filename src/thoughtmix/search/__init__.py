"""Tree search over partial thoughts: grow the promising ones, judge them on the way, keep a diverse set of the best.

tree.py holds the nodes and picks by PUCT, proposals.py draws, evaluators.py judges, grow.py is the loop over the three,
answers.py takes the set out of the tree, apart.py says how far texts lie apart, saved.py keeps a tree on disk,
thinker.py makes thoughts of it. Importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Evaluators": "evaluators",
    "Leaf": "evaluators",
    "Limits": "grow",
    "MixtureProposal": "proposals",
    "SamplingProposal": "proposals",
    "Settings": "grow",
    "Tree": "tree",
    "TreeSearch": "grow",
    "Verifier": "evaluators",
}
__all__ = [
    "Evaluators",
    "Leaf",
    "Limits",
    "MixtureProposal",
    "SamplingProposal",
    "Settings",
    "Tree",
    "TreeSearch",
    "Verifier",
]

if TYPE_CHECKING:
    from thoughtmix.search.evaluators import Evaluators, Leaf, Verifier
    from thoughtmix.search.grow import Limits, Settings, TreeSearch
    from thoughtmix.search.proposals import MixtureProposal, SamplingProposal
    from thoughtmix.search.tree import Tree


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix.search' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.search.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
