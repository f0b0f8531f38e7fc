"""The prefix cache: keys and values of texts' beginnings that were read already, and outlive the batch that did.

A `Prefix` is the beginning of a text. Some are held by callers: a row that ended can hand one out, and a later batch
can begin rows from it, so that a tree of texts is a tree of prefixes. The latest prompts are held by a `PrefixCache`,
for others that begin alike: a chat template's system prompt, the same for everybody, is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.kv_cache import PromptKV


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
        """Keys and values of all its tokens. One segment is not copied, several are joined: small copies beside reading
        again."""
        parts = [part for part in list(self.chain())[::-1] if part.keys and part.values]
        if len(parts) == 1:
            return PromptKV(list(parts[0].keys or ()), list(parts[0].values or ()), self.length)
        keys = [torch.cat(some, 1) for some in zip(*(part.keys or () for part in parts), strict=True)]
        values = [torch.cat(some, 1) for some in zip(*(part.values or () for part in parts), strict=True)]
        return PromptKV(keys, values, self.length)

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


class PrefixCache:
    """The beginning of the prompt that was read last, for the next that begins alike.

    most: tokens of it that are kept. least: tokens below which sharing is not worth it.
    """

    most, least = 512, 8

    def __init__(self) -> None:
        self._last: Prefix | None = None

    def known(self, home: Any) -> bool:
        """Whether there is anything that a prompt could begin with."""
        return usable(self._last, home) is not None

    def longest(self, ids: Sequence[int], home: Any) -> Prefix | None:
        """What is known of a prompt, at most all but its last token."""
        last = usable(self._last, home)
        if last is None:
            return None
        same = 0
        for a, b in zip(ids[:-1], last.own, strict=False):
            if a != b:
                break
            same += 1
        return last.cut(same) if same >= self.least else None

    def keep(self, ids: Sequence[int], read: PromptKV, home: Any) -> None:
        """A prompt that was read."""
        if len(ids) > self.most:  # a copy, so that the rest can go
            keys, values = ([x[:, : self.most].clone() for x in some] for some in (read.keys, read.values))
            read = PromptKV(keys, values, self.most)
        self._last = whole(ids[: self.most], read, home)


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
