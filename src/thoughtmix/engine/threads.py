"""Work beside the decoding loop: in threads that end with it.

A thread that has computed with torch keeps a team of OpenMP workers as long as it lives, idle or not. Once the teams of
a process together have more members than there are cores, libgomp no longer lets workers wait awake between two loops
but puts them to sleep (its throttled spin count), thousands of times a second: on two cores the batch ran at two thirds
of its speed. So whatever computes beside the scheduler does so in a thread that ends, and takes its team along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class EphemeralThreadExecutor(Executor):
    """An executor without a pool: a daemon thread for each call. How many there may be is not its concern (the
    service's limits are)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[Any] = Future()
        threading.Thread(target=_run, args=(future, partial(fn, *args, **kwargs)), name=self._name, daemon=True).start()
        return future


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
    finally:
        del future  # an error's frames must not hold it: they would hold themselves
