"""What a layer did, as numbers: computed when someone looks, from tensors, and free for who does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch.nn.functional as F

from thoughtmix.mixture.layer import Trace, mean_cosine


def layer_metrics(trace: Trace, layer: int) -> dict[str, Any]:
    """Of one layer, 0-d tensors unless said otherwise:

    diversity_score: 1 - mean cosine of two active branches' outputs at a token (0 the same, 1 unrelated);
    router_entropy: of the router's distribution, nats, mean over tokens (0 certain, log K any);
    active_branches: mean number a token travels through; branch_usage (k,): share of all visits; layer: its number.
    """
    log_p = trace.route.log_prob
    entropy = -(log_p.exp() * log_p).sum(-1)
    chosen = F.one_hot(trace.branch, log_p.shape[-1]).float() * trace.active[..., None]
    active = trace.active.float().sum(1)
    if trace.real is not None:
        chosen, active = chosen * trace.real[:, None, None], active * trace.real
    tokens = trace.real.sum().clamp(min=1) if trace.real is not None else float(len(active))
    usage = chosen.sum((0, 1))
    return {
        "diversity_score": 1 - mean_cosine(trace),
        "router_entropy": (entropy * trace.share).sum(),
        "active_branches": active.sum() / tokens,
        "branch_usage": usage / usage.sum().clamp(min=1),
        "layer": layer,
    }


class LayerMetrics(Sequence[dict[str, Any]]):
    """One dict a layer, computed at the first look by running the same forward once more."""

    def __init__(self, compute: Callable[[], list[dict[str, Any]]]) -> None:
        self._compute = compute
        self._found: list[dict[str, Any]] | None = None

    @property
    def _list(self) -> list[dict[str, Any]]:
        if self._found is None:
            self._found = self._compute()
        return self._found

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._list)

    def __repr__(self) -> str:
        return repr(self._list)
