"""Per-row branch state: whose draws each row of a forward uses, where its prompt ends, and what layers keep for it.

Positions count a row's real tokens. A row's tokens fall into segments, each with its own route: segment 0 is the
prompt, read deterministically (creativity 0), so that thoughts can share it; the continuation begins at
`prompt_lengths` and is one segment, or several of `segment_length` tokens. A route is drawn from the mean hidden state
of all tokens before its segment, from a learned prior where there are none: nothing looks ahead.

Axis letters: b rows, t tokens of a forward, g segments that these tokens can touch, k branches, s slots of a route, d
width.
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

LayerCache = dict[str, Tensor]
"""What one layer keeps between forwards, every tensor with rows first: `sum` (b, d) of hidden states so far, `pool`
(b, d) of the current segment, and once the route is final, the route's own tensors (see router.py)."""

ALL_PROMPT = 2**62  # a prompt length that no position reaches


@dataclass
class BranchState:
    """The branch state of b rows. Layers fill `layers` themselves when `use_cache` is set."""

    seeds: Tensor  # (b,) int64
    creativity: Tensor  # (b,) float32
    prompt_lengths: Tensor  # (b,) int64
    use_cache: bool = False
    layers: dict[int, LayerCache] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        seeds: Sequence[int] | Tensor,
        creativity: float | Sequence[float] | Tensor = 1.0,
        prompt_lengths: int | Sequence[int] | Tensor = 0,
        device: torch.device | str = "cpu",
        use_cache: bool = False,
    ) -> BranchState:
        """The state of len(seeds) rows; creativity and prompt_lengths are one value, or one a row."""
        ids = seeds if isinstance(seeds, Tensor) else torch.tensor([_as_int64(seed) for seed in seeds])
        b = len(ids)
        return cls(
            ids.to(device),
            torch.as_tensor(creativity, dtype=torch.float32, device=device).expand(b).clone(),
            torch.as_tensor(prompt_lengths, dtype=torch.int64, device=device).expand(b).clone(),
            use_cache,
        )

    @property
    def cache(self) -> LayerCache:
        """What is kept once for all layers; it lies with layer 0."""
        return self.layers.setdefault(0, {})

    def select(self, order: Sequence[int] | Tensor) -> BranchState:
        """These rows, in this order; a row may be taken many times."""
        at = torch.as_tensor(order, dtype=torch.int64, device=self.seeds.device)
        return dataclasses.replace(
            self,
            seeds=self.seeds[at],
            creativity=self.creativity[at],
            prompt_lengths=self.prompt_lengths[at],
            layers={i: {name: x[at] for name, x in cache.items()} for i, cache in self.layers.items()},
        )


def concatenate(parts: Sequence[BranchState]) -> BranchState:
    """Parts one below the other. Of a layer's cache stays what all parts have."""
    first = parts[0]
    layers: dict[int, LayerCache] = {}
    for index in first.layers:
        caches = [part.layers.get(index, {}) for part in parts]
        names = set.intersection(*(set(cache) for cache in caches))
        layers[index] = {name: torch.cat([cache[name] for cache in caches]) for name in sorted(names)}
    return dataclasses.replace(
        first,
        seeds=torch.cat([part.seeds for part in parts]),
        creativity=torch.cat([part.creativity for part in parts]),
        prompt_lengths=torch.cat([part.prompt_lengths for part in parts]),
        layers=layers,
    )


def _as_int64(seed: int) -> int:
    """Any 64-bit seed as torch's signed integer."""
    return (int(seed) + 2**63) % 2**64 - 2**63


# --- whose state a forward uses ---

_ACTIVE: ContextVar[BranchState | None] = ContextVar("thoughtmix_branch_state", default=None)


def active_state() -> BranchState | None:
    """The state of the rows that the engine decodes now, in this thread."""
    return _ACTIVE.get()


@contextmanager
def activate(state: BranchState) -> Iterator[None]:
    """Within, forwards in this thread are of these rows."""
    token = _ACTIVE.set(state)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


_ATTRIBUTE = "_thoughtmix_branch_state"  # where a cache that `generate` made keeps the state of its rows


def state_of_cache(cache: Any) -> BranchState | None:
    """The state of the rows that this Hugging Face cache belongs to."""
    return getattr(cache, _ATTRIBUTE, None)


def bind_to_cache(cache: Any, state: BranchState) -> None:
    """Keep `state` on the cache, and its rows with the cache's: beam search and its like move those around."""
    bound = state_of_cache(cache) is not None
    setattr(cache, _ATTRIBUTE, state)
    if bound:  # a cache that was emptied and is used again
        return

    def moving_rows(method: Any, order_of: Any) -> Any:
        def both(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            setattr(cache, _ATTRIBUTE, getattr(cache, _ATTRIBUTE).select(order_of(*args, **kwargs)))
            return result

        return both

    def repeated(times: int) -> Tensor:
        return torch.arange(len(getattr(cache, _ATTRIBUTE).seeds)).repeat_interleave(times)

    for name, order_of in (
        ("reorder_cache", lambda order: order),
        ("batch_select_indices", lambda order: order),
        ("batch_repeat_interleave", repeated),
    ):
        if hasattr(cache, name):
            setattr(cache, name, moving_rows(getattr(cache, name), order_of))


# --- segments ---


@dataclass(slots=True)
class Segments:
    """Which segment each token of a forward belongs to, and what lies before it: found once, for all layers."""

    ids: Tensor  # (b, g) int64: 0 the prompt, 1, 2, ... of the continuation
    of_token: Tensor  # (b, t) int64 in 0..g-1: which of `ids` a token belongs to
    start_columns: Tensor  # (b, g): the column of this forward at which the segment starts; negative: before it
    from_prior: Tensor  # (b, g) bool: nothing lies before the segment
    creativity: Tensor  # (b, g) float32: the row's; 0 in the prompt
    positions: Tensor  # (b, t)
    mask: Tensor | None  # (b, t) float32, 0 where padded; None: nowhere
    final: bool  # every row's last token is in a segment that will not end
    unit_creativity: bool  # creativity is 0 or 1 everywhere
    by_token: bool = False  # every token is a segment of its own: g = t

    @classmethod
    def create(cls, state: BranchState, positions: Tensor, length: int, mask: Tensor | None) -> Segments:
        """Of tokens at these positions.

        Args:
            positions: (b, t), counted over real tokens.
            length: `segment_length` of the config.
            mask: (b, t), 1 for a real token and 0 for padding.
        """
        b, t = positions.shape
        prompt = state.prompt_lengths[:, None]
        device = positions.device
        first = torch.zeros(b, dtype=torch.int64, device=device) if mask is None else mask.argmax(1)  # real column
        begin = positions.gather(1, first[:, None])  # (b, 1) its position

        def segment(at: Tensor) -> Tensor:
            inside = (at - prompt).clamp(min=0)
            return torch.where(at < prompt, 0, 1 + (inside // length if length else torch.zeros_like(inside)))

        token = segment(torch.maximum(positions, begin))
        base = segment(begin)  # (b, 1)
        g = 1 if t == 1 else 2 + (t // length + 1 if length else 0)
        ids = base + torch.arange(g, device=device)
        start = torch.where(ids == 0, 0, prompt + (ids - 1) * length)
        columns = (first[:, None] + start - begin).clamp(max=t - 1)
        final = length == 0 and bool((positions[:, -1:] >= prompt - 1).all())
        creativity = state.creativity[:, None] * (ids > 0)
        unit = _is_unit(creativity)
        return cls(ids, token - base, columns, start == 0, creativity, positions, mask, final, unit)

    def to_tokens(self, x: Tensor) -> Tensor:
        """(b, g, ...) values of segments -> (b, t, ...) of tokens."""
        if self.by_token:
            return x
        index = self.of_token.view(*self.of_token.shape, *(1,) * (x.ndim - 2))
        return x.gather(1, index.expand(*self.of_token.shape, *x.shape[2:]))

    def scale_creativity(self, factor: float) -> Segments:
        """With the creativity of all rows multiplied: a layer's own."""
        creativity = self.creativity * factor
        return dataclasses.replace(self, creativity=creativity, unit_creativity=_is_unit(creativity))

    def split_tokens(self) -> Segments:
        """The same with values for each token instead of each segment."""
        return dataclasses.replace(self, creativity=self.to_tokens(self.creativity), by_token=True)

    def token_share(self) -> Tensor:
        """(b, g): each segment's share of all real tokens."""
        if self.by_token:
            real = torch.ones_like(self.creativity) if self.mask is None else self.mask
            return real / real.sum().clamp(min=1)
        one = torch.ones_like(self.of_token, dtype=torch.float32) if self.mask is None else self.mask
        count = torch.zeros(self.ids.shape, device=one.device).scatter_add_(1, self.of_token, one)
        return count / count.sum().clamp(min=1)


def _is_unit(creativity: Tensor) -> bool:
    return bool(((creativity == 0) | (creativity == 1)).all())


# --- the engine's rows ---


class BranchRowState:
    """The engine's `RowState` for rows that go through branches: see there when its methods are called."""

    is_lora = False

    def __init__(self, seeds: Sequence[int], creativity: Sequence[float], device: torch.device, tail: int = 0) -> None:
        self.unshared_suffix = tail if any(c > 0 for c in creativity) else 0
        self.state = BranchState.create(seeds, torch.tensor(creativity), 0, device, use_cache=True)
        self._request_rows = list(range(len(self.state.seeds)))  # the request's row at each position
        self._routes: dict[int, dict[str, list[list[Any]]]] = {}  # by row of the request
        self._prefilled: list[BranchState] = []  # in the order of their rows

    def row_lora(self) -> RowLora | None:
        return None

    def reorder(self, order: Sequence[int]) -> None:
        self.state = self.state.select(order)
        self._request_rows = [self._request_rows[i] for i in order]

    @contextmanager
    def prefilling(self, rows: slice, read: Read) -> Iterator[None]:
        mine = self.state.select(range(rows.start, rows.stop))
        if read == "each":
            with activate(mine):
                yield
        else:
            reader = BranchState.create([0], 0.0, ALL_PROMPT, self.state.seeds.device, use_cache=True)
            with activate(reader):
                yield
            for index, cache in reader.select([0] * len(mine.seeds)).layers.items():
                mine.layers.setdefault(index, {}).update(cache)
            mine.prompt_lengths += reader.layers[0]["length"][0] if reader.layers else 0
        self._prefilled.append(mine)
        if sum(len(part.seeds) for part in self._prefilled) == len(self.state.seeds):
            self.state, self._prefilled = concatenate(self._prefilled), []

    @contextmanager
    def stepping(self, rows: slice) -> Iterator[None]:
        if rows == slice(0, len(self.state.seeds)):
            with activate(self.state):
                yield
            self._record_routes(self.state, rows.start)
            return
        places = (range(rows.start), range(rows.start, rows.stop), range(rows.stop, len(self.state.seeds)))
        before, mine, after = (self.state.select(place) for place in places)
        with activate(mine):
            yield
        self._record_routes(mine, rows.start)
        self.state = concatenate([part for part in (before, mine, after) if len(part.seeds)])

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Every row is deterministic and nothing is kept."""
        with activate(BranchState.create([0], 0.0, ALL_PROMPT, self.state.seeds.device)):
            yield

    def routes(self, count: int) -> list[dict[str, list[list[Any]]]]:
        """Of each of the request's `count` rows: `branches`, those it went through at each layer, as far as they were
        final when it left."""
        return [self._routes.get(i, {}) for i in range(count)]

    def _record_routes(self, state: BranchState, start: int) -> None:
        """Note the routes of rows from position `start` on, once, when they are final."""
        if start < len(self._request_rows) and self._request_rows[start] in self._routes:
            return
        final = [cache for _, cache in sorted(state.layers.items()) if "branch" in cache]
        for i in range(len(state.seeds) if final else 0):
            branches = [cache["branch"][i, 0][cache["log_weight"][i, 0] > -torch.inf].tolist() for cache in final]
            self._routes[self._request_rows[start + i]] = {"branches": branches}
