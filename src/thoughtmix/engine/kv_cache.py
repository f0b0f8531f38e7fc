"""The batch KV cache: keys and values of many rows that share prompts, in padded buckets.

A *place* is one prompt and the rows that continue it. The prompt's keys and values are stored once for all its rows,
each row's own tokens beside them. Places of like size stand in one *bucket*, so that attention over all of them is a
few batched products; what pads is masked. A batch that nobody joins has buckets of exactly its size, and a lone prompt
is not even copied. Where rows come and go, sizes are rounded up to powers of two, so that an even load is one or two
buckets.

Axis letters: l layers, b rows, h key/value heads, g query heads a key/value head, t prompt tokens, s own tokens, d head
width; p places of a bucket, n rows of a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.engine.kv_bucket import Bucket, Place, attend, double_slots, zeros
from thoughtmix.engine.prompt_kv import PromptKV


class KVCache:
    """Of a running batch.

    Args:
        joined: Whether rows join while others run. False: the first `join` brings all there will be.

    `rows` is their number. A row is named by its index; the rows of a place are neighbours, places stand in the order
    in which they joined. `version` changes when rows come or go.
    """

    def __init__(self, joined: bool = False) -> None:
        self.joined = joined
        self.apart = False  # whether what prompts share with others (`PromptKV.root`) stays where it is
        self.fixed = False  # whether steps keep their shapes: own tokens are looked at up to a power of two
        self.moved = True  # whether memory or shapes of a step are others than of the one before; for `fixed`
        self.places: list[Place] = []
        self.rows = self.version = 0
        self._stale = self._unseated = False  # what `_look` sees; where the rows stand
        self._buckets: dict[tuple[int, int, int], Bucket] = {}
        self._positions: Tensor | None = None

    # --- rows come and go ---

    def join(
        self, prompts: Sequence[PromptKV], counts: Sequence[int], capacity: int, sources: Sequence[Any] | None = None
    ) -> None:
        """Rows at the end, with their prompts read.

        Args:
            prompts: What the new rows continue.
            counts: Rows of each prompt.
            capacity: Most own tokens of a row.
            sources: Kept as `Place.source`.
        """
        some = [i for i, count in enumerate(counts) if count]
        key_of = {i: self._key(prompts[i], counts[i], capacity) for i in some}
        for i in some:
            key = key_of[i]
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = self._new(key, [prompts[j] for j in some if key_of[j] == key])
            place = self._take_slot(bucket, prompts[i], counts[i])
            place.source = None if sources is None else sources[i]
            self.places.append(place)
        self._changed()

    def _key(self, prompt: PromptKV, count: int, capacity: int) -> tuple[int, int, int]:
        tokens = _power(self._held(prompt), 16)
        return (_power(count), tokens, _power(capacity, 16)) if self.joined else (count, tokens, capacity)

    def _held(self, prompt: PromptKV) -> int:
        """Tokens of it that there must be room for."""
        return prompt.length - (prompt.known if self.apart else 0)

    def _new(self, key: tuple[int, int, int], prompts: list[PromptKV]) -> Bucket:
        n, t, s = key
        (like_keys, *others), (like_values, *_) = prompts[0].like
        layers, places = 1 + len(others), len(prompts)
        if self.joined:
            each = layers * like_keys.shape[0] * (t + n * s) * like_keys.shape[2] * like_keys.element_size()
            places = min(max(1, _FIRST_BYTES // each), max(1, 64 // n))
        else:
            t = max(1, *(self._held(prompt) for prompt in prompts))

        def room(like: Tensor) -> tuple[Tensor, Tensor]:
            h, _, d = like.shape
            return zeros((layers, places, n, h, s, d), like), zeros((layers, places, h, t, d), like)

        if not self.joined and places == 1:
            # Memory that no token has reached stays untouched, save where it is looked at, and masked.
            made = Tensor.new_zeros if self.fixed else Tensor.new_empty
            h, _, d = like_keys.shape
            own_keys = made(like_keys, (layers, 1, n, h, s, d))
            h, _, d = like_values.shape
            own_values = made(like_values, (layers, 1, n, h, s, d))
            keys, values = prompts[0].rest() if self.apart else (prompts[0].keys, prompts[0].values)
            return Bucket(own_keys, own_values, keys, values)
        own_keys, prompt_keys = room(like_keys)
        own_values, prompt_values = room(like_values)
        return Bucket(own_keys, own_values, prompt_keys, prompt_values)

    def _take_slot(self, bucket: Bucket, prompt: PromptKV, count: int) -> Place:
        """A free slot of the bucket, with this prompt in it."""
        slot = next((i for i, place in enumerate(bucket.places) if place is None), len(bucket.places))
        if slot == len(bucket.places):
            bucket.places.append(None)
            if slot == bucket.own_keys.shape[1]:
                double_slots(bucket)
        place = bucket.places[slot] = Place(bucket, slot, prompt.length, count, np.zeros(count, np.int64))
        place.root = prompt.root if self.apart else None
        if isinstance(bucket.prompt_keys, Tensor) and isinstance(bucket.prompt_values, Tensor):
            prompt.copy_to(bucket.prompt_keys[:, slot], bucket.prompt_values[:, slot], without_root=self.apart)
        return place

    def drop(self, gone: Sequence[int]) -> list[int]:
        """Remove rows: the last row of a place moves into the gap. Returns the old index of every remaining row, in the
        new order."""
        leaving, order, start = set(gone), [], 0
        for place in self.places:
            olds = list(range(start, start + place.rows))
            start += place.rows
            for number in reversed(range(place.rows)):
                if olds[number] in leaving:
                    self._close_gap(place, number)
                    olds[number] = olds[-1]
                    olds.pop()
            order += olds
        for place in self.places:
            if not place.rows:
                place.bucket.places[place.slot] = None
        self.places = [place for place in self.places if place.rows]
        for key, bucket in list(self._buckets.items()):
            while bucket.places and bucket.places[-1] is None:
                bucket.places.pop()
            if not bucket.places:
                del self._buckets[key]
        self._changed()
        return order

    @staticmethod
    def _close_gap(place: Place, number: int) -> None:
        last = place.rows - 1
        if number != last:
            tokens = int(place.own[last])
            for own in (place.bucket.own_keys, place.bucket.own_values):
                own[:, place.slot, number, :, :tokens] = own[:, place.slot, last, :, :tokens]
            place.own[number] = place.own[last]
        place.rows = last
        place.own = place.own[:last]

    def row(self, index: int) -> tuple[Place, int]:
        """A row's place, and its number there."""
        for place in self.places:
            if index < place.rows:
                return place, index
            index -= place.rows
        raise IndexError(index)

    def own(self, index: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values (l, h, s, d) of a row's own tokens."""
        place, number = self.row(index)
        tokens, bucket = int(place.own[number]), place.bucket
        return (
            bucket.own_keys[:, place.slot, number, :, :tokens].clone(),
            bucket.own_values[:, place.slot, number, :, :tokens].clone(),
        )

    def clear(self) -> None:
        """Let go of everything now: places and buckets hold each other, and would wait for the garbage collector."""
        for bucket in self._buckets.values():
            bucket.places.clear()
        self.places, self._buckets, self.rows = [], {}, 0

    # --- a step ---

    def _changed(self) -> None:
        """Rows came or went. Where they stand is found out when somebody asks: many may come at once, and a path may
        keep account itself."""
        self.version += 1
        self.rows = sum(place.rows for place in self.places)
        self._positions = None
        self._stale = self._unseated = True
        if self.fixed:
            self._look()

    def _seat_all(self) -> None:
        self._unseated, first = False, 0
        device = self.places[0].bucket.own_keys.device if self.places else torch.device("cpu")
        members: dict[int, list[tuple[int, Place]]] = {id(bucket): [] for bucket in self._buckets.values()}
        for place in self.places:
            members[id(place.bucket)].append((first, place))
            first += place.rows
        for bucket in self._buckets.values():
            self._seat(bucket, members[id(bucket)], device)

    def _seat(self, bucket: Bucket, members: list[tuple[int, Place]], device: torch.device) -> None:
        """Which rows of the batch stand in a bucket, and where."""
        p = len(bucket.places)
        n = members[0][1].rows if p == 1 else bucket.own_keys.shape[2]  # of a lone place the rows that are left
        bucket.lengths, bucket.prompts = np.zeros((p, n), np.int64), np.zeros(p, np.int64)
        rows, slots = list[int](), list[int]()
        for start, place in members:
            bucket.lengths[place.slot, : place.rows] = place.own
            bucket.prompts[place.slot] = place.length
            rows += range(start, start + place.rows)
            slots += range(place.slot * n, place.slot * n + place.rows)
        t = int(bucket.prompts.max())
        bucket.shape = (p, n, t, 0)
        if isinstance(bucket.prompt_keys, Tensor) and isinstance(bucket.prompt_values, Tensor):
            prompt_keys = bucket.prompt_keys[:, :p, :, :t].flatten(1, 2).mT.unbind(0)
            prompt_values = bucket.prompt_values[:, :p, :, :t].flatten(1, 2).unbind(0)
            bucket.prompt = list(zip(prompt_keys, prompt_values, strict=True))
        else:
            bucket.prompt = [(k.mT, v) for k, v in zip(bucket.prompt_keys, bucket.prompt_values, strict=True)]
        bucket.full = slots == list(range(p * n))
        plain = bucket.full and rows == list(range(self.rows))
        bucket.rows = None if plain else torch.tensor(rows, device=device)
        bucket.slots = torch.tensor(slots, device=device)
        own = np.concatenate([place.own for _, place in members])
        bucket.seen = None
        if self.fixed:
            bucket.seen = (torch.tensor(bucket.prompts, device=device), torch.tensor(bucket.lengths, device=device))
            self.moved = True
        bucket.even = (
            not self.fixed and bool((own == own[0]).all()) and len({place.length for _, place in members}) == 1
        )
        h, s = bucket.own_keys.shape[3:5]
        places, numbers = np.divmod(np.array(slots), n)
        base = (places * bucket.own_keys.shape[2] + numbers)[:, None] * h + np.arange(h)
        bucket.write = torch.from_numpy((base * s + own[:, None]).flatten()).to(device)

    def _look(self) -> None:
        """Where this step's keys go and what its rows see; found out when somebody asks."""
        if not self._stale:
            return
        self._stale = False
        if self._unseated:
            self._seat_all()
        for bucket in self._buckets.values():
            p, n, t, _ = bucket.shape
            s = int(bucket.lengths.max()) + 1
            if self.fixed:
                s = min(_power(s, 32), bucket.own_keys.shape[4])
                if s == bucket.shape[3]:
                    continue
                self.moved = True
            bucket.shape = (p, n, t, s)
            bucket.masks = {}
            keys, values = bucket.own_keys[:, :p, :n], bucket.own_values[:, :p, :n]
            if s <= keys.shape[4] and bucket.even and bucket.full:
                at = s - 1
                newest = (x[..., at, :].flatten(1, 2).unbind(0) for x in (keys, values))
                bucket.newest = list(zip(*newest, strict=True))
            keys, values = (x[..., :s, :].flatten(1, 3) for x in (keys, values))
            bucket.own = list(zip(keys.mT.unbind(0), values.unbind(0), strict=True))

    def unmask(self) -> None:
        """Forget what the last step's rows saw: this step finds it out again."""
        for bucket in self._buckets.values():
            bucket.masks = {}

    def positions(self) -> Tensor:
        """(b,) the position of the token that each row reads next."""
        if self._positions is None:
            starts = np.concatenate([np.zeros(0, np.int64), *(place.length + place.own for place in self.places)])
            device = self.places[0].bucket.own_keys.device if self.places else torch.device("cpu")
            self._positions = torch.from_numpy(starts).to(device)
        return self._positions

    @property
    def longest(self) -> int:
        """Tokens that the row with most of them has read."""
        return int(self.positions().max())

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put the newest token's keys and values (b, h, d) behind the others. `advance` once all layers did."""
        self._look()
        for bucket in self._buckets.values():
            k, v = (x if bucket.rows is None else x[bucket.rows] for x in (keys, values))
            if bucket.even and bucket.full:
                newest_keys, newest_values = bucket.newest[layer]
                newest_keys.copy_(k)
                newest_values.copy_(v)
            else:
                assert bucket.write is not None
                for own, x in ((bucket.own_keys, k), (bucket.own_values, v)):
                    own[layer].view(-1, x.shape[-1]).index_copy_(0, bucket.write, x.reshape(-1, x.shape[-1]))

    def begin(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (b, h, t, d) of tokens that each row of a lone, empty prompt read for itself before all
        others. `begun` once all layers did."""
        bucket, t = self.places[0].bucket, keys.shape[2]
        bucket.own_keys[layer, 0, :, :, :t].copy_(keys)
        bucket.own_values[layer, 0, :, :, :t].copy_(values)

    def begun(self, tokens: int) -> None:
        self._count(tokens)

    def read_on(self, tokens: Sequence[int]) -> None:
        """The newest tokens, so many a row of each place, are stored in all layers."""
        for place, count in zip(self.places, tokens, strict=True):
            place.own += count
        self._changed()

    def advance(self) -> None:
        """The newest token is stored in all layers."""
        self._count(1)

    def _count(self, tokens: int) -> None:
        for place in self.places:
            place.own += tokens
        if self._positions is not None:
            self._positions += tokens
        self._stale = True
        if self._unseated:
            return
        for bucket in self._buckets.values():
            bucket.lengths += tokens
            if bucket.seen is not None:
                bucket.seen[1].add_(tokens)
            if bucket.write is not None:
                bucket.write += tokens
        if self.fixed:
            self._look()

    def attend(self, layer: int, query: Tensor, window: int | None = None, softcap: float | None = None) -> Tensor:
        """Attention of each row's newest token, already stored, over [its prompt | its own tokens]: one softmax.

        Args:
            query: (b, h, g, d), already scaled.
            window: How many newest positions are visible (sliding attention).
            softcap: Gemma 2's c tanh(x / c).

        Returns:
            (b, h, g, d)
        """
        self._look()
        out: Tensor | None = None
        for bucket in self._buckets.values():
            if bucket.rows is None:
                return attend(bucket, layer, query, window, softcap)
            p, n, _, _ = bucket.shape
            assert bucket.slots is not None
            padded = query.new_zeros((p * n, *query.shape[1:]))
            padded.index_copy_(0, bucket.slots, query[bucket.rows])
            mixed = attend(bucket, layer, padded, window, softcap)
            if out is None:
                out = mixed.new_empty((len(query), *mixed.shape[1:]))
            out.index_copy_(0, bucket.rows, mixed[bucket.slots])
        assert out is not None, "a batch has rows"
        return out


_FIRST_BYTES = 1 << 28
"""Of keys that a new bucket has room for where rows join; it grows as it must."""


def _power(count: int, least: int = 1) -> int:
    """The next power of two."""
    return max(least, 1 << max(count - 1, 0).bit_length())
