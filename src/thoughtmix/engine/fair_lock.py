"""A fair (FIFO) lock: given in the order in which it was asked for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class FairLock:
    """`with lock:` waits for everybody who asked before. Python's own locks promise no order, and a thread that steps
    a batch in a loop would never let anyone else in.

    Args:
        observe: Called with the seconds of every turn but those of `next`, by who had it.
    """

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        self._observe, self._since = observe, 0.0
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        self._acquire(first=False)
        self._since = time.perf_counter()

    @contextmanager
    def next(self) -> Iterator[None]:
        """The same, before everybody who waits: for one thread that works for many, and that then has every other
        turn."""
        self._acquire(first=True)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, first: bool) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            if first:
                self._waiting.appendleft(mine)
            else:
                self._waiting.append(mine)
        mine.acquire()  # given by whoever leaves

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._observe is not None:
            self._observe(time.perf_counter() - self._since)
        self._release()

    def _release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()  # stays held, by them
            else:
                self._held = False

    def pass_on(self) -> None:
        """Held: let those who wait have their turn, then go on."""
        if self._waiting:
            self.__exit__(None, None, None)
            self.__enter__()
