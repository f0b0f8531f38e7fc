"""Work beside the event loop: streams of what threads have to say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

from thoughtmix.engine.caller import Caller
from thoughtmix.serve.errors import Refused, as_refused

T = TypeVar("T")


class EventStream(Generic[T]):
    """What a function emits in a thread of its own, as the event loop sees it.

    Args:
        executor: Where it runs.
        work: Gets a function `emit(event)`. What it raises ends the stream with `Refused`.
        caller: Is cancelled when the loop is closed and nobody can listen any more.
    """

    def __init__(self, executor: Executor, work: Callable[[Callable[[T], None]], None], caller: Caller) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T | Refused | None] = asyncio.Queue()
        self._work, self._caller = work, caller
        executor.submit(self._run)

    def _run(self) -> None:
        try:
            self._work(self._put)
            self._put(None)
        except BaseException as error:
            refused = as_refused(error)
            # Its frames hold the job, which holds the error: keys and values would wait for the garbage collector.
            error.__traceback__ = None
            self._put(refused)

    def _put(self, event: T | Refused | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop is closed
            self._caller.cancelled = True

    async def next(self) -> T | None:
        """The next event; None after the last. Raises `Refused`."""
        event = await self._queue.get()
        try:
            if isinstance(event, Refused):
                raise event
            return event
        finally:
            del event  # an error whose frame held it would hold itself
