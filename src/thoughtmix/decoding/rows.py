"""What a row carries through the model beside its tokens: a route, held noise, a routing profile.

A thinker that changes the model per row passes a `RowState` to `decode`. The engine says when a prompt is read, when
rows step, and which rows are left; the state makes that known to the thinker's own modules, which ask for it in their
forward (usually through a ContextVar that the context managers set, so that threads do not meet).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

Read = Literal["shared", "each"]
"""shared: a prompt is read once for all its rows; each: every row reads it for itself, through its own branches."""


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

    def quiet(self) -> AbstractContextManager[None]:
        """Around forwards in which every row must be treated alike and nothing be drawn or noted: the engine tries
        which decoding path reproduces the model."""
        ...


class Plain:
    """The state of rows that carry nothing."""

    def keep(self, order: Sequence[int]) -> None: ...

    def reading(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        return nullcontext()

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        return nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()


PLAIN = Plain()
