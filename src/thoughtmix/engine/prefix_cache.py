"""The prefix cache: keys and values of texts' beginnings that were read already, and outlive the batch that did.

A `Prefix` is the beginning of a text. Some are held by callers: a row that ended can hand one out, and a later batch
can begin rows from it, so that a tree of texts is a tree of prefixes. The latest prompts are held by a `PrefixCache`,
for others that begin alike: a chat template's system prompt, the same for everybody, is read once.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.prompt_kv import PromptKV


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Prefix:
    """The first `length` tokens of a text, as one segment after its parent's.

    Immutable, and valid however the batch that made it went on. Its tensors live as long as it or a child of it does.
    Keys and values are the work of one set of weights on one path (`home`): elsewhere, and once the weights are packed
    anew, it counts as unread and the text is read again. Shared-path models whose weights are changed in place are not
    noticed: drop their prefixes.
    """

    own: tuple[int, ...]
    """Token ids of this segment."""
    keys: tuple[Tensor, ...] | None = field(default=None, repr=False)
    """A layer (h, t, d) of `own`; None: this path keeps none (`expanded`), and a batch that begins here reads it
    again."""
    values: tuple[Tensor, ...] | None = field(default=None, repr=False)
    parent: Prefix | None = field(default=None, repr=False)
    home: ref[Any] | None = field(default=None, repr=False)
    before: int = 0
    """Tokens in front of this segment."""

    @property
    def length(self) -> int:
        return self.before + len(self.own)

    def chain(self) -> Iterator[Prefix]:
        """This segment, its parent, and so on to the first."""
        at: Prefix | None = self
        while at is not None:
            yield at
            at = at.parent

    def ids(self) -> list[int]:
        """All tokens, from the first on."""
        return [token for part in reversed(list(self.chain())) for token in part.own]

    @property
    def nbytes(self) -> int:
        """Bytes of this segment alone."""
        return sum(x.numel() * x.element_size() for some in (self.keys, self.values) for x in some or ())

    def prompt(self) -> PromptKV:
        """Keys and values of all its tokens; nothing is copied."""
        parts = [(list(part.keys), list(part.values)) for part in self.chain() if part.keys and part.values]
        return PromptKV(*parts[0], self.length, behind=parts[:0:-1], lasting=True)

    def cut(self, length: int) -> Prefix:
        """Its first `length` tokens: an ancestor, or a view of one."""
        part = next(p for p in self.chain() if p.before < length)
        if part.length == length:
            return part
        t = length - part.before
        keys, values = (None if some is None else tuple(x[:, :t] for x in some) for some in (part.keys, part.values))
        return Prefix(part.own[:t], keys, values, part.parent, part.home, part.before)

    def extended(self, ids: Sequence[int], keys: Sequence[Tensor], values: Sequence[Tensor]) -> Prefix:
        """What follows it in a text: `ids`, with keys and values a layer (h, t, d)."""
        return Prefix(tuple(ids), tuple(keys), tuple(values), self, self.home, self.length)


def usable(known: Prefix | None, home: Any) -> Prefix | None:
    """The prefix, if its keys and values are of these weights."""
    if known is None or not known.length or known.keys is None or known.home is None:
        return None
    return known if known.home() is home else None


def whole(ids: Sequence[int], read: PromptKV, home: Any) -> Prefix:
    """A text that was read, as one segment; nothing is copied."""
    return Prefix(tuple(ids), tuple(read.keys), tuple(read.values), None, ref(home))


@dataclass(slots=True)
class _Kept:
    """A prompt that was read. logits: (vocabulary,) after all of it; None where nobody has said."""

    prefix: Prefix
    logits: Tensor | None


class PrefixCache:
    """The beginnings of the prompts that were read last, for others that begin alike.

    What several have in common is kept once, in segments of its own, whichever of them is forgotten: a radix tree. Of a
    prompt that comes again the logits are known, too, and nothing at all is read. Forgotten is who was of no use for
    longest.

    Args:
        most: Tokens that are kept; logits count as the tokens whose keys and values would take their room.
    """

    least = 8
    """Tokens below which sharing is not worth it."""
    prompts = 256
    """Most that are kept, however short."""

    def __init__(self, most: int = 512) -> None:
        self.most = most
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()  # id of the home and the tokens; latest last
        self._sorted: list[tuple[int, ...]] = []  # its keys: who begins alike are neighbours

    def known(self, home: Any) -> bool:
        """Whether there is anything that a prompt could begin with."""
        return any(usable(kept.prefix, home) is not None for kept in self._kept.values())

    @property
    def tokens(self) -> int:
        """That are kept, logits included."""
        segments = {id(part): part for kept in self._kept.values() for part in kept.prefix.chain()}
        each = next((part.nbytes / len(part.own) for part in segments.values() if part.nbytes), 1.0)
        logits = sum(kept.logits.nbytes for kept in self._kept.values() if kept.logits is not None)
        return sum(len(part.own) for part in segments.values()) + math.ceil(logits / each)

    def logits_after(self, ids: Sequence[int], home: Any) -> tuple[Prefix, Tensor] | None:
        """Of a prompt that was read whole: it, and the logits (vocabulary,) after it."""
        key = (id(home), *ids)
        kept = self._kept.get(key)
        if kept is None or kept.logits is None or usable(kept.prefix, home) is None:
            return None
        self._kept.move_to_end(key)
        return kept.prefix, kept.logits

    def longest(self, ids: Sequence[int], home: Any) -> Prefix | None:
        """What is known of a prompt, at most all but its last token."""
        found, same = self._nearest((id(home), *ids[:-1]), home)
        if found is None or same < self.least:
            return None
        self._kept.move_to_end(found)
        return self._kept[found].prefix.cut(same)

    def keep(self, ids: Sequence[int], read: PromptKV, home: Any, logits: Tensor | None = None) -> None:
        """A prompt that was read, and the logits after it."""
        ids, logits = ids[: self.most], logits if len(ids) <= self.most else None
        key = (id(home), *ids)
        if key not in self._kept or usable(self._kept[key].prefix, home) is None:
            self._add(key, read, home)
        kept = self._kept[key]
        kept.logits = kept.logits if logits is None else logits.clone()  # it may be a row of many
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (len(self._kept) > self.prompts or self.tokens > self.most):
            self._forget(next(iter(self._kept)))
        if self.tokens > self.most:  # one, whose logits are too much
            kept.logits = None

    def _add(self, key: tuple[int, ...], read: PromptKV, home: Any) -> None:
        homes = {other: kept.prefix.home for other, kept in self._kept.items()}
        for other in [other for other, its in homes.items() if its is None or its() is None]:
            self._forget(other)  # of weights that are gone; a key of theirs may be this one
        ids = key[1:]
        found, same = self._nearest(key, home)
        if found is None or same < self.least:
            kept = whole(ids, read if read.length == len(ids) else _part(read, 0, len(ids)), home)
        else:
            base = self._segment_until(self._kept[found].prefix, same)
            rest = _part(read, same, len(ids))
            kept = base.extended(ids[same:], rest.keys, rest.values) if rest.length else base
        self._kept[key] = _Kept(kept, None)
        insort(self._sorted, key)

    def _forget(self, key: tuple[int, ...]) -> None:
        del self._kept[key]
        del self._sorted[bisect_left(self._sorted, key)]

    def _nearest(self, key: tuple[int, ...], home: Any) -> tuple[tuple[int, ...] | None, int]:
        """Who has the longest beginning in common with this key, and how many tokens that is."""
        at = bisect_left(self._sorted, key)
        found, most = None, 0
        for other in self._sorted[max(0, at - 1) : at + 1]:
            same = next(
                (i for i, (a, b) in enumerate(zip(key, other, strict=False)) if a != b), min(len(key), len(other))
            )
            if same - 1 > most and usable(self._kept[other].prefix, home) is not None:
                found, most = other, same - 1
        return found, most

    def _segment_until(self, prefix: Prefix, length: int) -> Prefix:
        """An ancestor of the prefix, or itself, that ends here: a segment is parted, for all who go on from it, if none
        does."""
        part = next(p for p in prefix.chain() if p.before < length)
        if part.length == length:
            return part
        t = length - part.before
        first = Prefix(
            part.own[:t], _cut(part.keys, 0, t), _cut(part.values, 0, t), part.parent, part.home, part.before
        )
        new = {part: first.extended(part.own[t:], _cut(part.keys, t) or (), _cut(part.values, t) or ())}

        def moved(old: Prefix) -> Prefix:
            if old not in new:
                parent = None if old.parent is None else moved(old.parent)
                new[old] = old if parent is old.parent else replace(old, parent=parent)
            return new[old]

        for kept in self._kept.values():
            kept.prefix = moved(kept.prefix)
        return first


def _cut(some: tuple[Tensor, ...] | None, start: int, end: int | None = None) -> tuple[Tensor, ...] | None:
    """Copies of keys or values (h, t, d) a layer, from one token to another: a view would hold all of them."""
    return None if some is None else tuple(x[:, start:end].clone() for x in some)


def _part(read: PromptKV, start: int, end: int) -> PromptKV:
    return PromptKV(*read.copied(start, end), end - start)


def check_prefixes(known: Sequence[Prefix | None], prompts: Sequence[Sequence[int]]) -> None:
    """Raises `InputError` where a prefix is not the beginning of its prompt, or leaves nothing to compute."""
    for index, (prefix, ids) in enumerate(zip(known, prompts, strict=True)):
        if prefix is None:
            continue
        if prefix.length >= len(ids) or prefix.ids() != list(ids[: prefix.length]):
            raise InputError(
                f"The known prefix is not the beginning of prompt {index}, or is all of it.",
                "Pass the prefix's own text and at least one more token.",
            )
    if any(prefix is not None for prefix in known) and any(len(ids) < 2 for ids in prompts):
        raise InputError("A prompt of one token beside known prefixes.", "Decode it in a call of its own.")
