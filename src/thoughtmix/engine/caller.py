"""Somebody for whom is decoded: until when, and whether anybody still waits."""

from __future__ import annotations

import time
from dataclasses import dataclass

from thoughtmix.core.errors import ThoughtmixError


class Cancelled(ThoughtmixError):
    """Nobody waits for this any more."""

    @classmethod
    def by_caller(cls) -> Cancelled:
        return cls("The request was cancelled.", "Send it again.")

    @classmethod
    def by_server(cls) -> Cancelled:
        return cls("The server stops.", "Send it to another.")


class TimedOut(ThoughtmixError):
    """The time is up and there is nothing whole to give."""


@dataclass(eq=False)
class Caller:
    """Somebody for whom is decoded: when the time is up, and whether anybody still waits.

    deadline: by `time.monotonic`. first_token: when the first one was drawn, by the same clock. open_ended: nobody
    named the length of its rows; they end, of length, where memory is short and they have `scheduler.EXPECTED` tokens.
    """

    deadline: float = float("inf")
    cancelled: bool = False
    late: bool = False
    first_token: float | None = None
    open_ended: bool = False

    def check(self) -> None:
        """Raises `Cancelled` or `TimedOut`."""
        self.check_cancelled()
        if self.overdue():
            raise TimedOut("The request's time is up.", "Ask for fewer or shorter thoughts, or try again later.")

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled.by_caller()

    def overdue(self) -> bool:
        if time.monotonic() >= self.deadline:
            self.late = True
        return self.late

    def begun(self) -> None:
        self.first_token = self.first_token or time.monotonic()
