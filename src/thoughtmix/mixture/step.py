"""One new token a row, quicker than the model's forward: the same numbers from fewer and larger products.

At a few rows the time of a step is its number of operations. So what reads the same vector becomes one product (q, k
and v; all branches' first halves, the router and the combiner's query), norms are folded into weights, all K branches
are computed at once and those not on the row's route get weight 0, and what a thought draws (router noise, held noise,
mode) is drawn once and kept with its row.

Axis letters: b rows, h key/value heads, g query heads a key/value head, d width, k branches, f width of one branch, v
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding

from thoughtmix.engine.counter_rng import key
from thoughtmix.engine.rng import NOISE
from thoughtmix.mixture.branch import NoiseInjection, ThoughtBranch
from thoughtmix.mixture.combiner import AttentionCombiner
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.layer import MixtureBlock, MixtureOfThoughtsLayer, Modes, noise_tables
from thoughtmix.mixture.router import ThoughtRouter
from thoughtmix.mixture.state import BranchState, LayerCache, active_state

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q (b, h, g, head), scaled; k and v (b, h, head)) -> (b, h g head)."""

_FOLDED = {
    AttentionCombiner,
    LlamaAttention,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    MixtureBlock,
    MixtureOfThoughtsLayer,
    Modes,
    NoiseInjection,
    ThoughtBranch,
    ThoughtRouter,
    nn.Embedding,
    nn.Linear,
    nn.ModuleList,
}  # what a step computes; an adapter's modules are others


class FoldableModel(Protocol):
    """What a step is made of: the parts of `MixtureOfThoughtsTransformer`."""

    config: MixtureOfThoughtsConfig
    embed: nn.Embedding
    positions: nn.Embedding | None
    rotary: LlamaRotaryEmbedding
    layers: nn.ModuleList  # of `MixtureBlock`
    norm: LlamaRMSNorm
    lm_head: nn.Linear
    creativity_factor: nn.Parameter


@dataclass(slots=True)
class _FoldedWeights:
    """Of one layer, the gains of its norms folded in."""

    qkv: Tensor
    out: Tensor
    wide: Tensor  # (k f | k router | d query of the combiner | 1 gate of the noise, width): what a mode moves
    shared_up: Tensor | None  # (shared f, width)
    down: Tensor  # (k, f, d)
    shared_down: Tensor | None
    bias: Tensor  # of `wide`


class DecodingStep:
    """Made for one decoding run, so that it never outlives the weights it was made from."""

    def __init__(self, model: FoldableModel) -> None:
        self.model, self.epsilon = model, float(model.config.rms_norm_eps)
        self.blocks = cast("list[MixtureBlock]", list(model.layers))
        attention = self.blocks[0].attention
        self.head = attention.head_dim
        self.h = attention.k_proj.out_features // self.head
        self.g = attention.num_key_value_groups
        with torch.no_grad():
            self.layers = [_fold(block) for block in self.blocks]
            self.last = model.lm_head.weight * model.norm.weight
            self.factor = 2 * torch.sigmoid(model.creativity_factor)

    @staticmethod
    def supports(model: nn.Module, config: MixtureOfThoughtsConfig) -> bool:
        """Whether a step computes what this model's forward does.

        Noise that is drawn for every token, and routes drawn anew from a running mean, need the forward; so do adapters
        and hooks.
        """
        held = config.noise != "fresh" and (config.num_branches == 1 or config.follow or not config.segment_length)
        biases = config.attention_bias or config.mlp_bias
        parts = [m for m in model.modules() if m is not model]
        rotary = next(m for m in parts if isinstance(m, LlamaRotaryEmbedding))
        hooks = any(m._forward_hooks or m._forward_pre_hooks for m in (model, *parts))
        known = {type(m) for m in parts} <= _FOLDED
        return held and not biases and known and not hooks and rotary.rope_type == "default"

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor | None:
        """tokens, positions (b,) -> logits (b, v); None: not these rows (a route is not final yet)."""
        state = active_state()
        if self.model.config.num_branches > 1 and not self._ready(state, len(tokens), positions):
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
            x = x + self._mixture(index, w, self._norm(x), state)
        return F.linear(self._norm(x), self.last)

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.epsilon)

    def _ready(self, state: BranchState | None, b: int, positions: Tensor) -> bool:
        """Whether all rows are in their continuations and their routes final; what they hold is drawn here, once."""
        if state is None or len(state.seeds) != b or not state.use_cache:
            return False
        if "offset" in state.layers.get(0, {}):
            return True
        if bool((positions < state.prompt_lengths).any()):
            return False
        if not self.model.config.follow and any(
            "branch" not in state.layers.get(i, {}) for i in range(len(self.blocks))
        ):
            return False
        for i, block in enumerate(self.blocks):
            _draw_held(block.mixture, self.layers[i], state.layers.setdefault(i, {}), state)
        return True

    def _mixture(self, index: int, w: _FoldedWeights, x: Tensor, state: BranchState | None) -> Tensor:
        shared = None
        if w.shared_up is not None and w.shared_down is not None:
            shared = F.linear(F.gelu(F.linear(x, w.shared_up)), w.shared_down)
        k, f, _ = w.down.shape
        if k == 1:
            mixed = F.linear(F.gelu(F.linear(x, w.wide[:f])), w.down[0].T)
        else:
            assert state is not None
            wide = F.linear(x, w.wide, w.bias)
            mixed = self._routed(self.blocks[index].mixture, w, wide, state.layers[index], state)
        return mixed if shared is None else mixed + shared

    def _routed(
        self, layer: MixtureOfThoughtsLayer, w: _FoldedWeights, wide: Tensor, cache: LayerCache, state: BranchState
    ) -> Tensor:
        c = state.creativity[:, None].to(wide.dtype)
        mixed = None
        if bool((state.creativity > 0).any()):
            mixed = self._pass(layer, w, wide + cache["offset"], cache, (c > 0) * self.factor)
            if bool((state.creativity == 1).all()):
                return mixed
        base = self._pass(layer, w, wide, cache, None)
        return base if mixed is None else torch.where(c > 0, base + c * (mixed - base), base)

    def _pass(
        self,
        layer: MixtureOfThoughtsLayer,
        w: _FoldedWeights,
        wide: Tensor,
        cache: LayerCache,
        amplitude: Tensor | None,
    ) -> Tensor:
        """(b, d): along the drawn route with noise of this amplitude (b, 1); None: the likeliest without."""
        k, f, d = w.down.shape
        latent, logits, query, gate = wide.split([k * f, k, d, 1], 1)
        latent = latent.view(-1, k, f)
        noise = layer.branches.latent_noise
        if amplitude is not None and noise is not None and layer.branches.input_noise is not None:
            size = layer.branches.input_noise.learned_scale(amplitude) * 2 * torch.sigmoid(gate)  # (b, 1)
            latent = F.gelu(torch.addcmul(latent, size[..., None], cache["shift"]))
            latent = noise(latent, cache["inside"], amplitude[..., None])
        else:
            latent = F.gelu(latent)
        outputs = torch.bmm(latent.transpose(0, 1), w.down).transpose(0, 1)  # (b, k, d)
        score = self._log_weight(layer, logits, cache, amplitude is not None)
        if layer.combiner.rank:
            score = score + torch.bmm(outputs, query[..., None])[..., 0]
        return torch.bmm(torch.softmax(score, -1).to(outputs.dtype)[:, None], outputs)[:, 0]

    @staticmethod
    def _log_weight(layer: MixtureOfThoughtsLayer, logits: Tensor, cache: LayerCache, drawn: bool) -> Tensor:
        """(b, k), -inf off the route; not normalised: the combiner's softmax is."""
        router = layer.router
        if layer.follow:
            noisy = logits.float() / router.log_temperature.exp()
            score = noisy + cache["gumbel"] if drawn else noisy
            best = score.topk(router.high, -1).values
            floor = best.gather(1, cache["count"]) if drawn else best[:, -1:]
            return noisy.masked_fill(score < floor, -torch.inf)
        if drawn:
            return cache["route"]
        log_p = cache["log_prob"][:, 0]
        return log_p.masked_fill(log_p < log_p.topk(router.high, -1).values[:, -1:], -torch.inf)


def _fold(block: MixtureBlock) -> _FoldedWeights:
    attention, layer = block.attention, block.mixture
    gain, second = block.before_attention.weight, block.before_mixture.weight
    q = attention.q_proj.weight * float(attention.scaling)
    qkv = torch.cat([q, attention.k_proj.weight, attention.v_proj.weight]) * gain
    k, f, d = layer.branches.up.shape
    rows = [layer.branches.up.view(k * f, d)]
    bias = layer.branches.up.new_zeros(k * f + (k + d + 1 if k > 1 else 0))
    if k > 1:
        rows += [layer.router.proj.weight, *_query_and_gate(layer)]
        bias[k * f : k * f + k] = layer.router.proj.bias
        noise = layer.branches.input_noise
        if noise is not None and noise.gate is not None:
            bias[-1:] = noise.gate.bias
    return _FoldedWeights(
        qkv=qkv,
        out=attention.o_proj.weight,
        wide=torch.cat(rows) * second,
        shared_up=None if layer.shared is None else layer.shared.up[0] * second,
        down=layer.branches.down.mT.contiguous(),
        shared_down=None if layer.shared is None else layer.shared.down[0],
        bias=bias,
    )


def _query_and_gate(layer: MixtureOfThoughtsLayer) -> tuple[Tensor, Tensor]:
    """The combiner's query (d, d), since key(y) . query(x) = y . (key^T query x), and the noise's gate (1, d)."""
    d, combiner, noise = layer.branches.up.shape[2], layer.combiner, layer.branches.input_noise
    query, gate = layer.branches.up.new_zeros(d, d), layer.branches.up.new_zeros(1, d)
    if combiner.query is not None and combiner.key is not None:
        query = combiner.key.weight.T @ combiner.query.weight * combiner.rank**-0.5
    if noise is not None and noise.gate is not None:
        gate = noise.gate.weight
    return query, gate


def _draw_held(layer: MixtureOfThoughtsLayer, w: _FoldedWeights, cache: LayerCache, state: BranchState) -> None:
    """Into `cache`, rows first: what the thoughts draw at this layer, once for all their tokens."""
    k, f, d = w.down.shape
    b = len(state.seeds)
    bank = layer.branches
    drawn = (state.creativity > 0)[:, None]
    offset = w.bias.new_zeros(b, len(w.bias))
    if layer.modes is not None:
        direction = drawn * layer.modes.directions(state.seeds)  # (b, d)
        offset = F.linear(
            direction, torch.cat([bank.up.view(k * f, d), bank.up.new_zeros(k, d), *_query_and_gate(layer)])
        )
    if layer.follow:
        noise = layer.router_noise(state, torch.ones_like(state.seeds)[:, None], drawn)
        offset[:, k * f : k * f + k] += noise.bonus[:, 0]
        cache["gumbel"] = noise.gumbel[:, 0]
        high = torch.full((b, 1), layer.router.high, device=state.seeds.device)
        cache["count"] = (high if noise.count is None else noise.count[:, 0]) - 1
    else:
        empty = torch.full((b, k), -torch.inf, device=offset.device)
        cache["route"] = empty.scatter(1, cache["branch"][:, 0], cache["log_weight"][:, 0])
    cache["offset"] = offset
    if bank.input_noise is not None:
        every = torch.arange(k, device=state.seeds.device)
        at_input, inside = noise_tables(key(state.seeds[:, None], NOISE, layer.index, every), d, f)
        cache["shift"] = torch.einsum("kfd,bkd->bkf", bank.up.detach(), at_input.to(bank.up.dtype))
        cache["inside"] = inside.to(bank.up.dtype)
