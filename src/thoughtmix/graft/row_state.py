"""Which branches each row of a grafted model goes through, for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.row_state import RowLora
from thoughtmix.graft.config import MoTConfig
from thoughtmix.mixture.state import BranchRowState, BranchState


class Routing(Protocol):
    """What it takes from a `Graft`."""

    config: MoTConfig

    def sample_routes(self, state: BranchState) -> None: ...


class GraftRowState(BranchRowState):
    """The engine's `RowState` for thoughts in a grafted model: see `Graft.row_state`."""

    def __init__(
        self,
        graft: Routing,
        seeds: Sequence[int],
        creativity: Sequence[float],
        device: torch.device,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(seeds, creativity, device)
        self.graft = graft
        self._made: tuple[BranchState, RowLora | None] | None = None  # what `row_lora` said, and of which rows
        config = graft.config
        self.unshared_suffix = config.tail if any(c > 0 for c in creativity) else 0
        # Held noise and weights that no token moves: then a step needs nothing but two numbers a rank.
        self.is_lora = config.combiner == "router" and config.noise != "fresh" and config.router == "prior"
        if weights is not None:
            if weights.shape != (len(seeds), config.num_branches):
                raise InputError(
                    f"weights has shape {tuple(weights.shape)}.", f"Pass ({len(seeds)}, {config.num_branches})."
                )
            self.state.cache["weight"] = weights.to(device).float()[:, None]
            self.state.cache["noisy"] = torch.ones_like(self.state.creativity)

    def row_lora(self) -> RowLora | None:
        """The same object until rows leave: paths keep what they make of it."""
        if self._made is None or self._made[0] is not self.state:
            self._made = self.state, self._make_lora()
        return self._made[1]

    def _make_lora(self) -> RowLora | None:
        cache = self.state.cache
        if "scale" not in cache:
            self.graft.sample_routes(self.state)
            if "noise" in cache:
                cache["shift"] = cache["scale"] * cache["noise"]
        self._record_routes(self.state, 0)
        if not bool((self.state.creativity > 0).any()):
            return None
        return RowLora(cache["scale"], cache.get("shift"))

    def _record_routes(self, state: BranchState, start: int) -> None:
        weight = state.cache.get("weight")
        if weight is None or self._request_rows[start] in self._routes:
            return
        for i, layers in enumerate(weight.tolist()):
            self._routes[self._request_rows[start + i]] = {
                "branches": [[k for k, w in enumerate(layer) if w > 0] for layer in layers],
                "weights": [[round(w, 4) for w in layer if w > 0] for layer in layers],
            }
