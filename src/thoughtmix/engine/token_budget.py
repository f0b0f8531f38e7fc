"""How many tokens' keys and values open-ended work may hold, beside a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from thoughtmix.engine.caller import Caller


class TokenBudget:
    """Of open-ended work (nobody named its length): all of it together holds so many tokens at most, and more waits.

    Args:
        most: Tokens whose keys and values are held.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, caller: Caller, tokens: int) -> Iterator[None]:
        """So many tokens while it lasts. Raises as `Caller.check`."""
        if not caller.open_ended:  # has been admitted with all that it may hold
            yield
            return
        with self._changed:
            while self._held and self._held + tokens > self.most:
                caller.check()
                self._changed.wait(0.1)
            self._held += tokens
        try:
            yield
        finally:
            with self._changed:
                self._held -= tokens
                self._changed.notify_all()
