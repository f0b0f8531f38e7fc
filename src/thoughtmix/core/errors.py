"""Every error thoughtmix raises on purpose.

    ThoughtmixError
    ├── InputError        (also ValueError)   the request cannot be served as written
    │   └── UnknownName   (also LookupError)  a thinker, sampler, metric or style that nobody registered
    ├── ModelError        (also RuntimeError) a model cannot be found, loaded or decoded
    │   └── CacheError                        the local copy of a model is unreadable, truncated or cannot be written
    ├── NumericsError     (also ArithmeticError) the model or a scorer produced NaN or infinity
    └── Interrupted                       generation was stopped; carries what is complete

    SlowPathWarning       (a UserWarning)     a model is decoded rightly, but slowly
    RenamedWarning        (a FutureWarning)   a name that still works, but has a newer one

One line each: what is wrong, then what to type next (`hint`). The command line prints
`str(error)` and exits with `error.exit_code`; it never shows a traceback for these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ThoughtmixError(Exception):
    """Base of all deliberate errors. `hint` is what the user should type or change."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = " ".join(message.split())  # one line, whatever went into it
        self.hint = " ".join(hint.split())
        super().__init__(f"{self.message} {self.hint}".strip())


class InputError(ThoughtmixError, ValueError):
    """The request cannot be served as written (empty prompt, n < 1, prompt beyond the context...)."""

    exit_code = 2


class UnknownName(InputError, LookupError):
    """A name that nobody registered, with the nearest one that exists."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"Unknown {kind} {name!r}.", hint)
        self.name = name
        self.nearest = near[0] if near else None


class ModelError(ThoughtmixError, RuntimeError):
    """A model cannot be found, loaded or decoded."""


class CacheError(ModelError):
    """The local copy of a model is unreadable, truncated or cannot be written."""


class NumericsError(ThoughtmixError, ArithmeticError):
    """The model or a scorer produced NaN or infinity."""


class Interrupted(ThoughtmixError):
    """Generation was stopped (Ctrl-C). `thoughts` is a `ThoughtSet` of everything written so far, ended or not."""

    exit_code = 130
    thoughts: Any  # a ThoughtSet; core.types raises the errors above, so it cannot be named here

    def __init__(self, thoughts: Any) -> None:
        done = sum(t.finish != "cancelled" for t in thoughts)
        super().__init__(
            f"Stopped: {done} of {len(thoughts)} thoughts are complete.", "Type the command again to restart."
        )
        self.thoughts = thoughts


class SlowPathWarning(UserWarning):
    """A model is decoded rightly, but slowly."""


class RenamedWarning(FutureWarning):
    """A name that still works, but has a newer one."""
