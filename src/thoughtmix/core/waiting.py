"""Items that take their time: of a pipe, say, whose other end writes now and then."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


class NothingYet:
    """What an iterator of items gives while its next item is not there: who takes them need not stand still."""


NOTHING_YET = NothingYet()


def without_waiting(items: Iterable[Item], most: int = 64) -> Iterator[Item | NothingYet]:
    """The items, taken in a thread of their own, and `NOTHING_YET` while the next one is not there."""
    ready: queue.Queue[Any] = queue.Queue(most)
    end = object()

    def read() -> None:
        try:
            for item in items:
                ready.put(item)
            ready.put(end)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=read, name="thoughtmix-input", daemon=True).start()
    while True:
        try:
            given = ready.get_nowait()
        except queue.Empty:
            yield NOTHING_YET
            continue
        if given is end:
            return
        if isinstance(given, BaseException):
            raise given
        yield given
