"""What the rows of a forward explore with: their seeds, creativity, where their prompts end, and what layers remember.

Positions count a row's real tokens. A row's tokens fall into segments, each with its own route: segment 0 is the
prompt, read deterministically (creativity 0), so that thoughts can share it; the continuation begins at
`prompt_lengths` and is one segment, or several of `segment_length` tokens. A route is drawn from the mean hidden state
of all tokens before its segment, from a learned prior where there are none: nothing looks ahead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thoughtmix.engine.row_state import Read, RowLora

Memory = dict[str, Tensor]
"""What one layer keeps between forwards, every tensor with rows first: `sum` (b, d) of hidden states so far, `pool`
(b, d) of the current segment, and once the route stands for good, the route's own tensors (see router.py)."""

ALL_PROMPT = 2**62  # a prompt length that no position reaches


@dataclass
class Rows:
    """b rows. `layers` is filled by the layers themselves when `remember` is set (that is: when there is a cache)."""

    seeds: Tensor  # (b,) int64
    creativity: Tensor  # (b,) float32
    prompt_lengths: Tensor  # (b,) int64
    remember: bool = False
    layers: dict[int, Memory] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        seeds: Sequence[int] | Tensor,
        creativity: float | Sequence[float] | Tensor = 1.0,
        prompt_lengths: int | Sequence[int] | Tensor = 0,
        device: torch.device | str = "cpu",
        remember: bool = False,
    ) -> Rows:
        ids = seeds if isinstance(seeds, Tensor) else torch.tensor([_signed(s) for s in seeds])
        b = len(ids)
        return cls(
            ids.to(device),
            torch.as_tensor(creativity, dtype=torch.float32, device=device).expand(b).clone(),
            torch.as_tensor(prompt_lengths, dtype=torch.int64, device=device).expand(b).clone(),
            remember,
        )

    @property
    def memory(self) -> Memory:
        """What is remembered once for all layers: layer 0 keeps it."""
        return self.layers.setdefault(0, {})

    def pick(self, order: Sequence[int] | Tensor) -> Rows:
        """These rows, in this order; a row may be taken many times."""
        at = torch.as_tensor(order, dtype=torch.int64, device=self.seeds.device)
        return dataclasses.replace(
            self,
            seeds=self.seeds[at],
            creativity=self.creativity[at],
            prompt_lengths=self.prompt_lengths[at],
            layers={i: {name: x[at] for name, x in memory.items()} for i, memory in self.layers.items()},
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """Parts one below the other. A layer's memory keeps what all parts have of it."""
    first = parts[0]
    layers: dict[int, Memory] = {}
    for index in first.layers:
        memories = [p.layers.get(index, {}) for p in parts]
        names = set.intersection(*(set(m) for m in memories))
        layers[index] = {name: torch.cat([m[name] for m in memories]) for name in sorted(names)}
    return dataclasses.replace(
        first,
        seeds=torch.cat([p.seeds for p in parts]),
        creativity=torch.cat([p.creativity for p in parts]),
        prompt_lengths=torch.cat([p.prompt_lengths for p in parts]),
        layers=layers,
    )


_CURRENT: ContextVar[Rows | None] = ContextVar("thoughtmix_mixture_rows", default=None)


def current() -> Rows | None:
    """The rows that the engine decodes now, in this thread."""
    return _CURRENT.get()


@contextmanager
def using(rows: Rows) -> Iterator[None]:
    token = _CURRENT.set(rows)
    try:
        yield
    finally:
        _CURRENT.reset(token)


_ROWS = "_thoughtmix_rows"  # where a cache that `generate` made keeps the rows it belongs to


def followed(cache: Any) -> Rows | None:
    """The rows that this cache belongs to."""
    return getattr(cache, _ROWS, None)


def follow(cache: Any, rows: Rows) -> None:
    """Keep `rows` on the cache, and with it: beam search and its like move rows of the cache around."""
    known = hasattr(cache, _ROWS)
    setattr(cache, _ROWS, rows)
    if known:  # a cache that was emptied and is used again
        return

    def moved(method: Any, order_of: Any) -> Any:
        def both(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            setattr(cache, _ROWS, getattr(cache, _ROWS).pick(order_of(*args, **kwargs)))
            return result

        return both

    def repeated(times: int) -> Tensor:
        return torch.arange(len(getattr(cache, _ROWS).seeds)).repeat_interleave(times)

    for name, order_of in (
        ("reorder_cache", lambda order: order),
        ("batch_select_indices", lambda order: order),
        ("batch_repeat_interleave", repeated),
    ):
        if hasattr(cache, name):
            setattr(cache, name, moved(getattr(cache, name), order_of))


class BranchRowState:
    """The `RowState` of thoughts for `decode`: see there when its methods are called."""

    unshared_suffix = 0
    is_lora = False

    def __init__(self, seeds: Sequence[int], creativity: Sequence[float], device: torch.device) -> None:
        self.rows = Rows.of(seeds, torch.tensor(creativity), 0, device, remember=True)
        self._names = list(range(len(self.rows.seeds)))  # the request's row at each position
        self._routes: dict[int, dict[str, list[list[Any]]]] = {}
        self._read: list[Rows] = []  # prompts read so far, in the order of their rows

    def row_lora(self) -> RowLora | None:
        return None

    def reorder(self, order: Sequence[int]) -> None:
        self.rows = self.rows.pick(order)
        self._names = [self._names[i] for i in order]

    @contextmanager
    def prefilling(self, rows: slice, read: Read) -> Iterator[None]:
        mine = self.rows.pick(range(rows.start, rows.stop))
        if read == "each":
            with using(mine):
                yield
        else:
            reader = Rows.of([0], 0.0, ALL_PROMPT, self.rows.seeds.device, remember=True)
            with using(reader):
                yield
            for index, memory in reader.pick([0] * len(mine.seeds)).layers.items():
                mine.layers.setdefault(index, {}).update(memory)
            mine.prompt_lengths += reader.layers[0]["length"][0] if reader.layers else 0
        self._read.append(mine)
        if sum(len(part.seeds) for part in self._read) == len(self.rows.seeds):
            self.rows, self._read = joined(self._read), []

    @contextmanager
    def stepping(self, rows: slice) -> Iterator[None]:
        if rows == slice(0, len(self.rows.seeds)):
            with using(self.rows):
                yield
            self._note(self.rows, rows.start)
            return
        places = (range(rows.start), range(rows.start, rows.stop), range(rows.stop, len(self.rows.seeds)))
        before, mine, after = (self.rows.pick(place) for place in places)
        with using(mine):
            yield
        self._note(mine, rows.start)
        self.rows = joined([part for part in (before, mine, after) if len(part.seeds)])

    def _note(self, rows: Rows, start: int) -> None:
        """Write down routes that stand, once."""
        if start < len(self._names) and self._names[start] in self._routes:
            return
        standing = [m for _, m in sorted(rows.layers.items()) if "branch" in m]
        for i in range(len(rows.seeds) if standing else 0):
            branches = [m["branch"][i, 0][m["log_weight"][i, 0] > -torch.inf].tolist() for m in standing]
            self._routes[self._names[start + i]] = {"branches": branches}

    def routes(self, count: int) -> list[dict[str, list[list[Any]]]]:
        """Of each row of the request: `branches`, the ones it travelled through at each layer, as far as they were
        fixed when it left."""
        return [self._routes.get(i, {}) for i in range(count)]

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Every row deterministic and nothing remembered: what the probe of decoding paths needs."""
        with using(Rows.of([0], 0.0, ALL_PROMPT, self.rows.seeds.device)):
            yield


def _signed(seed: int) -> int:
    """Any 64-bit seed as torch's int64."""
    return (int(seed) + 2**63) % 2**64 - 2**63
