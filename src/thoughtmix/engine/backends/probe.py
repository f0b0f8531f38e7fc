"""Which path a model takes, decided by trying it: a path is used only where it reproduces the model's forward.

Paths over a model's own forward are imported where they are tried: they need transformers' models, which take longer to
import than torch itself, and the fused path does without.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch

from thoughtmix import kernels
from thoughtmix.core.errors import InputError, ModelError, SlowPathWarning, ThoughtmixError
from thoughtmix.engine.backends import fused_kernels, llama_like
from thoughtmix.engine.backends.agreement import TOLERANCE, agrees
from thoughtmix.engine.backends.base import DecodingPath, takes
from thoughtmix.engine.backends.cuda_graph import CudaGraphPath
from thoughtmix.engine.backends.fused import FusedWeights
from thoughtmix.engine.backends.fused_torch import TorchWeights
from thoughtmix.engine.row_state import NO_ROW_STATE, NoRowState, Read, RowState
from thoughtmix.models.encoder_decoder import decoder_start, is_encoder_decoder
from thoughtmix.models.hardware import bf16_hardware, packs, packs_bf16
from thoughtmix.models.tried import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PathName = Literal["auto", "fused", "shared", "expanded", "recompute"]
Weights = Literal["auto", "native", "fp16", "bf16"]

# Largest |difference| of logits, in standard deviations of the logits, where weights are packed.
_PACKED_TOLERANCE: dict[str, float] = {
    "fp16": 0.05,
    "bf16": 0.4,
    "bf16-amx": 0.25,
    "fp16-avx512": 0.05,
    "fp16-avx2": 0.05,
}
_FEW = 2**24
"""Weights below which a step's products are not what it waits for."""


@dataclass(slots=True)
class _Known:
    """What was found out about one model."""

    shared: str | None = None  # "" it works, else why not; None: not tried
    expanded: str | None = None  # the same
    positioned: bool = True  # whether the expanded path tells where tokens stand
    recompute: str | None = None  # as shared
    recorded: str | None = None  # of fused steps as CUDA graphs, the same
    # kind -> (fingerprints of the model and of its branches, weights)
    fused: dict[str, tuple[Any, Any, FusedWeights | None]] = field(default_factory=dict)


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
    if path not in get_args(PathName):
        raise InputError(f"Unknown decoding path {path!r}.", "Pass auto, fused, shared, expanded or recompute.")
    if weights not in get_args(Weights):
        raise InputError(f"Unknown weights {weights!r}.", "Pass auto, native, fp16 or bf16 (--weights auto).")
    known = _KNOWN.setdefault(model, _Known())
    packing = weights in {"fp16", "bf16"}
    if read not in {"shared", "each"}:
        raise InputError(f"Unknown way to read {read!r}.", "Pass shared or each.")
    if packing and (model.device.type != "cpu" or not (_packs_fp16() if weights == "fp16" else packs_bf16())):
        needs = (
            "torch with FBGEMM, or AVX2 and the kernels"
            if weights == "fp16"
            else "AVX512-bf16 or AMX, which multiply bfloat16"
        )
        raise InputError(f"weights={weights} needs an x86 CPU and {needs}.", "Pass --weights auto.")
    if is_encoder_decoder(model):
        from thoughtmix.engine.backends.encoder_decoder import encoder_decoder_path, why_not

        decoder_start(model)  # raises its own line
        if known.expanded is None:
            known.expanded = why_not(model, row_state)
        if not known.expanded:
            return encoder_decoder_path(model, path, weights, row_state, read)
        raise ModelError(
            f"{type(model).__name__} cannot be decoded step by step: {known.expanded}.",
            "Choose another model (--model).",
        )
    if path in {"auto", "fused"}:
        takes_lora = row_state.is_lora and (read == "shared" or prompts == 1)
        made = _fused(model, known, weights) if takes_lora else None
        if made is not None:
            if isinstance(made, TorchWeights) and _records(model, known, made):
                return CudaGraphPath(made, row_state, read)
            return made.path(row_state, read)
        if path == "fused" or packing:
            raise InputError(
                f"{type(model).__name__} cannot decode on the fused path{', which packing needs' if packing else ''}.",
                "Pass --weights native and path='auto'.",
            )
    if path == "shared" and read == "each":
        raise InputError("Rows that each read the prompt cannot share it.", "Pass path='auto'.")
    if path in {"auto", "shared"} and read == "shared":
        if known.shared is None:
            with row_state.probing():
                known.shared = _try_shared(model)
        if not known.shared:
            from thoughtmix.engine.backends.shared import SharedPath

            return SharedPath(model, row_state, own=True)
        if path == "shared":
            raise InputError(
                f"{type(model).__name__} cannot share a prompt: {known.shared}.", "Pass path='auto' or 'expanded'."
            )
    return _own_forward(model, known, path, row_state, read)


def _packs_fp16() -> bool:
    """Whether weights can be kept in 16 bits and multiplied in float32."""
    return packs() or bool(kernels.best(kernels.VECTOR_LEVELS))


def _records(model: PreTrainedModel, known: _Known, weights: TorchWeights) -> bool:
    """Whether steps are recorded as CUDA graphs: on a GPU, where one reproduces the model's forward."""
    if model.device.type != "cuda":
        return False
    if known.recorded is None:
        known.recorded = _tried(model, CudaGraphPath(weights), _tolerance(model, weights.kind))
        if known.recorded:
            warnings.warn(
                f"Steps are not recorded as CUDA graphs, and slower for it: {known.recorded}.",
                SlowPathWarning,
                stacklevel=3,
            )
    return not known.recorded


def _kind(model: PreTrainedModel, weights: Weights) -> Kind:
    """Of auto: kernels of our own wherever they run and the model is large enough for products to matter, for they keep
    law 5; else bf16 by torch's products for models in bfloat16 alone. In a float32 model those would be quicker than
    fp16, too, but beside rows of other lengths sums over masked places round otherwise, which bf16 products make large
    enough to change tokens (law 5)."""
    bf16: Kind = "bf16" if fused_kernels.why_not(model, "amx") else "bf16-amx"
    vectors = kernels.best(kernels.VECTOR_LEVELS)
    fp16: Kind = "fp16" if not vectors or fused_kernels.why_not(model, vectors) else fused_kernels.KINDS[vectors]
    if weights != "auto":
        return bf16 if weights == "bf16" else fp16 if weights == "fp16" else weights
    if model.device.type != "cpu":
        return "native"
    large = sum(p.numel() for p in model.parameters()) >= _FEW
    if bf16 == "bf16-amx" and large and packs_bf16():
        return bf16
    if bf16_hardware() and str(model.dtype) == "torch.bfloat16":
        return bf16 if packs_bf16() and large else "native"
    if large and fp16 != "fp16":
        return fp16
    return "fp16" if packs() else "native"


def _tolerance(model: PreTrainedModel, kind: Kind) -> float | None:
    """How far a fused step may be from the model's forward: of a model in bfloat16 both round, each its own way (0.48
    deviations apart, the grafted default model)."""
    packed = _PACKED_TOLERANCE.get(kind)
    if model.dtype == torch.bfloat16:
        return (packed or TOLERANCE[model.dtype]) + TOLERANCE[model.dtype]
    return packed


def packed(model: Any, kind: Kind) -> FusedWeights:
    """The weights of a model that `llama_like.fits`."""
    level = fused_kernels.level_of(kind)
    return fused_kernels.KernelWeights(model, level) if level else TorchWeights(model, kind)


def _fused(model: PreTrainedModel, known: _Known, weights: Weights) -> FusedWeights | None:
    if not llama_like.fits(model):
        known.fused.clear()
        return None
    kind = _kind(model, weights)
    seen, branches = llama_like.fingerprint(model), llama_like.branch_fingerprint(model)
    if kind not in known.fused or known.fused[kind][0] != seen:
        known.fused.clear()  # one packed copy at a time
        made = packed(model, kind)
        good = agrees(model, made.path(), _tolerance(model, kind))
        known.fused[kind] = (seen, branches, made if good else None)
    _, before, found = known.fused[kind]
    if found is not None and before != branches:  # training moved them: the path is as good as it was
        found = found.with_branches_of(model)
        known.fused[kind] = (seen, branches, found)
    return found


def _try_shared(model: PreTrainedModel) -> str:
    """ "" when the shared path reproduces this model, else the reason in a few words."""
    from thoughtmix.engine.backends import shared

    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        return "its attention cannot be swapped"
    expected = _windows(model)
    if expected is None:
        return "it has layers that are neither full nor sliding attention"
    seen: dict[int, int | None] = {}
    token = shared._WINDOWS.set(seen)
    try:
        reason = _tried(model, shared.SharedPath(model))
    finally:
        shared._WINDOWS.reset(token)
    if reason:
        return reason
    wrong = [i for i, window in seen.items() if i < len(expected) and window != expected[i]]
    return f"layer {wrong[0]} does not pass its window on" if wrong or len(seen) != len(expected) else ""


def _tried(model: PreTrainedModel, path: DecodingPath, tolerance: float | None = None) -> str:
    """ "" when a path reproduces this model, else the reason in a few words."""
    try:
        if agrees(model, path, tolerance):
            return ""
        alone = "what it says of a text changes when more text follows"
        return alone if path.name == "recompute" else "the result differs from its own forward"
    except ThoughtmixError as error:
        return error.message.rstrip(".")
    except Exception as error:  # whatever foreign modelling code raises means: not this way
        return f"{type(error).__name__} {error}".split("\n")[0][:120]


def _own_forward(
    model: PreTrainedModel, known: _Known, path: PathName, row_state: RowState, read: Read
) -> DecodingPath:
    """A path over the model's own forward: with its own cache (expanded) or, the last resort, without (recompute).

    Raises `InputError` where the path asked for, or what the rows do to the model, does not work so, and `ModelError`
    where nothing reproduces the model.
    """
    from thoughtmix.engine.backends.expanded import ExpandedPath
    from thoughtmix.engine.backends.recompute import RecomputePath

    if path != "recompute":
        if known.expanded is None:
            with row_state.probing():
                known.expanded, known.positioned = _try_expanded(model)
        if not known.expanded:
            return ExpandedPath(model, row_state, read, known.positioned)
        if path == "expanded":
            raise InputError(
                f"{type(model).__name__} cannot be decoded with its own cache: {known.expanded}.",
                "Pass path='auto' or 'recompute'.",
            )
    if known.recompute is None:
        with row_state.probing():
            known.recompute = _tried(model, RecomputePath(model))
        if not known.recompute and path == "auto":
            warnings.warn(
                f"{type(model).__name__} is slow here: every token reads the whole text again ({known.expanded}).",
                SlowPathWarning,
                stacklevel=2,
            )
    if known.recompute:
        raise ModelError(
            f"{type(model).__name__} cannot be decoded from left to right: {known.recompute}.",
            "Choose another model (--model).",
        )
    if read == "each" or not isinstance(row_state, NoRowState):
        raise InputError(
            f"{type(model).__name__} has no usable cache, and rows with a state of their own need one.",
            "Type --thinker sampling.",
        )
    return RecomputePath(model, row_state)


def _try_expanded(model: PreTrainedModel) -> tuple[str, bool]:
    """ "" when the expanded path reproduces this model, else the reason in a few words; and whether it is told where
    its tokens stand. Some models cannot tell by their cache, and some count from another number than 0."""
    from thoughtmix.engine.backends.expanded import ExpandedPath

    reason = ""
    for positioned in (True, False) if takes(type(model), "position_ids") else (False,):
        said = _tried(model, ExpandedPath(model, positioned=positioned))
        if not said:
            return "", positioned
        reason = reason or said
    return reason, False


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
    layers = getattr(config, "num_hidden_layers", None)
    return [window] * layers if isinstance(layers, int) else None
