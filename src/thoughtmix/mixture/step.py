"""One new token a row, quicker than the model's forward: the same numbers from fewer and larger products.

At a few rows the time of a step is its number of operations. So what reads the same vector becomes one product (q, k
and v; all branches' first halves, the router and the combiner's query), norms are folded into weights, all K branches
are computed at once and those not on the row's route get weight 0, and what a thought draws (taste, held noise, mode)
is drawn once and kept with its row.

Axis letters: b rows, h key/value heads, g query heads a key/value head, d width, k branches, f width of one branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.engine.counter_rng import key
from thoughtmix.engine.rng import NOISE
from thoughtmix.mixture.state import Memory, Rows, current

if TYPE_CHECKING:
    from thoughtmix.mixture.layer import MixtureOfThoughtsLayer
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q (b, h, g, head), scaled; k and v (b, h, head)) -> (b, h g head)."""


@dataclass(slots=True)
class _Weights:
    """Of one layer, the gains of its norms folded in."""

    qkv: Tensor
    out: Tensor
    wide: Tensor  # (k f | k router | d query of the combiner | 1 gate of the noise, width): what a mode moves
    still: Tensor | None  # (shared f, width)
    down: Tensor  # (k, f, d)
    down_shared: Tensor | None
    bias: Tensor  # of `wide`


class Step:
    """Made for one decoding run, so that it never outlives the weights it was made from."""

    def __init__(self, model: MixtureOfThoughtsTransformer) -> None:
        config: Any = model.config
        self.model, self.epsilon = model, float(config.rms_norm_eps)
        attention: Any = model.layers[0].attention
        self.head = int(attention.head_dim)
        self.h = int(config.num_key_value_heads)
        self.g = int(config.num_attention_heads) // self.h
        with torch.no_grad():
            self.layers = [_weights(block) for block in model.layers]
            self.last = model.lm_head.weight * model.norm.weight
            self.factor = 2 * torch.sigmoid(model.creativity_factor)

    @staticmethod
    def fits(model: MixtureOfThoughtsTransformer) -> bool:
        """Noise that is drawn for every token, and routes drawn anew from a running mean, need the forward; so do
        adapters and hooks."""
        config: Any = model.config
        plain = config.noise != "fresh" and (config.num_branches == 1 or config.follow or not config.segment_length)
        biases = config.attention_bias or config.mlp_bias
        known = {type(m).__name__ for m in model.modules()} <= _KNOWN
        hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        return plain and not biases and known and not hooks and model.rotary.rope_type == "default"

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor | None:
        """tokens, positions (b,) -> logits (b, v); None: not these rows (a route does not stand yet)."""
        rows = current()
        k = self.model.config.num_branches
        if k > 1 and not self._ready(rows, len(tokens), positions):
            return None
        model = self.model
        x = F.embedding(tokens, model.embed.weight)
        cos, sin = model.rotary(x, position_ids=positions[:, None])  # (b, 1, head)
        if model.positions is not None:
            x = x + model.positions(positions)
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        half = self.head // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # the sign of the rotated half
        heads = self.h * self.g
        for index, w in enumerate(self.layers):
            qkv = F.linear(self._norm(x), w.qkv).view(len(x), heads + 2 * self.h, self.head)
            turned, v = qkv.split([heads + self.h, self.h], 1)
            turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
            q, key_ = turned.split([heads, self.h], 1)
            x = x + F.linear(attend(index, q.unflatten(1, (self.h, self.g)), key_, v), w.out)
            x = x + self._mixture(index, w, self._norm(x), rows)
        return F.linear(self._norm(x), self.last)

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.epsilon)

    def _ready(self, rows: Rows | None, b: int, positions: Tensor) -> bool:
        """Whether every row is in its continuation and its routes stand; what is drawn for it is drawn here, once."""
        if rows is None or len(rows.seeds) != b or not rows.remember:
            return False
        layers: Any = [block.mixture for block in self.model.layers]
        if "offset" in rows.layers.get(0, {}):
            return True
        if bool((positions < rows.prompt_lengths).any()):
            return False
        if not self.model.config.follow and any("branch" not in rows.layers.get(i, {}) for i in range(len(layers))):
            return False
        for i, layer in enumerate(layers):
            _draw(layer, self.layers[i], rows.layers.setdefault(i, {}), rows)
        return True

    def _mixture(self, index: int, w: _Weights, x: Tensor, rows: Rows | None) -> Tensor:
        layer: Any = self.model.layers[index].mixture
        shared = None
        if w.still is not None and w.down_shared is not None:
            shared = F.linear(F.gelu(F.linear(x, w.still)), w.down_shared)
        k, f, _ = w.down.shape
        if k == 1:
            mixed = F.linear(F.gelu(F.linear(x, w.wide[:f])), w.down[0].T)
        else:
            assert rows is not None
            mixed = self._routed(layer, w, F.linear(x, w.wide, w.bias), rows.layers[index], rows)
        return mixed if shared is None else mixed + shared

    def _routed(self, layer: MixtureOfThoughtsLayer, w: _Weights, wide: Tensor, memory: Memory, rows: Rows) -> Tensor:
        c = rows.creativity[:, None].to(wide.dtype)
        mixed = None
        still = bool((rows.creativity == 0).all())
        if not still:
            mixed = self._pass(layer, w, wide + memory["offset"], memory, (c > 0) * self.factor)
            if bool((rows.creativity == 1).all()):
                return mixed
        base = self._pass(layer, w, wide, memory, None)
        return base if mixed is None else torch.where(c > 0, base + c * (mixed - base), base)

    def _pass(
        self, layer: MixtureOfThoughtsLayer, w: _Weights, wide: Tensor, memory: Memory, amplitude: Tensor | None
    ) -> Tensor:
        """(b, d): along the drawn route with noise of this amplitude (b, 1); None: the likeliest without."""
        k, f, d = w.down.shape
        latent, logits, query, gate = wide.split([k * f, k, d, 1], 1)
        latent = latent.view(-1, k, f)
        noise = layer.branches.latent_noise
        if amplitude is not None and noise is not None and layer.branches.input_noise is not None:
            size = layer.branches.input_noise.strength_of(amplitude) * 2 * torch.sigmoid(gate)  # (b, 1)
            latent = F.gelu(torch.addcmul(latent, size[..., None], memory["shift"]))
            latent = noise(latent, memory["inside"], amplitude[..., None])
        else:
            latent = F.gelu(latent)
        outputs = torch.bmm(latent.transpose(0, 1), w.down).transpose(0, 1)  # (b, k, d)
        score = self._log_weight(layer, logits, memory, amplitude is not None)
        if layer.combiner.rank:
            score = score + torch.bmm(outputs, query[..., None])[..., 0]
        return torch.bmm(torch.softmax(score, -1).to(outputs.dtype)[:, None], outputs)[:, 0]

    @staticmethod
    def _log_weight(layer: MixtureOfThoughtsLayer, logits: Tensor, memory: Memory, drawn: bool) -> Tensor:
        """(b, k), -inf off the route; not normalised: the combiner's softmax is."""
        router = layer.router
        if layer.follow:
            noisy = logits.float() / router.log_temperature.exp()
            score = noisy + memory["gumbel"] if drawn else noisy
            best = score.topk(router.high, -1).values
            floor = best.gather(1, memory["count"]) if drawn else best[:, -1:]
            return noisy.masked_fill(score < floor, -torch.inf)
        if drawn:
            return memory["route"]
        log_p = memory["log_prob"][:, 0]
        return log_p.masked_fill(log_p < log_p.topk(router.high, -1).values[:, -1:], -torch.inf)


_KNOWN = {
    "AttentionCombiner", "Embedding", "Linear", "LlamaAttention", "LlamaRMSNorm", "LlamaRotaryEmbedding", "ModuleList",
    "MixtureOfThoughtsLayer", "MixtureOfThoughtsTransformer", "Modes", "NoiseInjection", "StandardTransformer",
    "ThoughtBranch", "ThoughtRouter", "_Block",
}  # fmt: skip


def _weights(block: Any) -> _Weights:
    attention, layer = block.attention, block.mixture
    gain, second = block.before_attention.weight, block.before_mixture.weight
    q = attention.q_proj.weight * float(attention.scaling)
    qkv = torch.cat([q, attention.k_proj.weight, attention.v_proj.weight]) * gain
    bank = layer.branches
    k, f, d = bank.up.shape
    rows = [bank.up.view(k * f, d)]
    bias = bank.up.new_zeros(k * f + (k + d + 1 if k > 1 else 0))
    if k > 1:
        combiner = layer.combiner
        query = bank.up.new_zeros(d, d)
        if combiner.rank:  # key(y) . query(x) = y . (key^T query x)
            query = combiner.key.weight.T @ combiner.query.weight * combiner.rank**-0.5
        noise = bank.input_noise
        gate = bank.up.new_zeros(1, d) if noise is None or noise.gate is None else noise.gate.weight
        rows += [layer.router.proj.weight, query, gate]
        bias[k * f : k * f + k] = layer.router.proj.bias
        if noise is not None and noise.gate is not None:
            bias[-1:] = noise.gate.bias
    shared = layer.shared
    return _Weights(
        qkv=qkv,
        out=attention.o_proj.weight,
        wide=torch.cat(rows) * second,
        still=None if shared is None else shared.up[0] * second,
        down=bank.down.mT.contiguous(),
        down_shared=None if shared is None else shared.down[0],
        bias=bias,
    )


def _draw(layer: MixtureOfThoughtsLayer, w: _Weights, memory: Memory, rows: Rows) -> None:
    """Into `memory`, rows first: what the thoughts draw at this layer."""
    from thoughtmix.mixture.layer import tables

    k, f, d = w.down.shape
    b = len(rows.seeds)
    bank = layer.branches
    drawn = (rows.creativity > 0)[:, None]
    offset = w.bias.new_zeros(b, len(w.bias))
    if layer.modes is not None:
        direction = drawn * layer.modes.direction[layer.modes.of(rows.seeds)]  # (b, d)
        parts = [bank.up.view(k * f, d), bank.up.new_zeros(k, d)]
        if layer.combiner.query is not None and layer.combiner.key is not None:
            parts.append(layer.combiner.key.weight.T @ layer.combiner.query.weight * layer.combiner.rank**-0.5)
        else:
            parts.append(bank.up.new_zeros(d, d))
        gate = None if bank.input_noise is None else bank.input_noise.gate
        parts.append(bank.up.new_zeros(1, d) if gate is None else gate.weight)
        offset = F.linear(direction, torch.cat(parts))
    if layer.follow:
        taste = layer._taste(rows, torch.ones_like(rows.seeds)[:, None], drawn)
        offset[:, k * f : k * f + k] += taste.bonus[:, 0]
        memory["gumbel"] = taste.noise[:, 0]
        high = torch.full((b, 1), layer.router.high, device=rows.seeds.device)
        memory["count"] = (high if taste.count is None else taste.count[:, 0]) - 1
    else:
        empty = torch.full((b, k), -torch.inf, device=offset.device)
        memory["route"] = empty.scatter(1, memory["branch"][:, 0], memory["log_weight"][:, 0])
    memory["offset"] = offset
    if bank.input_noise is not None:
        every = torch.arange(k, device=rows.seeds.device)
        at_input, inside = tables(key(rows.seeds[:, None], NOISE, layer.index, every), d, f)
        memory["shift"] = torch.einsum("kfd,bkd->bkf", bank.up.detach(), at_input.to(bank.up.dtype))
        memory["inside"] = inside.to(bank.up.dtype)
