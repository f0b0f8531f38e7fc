"""Work beside the event loop: threads that end with their work, and streams of what they have to say.

A thread that has computed with torch keeps a team of OpenMP workers as long as it lives, idle or not. Once the teams of
a process together have more members than there are cores, libgomp no longer lets workers wait awake between two loops
but puts them to sleep (its throttled spin count), thousands of times a second: on two cores the batch ran at two thirds
of its speed. So whatever computes beside the scheduler does so in a thread that ends, and takes its team along.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, ParamSpec, TypeVar

from thoughtmix.engine.scheduler import Caller
from thoughtmix.serve.errors import Refused, as_refused

P = ParamSpec("P")
T = TypeVar("T")


class EphemeralThreadExecutor(Executor):
    """An executor without a pool: a daemon thread for each call. How many there may be is not its concern (the
    service's limits are)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return future


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
            self._put(as_refused(error))

    def _put(self, event: T | Refused | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop is closed
            self._caller.cancelled = True

    async def next(self) -> T | None:
        """The next event; None after the last. Raises `Refused`."""
        event = await self._queue.get()
        if isinstance(event, Refused):
            raise event
        return event
