"""One model for many prompts at once: each gets an engine of its own, and their rows share the steps.

    with concurrent_engines(engine, texts=8, tokens=64) as engines:
        for prompt, thoughts in engines.map(work, prompts):    # work(engine, prompt), in a thread
            ...

Our own loop is joined by all (continuous batching), and so is vLLM; an endpoint is asked by all, within its
concurrency; any other engine, and work that shares no step, takes one prompt after the other.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from thoughtmix.core.errors import InputError
from thoughtmix.core.waiting import NothingYet
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.endpoint import EndpointEngine
from thoughtmix.engine.engine import Capability, Engine
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.memory import kv_tokens_that_fit, rows_that_fit
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.engine.threads import EphemeralThreadExecutor
from thoughtmix.engine.vllm import VllmEngine

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2
"""Prompts that wait, so that rows which end are followed at once."""
_WINDOW = 4
"""Results may wait for an earlier one for so many times the prompts that are at work."""


@dataclass
class ConcurrentEngines:
    """in_flight: prompts at work at once. lease: an engine for one of them. turns: to be held for computing beside the
    steps. cancel: end what is at work."""

    in_flight: int
    lease: Callable[[], Engine]
    turns: FairLock = field(default_factory=FairLock)
    cancel: Callable[[], None] = lambda: None

    def map(
        self, work: Callable[[Engine, Item], Result], items: Iterable[Item | NothingYet], ordered: bool = True
    ) -> Iterator[tuple[Item, Result]]:
        """Every item with what `work` makes of it, in a thread for each: no more items are taken, and no more results
        kept, than are at work and a few. What `work` raises is raised here.

        Args:
            work: Gets an engine of its own, and an item.
            items: Are taken in this thread.
            ordered: In the order of the items, else as they end.
        """
        run = _Map(self, work, iter(items), ordered)
        try:
            yield from run.results()
        finally:
            self.cancel()


class _Map(Generic[Item, Result]):
    """One call of `ConcurrentEngines.map`."""

    def __init__(
        self,
        engines: ConcurrentEngines,
        work: Callable[[Engine, Item], Result],
        items: Iterator[Item | NothingYet],
        ordered: bool,
    ) -> None:
        self.engines, self.work, self.items, self.ordered = engines, work, items, ordered
        self.done: queue.SimpleQueue[tuple[int, Item, Result | BaseException, bool]] = queue.SimpleQueue()
        self.threads = EphemeralThreadExecutor("thoughtmix-prompt")
        self.begun = self.given = self.running = 0
        self.ended = False
        """Whether all items are taken."""

    def results(self) -> Iterator[tuple[Item, Result]]:
        waiting: dict[int, tuple[Item, Result]] = {}  # for an earlier one
        while True:
            patience = self._begin()
            if not self.running and self.ended:
                return
            try:
                number, item, result, failed = self.done.get(timeout=patience)
            except queue.Empty:
                continue
            self.running -= 1
            if failed:
                assert isinstance(result, BaseException)
                raise result
            waiting[number] = (item, result)  # type: ignore[assignment]
            while waiting:
                following = self.given if self.ordered else next(iter(waiting))
                if following not in waiting:
                    break
                yield waiting.pop(following)
                self.given += 1

    def _begin(self) -> float:
        """Put items to work as far as there is room. Seconds to wait for results before looking again."""
        while not self.ended and self.running < self.engines.in_flight:
            if self.begun - self.given >= _WINDOW * self.engines.in_flight:
                break
            try:
                item = next(self.items)
            except StopIteration:
                self.ended = True
                break
            if isinstance(item, NothingYet):
                return 0.02
            number, self.begun, self.running = self.begun, self.begun + 1, self.running + 1
            self.threads.submit(self._one, number, item)
        return 0.2  # not forever: Ctrl-C must come through on every system

    def _one(self, number: int, item: Item) -> None:
        try:
            result: Any = self.work(self.engines.lease(), item)
            self.done.put((number, item, result, False))
        except BaseException as error:
            self.done.put((number, item, error, True))


def concurrent_engines(
    engine: Engine, texts: int, tokens: int, rows: int | None = None
) -> AbstractContextManager[ConcurrentEngines]:
    """What makes many prompts with one engine.

    Args:
        engine: The one.
        texts: Rows that a prompt takes at once.
        tokens: Of a row, at most.
        rows: Most rows in a step; None: as many as pay and as the memory holds.

    Raises:
        InputError: rows is below 1.
        ModelError: An endpoint is not there.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows is {rows}.", "Pass 1 or more, or leave it out (--rows 64).")
    if isinstance(engine, EndpointEngine):
        return _endpoint(engine)
    if isinstance(engine, VllmEngine):
        in_flight = max(1, (rows or engine.rows) // texts) + AHEAD
        return nullcontext(ConcurrentEngines(in_flight, lambda: engine, cancel=engine.cancel))
    # Of other paths none is joined, and whoever names one wants that one.
    joined = type(engine) is LocalEngine and engine.path == "auto" and Capability.LEFT_TO_RIGHT in engine.capabilities
    if not joined:
        return nullcontext(ConcurrentEngines(1, lambda: engine))
    assert isinstance(engine, LocalEngine)
    return _joined(engine, texts, rows or rows_that_fit(engine.model, tokens))


@contextmanager
def _joined(engine: LocalEngine, texts: int, rows: int) -> Iterator[ConcurrentEngines]:
    rows = max(rows, texts)
    # Nobody waits for a first token here: chunks are as large as is quickest for all.
    scheduler = Scheduler(engine.model, rows, kv_tokens_that_fit(engine.model), weights=engine.weights, pause=math.inf)
    everyone = Caller()  # one for all: they are cancelled together
    with scheduler:
        yield ConcurrentEngines(
            rows // texts + AHEAD,
            lambda: SharedEngine(scheduler, everyone),
            scheduler.turns,
            lambda: scheduler.cancel(everyone),
        )


def _endpoint(engine: EndpointEngine) -> AbstractContextManager[ConcurrentEngines]:
    """Requests in flight are the endpoint's business, whoever asks. Raises `ModelError` where nobody is there."""
    endpoint = engine.endpoint
    endpoint.find_model()
    return nullcontext(ConcurrentEngines(endpoint.concurrency, lambda: EndpointEngine(endpoint.sibling())))
