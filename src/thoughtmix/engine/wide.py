"""Attention of many joined decodes in few products: rows of like shape stand in banks, padded a little and masked.

Cohort by cohort (cohorts.py) a step costs some twenty small operations a layer and decode. Here they cost so many a
*bank*: places of equal size (n rows, t prompt tokens and s own tokens, each rounded up to a power of two), so that
under an even load all rows are one or two banks. A row still attends over its own prompt and tokens alone: what pads is
masked.

Axis letters as in prefix.py, and p places of a bank, n rows of a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoughtmix.engine.kv_cache import Prompt, SharedPrefix

_NONE = np.zeros(0, np.int64)


@dataclass(slots=True)
class _Row:
    bank: _Bank
    place: int
    number: int  # within its place


@dataclass(slots=True)
class _Place:
    length: int  # tokens of its prompt
    rows: int  # that are left


@dataclass(slots=True, eq=False)
class _Bank:
    """keys, values: prompts' (l, p, h, t, d), and rows' own (l, p, h, n, s, d)."""

    n: int
    t: int
    s: int
    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor
    places: list[_Place | None] = field(default_factory=list)
    # of the coming step:
    mine: NDArray[np.int64] = field(default_factory=lambda: _NONE)  # which of the batch's rows stand here
    at: tuple[NDArray[np.int64], NDArray[np.int64]] = field(default_factory=lambda: (_NONE, _NONE))  # place, number
    rows: Tensor | None = None  # `mine`; None: all, in the order of their slots
    slots: Tensor | None = None  # where: place * n + number
    write: Tensor | None = None  # (rows h,) where each row's newest key goes, in `keys` of a layer seen as (..., d)
    mask: Tensor | None = None  # (p, 1, n, 1, t + s): 0, or -inf where a row may not look
    seen: tuple[int, int] = (0, 0)  # the longest prompt, the most own tokens with the coming one


class Wide(SharedPrefix):
    """A `SharedPrefix` to whoever stores and attends (without windows or soft caps); its rows are those that joined, in
    their order."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._lengths = np.zeros(0, np.int64)  # own tokens stored, by row
        self._banks: dict[tuple[int, int, int], _Bank] = {}
        self.rows = 0
        self._device = torch.device("cpu")

    # --- who is here ---

    def join(self, part: SharedPrefix) -> None:
        """Rows at the end, with their prompts read and no token of their own yet."""
        capacity = part._keys.shape[3]
        for prompt in part.prompts:
            if prompt.rows:
                bank, place = self._place(prompt, capacity)
                self._rows += [_Row(bank, place, i) for i in range(prompt.rows)]
                self._lengths = np.append(self._lengths, np.zeros(prompt.rows, np.int64))
        self._changed()

    def drop(self, gone: list[int]) -> list[int]:
        leaving = set(gone)
        for number in leaving:
            row = self._rows[number]
            place = row.bank.places[row.place]
            assert place is not None
            place.rows -= 1
            if not place.rows:
                row.bank.places[row.place] = None
        order = [i for i in range(len(self._rows)) if i not in leaving]
        self._rows, self._lengths = [self._rows[i] for i in order], self._lengths[order]
        for key, bank in list(self._banks.items()):
            while bank.places and bank.places[-1] is None:
                bank.places.pop()
            if not bank.places:
                del self._banks[key]
        self._changed()
        return order

    def _place(self, prompt: Prompt, capacity: int) -> tuple[_Bank, int]:
        """A free place with this prompt in it."""
        like = prompt.keys[0]
        self._device = like.device
        key = (_power(prompt.rows), _power(prompt.length, 16), _power(capacity, 16))
        bank = self._banks.get(key)
        if bank is None:
            bank = self._banks[key] = _bank(*key, len(prompt.keys), like)
        free = next((i for i, place in enumerate(bank.places) if place is None), len(bank.places))
        if free == len(bank.places):
            bank.places.append(None)
            if free == bank.keys.shape[1]:
                _grow(bank)
        bank.places[free] = _Place(prompt.length, prompt.rows)
        t = prompt.length
        for layer, (k, v) in enumerate(zip(prompt.keys, prompt.values, strict=True)):
            bank.prompt_keys[layer, free, :, :t] = k
            bank.prompt_values[layer, free, :, :t] = v
        return bank, free

    # --- a step ---

    def _changed(self) -> None:
        """Rows came or went: where they stand."""
        self.rows = len(self._rows)
        for bank in self._banks.values():
            bank.mine = np.array([i for i, row in enumerate(self._rows) if row.bank is bank], dtype=np.int64)
            places, numbers = zip(*((self._rows[i].place, self._rows[i].number) for i in bank.mine), strict=True)
            bank.at = np.array(places), np.array(numbers)
            slots = bank.at[0] * bank.n + bank.at[1]
            plain = len(slots) == self.rows and np.array_equal(slots, np.arange(len(bank.places) * bank.n))
            bank.rows = None if plain else torch.from_numpy(bank.mine).to(self._device)
            bank.slots = torch.from_numpy(slots).to(self._device)
        self._view()

    def _view(self) -> None:
        """Where this step's keys go and what its rows see."""
        device = self._device
        starts = self._lengths.copy()
        for bank in self._banks.values():
            p, h, n = len(bank.places), bank.keys.shape[2], bank.n
            lengths = np.zeros((p, n), dtype=np.int64)
            prompts = np.array([place.length if place else 1 for place in bank.places])
            (places, numbers), own = bank.at, self._lengths[bank.mine]
            lengths[places, numbers] = own
            starts[bank.mine] += prompts[places]
            write = ((places[:, None] * h + np.arange(h)) * n + numbers[:, None]) * bank.s + own[:, None]  # (rows, h)
            t, s = int(prompts.max()), int(lengths.max()) + 1
            bank.seen = (t, s)
            bank.write = torch.from_numpy(write.flatten()).to(device)
            hidden = np.zeros((p, 1, n, 1, t + s), dtype=np.float32)
            hidden[..., :t] += np.where(np.arange(t) < prompts[:, None], 0, -math.inf)[:, None, None, None]
            hidden[..., t:] += np.where(np.arange(s) <= lengths[..., None], 0, -math.inf)[:, None, :, None]
            bank.mask = torch.from_numpy(hidden).to(device=device, dtype=bank.keys.dtype)
        self._positions = torch.from_numpy(starts).to(device)

    def positions(self, device: torch.device) -> Tensor:
        return self._positions

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        d = keys.shape[-1]
        for bank in self._banks.values():
            k, v = (x if bank.rows is None else x[bank.rows] for x in (keys, values))
            assert bank.write is not None
            bank.keys[layer].view(-1, d).index_copy_(0, bank.write, k.reshape(-1, d))
            bank.values[layer].view(-1, d).index_copy_(0, bank.write, v.reshape(-1, d))

    def advance(self) -> None:
        self._lengths += 1
        self._view()

    def attend(self, layer: int, query: Tensor, window: int | None = None, softcap: float | None = None) -> Tensor:
        if len(self._banks) == 1:
            bank = next(iter(self._banks.values()))
            if bank.rows is None:
                return self._attend(bank, layer, query)
        out = torch.empty_like(query)
        for bank in self._banks.values():
            p, n = len(bank.places), bank.n
            wide = query.new_zeros((p * n, *query.shape[1:]))
            mine = query if bank.rows is None else query[bank.rows]
            assert bank.slots is not None
            wide.index_copy_(0, bank.slots, mine)
            mixed = self._attend(bank, layer, wide)[bank.slots]
            if bank.rows is None:
                return mixed
            out.index_copy_(0, bank.rows, mixed)
        return out

    def _attend(self, bank: _Bank, layer: int, query: Tensor) -> Tensor:
        """query: (p n, h, g, d), every slot of the bank; so is the result."""
        p, n, (t, s) = len(bank.places), bank.n, bank.seen
        _, h, g, d = query.shape
        q = query.view(p, n, h, g, d).transpose(1, 2).contiguous()  # (p, h, n, g, d)
        keys, values = (x[layer, :p].view(p * h * n, bank.s, d)[:, :s] for x in (bank.keys, bank.values))
        prompt_keys, prompt_values = (
            x[layer, :p].view(p * h, bank.t, d)[:, :t] for x in (bank.prompt_keys, bank.prompt_values)
        )
        scores = torch.cat(
            [
                torch.bmm(q.view(p * h, n * g, d), prompt_keys.mT).view(p, h, n, g, t),
                torch.bmm(q.view(p * h * n, g, d), keys.mT).view(p, h, n, g, s),
            ],
            -1,
        )
        assert bank.mask is not None
        weight = torch.softmax(scores.add_(bank.mask), -1, dtype=torch.float32).to(query.dtype)
        mixed = torch.bmm(weight.view(p * h, n * g, t + s)[..., :t], prompt_values).view(p, h, n, g, d)
        own = torch.bmm(weight.view(p * h * n, g, t + s)[..., t:], values).view(p, h, n, g, d)
        return mixed.add_(own).transpose(1, 2).reshape(p * n, h, g, d)


_FIRST = 1 << 28
"""Bytes of keys that a new bank has places for; it grows as it must."""


def _power(count: int, least: int = 1) -> int:
    return max(least, 1 << (count - 1).bit_length())


def _bank(n: int, t: int, s: int, layers: int, like: Tensor) -> _Bank:
    h, d = like.shape[0], like.shape[2]
    each = layers * h * (t + n * s) * d * like.element_size()  # bytes of a place's keys
    places = min(max(1, _FIRST // each), max(1, 64 // n))
    prompts, rows = (layers, places, h, t, d), (layers, places, h, n, s, d)
    return _Bank(n, t, s, _zeros(prompts, like), _zeros(prompts, like), _zeros(rows, like), _zeros(rows, like))


def _grow(bank: _Bank) -> None:
    """Twice as many places."""
    for name in ("prompt_keys", "prompt_values", "keys", "values"):
        old: Tensor = getattr(bank, name)
        new = _zeros((old.shape[0], 2 * old.shape[1], *old.shape[2:]), old)
        new[:, : old.shape[1]] = old
        setattr(bank, name, new)


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros: what is masked must be finite. On CPUs without touching the memory before something is written there."""
    kinds: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}
    if like.device.type == "cpu" and like.dtype in kinds:
        return torch.from_numpy(np.zeros(shape, dtype=kinds[like.dtype]))
    return like.new_zeros(shape)
