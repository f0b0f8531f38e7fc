"""The logits of a few tokens by states that the model itself does not have: its head, applied to some rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thoughtmix.core.errors import InputError
from thoughtmix.engine.backends.hidden import HEAD, hooks
from thoughtmix.engine.backends.shared import attention_lock
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.models.encoder_decoder import is_encoder_decoder

_ANOTHER = "Type --thinker sampling."
_TRIED: WeakSet[PreTrainedModel] = WeakSet()
"""Whose head was found to give its logits."""


@dataclass(frozen=True, slots=True)
class OutputHead:
    """logits = cap(scale (W h + b)). weight (vocabulary, width), bias (vocabulary,); cap 0: none."""

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, model: PreTrainedModel) -> OutputHead:
        """A model's, which is tried once. Raises `InputError` where its logits are something else."""
        if model not in _TRIED:
            head = cls._read(model)
            if not is_encoder_decoder(model) and not head._agrees(model):
                raise InputError(f"The logits of {type(model).__name__} are more than its head.", _ANOTHER)
            _TRIED.add(model)
        return cls._read(model)

    @classmethod
    def _read(cls, model: PreTrainedModel) -> OutputHead:
        head: Any = model.get_output_embeddings()
        if not isinstance(getattr(head, "weight", None), Tensor) or head.weight.ndim != 2:
            raise InputError(f"{type(model).__name__} has no head of one matrix.", _ANOTHER)
        config: Any = model.config.get_text_config(decoder=True)
        scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
        cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)  # Gemma
        return cls(head.weight, getattr(head, "bias", None), scale, cap)

    def logits(self, ids: Tensor, states: Tensor) -> Tensor:
        """Of tokens ids (rows, k) by states (rows, width): (rows, k) float32."""
        found = torch.einsum("rkd,rd->rk", self.weight[ids].float(), states)
        if self.bias is not None:
            found = found + self.bias[ids].float()
        found = found * self.scale
        return torch.tanh(found / self.cap) * self.cap if self.cap else found

    @torch.no_grad()
    def _agrees(self, model: PreTrainedModel) -> bool:
        """Whether a forward's logits are those of the state that its head was seen to read, up to a constant."""
        ids = torch.tensor([[(11 + 7919 * i) % len(self.weight) for i in range(4)]], device=model.device)
        seen: dict[int, Tensor] = {}
        with attention_lock(model), NO_ROW_STATE.probing(), hooks(model, frozenset(), seen.__setitem__):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        if HEAD not in seen:
            return False
        best = logits.topk(min(64, logits.shape[1]))
        off = self.logits(best.indices, seen[HEAD]) - best.values
        return float(off.max() - off.min()) <= 0.2 * float(logits.std())
