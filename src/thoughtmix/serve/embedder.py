"""The embedder of a server: in turns with the decoding steps, a few texts at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.threads import EphemeralThreadExecutor
from thoughtmix.models.embed import CountingEmbedder
from thoughtmix.thinkers.base import MOST_EMBEDDED
from thoughtmix.thinkers.noise import most_tokens

_TOKENS = 256
"""Of a batch: activations of more fall out of a CPU's cache."""
_COUNTED = 16
"""Texts whose tokens are counted in one turn."""


class ExclusiveEmbedder:
    """An embedder that takes turns with the decoding steps (two at once on the same cores are slower than one after the
    other), in threads that end at once: the request may go on to decode, and its own would keep a team (threads.py)."""

    def __init__(self, load: Callable[[], CountingEmbedder] | None, scheduler: Scheduler) -> None:
        self._load, self._scheduler = load, scheduler
        self._loaded: CountingEmbedder | None = None
        self.name = ""  # once it is loaded
        self._lock = threading.Lock()
        self._threads = EphemeralThreadExecutor("thoughtmix-embedder")

    @property
    def loaded(self) -> CountingEmbedder:
        """The embedder itself; the first who asks loads it."""
        with self._lock:
            if self._loaded is None:
                from thoughtmix.models import load_embedder

                self._loaded = (self._load or load_embedder)()
                self.name = self._loaded.name
            return self._loaded

    def encode(self, texts: Sequence[str], batch_size: int = 32, check: Callable[[], None] | None = None) -> Any:
        """See `Embedder.encode`; a turn for each few texts. check: called before each; what it raises ends it."""
        import numpy as np

        embedder, check = self.loaded, check or _nothing
        parts = batches_of(texts, batch_size)

        def encode_parts() -> Any:
            vectors = []
            for part in parts:
                check()
                with self._scheduler.turns, self._scheduler.slices(check):
                    vectors.append(embedder.encode([texts[i] for i in part], batch_size))
            return np.concatenate(vectors)

        out = self._threads.submit(encode_parts).result()
        back = np.argsort([i for part in parts for i in part], kind="stable")
        return out[back]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text; in turns, too: a tokenizer that pads in another thread cannot be used meanwhile."""
        embedder, counts = self.loaded, list[int]()
        for at in range(0, len(texts), _COUNTED):
            with self._scheduler.turns:
                counts += embedder.count_tokens(texts[at : at + _COUNTED])
        return counts


def _nothing() -> None:
    """Nobody minds."""


def batches_of(texts: Sequence[str], most: int, tokens: int = _TOKENS) -> list[list[int]]:
    """Texts by number, like lengths together: up to `most`, and about so many tokens, a batch; one text at least."""
    lengths = [min(most_tokens(text), MOST_EMBEDDED) for text in texts]
    out: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lengths.__getitem__):
        if out and len(out[-1]) < most and (len(out[-1]) + 1) * lengths[i] <= tokens:
            out[-1].append(i)
        else:
            out.append([i])
    return out
