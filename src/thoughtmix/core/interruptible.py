"""Where work may be interrupted, so that others have their turn on the machine (`engine.slices`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALLOWED: ContextVar[bool] = ContextVar("thoughtmix_interruptible", default=False)


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a forward that holds no lock and changes nothing that others look at: not the loading of a model, not a
    forward whose attention stands in for another. Whoever waited for such a lock in its turn would wait for ever."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def may_be_interrupted() -> bool:
    """Whether this thread is in such a forward."""
    return _ALLOWED.get()
