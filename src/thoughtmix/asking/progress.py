"""What `on_step` hears of a thinker that generates several times, or whose sequences are not its thoughts."""

from __future__ import annotations

from collections.abc import Sequence

from thoughtmix.core.request import OnStep, Request, StepEvent


class Progress:
    """The events of one generation after another as those of one run of n thoughts, whose texts come at the end.

    Args:
        request: Its `on_step` is told.
        total: Most tokens of the whole run.
    """

    def __init__(self, request: Request, total: int) -> None:
        self.request, self.total, self.before, self.done = request, total, 0, 0

    @property
    def on_step(self) -> OnStep | None:
        """For the next generation; None when nobody listens."""
        if self.request.on_step is None:
            return None
        self.before, self.done = self.before + self.done, 0
        return self._step

    def _step(self, event: StepEvent) -> None:
        assert self.request.on_step is not None
        n, self.done = self.request.n, event.done
        done = self.before + event.done
        self.request.on_step(StepEvent([""] * n, done, max(self.total, done), [False] * n))

    def finish(self, texts: Sequence[str]) -> None:
        """The thoughts, all at once."""
        if self.request.on_step is not None:
            n, done = self.request.n, self.before + self.done
            pieces = [*texts, *[""] * (n - len(texts))]
            self.request.on_step(StepEvent(pieces, done, max(self.total, done), [True] * n))
