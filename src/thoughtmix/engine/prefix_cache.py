"""Beginnings of texts that were read already: keys and values that outlive the batch that computed them.

A row that ended can hand out a `Prefix`, a later batch can begin rows from it; only the tokens past it are computed.
A tree of texts is then a tree of prefixes: each holds its own tokens' keys and values, and its parent those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.kv_cache import Prompt

if TYPE_CHECKING:
    from thoughtmix.engine.kv_cache import SharedPrefix


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
    keys: Tensor | None = field(default=None, repr=False)
    """(l, h, t, d) of `own`; None: this path keeps none (`expanded`), and a batch that begins here reads it again."""
    values: Tensor | None = field(default=None, repr=False)
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
        return sum(x.numel() * x.element_size() for x in (self.keys, self.values) if x is not None)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys and values (l, h, length, d) of all its tokens. One segment is not copied, several are joined when a
        batch begins: small copies beside reading again."""
        parts = list(self.chain())[::-1]
        keys, values = ([x for part in parts if (x := getattr(part, name)) is not None] for name in ("keys", "values"))
        k, v = (x[0] if len(x) == 1 else torch.cat(x, 2) for x in (keys, values))
        return k, v

    def cut(self, length: int) -> Prefix:
        """Its first `length` tokens: an ancestor, or a view of one."""
        part = next(p for p in self.chain() if p.before < length)
        if part.length == length:
            return part
        t = length - part.before
        k, v = (None if x is None else x[:, :, :t] for x in (part.keys, part.values))
        return Prefix(part.own[:t], k, v, part.parent, part.home, part.before)


def usable(known: Prefix | None, home: Any) -> Prefix | None:
    """The prefix, if its keys and values are of these weights."""
    mine = known is not None and known.length > 0 and known.keys is not None
    return known if mine and known is not None and known.home is not None and known.home() is home else None


def segment(known: Prefix | None, ids: Sequence[int], keys: list[Tensor], values: list[Tensor], home: Any) -> Prefix:
    """What was read past `known`: keys, values a layer (h, t, d) of the whole text `ids`; the new part is copied."""
    before = known.length if known else 0
    k, v = (torch.stack([x[:, before:] for x in some]) for some in (keys, values))
    return Prefix(tuple(ids[before:]), k, v, known, ref(home), before)


def resumed(
    prompts: Sequence[list[int]],
    known: Sequence[Prefix | None],
    rows: Sequence[int],
    home: Any,
    read: Callable[[int, list[int], Prompt | None], Prompt],
) -> tuple[list[Prompt], dict[int, Prefix], int]:
    """Prompts with what is known of them read no more: each with its rows, each one's prefix, tokens that were read.
    read(index, ids, before): reads `ids` of prompt `index`; what stands before comes first in the result."""
    out, bases, tokens = [], {}, 0
    for index, (ids, n) in enumerate(zip(prompts, rows, strict=True)):
        base = usable(known[index], home)
        base = base.cut(min(base.length, len(ids))) if base else None
        keys, values = base.tensors() if base else (None, None)
        prompt = (
            None if base is None or keys is None or values is None
            else Prompt(list(keys.unbind(0)), list(values.unbind(0)), base.length, n)
        )  # fmt: skip
        new = ids[base.length if base else 0 :]
        if new or base is None or prompt is None:
            prompt = read(index, new, prompt)
            base = segment(base, ids, prompt.keys, prompt.values, home)
        prompt.rows = n
        out.append(prompt)
        bases[index], tokens = base, tokens + len(new)
    return out, bases, tokens


def kept(state: SharedPrefix, bases: dict[int, Prefix], home: Any, row: int, prompt: int, ids: Sequence[int]) -> Prefix:
    """The prefix of what the row at a batch position has read: the first tokens of its text, `ids`.

    bases: of each prompt, made on first use: its rows' prefixes share it."""
    base = bases.get(prompt)
    if base is None:
        shared = state.prompts[prompt]
        base = bases[prompt] = segment(None, ids[: shared.length], shared.keys, shared.values, home)
    if not state.length:
        return base
    keys, values = state.own(row)
    own = tuple(ids[base.length : base.length + keys.shape[2]])
    return Prefix(own, keys, values, base, ref(home), base.length)


def check_known(known: Sequence[Prefix | None], prompts: Sequence[Sequence[int]]) -> None:
    """Raises `InputError` where a prefix is not the beginning of its prompt, or leaves nothing to compute."""
    if len(known) != len(prompts):
        raise InputError(f"{len(known)} prefixes for {len(prompts)} prompts.", "Pass one a prompt, or None.")
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
