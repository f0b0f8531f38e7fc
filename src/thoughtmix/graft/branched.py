"""Models with thought branches: transformers trained as a mixture, and any model with a graft at work, here or as LoRA
adapters of an engine that serves those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from thoughtmix.core.errors import InputError
from thoughtmix.engine.engine import Engine, LocalModelEngine, TokenEngine
from thoughtmix.graft.adapter import Graft, graft_of
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models.grafted import GraftedModule

if TYPE_CHECKING:
    from thoughtmix.engine.row_state import AdapterRows
    from thoughtmix.graft.adapters import ThoughtAdapters
    from thoughtmix.models import LanguageModel


_PACKAGED_GRAFT = Path(__file__).parent / "weights" / "smollm2"
_LOCK = Lock()
_ADAPTERS: WeakKeyDictionary[LanguageModel, ThoughtAdapters] = WeakKeyDictionary()


def has_branches(model: LanguageModel) -> bool:
    """Whether its thoughts can take routes now (a model whose graft is not in place yet has none)."""
    return isinstance(model.model, MixtureOfThoughtsTransformer) or graft_of(model.model) is not None


def offers_branches(engine: Engine) -> bool:
    """Whether rows of this engine can go their own ways: its model is grafted or trained for it, or the default."""
    if not isinstance(engine, TokenEngine):
        return False
    if isinstance(engine, LocalModelEngine):
        return engine.model.is_default or has_branches(engine.model)
    return _graft_folder(engine) is not None


def branch_rows(
    engine: Engine, seeds: Sequence[int], creativity: Sequence[float]
) -> tuple[BranchRowState | AdapterRows, dict[str, Any]]:
    """The `RowState` of thoughts in an engine with `Capability.BRANCHES`, and what of them is not as in our own loop,
    for `ThoughtSet.run`.

    Raises:
        InputError: The model has no thought branches, or such as are no LoRA where there is nothing else.
        ModelError: The graft does not fit its model.
    """
    if isinstance(engine, LocalModelEngine):
        return branch_row_state(engine.model, seeds, creativity), {}
    assert isinstance(engine, TokenEngine), "engines with branches know tokens"
    folder = _graft_folder(engine)
    if folder is None:
        raise _no_branches(engine.name)
    from thoughtmix.graft.adapters import ThoughtAdapters

    with _LOCK:
        known = _ADAPTERS.get(engine.model)
        if known is None:
            known = _ADAPTERS[engine.model] = ThoughtAdapters(folder, engine.model.model.config)
        return known.rows(seeds, creativity), known.said


def _graft_folder(engine: TokenEngine) -> Path | None:
    """Where an engine without weights here has its graft."""
    from thoughtmix.models.adapter import adapter_config

    if engine.model.is_default:
        return _PACKAGED_GRAFT
    folder: Path | None = getattr(engine, "adapter", None)
    return folder if folder is not None and adapter_config(folder).get("peft_type") == "MOT" else None


def _no_branches(name: str) -> InputError:
    return InputError(
        f"{name} has no thought branches.",
        "Graft some: thoughtmix graft MODEL --out DIR; or train a model: thoughtmix train mixture --data FILE; "
        "or type --thinker sampling.",
    )


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
        return BranchRowState(seeds, creativity, model.device, model.model.config.tail)
    if model.is_default:
        _load_packaged_graft(model)
    graft = graft_of(model.model)
    if graft is None:
        raise _no_branches(model.name)
    assert isinstance(graft, Graft)
    return graft.row_state(seeds, creativity, model.device)


def _load_packaged_graft(model: LanguageModel) -> None:
    """Put the graft of this package on the default model, in place, once. Whoever carries no thoughts through it, plain
    sampling say, still has the base model, bit for bit."""
    from thoughtmix.models.loading import load_adapter

    with _LOCK:
        if not any(isinstance(module, GraftedModule) for module in model.model.modules()):
            load_adapter(model, _PACKAGED_GRAFT)
