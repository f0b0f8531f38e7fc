"""What `on_step` hears of a thinker that generates several times, or whose sequences are not its thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thoughtmix.core.request import OnStep, Request, StepEvent


class Progress:
    """The events of one generation after another as those of one run of n thoughts, whose texts come at the end.

    Args:
        request: Its `on_step` is told.
        total: Most tokens of the whole run.
    """

    def __init__(self, request: Request, total: int) -> None:
        self.request, self.total, self.before, self.done = request, total, 0, 0
        self.finished = [False] * request.n

    @property
    def on_step(self) -> OnStep | None:
        """For the next generation; None when nobody listens."""
        if self.request.on_step is None:
            return None
        self.before, self.done = self.before + self.done, 0
        return self._step

    def showing(self, thoughts: Sequence[int]) -> OnStep | None:
        """For a generation whose sequence i is thought `thoughts[i]`: its text is shown while it grows."""
        if self.on_step is None:
            return None

        def step(event: StepEvent) -> None:
            pieces = [""] * self.request.n
            for i, piece, ended in zip(thoughts, event.pieces, event.finished, strict=True):
                pieces[i], self.finished[i] = piece, ended
            whole = len(thoughts) == self.request.n
            self._tell(pieces, event, event.outputs if whole else ())

        return step

    def finish(self, texts: Sequence[str] = ()) -> None:
        """All is there: the texts that were not shown yet."""
        self.finished = [True] * self.request.n
        if self.request.on_step is not None:
            self._tell([*texts, *[""] * (self.request.n - len(texts))], None)

    def _step(self, event: StepEvent) -> None:
        self._tell([""] * self.request.n, event)

    def _tell(self, pieces: Sequence[str], event: StepEvent | None, outputs: Sequence[Any] = ()) -> None:
        assert self.request.on_step is not None
        self.done = self.done if event is None else event.done
        done = self.before + self.done
        self.request.on_step(StepEvent(pieces, done, max(self.total, done), list(self.finished), outputs=outputs))
