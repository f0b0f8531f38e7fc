"""How long a run goes on, and how it is stopped: by its steps, by its minutes, by Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from thoughtmix.training.config import TrainConfig

PROBE = 0.01  # share of an evaluation that is timed to know what a whole one takes
LAST = 0.06  # most of the minutes that the last evaluation may take; beyond, it looks at a share of the validation text
BETWEEN = 0.12  # most of the time so far that those before it may have taken


@dataclass(slots=True)
class Pace:
    """A run's time. Steps that get slower, evaluations and checkpoints are all in it, so that `minutes` hold.

    Processes that train together must decide alike: what is decided by here is `agreed`, which the trainer sets to the
    mean over processes of what each of them measured (`measured`).
    """

    config: TrainConfig
    before: float = 0.0  # seconds of earlier runs that this one goes on with
    share: float = 1.0  # of the validation text, that evaluations look at
    evaluating: float = 0.0  # seconds spent on evaluations
    evaluation: float = 0.0  # seconds that one takes
    began: float = field(default_factory=lambda: time.perf_counter())
    agreed: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self.agreed = self.measured

    def to_dict(self) -> dict[str, float]:
        """What a run that goes on with this one must know."""
        return {
            "before": self.seconds,
            "share": self.share,
            "evaluating": self.evaluating,
            "evaluation": self.evaluation,
        }

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    @property
    def measured(self) -> tuple[float, float, float]:
        """(seconds so far, of all evaluations, of one)"""
        return self.seconds, self.evaluating, self.evaluation

    def steps(self, step: int) -> int | None:
        """Steps of the whole run, as far as can be told after `step`; None: nothing can. A run of minutes, no more
        than its steps if it has some, ends where its last evaluation still fits."""
        if self.config.minutes is None:
            return self.config.steps
        if not step:
            return self.config.steps
        seconds, _, evaluation = self.agreed
        left = 60 * self.config.minutes - evaluation
        guess = max(step, int(step * left / max(seconds, 1e-9)))
        return guess if self.config.steps is None else min(self.config.steps, guess)

    def evaluates(self, step: int, last: bool) -> bool:
        """Whether to evaluate after `step`."""
        if last or step % self.config.evaluate_every:
            return last
        seconds, evaluating, evaluation = self.agreed
        return self.config.minutes is None or evaluating + evaluation <= BETWEEN * seconds

    def probe(self, evaluate: Callable[[float], object]) -> None:
        """Time a part of an evaluation, and set `share` by it."""
        began = time.perf_counter()
        evaluate(PROBE)
        whole = (time.perf_counter() - began) / PROBE
        self.share = min(1.0, max(PROBE, LAST * 60 * float(self.config.minutes or math.inf) / max(whole, 1e-9)))
        self.evaluation = self.share * whole

    @contextmanager
    def timed_evaluation(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.evaluation = time.perf_counter() - began
        self.evaluating += self.evaluation


def evenly(count: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of a share of `count` things, one at least, evenly spread."""
    return np.unique(np.linspace(0, count - 1, max(1, math.ceil(count * share))).astype(np.int64))


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted, for whoever asks what is given here; the second raises KeyboardInterrupt
    as always. Where a handler of someone else's stands, or in another thread than the main one, nothing changes."""
    noted = False

    def note(*_: object) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
