"""What rows of the decoding engine carry through a graft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.row_state import RowLora
from thoughtmix.mixture.state import BranchRowState, Rows

if TYPE_CHECKING:
    from thoughtmix.graft.rows import Graft


class GraftRowState(BranchRowState):
    """The `RowState` of thoughts in a grafted model. weights (rows, k): fixed routes in place of drawn ones."""

    def __init__(
        self,
        graft: Graft,
        seeds: Sequence[int],
        creativity: Sequence[float],
        device: torch.device,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(seeds, creativity, device)
        self.graft = graft
        config = graft.config
        self.unshared_suffix = config.tail if any(c > 0 for c in creativity) else 0
        # Standing noise and weights that no token moves: then a step needs nothing but two numbers a rank.
        self.is_lora = config.combiner == "router" and config.noise != "fresh" and config.router == "prior"
        if weights is not None:
            if weights.shape != (len(seeds), config.num_branches):
                raise InputError(
                    f"weights has shape {tuple(weights.shape)}.", f"Pass ({len(seeds)}, {config.num_branches})."
                )
            self.rows.memory["weight"] = weights.to(device).float()[:, None]
            self.rows.memory["noisy"] = torch.ones_like(self.rows.creativity)

    def row_lora(self) -> RowLora | None:
        """See `RowState`."""
        rows = self.rows
        if "scale" not in rows.memory:
            self.graft.settle(rows)
            if "noise" in rows.memory:
                rows.memory["shift"] = rows.memory["scale"] * rows.memory["noise"]
        self._note(rows, 0)
        if not bool((rows.creativity > 0).any()):
            return None
        return RowLora(rows.memory["scale"], rows.memory.get("shift"))

    def _note(self, rows: Rows, start: int) -> None:
        """Write down the routes, once."""
        weight = rows.memory.get("weight")
        if weight is None or self._names[start] in self._routes:
            return
        for i, each in enumerate(weight.tolist()):
            self._routes[self._names[start + i]] = {
                "branches": [[k for k, w in enumerate(layer) if w > 0] for layer in each],
                "weights": [[round(w, 4) for w in layer if w > 0] for layer in each],
            }
