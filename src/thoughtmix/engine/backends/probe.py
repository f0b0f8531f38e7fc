"""Which path a model takes, decided by trying it: a path is used only where it reproduces the model's forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from thoughtmix.core.errors import InputError, ModelError, ThoughtmixError
from thoughtmix.engine.backends import fused, shared
from thoughtmix.engine.backends.base import DecodingPath, Start, vocabulary_size
from thoughtmix.engine.backends.expanded import ExpandedPath
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.models.hardware import bf16_hardware, packs

PathName = Literal["auto", "fused", "shared", "expanded"]
Weights = Literal["auto", "native", "fp16"]

# Largest |difference| of logits, in standard deviations of the logits, by how numbers are kept.
_TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3, torch.bfloat16: 0.4, torch.float16: 0.1}
_PACKED_TOLERANCE: dict[str, float] = {"fp16": 0.05}


@dataclass(slots=True)
class _Known:
    """What was found out about one model."""

    shared: str | None = None  # "" it works, else why not; None: not tried
    expanded: str | None = None  # the same
    fused: dict[str, tuple[Any, fused.FusedWeights | None]] = field(default_factory=dict)  # kind -> (print, weights)


_KNOWN: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()


def choose(
    model: PreTrainedModel,
    path: PathName = "auto",
    weights: Weights = "auto",
    row_state: RowState = NO_ROW_STATE,
    read: Read = "shared",
    prompts: int = 1,
) -> DecodingPath:
    """The quickest path that works for this model, or the one asked for. Rows that carry a state need the model's own
    forward (not fused), unless it is a graft's standing routes. Rows that each read the prompt need that or their own
    cache (expanded), which several prompts need in any case.

    Raises `InputError` when the path or packing asked for does not work for this model.
    """
    if path not in {"auto", "fused", "shared", "expanded"}:
        raise InputError(f"Unknown decoding path {path!r}.", "Pass auto, fused, shared or expanded.")
    if weights not in {"auto", "native", "fp16"}:
        raise InputError(f"Unknown weights {weights!r}.", "Pass auto, native or fp16 (--weights auto).")
    known = _KNOWN.setdefault(model, _Known())
    packing = weights == "fp16"
    if read not in {"shared", "each"}:
        raise InputError(f"Unknown way to read {read!r}.", "Pass shared or each.")
    if packing and (model.device.type != "cpu" or not packs()):
        raise InputError(f"weights={weights} needs an x86 CPU and torch with FBGEMM.", "Pass --weights native.")
    if path in {"auto", "fused"}:
        takes = row_state.is_lora
        takes = takes and (read == "shared" or prompts == 1)
        made = _fused(model, known, _kind(model, weights)) if takes else None
        if made is not None:
            return fused.FusedPath(made, row_state, read)
        if path == "fused" or packing:
            raise InputError(
                f"{type(model).__name__} cannot decode on the fused path{', which packing needs' if packing else ''}.",
                "Pass --weights native and path='auto'.",
            )
    if read == "each":
        if path == "shared":
            raise InputError("Rows that each read the prompt cannot share it.", "Pass path='auto'.")
        return _expanded(model, known, row_state, read)
    if path in {"auto", "shared"}:
        if known.shared is None:
            with row_state.probing():
                known.shared = _try_shared(model)
        if not known.shared:
            return shared.SharedPath(model, row_state, own=True)
        if path == "shared":
            raise InputError(
                f"{type(model).__name__} cannot share a prompt: {known.shared}.", "Pass path='auto' or 'expanded'."
            )
    return _expanded(model, known, row_state, "shared")


def _kind(model: PreTrainedModel, weights: Weights) -> fused.Kind:
    if weights != "auto":
        return weights
    quick = model.dtype == torch.bfloat16 and bf16_hardware()
    return "fp16" if model.device.type == "cpu" and packs() and not quick else "native"


def _fused(model: PreTrainedModel, known: _Known, kind: fused.Kind) -> fused.FusedWeights | None:
    if not fused.fits(model):
        known.fused.clear()
        return None
    seen = fused.fingerprint(model)
    if kind not in known.fused or known.fused[kind][0] != seen:
        known.fused.clear()  # one packed copy at a time
        made = fused.FusedWeights(model, kind)
        good = _agrees(model, fused.FusedPath(made), _PACKED_TOLERANCE.get(kind))
        known.fused[kind] = (seen, made if good else None)
    return known.fused[kind][1]


def _try_shared(model: PreTrainedModel) -> str:
    """ "" when the shared path reproduces this model, else the reason in a few words."""
    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        return "its attention cannot be swapped"
    expected = _windows(model)
    if expected is None:
        return "it has layers that are neither full nor sliding attention"
    seen: dict[int, int | None] = {}
    token = shared._WINDOWS.set(seen)
    try:
        if not _agrees(model, shared.SharedPath(model), None):
            return "the result differs from its own forward"
    except ThoughtmixError:
        raise
    except Exception as error:  # whatever foreign modelling code raises means: not this way
        return f"{type(error).__name__} {error}".split("\n")[0][:120]
    finally:
        shared._WINDOWS.reset(token)
    wrong = [i for i, window in seen.items() if i < len(expected) and window != expected[i]]
    return f"layer {wrong[0]} does not pass its window on" if wrong or len(seen) != len(expected) else ""


def _expanded(model: PreTrainedModel, known: _Known, row_state: RowState, read: Read) -> ExpandedPath:
    """Raises `ModelError` where the model's own cache does not reproduce its own forward."""
    if known.expanded is None:
        with row_state.probing():
            known.expanded = _try_expanded(model)
    if known.expanded:
        raise ModelError(
            f"{type(model).__name__} cannot be decoded step by step: {known.expanded}.",
            "Choose another model (--model).",
        )
    return ExpandedPath(model, row_state, read)


def _try_expanded(model: PreTrainedModel) -> str:
    """ "" when the expanded path reproduces this model, else the reason in a few words."""
    try:
        return "" if _agrees(model, ExpandedPath(model), None) else "with its cache it gives other logits than without"
    except ThoughtmixError as error:
        return error.message.rstrip(".")
    except Exception as error:  # as above
        return f"{type(error).__name__} {error}".split("\n")[0][:120]


def _windows(model: PreTrainedModel) -> list[int | None] | None:
    """The sliding window of each layer by the config, or None when some layer is of another kind."""
    config: Any = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        if not set(kinds) <= {"full_attention", "sliding_attention"}:
            return None
        return [window if kind == "sliding_attention" else None for kind in kinds]
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    return [window] * int(config.num_hidden_layers)


@torch.no_grad()
def _agrees(model: PreTrainedModel, path: DecodingPath, tolerance: float | None) -> bool:
    """Compare two prompts, three rows and a dropped row with one full forward of each row. A forward that gives no
    finite logits says nothing of the path: its model is refused at the first draw.
    """
    vocabulary = vocabulary_size(model)

    def some(start: int, count: int) -> list[int]:  # fixed tokens, no random state
        return [(start + 7919 * i) % vocabulary for i in range(count)]

    prompts = [some(11, 9), some(5, 6)]
    rows = [[*prompts[0], *some(3, 2)], [*prompts[0], *some(4, 2)], [*prompts[1], *some(6, 2)]]
    lengths = [len(prompts[0]), len(prompts[0]), len(prompts[1])]
    device = model.device
    try:
        path.start(Start(prompts, [2, 1], 2))
        first = path.step(torch.tensor([r[n] for r, n in zip(rows, lengths, strict=True)], device=device))
        kept = path.drop([0])
        second = path.step(torch.tensor([rows[i][lengths[i] + 1] for i in kept], device=device))
    finally:
        path.close()
    limit = _TOLERANCE.get(model.dtype, 0.05) if tolerance is None else tolerance
    for at, (index, got) in enumerate([*enumerate(first), *zip(kept, second, strict=True)]):
        end = lengths[index] + (1 if at < len(rows) else 2)
        with shared.attention_lock(model), NO_ROW_STATE.probing():
            want = model(input_ids=torch.tensor([rows[index][:end]], device=device), use_cache=False).logits[0, -1]
        want, got = want.float(), got.float()
        if want.isfinite().all() and not float((want - got).abs().max()) <= limit * max(float(want.std()), 1e-6):
            return False
    return True
