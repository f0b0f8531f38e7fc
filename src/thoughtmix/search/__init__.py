"""Tree search over partial thoughts: expand the promising ones, evaluate them on the way, keep a diverse set of the
best (Monte Carlo tree search by PUCT).

tree.py holds the nodes and selects by PUCT, proposals.py draws, evaluators.py values and says how far texts lie apart,
settings.py says what a search may spend, mcts.py is the loop over them; answers.py takes the set out of the tree,
saved.py keeps a tree on disk. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.core.lazy import lazy_names

if TYPE_CHECKING:
    from thoughtmix.search.evaluators import Evaluators, Leaf, Verifier
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.proposals import MixtureProposal, SamplingProposal
    from thoughtmix.search.settings import Limits, Settings
    from thoughtmix.search.tree import Tree

_HOME = {
    "Evaluators": "evaluators",
    "Leaf": "evaluators",
    "Limits": "settings",
    "MixtureProposal": "proposals",
    "SamplingProposal": "proposals",
    "Settings": "settings",
    "Tree": "tree",
    "TreeSearch": "mcts",
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
__getattr__, __dir__ = lazy_names(__name__, _HOME)
