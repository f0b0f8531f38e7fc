"""What a layer did, as numbers: signals to train on, and metrics that cost nothing until someone looks at them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.mixture.layer import LayerTrace


def signals(trace: LayerTrace, entropy: bool = True, diversity: bool = True) -> dict[str, Tensor]:
    """The training signals of one layer, to be made small.

    Args:
        trace: What the layer did.
        entropy: Whether that signal is to carry gradient.
        diversity: Whether that one is.

    Returns:
        Scalars. balance: K sum_k f_k P_k (Fedus et al. 2021, eq. 4-6), 1 when branches share the work evenly. entropy:
        1 - H(router) / log K, 0 when the router keeps every branch possible. diversity: mean cosine of the outputs of
        two active branches at one token (every fourth), 1 when all say the same.
    """
    log_p = trace.route.log_prob
    k = log_p.shape[-1]
    p = log_p.exp()
    mean = (p * trace.token_share[..., None]).sum((0, 1))  # (k,)
    chosen = F.one_hot(trace.branch, k).float() * trace.active[..., None]
    if trace.mask is not None:
        chosen = chosen * trace.mask[:, None, None]
    use = _sum_over_processes(chosen.sum((0, 1)))
    found = {"balance": k * (use / use.sum().clamp(min=1) * mean).sum()}
    learning = torch.is_grad_enabled()
    with torch.set_grad_enabled(learning and entropy):
        found["entropy"] = 1 + ((p * log_p).sum(-1) * trace.token_share).sum() / math.log(k)
    with torch.set_grad_enabled(learning and diversity):
        found["diversity"] = mean_cosine(trace, every=4)
    return found


def mean_cosine(trace: LayerTrace, every: int = 1) -> Tensor:
    """Mean over tokens of the mean cosine of two active branches' outputs; tokens with one branch count as 0. every:
    look at each so-many-th token only: an estimate, for a signal that training adds up over many steps."""
    y, active = trace.outputs[::every].float(), trace.active[::every]
    unit = active / torch.linalg.vector_norm(y, dim=-1).clamp(min=1e-6)  # (n, s): scales each to length 1
    count = active.sum(1).float()
    total = (unit[..., None] * y).sum(1).square().sum(-1) - count  # |sum|^2 = count + sum over ordered pairs
    each = total / (count * (count - 1)).clamp(min=1)
    if trace.mask is None:
        return each.mean()
    real = trace.mask[::every]
    return (each * real).sum() / real.sum().clamp(min=1)


def _sum_over_processes(counts: Tensor) -> Tensor:
    """Counts summed over all training processes, so that the balance of P of them is that of one larger batch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    return counts


def layer_metrics(trace: LayerTrace, layer: int) -> dict[str, Any]:
    """The metrics of one layer.

    Returns:
        0-d tensors, unless said otherwise. diversity_score: 1 - mean cosine of two active branches' outputs at a token
        (0 the same, 1 unrelated). router_entropy: of the router's distribution, nats, mean over tokens (0 certain,
        log K any). active_branches: mean number that a token goes through. branch_usage (k,): share of all visits.
        layer: its number.
    """
    log_p = trace.route.log_prob
    entropy = -(log_p.exp() * log_p).sum(-1)
    chosen = F.one_hot(trace.branch, log_p.shape[-1]).float() * trace.active[..., None]
    active = trace.active.float().sum(1)
    if trace.mask is not None:
        chosen, active = chosen * trace.mask[:, None, None], active * trace.mask
    tokens = trace.mask.sum().clamp(min=1) if trace.mask is not None else float(len(active))
    usage = chosen.sum((0, 1))
    return {
        "diversity_score": 1 - mean_cosine(trace),
        "router_entropy": (entropy * trace.token_share).sum(),
        "active_branches": active.sum() / tokens,
        "branch_usage": usage / usage.sum().clamp(min=1),
        "layer": layer,
    }


class LayerMetrics:
    """One dict a layer, of numbers and lists, computed when they are first asked for."""

    def __init__(self, compute: Callable[[], list[dict[str, Any]]]) -> None:
        self._compute = compute
        self._found: list[dict[str, Any]] | None = None

    @property
    def layers(self) -> list[dict[str, Any]]:
        """As JSON takes them."""
        if self._found is None:
            self._found = [plain_numbers(layer) for layer in self._compute()]
        return self._found


def plain_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as numbers and lists of them."""
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in metrics.items()}
