"""Tree search over partial thoughts: grow the promising ones, judge them on the way, keep a diverse set of the best."""

from thoughtmix.search.evaluators import Evaluator, Evaluators, Leaf
from thoughtmix.search.grow import Limits, Settings, TreeSearch
from thoughtmix.search.proposals import MixtureProposal, Proposal, SamplingProposal
from thoughtmix.search.tree import Node, Tree

__all__ = [
    "Evaluator",
    "Evaluators",
    "Leaf",
    "Limits",
    "MixtureProposal",
    "Node",
    "Proposal",
    "SamplingProposal",
    "Settings",
    "Tree",
    "TreeSearch",
]
