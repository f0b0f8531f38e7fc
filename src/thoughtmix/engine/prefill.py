"""Chunked prefill: read the prompts of a job in pieces, so that rows that run already wait for a bounded number of
tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import KVPath, Piece
from thoughtmix.engine.prefix_cache import Prefix, PrefixCache
from thoughtmix.engine.prompt_kv import PromptKV


class Pace:
    """How many prompt tokens may be read at once, so that who decodes beside them waits about a fixed time.

    A chunk of a fixed number of tokens takes longer the more keys it looks back at and the slower the machine; what the
    last chunks took says how many tokens fit into the time. On a quick device the limit in tokens is what holds.

    Args:
        seconds: What a chunk may take.
        least: Tokens below which a chunk is not cut: reading the weights is what it costs then.
    """

    def __init__(self, seconds: float, least: int = 16) -> None:
        self.seconds, self.least = seconds, least
        self._rate: float | None = None  # tokens a second, of late

    def at_most(self, tokens: int, seconds: float = 0.0) -> int:
        """So many of these tokens as the time allows; all of them before anything is known.

        Args:
            tokens: Most of all.
            seconds: That a chunk may take where that is more: as long as a step, the rows wait half of their time.
        """
        if self._rate is None:
            return tokens
        return int(min(tokens, max(self.least, self._rate * max(self.seconds, seconds))))

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from a chunk. Short ends of prompts say little about a whole chunk, and count for nothing."""
        if tokens < self.least or seconds <= 0:
            return
        rate = tokens / seconds
        self._rate = rate if self._rate is None else (self._rate + rate) / 2


class ChunkedPrefill:
    """Prompts on their way into keys and values. cache: how others began."""

    def __init__(self, path: KVPath, prompts: Sequence[Sequence[int]], cache: PrefixCache | None = None) -> None:
        self.path, self.prompts, self.cache = path, [list(p) for p in prompts], cache or PrefixCache()
        self._read: list[PromptKV | None] = [None] * len(prompts)  # what is read of each
        self._known: list[int] = []  # tokens of each that the cache knew at the beginning
        self.logits: list[Tensor | None] = [None] * len(prompts)  # (vocabulary,) after those that are read whole
        self.computed = 0  # tokens that went through the model

    @property
    def done(self) -> bool:
        return all(logits is not None for logits in self.logits)

    @property
    def left(self) -> int:
        """Tokens that have not been read, and that nobody else had read when it was asked first."""
        if not self._known:
            self._known = [self._find(ids)[0] for ids in self.prompts]
        read = [known if kv is None else kv.length for known, kv in zip(self._known, self._read, strict=True)]
        return sum(map(len, self.prompts)) - sum(read)

    def _find(self, ids: list[int]) -> tuple[int, Prefix | None, Tensor | None]:
        """Of a prompt what others have read: how many tokens, as a prefix; and the logits after it, if it is all."""
        if not self.path.reuses:
            return 0, None, None
        if (same := self.cache.logits_after(ids, self.path.home)) is not None:
            return len(ids), *same
        known = self.cache.longest(ids, self.path.home)
        return (0 if known is None else known.length), known, None

    @property
    def read(self) -> list[PromptKV]:
        """Keys and values of the prompts, as far as they are read."""
        return [kv for kv in self._read if kv is not None]

    def advance(self, tokens: int) -> int:
        """Read up to so many tokens more; how many were read."""
        return advance([self], tokens)

    def pieces(self, tokens: int) -> Iterator[tuple[int, Piece]]:
        """What comes next of its prompts, together up to so many tokens: (number of the prompt, piece)."""
        for number, ids in enumerate(self.prompts):
            if tokens <= 0:
                return
            part = self._read[number]
            if part is None:
                _, known, self.logits[number] = self._find(ids)
                part = self._read[number] = None if known is None else known.prompt()
            if self.logits[number] is not None:
                continue
            at = 0 if part is None else part.length
            piece = ids[at : at + tokens]
            tokens -= len(piece)
            yield number, Piece(piece, part, len(ids))

    def took(self, number: int, piece: Piece, logits: Tensor, read: PromptKV) -> None:
        """A piece was read: the logits after it, and keys and values up to its end."""
        ids = self.prompts[number]
        self._read[number] = read
        self.computed += len(piece.ids)
        if read.length == len(ids):
            self.logits[number] = logits
            if self.path.reuses:
                self.cache.keep(ids, read, self.path.home, logits)

    def by_row(self, counts: Sequence[int]) -> Tensor:
        """The logits (rows, vocabulary) of each row's first token, of so many rows a prompt."""
        logits = torch.stack([each for each in self.logits if each is not None])
        return logits.repeat_interleave(torch.tensor(list(counts), device=logits.device), 0)


@torch.no_grad()
def advance(prefills: Sequence[ChunkedPrefill], tokens: int) -> int:
    """Read on in all of them, the first ones first, together up to so many tokens; how many were read.

    Where paths read over the same weights, pieces of all prompts go through the model at once (packed prefill): short
    prompts cost little more than reading the weights once. A prompt that was never begun may begin with what another
    has just read, so while nothing is known of a cache, the first prompt is read alone.
    """
    left = tokens
    while left > 0:
        work: list[tuple[ChunkedPrefill, int, Piece]] = []
        together = 0
        for prefill in prefills:
            if work and prefill.path.home is not work[0][0].path.home:
                break
            for number, piece in prefill.pieces(left - together):
                work.append((prefill, number, piece))
                together += len(piece.ids)
                if prefill.path.reuses and not prefill.cache.known(prefill.path.home):
                    break
            else:
                continue
            break
        if not work:
            break
        made = work[0][0].path.prefill_packed([piece for *_, piece in work])
        for (prefill, number, piece), (logits, read) in zip(work, made, strict=True):
            prefill.took(number, piece, logits, read)
        left -= together
    return tokens - left
