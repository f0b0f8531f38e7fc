"""Trying again: exponential waits that all requests to one server share."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from thoughtmix.models.trouble import Stopped, Trouble

_log = logging.getLogger("thoughtmix.endpoint")


@dataclass
class Pause:
    """Until when a server wants not to be asked, by `time.monotonic`."""

    until: float = 0.0


@dataclass
class Backoff:
    """Exponential back-off with jitter (Brooker 2015) whose pauses all requests share.

    Before try k + 1 it waits first * 2^k seconds times a number from 0.5 to 1.5, at most `longest`; or what the server
    asks for (Retry-After), and then so do all others: who wants less traffic is not asked by another thread meanwhile.
    """

    tries: int = 6
    first: float = 0.5
    longest: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to end all waiting."""
    retries: int = 0
    waited: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)
    pause: Pause = field(default_factory=Pause)
    """May be shared by several calls."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    _jitter: random.Random = field(default_factory=random.Random)  # its own: the global state is not moved

    def run(self, attempt: Callable[[], None]) -> Trouble | None:
        """Call `attempt` until it raises no `Trouble`.

        Returns:
            The last trouble, if that was final.

        Raises:
            Stopped: `stop` was set.
        """
        for number in range(1, self.tries + 1):
            self._sleep(self.pause.until - time.monotonic())
            try:
                attempt()
                return None
            except Trouble as trouble:
                with self.lock:
                    self.troubles[trouble.kind] += 1
                if not trouble.again or number == self.tries:
                    return trouble
                if trouble.wait is not None and trouble.wait > self.longest:
                    says = f"{trouble.says}; it asks to wait {trouble.wait:.0f} s, more than {self.longest:g}"
                    return Trouble(trouble.kind, says, again=False)
                self._wait(trouble, number)
        raise AssertionError("tries is at least 1")

    def _wait(self, trouble: Trouble, number: int) -> None:
        with self.lock:
            self.retries += 1
            seconds = min(self.longest, self.first * 2 ** (number - 1) * self._jitter.uniform(0.5, 1.5))
            if trouble.wait is not None:
                seconds = trouble.wait + self._jitter.uniform(0, self.first)
                self.pause.until = max(self.pause.until, time.monotonic() + trouble.wait)
        _log.info("%s; trying again in %.1f s", trouble.says, seconds)
        self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with self.lock:
                self.waited += seconds
            self.stop.wait(seconds)
        if self.stop.is_set():
            raise Stopped
