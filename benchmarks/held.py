"""How long work beside the batch holds a turn, in processor time: `OMP_NUM_THREADS=1 python benchmarks/held.py`

Turns are given up where others wait; here somebody always does. The default model, texts of about a sentence's
repetition: scoring, embedding, counting tokens, and a prompt that rows read for themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from thoughtmix.engine import SamplingParams, SequenceRequest
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.metrics.judge import ids_nll
from thoughtmix.models import load_embedder, load_model
from thoughtmix.serve.embedder import ExclusiveEmbedder

LONG = "An old brick lies in the garden behind the house, and nobody knows what it might be good for. "


class Crowded(FairLock):
    """Notes how long each turn was, and gives it up whenever it may."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[float] = []
        self._began = 0.0

    def __enter__(self) -> None:
        super().__enter__()
        self._began = time.thread_time()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.held.append(time.thread_time() - self._began)
        super().__exit__(kind, error, at)

    def pass_on(self) -> None:
        self.__exit__(None, None, None)
        self.__enter__()


def main() -> None:
    lm = load_model()
    scheduler = Scheduler(lm)
    turns = scheduler.turns = Crowded()
    embedder, prompt = ExclusiveEmbedder(load_embedder, scheduler), lm.encode("Name a use for a brick.")

    def score(texts: list[str]) -> None:
        with SharedEngine(scheduler).exclusive():
            ids_nll(prompt, texts, lm)

    def read() -> None:
        ids = tuple(lm.encode(LONG * 60))
        row = SequenceRequest(ids, seed=1, sampling=SamplingParams(), max_new_tokens=2)
        SharedEngine(scheduler).generate([row], read="each")

    works: dict[str, Callable[[], object]] = {
        "scoring eight texts of 64 tokens": lambda: score([f"{LONG * 3}{i}" for i in range(8)]),
        "scoring one text of 840 tokens": lambda: score([LONG * 40]),
        "embedding 64 texts of 256 tokens": lambda: embedder.encode([LONG * 12] * 64),
        "counting the tokens of 256 texts": lambda: embedder.count_tokens([LONG * 12] * 256),
        "a prompt of 1,300 tokens, read beside the batch": read,
    }
    score(["a"])
    embedder.encode(["a"])
    for name, work in works.items():
        turns.held.clear()
        work()
        longest, mean = max(turns.held), sum(turns.held) / len(turns.held)
        print(f"{name}: {len(turns.held)} turns, {longest * 1e3:.0f} ms the longest, {mean * 1e3:.0f} on average")


if __name__ == "__main__":
    main()
