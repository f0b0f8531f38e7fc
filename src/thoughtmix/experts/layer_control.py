"""What is changed at one layer, for n control rows, as tensors; and how that changes logits and choices.

Shapes: n control rows, e experts, T = b t tokens of a forward (t of each batch row, one row after the other). Where one
row holds for all tokens, n or T is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.profile import Profile

_ADDS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
OWN, GIVEN, EQUAL, BY_ROUTER = range(4)
"""What a row of `Forced` does: keep the router's choice; take the weights as they are; share the weight of the router's
choice equally, or by the router's scores."""


@dataclass(slots=True)
class Forced:
    """The experts of each row in place of the router's choice, padded with weight 0."""

    index: Tensor  # (n, K) int64
    weight: Tensor  # (n, K) float32; where the router's weight is shared, the equal shares
    mode: Tensor  # (n, 1) int64: OWN, GIVEN, EQUAL or BY_ROUTER
    whole: bool  # no row is OWN
    plain: bool  # no row is EQUAL or BY_ROUTER


@dataclass(slots=True)
class LayerControl:
    """The changes at one layer, for n control rows or, after `by_token`, for T tokens. Any part may be absent."""

    layer: MoELayer
    bias: Tensor | None = None  # (n, e) added to the logits
    noise: Tensor | None = None  # (n, e) added to the logits outside the head
    head: int = 0  # how many of the largest logits stay the largest
    excluded: Tensor | None = None  # (n, e) bool
    forced: Forced | None = None

    @property
    def edits_logits(self) -> bool:
        return self.bias is not None or self.noise is not None or self.excluded is not None

    def by_token(self, rows: Tensor | None, length: int) -> LayerControl:
        """The same for each token of a batch whose row i follows control row rows[i]; None: the only row, by all."""
        if rows is None:
            return self
        token = rows.repeat_interleave(length) if length > 1 else rows  # (T,) control rows
        bias, noise, excluded = (x if x is None else x[token] for x in (self.bias, self.noise, self.excluded))
        forced = self.forced
        if forced is not None:
            forced = Forced(forced.index[token], forced.weight[token], forced.mode[token], forced.whole, forced.plain)
        return LayerControl(self.layer, bias, noise, self.head, excluded, forced)

    def edit_logits(self, logits: Tensor) -> Tensor:
        """logits (T, e) float32 -> the same, changed."""
        if self.bias is not None:
            logits = logits + self.bias
        if self.excluded is not None:
            logits = logits.masked_fill(self.excluded, torch.finfo(torch.float32).min)
        if self.noise is not None:
            logits = self._add_noise(logits, self.noise)
        return logits

    def _add_noise(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Add noise; the head keeps its logits, and the largest of the others stays as large as it was, so that the
        tail is shuffled below the head."""
        lowest = torch.finfo(torch.float32).min
        noisy = torch.where(logits > lowest, logits + noise, logits)
        if not self.head:
            return noisy
        top = logits.topk(self.head + 1, -1)
        is_head = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, top.indices[:, : self.head], True)
        best = noisy.masked_fill(is_head, lowest).amax(-1, keepdim=True)
        return torch.where(is_head, logits, torch.where(logits > lowest, noisy - best + top.values[:, -1:], logits))

    def reroute(self, index: Tensor, weight: Tensor, scores: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """index and weight (T, k) as the router chose -> (T, K) as they shall be. scores(): (T, e), summing to 1."""
        if self.excluded is not None:  # a rule that must take k experts may take an excluded one, at weight 0 or nearly
            weight = weight.masked_fill(self.excluded.expand(len(index), -1).gather(1, index), 0.0)
        forced = self.forced
        if forced is None:
            return index, weight
        mine = forced.index.expand(len(index), -1)
        share = forced.weight
        if not forced.plain:
            by_score = scores().gather(1, mine) * (share != 0)
            by_score = by_score / by_score.sum(-1, keepdim=True).clamp(min=1e-20)
            of_router = torch.where(forced.mode == BY_ROUTER, by_score, share) * weight.float().sum(-1, keepdim=True)
            share = torch.where(forced.mode >= EQUAL, of_router, share)
        share = share.expand(len(index), -1).to(weight.dtype)
        if forced.whole:
            return mine, share
        width = max(index.shape[1], mine.shape[1])
        take = forced.mode != OWN
        return (
            torch.where(take, _pad(mine, width), _pad(index, width)),
            torch.where(take, F.pad(share, (0, width - share.shape[1])), F.pad(weight, (0, width - weight.shape[1]))),
        )


def run_masked(experts: Any, hidden: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """What a dictionary of experts (NLLB-MoE's) gives when each token goes to the experts of `index` (T, k): the sum of
    their outputs by `weight`, and its own rule of dropout, which in evaluation is a factor."""
    out = torch.zeros_like(hidden)
    for expert in index[weight != 0].unique().tolist():
        share = (weight * (index == expert)).sum(-1, keepdim=True)  # (T, 1)
        token = share[:, 0].nonzero()[:, 0]
        ran = experts[f"expert_{expert}"](hidden[token])
        out.index_add_(0, token, (ran * share[token]).to(out.dtype))
    dropout = float(getattr(experts, "moe_token_dropout", 0.0))
    return out * (1 - dropout) if dropout and not experts.training else out


def _pad(index: Tensor, width: int) -> Tensor:
    """Repeat the first expert; its weight there is 0."""
    missing = width - index.shape[1]
    return torch.cat([index, index[:, :1].expand(-1, missing)], 1) if missing else index


class EditLogits(TorchFunctionMode):
    """While a router runs: changes what its linear map to e experts gives, so that its own rule does the rest."""

    def __init__(self, layer: MoELayer, controls: Sequence[LayerControl]) -> None:
        super().__init__()
        self.layer, self.controls = layer, controls
        self.hits = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        e = self.layer.num_experts
        if func is F.linear and out.shape[-1] == self.layer.scored:
            self.hits += 1
            both = out.reshape(-1, out.shape[-1]).float()
            logits = both[:, :e]
            for control in self.controls:
                logits = control.edit_logits(logits)
            return torch.cat([logits, both[:, e:]], 1).reshape(out.shape).to(out.dtype)
        if self.hits and getattr(func, "__name__", "") in _ADDS and isinstance(out, Tensor) and out.shape[-1] == e:
            return self._corrected(out, args)
        return out

    def _corrected(self, out: Tensor, args: Any) -> Tensor:
        """Scores plus a correction of each expert (DeepSeek-V3): an excluded expert must not come back by it."""
        if not any(isinstance(a, Tensor) and a.numel() == out.shape[-1] for a in args):
            return out
        for control in self.controls:
            if control.excluded is not None:
                excluded = control.excluded.expand(out.numel() // out.shape[-1], -1)
                out = out.masked_fill(excluded.reshape(out.shape), torch.finfo(out.dtype).min / 4)  # pairs are summed
        return out

    def check(self) -> None:
        """Raises `ModelError` unless the router had exactly one map to edit."""
        if self.hits != 1:
            what = "no linear map" if self.hits == 0 else f"{self.hits} linear maps"
            raise ModelError(
                f"The router of {self.layer.name} computes its logits by {what}, where one was expected.",
                "Force experts instead of bias, noise or exclusion, and merge adapters on the router first.",
            )


def layer_control(
    layer: MoELayer, profiles: Sequence[Profile], noise: Tensor | None = None, head: int = 0
) -> LayerControl | None:
    """The control of one layer for n profiles, row i by profile i; None when nothing changes here.

    Args:
        layer: The layer.
        profiles: One for each control row.
        noise: (n, e), added to the logits.
        head: How many of the largest logits the noise leaves alone.

    Raises:
        InputError: A profile names experts that the layer does not have, or too few are left.
        ModelError: The change would do nothing at this layer.
    """
    number, e, device = layer.number, layer.num_experts, layer.device
    out = LayerControl(layer, head=head, forced=_forced(layer, profiles))
    if any(number in p.bias for p in profiles):
        bias = torch.zeros(len(profiles), e)
        for row, p in enumerate(profiles):
            for expert, value in p.bias.get(number, {}).items():
                bias[row, _expert(layer, expert)] = value
        out.bias = bias.to(device)
    if any(number in p.exclude for p in profiles):
        excluded = torch.zeros(len(profiles), e, dtype=torch.bool)
        for row, p in enumerate(profiles):
            for expert in p.exclude.get(number, ()):
                excluded[row, _expert(layer, expert)] = True
        out.excluded = excluded.to(device)
        left = e - int(excluded.sum(1).max())
        if left < layer.top_k:
            raise InputError(
                f"{layer.name} uses {layer.top_k} experts a token; excluding leaves {left} of {e}.",
                "Exclude fewer, or force the ones you want.",
            )
    if noise is not None and bool(noise.any()):
        _check_head(layer, head)
        out.noise = noise.to(device)
    if out.edits_logits and layer.family.unheard:
        raise ModelError(
            f"Bias, noise and exclusion do nothing at {layer.name}: {layer.family.unheard}.",
            "Force experts there, which does work, or name other layers (layers=...).",
        )
    return out if out.edits_logits or out.forced is not None else None


def _check_head(layer: MoELayer, head: int) -> None:
    if not 0 <= head < layer.top_k:
        raise InputError(
            f"head is {head}; {layer.name} uses {layer.top_k} experts a token, so nothing would be left to disturb.",
            f"Pass head=0 to {layer.top_k - 1}.",
        )
    if head and layer.restricted:
        raise ModelError(
            f"{layer.name} does not choose by its largest logits alone (expert groups or a correction).", "Pass head=0."
        )


def _forced(layer: MoELayer, profiles: Sequence[Profile]) -> Forced | None:
    """What the profiles force at this layer; None when they force nothing."""
    given = [p.force.get(layer.number, ()) for p in profiles]
    n, width = len(given), max(len(x) for x in given)
    if not width:
        return None
    index = torch.zeros(n, width, dtype=torch.long)
    weight = torch.zeros(n, width)
    mode = torch.full((n, 1), OWN)
    for row, (experts, p) in enumerate(zip(given, profiles, strict=True)):
        ids = [_expert(layer, x) for x in experts]
        if not ids:
            continue
        if len(set(ids)) < len(ids):
            raise InputError(f"Profile {p.name!r} forces an expert of {layer.name} twice.", "Name each once.")
        index[row] = ids[0]  # the padding, at weight 0
        index[row, : len(ids)] = torch.tensor(ids)
        if isinstance(experts, Mapping):
            weight[row, : len(ids)] = torch.tensor(list(experts.values()))
            mode[row] = GIVEN
        else:
            weight[row, : len(ids)] = 1 / len(ids)
            mode[row] = BY_ROUTER if p.weights == "router" else EQUAL
    whole, plain = bool((mode != OWN).all()), bool((mode < EQUAL).all())
    return Forced(index.to(layer.device), weight.to(layer.device), mode.to(layer.device), whole, plain)


def _expert(layer: MoELayer, expert: int) -> int:
    if not isinstance(expert, int) or isinstance(expert, bool) or not 0 <= expert < layer.num_experts:
        raise InputError(f"{layer.name} has no expert {expert!r}.", f"Pass 0 to {layer.num_experts - 1}.")
    return expert
