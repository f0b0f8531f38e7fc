"""The fused step by torch's operations.

At one new token a row, a model's forward is bound by reading weights and by the number of operations, not
by arithmetic. So, per layer, q/k/v become one product, and gate/up one or two whose outputs meet at once; norm gains
and the attention scale are folded into the weights, the weights are packed (packing.py), and the head dimensions of q
and k are reordered so that a rotary embedding is one complex product (attention scores do not change under a common
reordering).

A graft's A lies below the down projection's weight, so that one product gives both; what a row's route and held noise
do to A x are two numbers a rank (`RowLora`), so that grafted rows cost one small product and one elementwise operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtmix.core.interruptible import interruptible
from thoughtmix.engine.backends.base import Piece
from thoughtmix.engine.backends.fused import FusedPath, FusedWeights
from thoughtmix.engine.backends.hidden import HEAD
from thoughtmix.engine.backends.packing import Bf16Logits, Linear, pack, pack_gated
from thoughtmix.engine.prompt_kv import PromptKV
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowLora, RowState
from thoughtmix.models.grafted import GraftedModule
from thoughtmix.models.tried import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
_PACKERS = 8
"""Most threads that pack: memory is what they wait for then."""


@dataclass(slots=True)
class _Layer:
    qkv: Linear
    out: Linear
    gated: Linear  # silu(gate) * up
    down: Linear  # with a graft: its A below
    update: tuple[int, Linear] | None  # the graft's number of this layer, and its B
    q_gain: Tensor | None  # (d,) Qwen 3's norm of each query head, scale and order folded in
    k_gain: Tensor | None


def _made(makers: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """What they make, in so many threads, which end here (engine/threads.py)."""

    def make(maker: Callable[[], Any]) -> Any:
        with torch.no_grad():  # a thread's own setting
            return maker()

    if threads == 1:
        return [make(maker) for maker in makers]
    with ThreadPoolExecutor(threads, "thoughtmix-pack") as pool:
        return list(pool.map(make, makers))


class TorchWeights(FusedWeights):
    """Everything a step needs: packed products, a tensor each."""

    def __init__(self, model: PreTrainedModel, kind: Kind) -> None:
        super().__init__(model, kind)
        body: Any = model.model
        # Rotary pairs (i, i + d/2) become neighbours (2i, 2i + 1): one complex number each.
        self.order = torch.arange(self.d, device=model.device).view(2, -1).T.reshape(-1)
        head, layers = model.lm_head, [partial(self._layer, layer) for layer in body.layers]
        # FBGEMM packs on one core. The head, the largest, comes first: the threads end at about the same time.
        threads = min(torch.get_num_threads(), _PACKERS) if kind == "fp16" else 1
        made = _made([partial(self._head, head, body.norm.weight), *layers], threads)
        self.head, self.layers = made[0], made[1:]
        self.grafted = any(layer.update for layer in self.layers)
        if isinstance(self.head, Bf16Logits):
            self.head.settle(self._some_hidden())

    def path(self, row_state: RowState = NO_ROW_STATE, read: Read = "shared") -> FusedPath:
        return TorchPath(self, row_state, read)

    def _some_hidden(self) -> Tensor:
        """What the head reads of 32 fixed tokens (32, width)."""

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            return mixed[0].transpose(0, 1).flatten(1)

        places = torch.arange(32, device=self.embed.device)
        with torch.no_grad():
            return self.norm(self.run((11 + 7919 * places) % len(self.embed), places, attend))

    def _head(self, head: Any, gain: Tensor) -> Linear:
        if self.kind == "bf16":
            return Bf16Logits(self._scaled(head.weight, gain), head.bias)
        return self._pack(head.weight, head.bias, gain)

    def _pack(self, weight: Tensor, bias: Tensor | None, gain: Tensor | None = None) -> Linear:
        return pack(self._scaled(weight, gain), bias, self.kind)

    def _scaled(self, weight: Tensor, gain: Tensor | None) -> Tensor:
        """The weight in the dtype that it is packed from, with the gain of the norm before it."""
        if gain is not None:
            weight = (weight.float() * gain.float()).to(weight.dtype)
        return weight if self.kind == "native" else weight.float()

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        scale = float(attention.scaling)

        def heads(part: nn.Linear, reorder: bool, factor: float = 1.0) -> tuple[Tensor, Tensor | None]:
            def turn(x: Tensor) -> Tensor:
                x = x.unflatten(0, (-1, self.d))
                return ((x[:, self.order] if reorder else x) * factor).flatten(0, 1)

            return turn(part.weight), None if part.bias is None else turn(part.bias)

        parts = [
            heads(attention.q_proj, True, 1.0 if q_norm else scale),
            heads(attention.k_proj, True),
            heads(attention.v_proj, False),
        ]
        biases = [b for _, b in parts if b is not None]
        gain = layer.input_layernorm.weight
        down, update = self._down(mlp.down_proj)
        return _Layer(
            qkv=self._pack(torch.cat([w for w, _ in parts]), torch.cat(biases) if biases else None, gain),
            out=self._pack(attention.o_proj.weight, attention.o_proj.bias),
            gated=self._gated(mlp, layer.post_attention_layernorm.weight),
            down=down,
            update=update,
            q_gain=q_norm.weight[self.order].to(self.dtype) * scale if q_norm else None,
            k_gain=k_norm.weight[self.order].to(self.dtype) if k_norm else None,
        )

    def with_branches_of(self, model: PreTrainedModel) -> TorchWeights:
        new = copy.copy(self)
        layers: Any = model.model.layers
        changed = [self._down(layer.mlp.down_proj) for layer in layers]
        new.layers = [replace(own, down=d, update=u) for own, (d, u) in zip(self.layers, changed, strict=True)]
        return new

    def _gated(self, mlp: Any, gain: Tensor) -> Linear:
        gate, up = mlp.gate_proj, mlp.up_proj
        biases = None if gate.bias is None else (gate.bias, up.bias)
        return pack_gated(self._scaled(gate.weight, gain), self._scaled(up.weight, gain), biases, self.kind)

    def _down(self, module: Any) -> tuple[Linear, tuple[int, Linear] | None]:
        found = module.thought_update() if isinstance(module, GraftedModule) else None
        if found is None:
            return self._pack(module.weight, module.bias), None
        number, a, b = found  # (m, f), (d, m)
        bias = None if module.bias is None else F.pad(module.bias, (0, len(a)))
        a, b = a.to(module.weight.dtype), b.to(module.weight.dtype)
        return self._pack(torch.cat([module.weight, a]), bias), (number, self._pack(b, None))

    @interruptible()
    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,
        row_lora: RowLora | None = None,
        noted: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Hidden states (rows, width) after the last layer. `attend(layer, q, k, v)` gets q (rows, h g, d),
        already scaled, and k, v (rows, h, d), and returns (rows, h g d). row_lora: what rows do to a graft's
        ranks; None: the model as it was. noted: hidden states after each layer are put there."""
        moves = [] if row_lora is None else _by_layer(row_lora, self.dtype)
        h, g, d = self.h, self.g, self.d
        angle = positions[:, None].float() * self.frequencies  # (rows, d / 2)
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]  # (rows, 1, d / 2) complex
        x = F.embedding(tokens, self.embed).to(self.dtype)  # (rows, width)
        for index, layer in enumerate(self.layers):
            qk, v = layer.qkv(self.norm(x)).to(self.dtype).view(-1, h * g + 2 * h, d).split([h * g + h, h], 1)
            if layer.q_gain is not None and layer.k_gain is not None:
                q, k = qk.split([h * g, h], 1)
                qk = torch.cat([self.norm(q) * layer.q_gain, self.norm(k) * layer.k_gain], 1)
            qk = torch.view_as_real(torch.view_as_complex(qk.float().unflatten(-1, (-1, 2))) * turn)
            q, k = qk.flatten(-2).to(self.dtype).split([h * g, h], 1)
            x = x + layer.out(attend(index, q, k, v))
            y = layer.down(layer.gated(self.norm(x)))
            width = x.shape[1]
            x = x + y[:, :width]
            if layer.update is not None and moves:
                number, out = layer.update
                shift, scale = moves[number % len(moves)]
                z = y[:, width:]
                x = x + out(z * scale if shift is None else torch.addcmul(shift, z, scale))
            if noted is not None:
                noted[index + 1] = x
        return x


def _by_layer(row_lora: RowLora, dtype: torch.dtype) -> list[tuple[Tensor | None, Tensor]]:
    """(shift, scale) of each updated layer, or one pair for all."""
    scales = row_lora.scale.to(dtype).unbind(1)
    if row_lora.shift is None:
        return [(None, scale) for scale in scales]
    shifts = row_lora.shift.to(dtype).unbind(1)
    return list(zip(shifts, scales * len(shifts) if len(scales) == 1 else scales, strict=True))


class TorchPath(FusedPath):
    """The path over `TorchWeights`."""

    weights: TorchWeights

    def empty(self) -> TorchPath:
        return TorchPath(self.weights, joined=True)

    @torch.inference_mode()
    def prefill_packed(self, pieces: Sequence[Piece]) -> list[tuple[Tensor, PromptKV]]:
        w = self.weights
        device = w.embed.device
        lengths = [len(piece.ids) for piece in pieces]
        before = [0 if piece.past is None else piece.past.length for piece in pieces]
        prompts = [PromptKV([], [], b + t) for b, t in zip(before, lengths, strict=True)]
        seen = [
            torch.ones(t, b + t, dtype=torch.bool, device=device).tril(b) if b else None
            for b, t in zip(before, lengths, strict=True)
        ]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts = zip(*(x.transpose(0, 1).split(lengths, 1) for x in (q, k, v)), strict=True)  # (heads, t, d) each
            mixed = []
            for (q, k, v), piece, prompt, mask in zip(parts, pieces, prompts, seen, strict=True):
                if piece.past is not None:
                    k, v = torch.cat([piece.past.keys[layer], k], 1), torch.cat([piece.past.values[layer], v], 1)
                prompt.keys.append(k.contiguous())
                prompt.values.append(v.contiguous())
                k, v = (x.repeat_interleave(w.g, 0)[None] for x in (k, v))
                own = F.scaled_dot_product_attention(q[None], k, v, mask, is_causal=mask is None, scale=1.0)
                mixed.append(own[0].transpose(0, 1).flatten(1))
            return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

        tokens = torch.tensor([token for piece in pieces for token in piece.ids], device=device)
        positions = torch.cat([torch.arange(b, b + t, device=device) for b, t in zip(before, lengths, strict=True)])
        hidden = w.run(tokens, positions, attend)
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        return list(zip(w.head(w.norm(hidden[last])), prompts, strict=True))

    def _read_each(self, ids: list[int], n: int, capacity: int) -> tuple[Tensor, int]:
        w, t = self.weights, len(ids)
        device = w.embed.device
        none = [torch.empty(w.h, 0, w.d, dtype=w.dtype, device=device)] * w.count
        self.cache.join([PromptKV(none, none, 0)], [n], t + capacity)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.unflatten(0, (n, t)).transpose(1, 2) for x in (q, k, v))  # (n, heads, t, d)
            self.cache.begin(layer, k, v)
            k, v = (x.repeat_interleave(w.g, 1) for x in (k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            return mixed.transpose(1, 2).reshape(n * t, -1)

        row_lora = self._active_row_lora()
        with self.row_state.prefilling(slice(0, n), "each"):
            tokens, positions = torch.tensor(ids, device=device).repeat(n), torch.arange(t, device=device).repeat(n)
            hidden = w.run(tokens, positions, attend, None if row_lora is None else row_lora.repeat_rows(t))
        self.cache.begun(t)
        return w.head(w.norm(hidden.unflatten(0, (n, t))[:, -1].contiguous())), n * t

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        logits = self._whole_step(tokens, self._active_row_lora())
        self.cache.advance()
        return logits

    def _whole_step(self, tokens: Tensor, row_lora: RowLora | None) -> Tensor:
        """(rows, vocabulary) logits after one more token a row, whose keys and values are stored."""
        cache, w = self.cache, self.weights

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.store(layer, k, v)
            return cache.attend(layer, q.view(-1, w.h, w.g, w.d)).reshape(len(q), -1)

        noted: dict[int, Tensor] | None = {} if self.note else None
        hidden = w.norm(w.run(tokens, cache.positions(), attend, row_lora, noted))
        self.hidden = {}
        if noted is not None:
            self.hidden = {number: noted[number].float() for number in self.note}
            self.hidden = {**self.hidden, HEAD: hidden.float() * w.gain}
        return w.head(hidden)
