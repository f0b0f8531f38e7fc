"""Trying again: what can go wrong with a request to an endpoint, and how long to wait before the next try."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class Trouble(Exception):
    """One failed try. kind: one word for the statistics. again: whether another try may help. wait: seconds that the
    server asked for."""

    def __init__(self, kind: str, says: str, again: bool = True, wait: float | None = None) -> None:
        self.kind, self.says, self.again, self.wait = kind, says, again, wait
        super().__init__(says)


class Stopped(Exception):
    """The caller wants no more."""


@dataclass
class Backoff:
    """Exponential back-off with jitter (Brooker 2015): before try k + 1, first * 2^k seconds times a number from 0.5 to
    1.5, at most `longest`; what the server asks for (Retry-After) where it does. A server that wants less traffic is
    left alone by all requests, not only by the one that it told. Shared by threads."""

    tries: int = 6
    first: float = 0.5
    longest: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to end all waiting."""
    retries: int = 0
    waited: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)
    _quiet_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _jitter: random.Random = field(default_factory=random.Random)  # its own: the global state is not moved

    def run(self, attempt: Callable[[], None]) -> tuple[int, Trouble | None]:
        """Call `attempt` until it raises no `Trouble`. How often it was called, and the last trouble if that was final.
        Raises `Stopped`."""
        for number in range(1, self.tries + 1):
            self._until_quiet()
            try:
                attempt()
                return number, None
            except Trouble as trouble:
                with self._lock:
                    self.troubles[trouble.kind] += 1
                if not trouble.again or number == self.tries:
                    return number, trouble
                if trouble.wait is not None and trouble.wait > self.longest:
                    says = f"{trouble.says}; it asks to wait {trouble.wait:.0f} s, more than {self.longest:g}"
                    return number, Trouble(trouble.kind, says, again=False)
                self._wait(trouble, number)
        raise AssertionError("tries is at least 1")

    def _wait(self, trouble: Trouble, number: int) -> None:
        with self._lock:
            self.retries += 1
            seconds = min(self.longest, self.first * 2 ** (number - 1) * self._jitter.uniform(0.5, 1.5))
            if trouble.wait is not None:
                seconds = trouble.wait + self._jitter.uniform(0, self.first)
                self._quiet_until = max(self._quiet_until, time.monotonic() + trouble.wait)
        self._sleep(seconds)

    def _until_quiet(self) -> None:
        self._sleep(self._quiet_until - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self.waited += seconds
            self.stop.wait(seconds)
        if self.stop.is_set():
            raise Stopped


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date; None without one that can be read."""
    value = str(headers.get("retry-after", "")).strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
