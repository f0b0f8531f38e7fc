"""What a row takes through the model beside its tokens: a route, held noise, a routing profile.

A thinker that changes the model per row passes a `RowState` to the engine. The engine says when a prompt is prefilled,
when rows step, and which rows are left; the state makes that known to the thinker's own modules, which ask for it in
their forward (through a ContextVar that the context managers set, so that threads do not meet).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from thoughtmix.engine.sampling import Candidates, SamplingTensors

Read = Literal["shared", "each"]
"""shared: a prompt is read once for all its rows; each: every row reads it for itself, through its own branches."""


@dataclass(frozen=True, slots=True)
class RowLora:
    """Per-row scale and shift of low-rank updates y += B (A x) of the model's maps: u = shift + scale * (A x) in place
    of A x, for b rows, L updated layers and m ranks. All of a row's route and held noise is in these."""

    scale: Tensor  # (b, L, m), or (b, 1, m) for all layers
    shift: Tensor | None  # (b, L, m)

    def repeat_rows(self, times: int | Tensor) -> RowLora:
        """Each row so many times, or (b,) times, its copies neighbours: one for each token that it reads."""
        shift = None if self.shift is None else self.shift.repeat_interleave(times, 0)
        return RowLora(self.scale.repeat_interleave(times, 0), shift)


def stack_row_loras(parts: Sequence[RowLora | None], sizes: Sequence[int]) -> RowLora | None:
    """Parts one below the other, of so many rows each. Rows of a part that is None are scaled by 0: the model as it
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
        return RowLora(scale, None)
    return RowLora(scale, torch.cat([rows(None if part is None else part.shift, n, max(shifts)) for part, n in pairs]))


class RowState(Protocol):
    """Rows are named by their position in the batch. At first that is their position in the request; `reorder` is
    called once before anything is read (rows of one prompt become neighbours) and whenever rows leave."""

    unshared_suffix: int
    """How many tokens at the end of a shared prompt each row should read itself, so that its state has a say in its
    first token."""

    @property
    def is_lora(self) -> bool:
        """Whether `row_lora` is all that this state does to a step. Such rows may join a batch of others and take the
        fused path; their shared prompts are read by the model as it is."""
        ...

    def row_lora(self) -> RowLora | None:
        """Of the rows that are left, asked for when rows come or go; None: the model as it is."""
        ...

    def reorder(self, order: Sequence[int]) -> None:
        """Go on with these rows: the old position of each remaining row, in the new order."""
        ...

    def prefilling(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        """Around the forward that reads the prompt of `rows`: batch 1 when `read` is shared, else a batch of them all,
        in their order."""
        ...

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        """Around a forward of one new token for each of `rows`."""
        ...

    def probing(self) -> AbstractContextManager[None]:
        """Around forwards in which every row must be treated alike and nothing be drawn or noted: the engine tries
        which decoding path reproduces the model."""
        ...


@runtime_checkable
class LogitsAdjuster(RowState, Protocol):
    """A state that has a say in what its rows draw: it is shown their hidden states and gives other logits. First
    tokens are drawn from the model's own, since prompts may have been read before, for others."""

    @property
    def shallow_layer(self) -> int:
        """The hidden states shown are those after this many layers, and those that the head reads."""
        ...

    def adjust(self, shallow: Tensor, deep: Tensor, logits: Tensor, sampling: SamplingTensors) -> Candidates:
        """What is drawn from in place of the model's logits. Called once a step, for all rows that are left.

        Args:
            shallow: Hidden states (rows, width) of each row's newest token after `shallow_layer` layers.
            deep: What the head read of it, (rows, width).
            logits: What the model says comes next, (rows, vocabulary).
            sampling: How each row draws.

        Returns:
            What they are drawn from, at each row's temperature: truncated already.
        """
        ...


_WITHOUT: ContextVar[bool] = ContextVar("thoughtmix_without_row_state", default=False)


def without_row_state() -> bool:
    """Whether this forward is the engine's, for rows that have no state: a graft then leaves the model alone."""
    return _WITHOUT.get()


class NoRowState:
    """Of rows that take nothing but their tokens through the model."""

    unshared_suffix = 0
    is_lora = True

    def row_lora(self) -> None:
        return None

    def reorder(self, order: Sequence[int]) -> None: ...

    def prefilling(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        return self.probing()

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        return self.probing()

    @contextmanager
    def probing(self) -> Iterator[None]:
        token = _WITHOUT.set(True)
        try:
            yield
        finally:
            _WITHOUT.reset(token)


NO_ROW_STATE = NoRowState()


class AdapterRows(NoRowState):
    """The state of rows that are a LoRA adapter each, for engines which serve many of them.

    Args:
        folders: Of each row's adapter, in PEFT's form; None: the model as it is.
        neutral: An adapter that changes nothing, where an engine needs one in place of None.
        rank: The largest of any adapter of this kind.
        ways: What `routes` says of each row.
    """

    def __init__(
        self, folders: Sequence[Path | None], neutral: Path, rank: int, ways: Sequence[Mapping[str, Any]]
    ) -> None:
        self.folders, self.neutral, self.rank, self._ways = tuple(folders), neutral, rank, ways

    def routes(self, count: int) -> list[dict[str, Any]]:
        """Of each of the `count` rows: through which branches it goes."""
        return [dict(way) for way in self._ways[:count]]
