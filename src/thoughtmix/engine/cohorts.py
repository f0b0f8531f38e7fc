"""The state of a batch that rows join while it runs: the states of those who joined, side by side.

A cohort is what one `decode` would have had alone: its prompts, and its rows' own keys and values, with a length of its
own. All products with weights are done for all rows together; attention goes cohort by cohort, so that a row computes
over exactly what it would alone: no padding, no mask, and nothing is moved when another comes or goes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thoughtmix.engine.backends.fused import FusedPath
from thoughtmix.engine.backends.shared import SharedPath
from thoughtmix.engine.kv_cache import Prompt, SharedPrefix
from thoughtmix.engine.wide import Wide


class Cohorts(SharedPrefix):
    """A `SharedPrefix` to whoever stores and attends; its rows are those of `parts`, in their order."""

    def __init__(self) -> None:
        self.parts: list[SharedPrefix] = []
        self.length = 0  # each part counts for itself
        self._count()

    def _count(self) -> None:
        self._sizes = [part.rows for part in self.parts]
        self.rows = sum(self._sizes)

    @property
    def prompts(self) -> list[Prompt]:  # type: ignore[override]
        """What a cache that looks at lengths sees: everything that the rows have read."""
        return [Prompt([], [], p.length + part.length, p.rows) for part in self.parts for p in part.prompts]

    def join(self, part: SharedPrefix) -> None:
        """Rows at the end, with their prompts read."""
        self.parts.append(part)
        self._count()

    def positions(self, device: torch.device) -> Tensor:
        return torch.cat([part.positions(device) for part in self.parts])

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        for part, k, v in zip(self.parts, keys.split(self._sizes), values.split(self._sizes), strict=True):
            part.store(layer, k, v)

    def advance(self) -> None:
        for part in self.parts:
            part.advance()

    def attend(self, layer: int, query: Tensor, window: int | None = None, softcap: float | None = None) -> Tensor:
        return torch.cat(
            [
                part.attend(layer, q, window, softcap)
                for part, q in zip(self.parts, query.split(self._sizes), strict=True)
            ]
        )

    def drop(self, gone: list[int]) -> list[int]:
        order: list[int] = []
        leaving, start, left = set(gone), 0, []
        for part in self.parts:
            rows = range(start, start + part.rows)
            mine = [row - start for row in rows if row in leaving]
            if len(mine) < part.rows:
                order += [start + old for old in (part.drop(mine) if mine else range(part.rows))]
                left.append(part)
            start = rows.stop
        self.parts = left
        self._count()
        return order


def running(route: FusedPath | SharedPath) -> tuple[FusedPath | SharedPath, Cohorts | Wide]:
    """A path like `route` over whoever will join, nobody yet."""
    if isinstance(route, FusedPath):
        path, wide = FusedPath(route.weights), Wide()
        path.state = wide
        return path, wide
    cohorts = Cohorts()
    own = SharedPath(route.model, own=route.own)
    own.begin(cohorts, int(own.model.config.get_text_config().num_hidden_layers))
    return own, cohorts
