"""Models with thought branches: transformers trained as a mixture, and any model with a graft at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.graft.adapter import Graft, graft_of
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models.grafted import GraftedModule

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


_PACKAGED_GRAFT = Path(__file__).parent / "weights" / "smollm2"
_LOCK = Lock()


def has_branches(model: LanguageModel) -> bool:
    """Whether its thoughts can take routes now (a model whose graft is not in place yet has none)."""
    return isinstance(model.model, MixtureOfThoughtsTransformer) or graft_of(model.model) is not None


def mode_count(model: LanguageModel) -> int:
    """Of a transformer trained with modes; 0 for other models."""
    config: Any = model.model.config
    return int(config.modes) if isinstance(model.model, MixtureOfThoughtsTransformer) else 0


def branch_row_state(model: LanguageModel, seeds: Sequence[int], creativity: Sequence[float]) -> BranchRowState:
    """The `RowState` of thoughts in this model; the default model gets its packaged graft first.

    Raises:
        InputError: The model has no thought branches.
    """
    if isinstance(model.model, MixtureOfThoughtsTransformer):
        return BranchRowState(seeds, creativity, model.device)
    if model.is_default:
        _load_packaged_graft(model)
    graft = graft_of(model.model)
    if graft is None:
        raise InputError(
            f"{model.name} has no thought branches.",
            "Graft some: thoughtmix graft MODEL --out DIR; or train a model: thoughtmix train mixture --data FILE; "
            "or type --thinker sampling.",
        )
    assert isinstance(graft, Graft)
    return graft.row_state(seeds, creativity, model.device)


def _load_packaged_graft(model: LanguageModel) -> None:
    """Put the graft of this package on the default model, in place, once. Whoever carries no thoughts through it, plain
    sampling say, still has the base model, bit for bit."""
    from thoughtmix.models.language import load_adapter

    with _LOCK:
        if not any(isinstance(module, GraftedModule) for module in model.model.modules()):
            load_adapter(model, _PACKAGED_GRAFT)
