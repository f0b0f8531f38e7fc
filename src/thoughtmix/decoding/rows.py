"""What a row carries through the model beside its tokens: a route, held noise, a routing profile.

A thinker that changes the model per row passes a `RowState` to `decode`. The engine says when a prompt is read, when
rows step, and which rows are left; the state makes that known to the thinker's own modules, which ask for it in their
forward (usually through a ContextVar that the context managers set, so that threads do not meet).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Read = Literal["shared", "each"]
"""shared: a prompt is read once for all its rows; each: every row reads it for itself, through its own branches."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """What a step does to low-rank updates y += B (A x) of the model's maps: u = shift + scale * (A x) in their place,
    for b rows, L updated layers and m ranks. All of a row's route and held noise is in these."""

    scale: Tensor  # (b, L, m), or (b, 1, m) for all layers
    shift: Tensor | None  # (b, L, m)


def beside(parts: Sequence[Ranks | None], sizes: Sequence[int]) -> Ranks | None:
    """Parts one below the other, of so many rows each. Rows without ranks of their own are scaled by 0: the model as it
    is."""
    import torch

    some = [part for part in parts if part is not None]
    if not some:
        return None
    layers, m = max(part.scale.shape[1] for part in some), some[0].scale.shape[2]
    shifts = [part.shift.shape[1] for part in some if part.shift is not None]

    def rows(x: Tensor | None, count: int, layers: int) -> Tensor:
        return some[0].scale.new_zeros(count, layers, m) if x is None else x.expand(count, layers, m)

    pairs = list(zip(parts, sizes, strict=True))
    scale = torch.cat([rows(None if part is None else part.scale, n, layers) for part, n in pairs])
    if not shifts:
        return Ranks(scale, None)
    return Ranks(scale, torch.cat([rows(None if part is None else part.shift, n, max(shifts)) for part, n in pairs]))


class RowState(Protocol):
    """Rows are named by their position in the batch. At first that is their position in the request; `keep` is called
    once before anything is read (rows of one prompt become neighbours) and whenever rows leave."""

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows: the old position of each remaining row, in the new order."""
        ...

    def reading(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        """Around the forward that reads the prompt of `rows`: batch 1 when `read` is shared, else a batch of them all,
        in their order."""
        ...

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        """Around a forward of one new token for each of `rows`."""
        ...

    # A state that the fused path can take also has `ranked`, whether it can, and `ranks() -> Ranks | None` of the rows
    # that are left, asked for at each step; None: the model as it is. The prompt is then read by the model as it is.

    def quiet(self) -> AbstractContextManager[None]:
        """Around forwards in which every row must be treated alike and nothing be drawn or noted: the engine tries
        which decoding path reproduces the model."""
        ...


_NOTHING: ContextVar[bool] = ContextVar("thoughtmix_rows_carry_nothing", default=False)


def carrying_nothing() -> bool:
    """Whether this forward is the engine's, for rows that carry nothing: a graft then leaves the model alone."""
    return _NOTHING.get()


class Plain:
    """The state of rows that carry nothing."""

    def keep(self, order: Sequence[int]) -> None: ...

    def reading(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        return self.quiet()

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        return self.quiet()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        token = _NOTHING.set(True)
        try:
            yield
        finally:
            _NOTHING.reset(token)


PLAIN = Plain()
