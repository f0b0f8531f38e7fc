"""The path of a language model, known from before where it was tried on this machine, else tried now.

Of the default model, whose path was tried and is remembered (`models.tried`), no module is laid out: its weights are
read from the file and packed, in threads, while the caller's loads the tokenizer.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import DecodingPath
from thoughtmix.engine.backends.fused import FusedPath, FusedWeights
from thoughtmix.engine.backends.llama_like import fits
from thoughtmix.engine.backends.probe import PathName, Weights, choose, packed
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.engine.threads import EphemeralThreadExecutor
from thoughtmix.models.tried import FusedFacts
from thoughtmix.models.unloaded import UnloadedModel

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

_log = logging.getLogger(__name__)
_PACKED: WeakKeyDictionary[UnloadedModel, Future[FusedWeights]] = WeakKeyDictionary()
_LOCK = threading.Lock()
_THREADS = EphemeralThreadExecutor("thoughtmix-weights")


def path_of(
    lm: LanguageModel,
    path: PathName = "auto",
    weights: Weights = "auto",
    row_state: RowState = NO_ROW_STATE,
    read: Read = "shared",
    prompts: int = 1,
) -> DecodingPath:
    """`probe.choose` for a language model, which need not be loaded for the path that is known to be its quickest."""
    if isinstance(lm, UnloadedModel) and row_state.is_lora and (read == "shared" or prompts == 1):
        ready = prepare(lm, path, weights)
        if ready is not None:
            try:
                return ready.result().path(row_state, read)
            except Exception as error:  # the file is not what it was: loading the whole says so, or mends it
                _log.warning("%s is loaded as a whole: %s", lm.name, error)
    made = choose(lm.model, path, weights, row_state, read, prompts)
    if lm.pristine is not None and weights == "auto" and isinstance(made, FusedPath) and not made.weights.grafted:
        lm.pristine.remember(lm.model, made.weights.kind)
    return made


def prepare(lm: LanguageModel, path: PathName, weights: Weights) -> Future[FusedWeights] | None:
    """The packed weights of a model that is not loaded, begun in threads that end with it; None where they would not
    be used, or where somebody has asked for the model itself and has changed it."""
    if not isinstance(lm, UnloadedModel) or path not in {"auto", "fused"}:
        return None
    if weights not in {"auto", lm.facts.kind, lm.facts.kind.partition("-")[0]}:
        return None
    with _LOCK:
        if lm.is_loaded and (lm.is_changed or not fits(lm.model)):
            _PACKED.pop(lm, None)
            return None
        if lm not in _PACKED:
            _PACKED[lm] = _begun(lm)
        return _PACKED[lm]


def _begun(lm: UnloadedModel) -> Future[FusedWeights]:
    """Weights that threads are packing, or what went wrong. The threads import nothing (see `UnloadedModel`)."""
    try:
        model, kind = _laid_out(lm.tensors(), lm.facts), lm.facts.kind
    except Exception as error:
        failed: Future[FusedWeights] = Future()
        failed.set_exception(error)
        return failed
    return _THREADS.submit(lambda: packed(model, kind))


class _Part(SimpleNamespace):
    """A module's place in the tree of names: its weights, and no code."""

    bias: Tensor | None = None


def _laid_out(tensors: dict[str, Tensor], facts: FusedFacts) -> Any:
    """Weights by name as `FusedWeights` looks for them in a model. Raises what a missing name raises."""
    root: Any = _Part()
    for name, tensor in tensors.items():
        part = root
        *steps, last = name.split(".")
        for step in steps:
            part = vars(part).setdefault(step, _Part())
        setattr(part, last, tensor)
    body = root.model
    body.layers = [vars(body.layers)[str(i)] for i in range(facts.layers)]
    for layer in body.layers:
        layer.self_attn.head_dim, layer.self_attn.scaling = facts.head_width, facts.scaling
    body.rotary_emb = _Part(inv_freq=torch.tensor(facts.frequencies))
    if not hasattr(root, "lm_head"):  # tied
        root.lm_head = _Part(weight=body.embed_tokens.weight)
    root.config = SimpleNamespace(
        rms_norm_eps=facts.epsilon, num_key_value_heads=facts.kv_heads, num_attention_heads=facts.heads
    )
    root.device, root.dtype = torch.device("cpu"), torch.float32
    return root
