"""What the steps for Llama-like models over weights that are fused and packed once have in common.

    fused_torch.py  by torch's operations, whatever the device
    fused_kernels.py    by C functions of our own, on processors with a bfloat16 matrix unit

Only exact, unhooked module classes are taken (llama_like.py), and thought branches on down projections; anything else,
another adapter say, decodes through its own forward (shared.py). The result is compared with the model's forward before
first use (probe.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import KVPath, Piece, Start
from thoughtmix.engine.prefill import ChunkedPrefill
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.prompt_kv import PromptKV
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowLora, RowState
from thoughtmix.models.tried import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_AT_ONCE = 512
"""Prompt tokens that are read in one pass, where many prompts are."""


class FusedWeights(ABC):
    """Everything a step needs, made once for a model and a packing."""

    grafted: bool
    """Whether a graft is in them."""

    def __init__(self, model: PreTrainedModel, kind: Kind) -> None:
        config: Any = model.config
        body: Any = model.model
        self.kind = kind
        self.dtype = model.dtype if kind == "native" else torch.float32
        self.epsilon = torch.full((1, 1), float(config.rms_norm_eps), device=model.device)
        self.d = int(body.layers[0].self_attn.head_dim)
        self.h = int(config.num_key_value_heads)
        self.g = int(config.num_attention_heads) // self.h
        self.count = len(body.layers)
        self.frequencies = body.rotary_emb.inv_freq.float()  # (d / 2,)
        self.embed = body.embed_tokens.weight
        with torch.no_grad():
            self.gain = body.norm.weight.float()

    @abstractmethod
    def path(self, row_state: RowState = NO_ROW_STATE, read: Read = "shared") -> FusedPath:
        """A path over these weights."""

    @abstractmethod
    def with_branches_of(self, model: PreTrainedModel) -> FusedWeights:
        """These, with the branches as they are now, after a step of training: nothing else is packed again."""

    def norm(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps), in float32; the gain is not in it."""
        y = x.float()
        length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        return (y * torch.addcmul(self.epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()).to(x.dtype)


class FusedPath(KVPath):
    """A path over fused weights; `row_lora` is asked for at every step."""

    name = "fused"

    def __init__(
        self, weights: FusedWeights, row_state: RowState = NO_ROW_STATE, read: Read = "shared", joined: bool = False
    ) -> None:
        super().__init__(row_state, joined)
        self.weights, self.read = weights, read
        self.row_lora = row_state.row_lora

    @property
    def home(self) -> FusedWeights:
        return self.weights

    @property
    def weights_kind(self) -> str:
        return self.weights.kind

    @property
    def reuses(self) -> bool:
        return self.row_state.is_lora

    can_be_joined = True

    @torch.inference_mode()
    def start(self, asked: Start) -> tuple[Tensor | None, int]:
        if self.read == "each":
            return self._read_each(asked.prompts[0], asked.counts[0], asked.capacity)
        if asked.prefixes or asked.keep or len(asked.prompts) == 1:
            return super().start(asked)
        if self.weights.embed.device.type == "cpu":
            prefill = ChunkedPrefill(self, asked.prompts)
            while not prefill.done:
                prefill.advance(_AT_ONCE)
            self.cache.join(prefill.read, asked.counts, asked.capacity)
            return prefill.by_row(asked.counts), prefill.computed
        read = self.prefill_packed([Piece(ids, None) for ids in asked.prompts])  # a GPU waits for each pass over layers
        self.cache.join([prompt for _, prompt in read], asked.counts, asked.capacity)
        return asked.by_row([logits for logits, _ in read]), sum(map(len, asked.prompts))

    def prefill(self, ids: list[int], past: PromptKV | None) -> tuple[Tensor, PromptKV]:
        """With the same packed weights as a step."""
        return self.prefill_packed([Piece(ids, past)])[0]

    @abstractmethod
    def prefill_packed(self, pieces: Sequence[Piece]) -> list[tuple[Tensor, PromptKV]]:
        """All pieces as rows of the same products; each looks at its own prompt alone."""

    @abstractmethod
    def _read_each(self, ids: list[int], n: int, capacity: int) -> tuple[Tensor, int]:
        """One prompt, by each of its n rows. To the cache these are tokens of the rows' own, after a prompt of none."""

    # The cache's tensors are made in inference mode, and only there may they be written to.

    @torch.inference_mode()
    def join(self, prompts: Sequence[PromptKV], counts: Sequence[int], capacity: int) -> None:
        super().join(prompts, counts, capacity)

    @torch.inference_mode()
    def keep(self, row: int, ids: list[int]) -> Prefix:
        return super().keep(row, ids)

    @torch.inference_mode()
    def drop(self, gone: list[int]) -> list[int]:
        return super().drop(gone)

    def _active_row_lora(self) -> RowLora | None:
        return self.row_lora() if self.row_lora is not None and self.weights.grafted else None


def newer(one: FusedWeights, other: FusedWeights) -> FusedWeights:
    """Those with a graft, which may have been put on while the others' prompts were read; rows without one do not
    mind."""
    return one if one.grafted and not other.grafted else other
