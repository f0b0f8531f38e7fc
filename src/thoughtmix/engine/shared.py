"""The shared engine: our decoding loop, joined by many callers, each with an engine of its own over one scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from thoughtmix.core.request import OnStep, Prompt, StepEvent
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.engine import Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.job import Job, PromptGroups
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.engine.scheduler import Scheduler


class SharedEngine(LocalEngine):
    """One caller's engine: its rows join the scheduler's batch, or decode beside it in turns.

    Args:
        scheduler: Steps the batch.
        caller: Whose deadline and cancellation count.
        top_logprobs: Note at least so many likeliest tokens of every step.

    `outputs` collects all that was made for the caller, `computed` counts the tokens that the model read for it.
    """

    kind = "shared"

    def __init__(self, scheduler: Scheduler, caller: Caller | None = None, top_logprobs: int = 0) -> None:
        super().__init__(scheduler.lm, weights=scheduler.weights)
        self.scheduler, self.caller, self.top_logprobs = scheduler, caller or Caller(), top_logprobs
        self.outputs: list[SequenceOutput] = []
        self.computed = 0
        self._encoded: tuple[Any, list[int]] | None = None

    def encode(self, prompt: Prompt | tuple[int, ...]) -> list[int]:
        """The same prompt is asked for more than once for an answer."""
        if self._encoded is None or self._encoded[0] is not prompt:
            self._encoded = prompt, super().encode(prompt)
        return self._encoded[1]

    def generate(
        self,
        sequences: Sequence[SequenceRequest],
        *,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        top_logprobs: int = 0,
        keep_prefixes: bool = False,
        without_replacement: bool = False,
        on_step: OnStep | None = None,
    ) -> Generation:
        """See `Engine.generate`. Raises `Cancelled` and `TimedOut`, too."""
        self.caller.check()
        groups = PromptGroups.of_equal([self.encode(s.prompt) for s in sequences], sequences)
        self.scheduler.admit(len(sequences), groups.tokens)
        top = max(top_logprobs, self.top_logprobs)
        known = any(prefix is not None for prefix in groups.prefixes)
        # A state that was put in another order for the batch could not decode beside it any more.
        standing = row_state.is_lora and (row_state is NO_ROW_STATE or groups.prompt == sorted(groups.prompt))
        done: Generation | None = None
        if standing and read == "shared" and not (keep_prefixes or known or without_replacement):
            job = Job(self.model, groups, row_state=row_state, top_logprobs=top, on_step=on_step)
            done = self.scheduler.join(self.caller, job)
        if done is None:
            with self.scheduler.budget_beside.reserved(self.caller, groups.tokens), self.scheduler.turns:
                done = super().generate(
                    sequences,
                    row_state=row_state,
                    read=read,
                    top_logprobs=top,
                    keep_prefixes=keep_prefixes,
                    without_replacement=without_replacement,
                    on_step=self._between(on_step),
                )
        self.outputs += done.outputs
        self.computed += done.computed
        return done

    def _between(self, listener: OnStep | None) -> OnStep:
        """An `on_step` for decoding beside the batch, which holds the turn: others have theirs at each step. Raises as
        `_still_wanted`; the loop then gives what is there."""

        def step(event: StepEvent) -> None:
            self.caller.begun()
            if listener is not None:
                listener(event)
            self._still_wanted()
            self.scheduler.turns.pass_on()

        return step

    def _while_reading(self) -> AbstractContextManager[object]:
        """A prompt that is read beside the batch may be long."""
        return self.scheduler.slices(self.caller.check)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        self.caller.check()
        with self.scheduler.turns, self.scheduler.slices(self._still_wanted):
            self.caller.begun()
            yield

    def _still_wanted(self) -> None:
        """Raises `Cancelled`, or KeyboardInterrupt when the time is up."""
        self.caller.check_cancelled()
        if self.caller.overdue():
            raise KeyboardInterrupt
