"""A batch from file to file: what is answered is left, the rest is thought about and written as it ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from thoughtmix.batch.lines import AnswerFile
from thoughtmix.batch.records import STANDARD_INPUT, PromptSource, Record
from thoughtmix.batch.summary import BatchSummary, tokens_of
from thoughtmix.core.types import ThoughtSet
from thoughtmix.core.waiting import without_waiting

Answer = Callable[[Iterable[Any]], Iterator[tuple[Record, ThoughtSet]]]
"""Gives each record with its thoughts. Between records may stand `NothingYet`."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch has come."""

    done: int
    """Prompts in the file, those of earlier runs too."""
    total: int | None
    """None: not known, of standard input."""
    failed: int
    prompts_per_second: float
    """Of this run, as the next two."""
    tokens_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        left = "" if self.seconds_left is None else f", {_duration(self.seconds_left)} left"
        speed = f"{self.prompts_per_second:.2f} prompts/s, {self.tokens_per_second:,.0f} tokens/s"
        return f"{self.done:,}{of} prompts{failed}, {speed}{left}"


class _Clock:
    """Hands items on, and runs from the first that is taken: a model is loaded by then."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._began = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        self._began = time.monotonic()
        yield from self._items

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def run_batch(
    source: PromptSource,
    out: AnswerFile,
    answer: Answer,
    on_progress: Callable[[BatchProgress], None] = lambda progress: None,
) -> BatchSummary:
    """Answer every prompt of `source` that `out` lacks.

    Args:
        source: The prompts.
        out: Each answer is in it when the next is taken.
        answer: Does the work.
        on_progress: Is told after each.

    Returns:
        Of the whole file, earlier runs and all.

    Raises:
        InputError: `out` was made of other prompts, or with other settings.
    """
    summary = BatchSummary()
    for line in out.earlier():
        summary.add(line)
    total = source.count()
    left: Iterable[Any] = (record for record in source.records() if not out.skip(record))
    if source.path == STANDARD_INPUT:
        left = without_waiting(left)
    else:
        first = next(iter(left), None)
        if first is None:
            return summary  # no model need be loaded for that
        left = itertools.chain([first], left)
    clock = _Clock(left)
    tokens = 0
    for here, (record, thoughts) in enumerate(answer(clock), 1):
        line = out.add(record, thoughts)
        summary.add(line)
        tokens += tokens_of(line)
        seconds = clock.seconds
        togo = None if total is None else (total - summary.prompts) * seconds / here
        on_progress(BatchProgress(summary.prompts, total, summary.failed, here / seconds, tokens / seconds, togo))
    return summary
