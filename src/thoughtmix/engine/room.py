"""Memory for keys and values of work whose length nobody named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from thoughtmix.engine.caller import Caller


class RoomBeside:
    """Room for open-ended work beside a batch: all of it together holds as much as the batch may, and more waits.

    Args:
        most: Tokens whose keys and values are held.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, caller: Caller, tokens: int) -> Iterator[None]:
        """So many tokens' room while it lasts. Raises as `Caller.check`."""
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
