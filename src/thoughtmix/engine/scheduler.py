"""Many callers, one model: their generations join one running batch, which a thread of its own steps.

    scheduler = Scheduler(model)
    with scheduler:
        SharedEngine(scheduler, Caller()).generate(...)   # shares its steps with everybody else's rows

Rows whose state does more to the model than a per-row LoRA, that each read the prompt, or that begin from kept prefixes
decode beside the batch: in the caller's thread, taking turns with it step by step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.engine.backends.base import DecodingPath, KVPath
from thoughtmix.engine.backends.known import path_of
from thoughtmix.engine.backends.probe import Weights
from thoughtmix.engine.caller import Caller, Cancelled
from thoughtmix.engine.engine import Generation
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.job import Job
from thoughtmix.engine.loop import Batch
from thoughtmix.engine.prefill import ChunkedPrefill, Pace, advance
from thoughtmix.engine.prefix_cache import PrefixCache
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.engine.slices import TimeSlices
from thoughtmix.engine.token_budget import TokenBudget

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

_MANY = 4
"""A single generation may have so many times the batch's rows."""

EXPECTED = 256
"""Tokens of a row that room is kept for where its caller named no length; twice what it has, when that is more."""

_QUICK_STEPS = 4
"""Of a job that does not wait for long steps of others."""

_KEPT = 8
"""For the beginnings of prompts that were read, a part of the tokens that the batch may hold, beside them."""

_OVERTAKEN = 256
"""Turns that a job at the head of the line may see short ones pass."""


class _Beside(Exception):
    """This model's rows cannot join."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One turn of the scheduler: rows drawn for, jobs that wait, tokens drawn, prompt tokens read, seconds of each."""

    rows: int
    waiting: int
    tokens: int
    read: int
    step_seconds: float
    read_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A job whose prompts are being read."""

    caller: Caller
    job: Job
    prefill: ChunkedPrefill


class Scheduler:
    """The thread, and who waits for it. rows: most rows in the batch (a single job may have four times as many, and
    then runs when the batch is empty; a quarter more is for jobs of few rows); tokens: most tokens whose keys and
    values it holds. chunk: most prompt tokens read between two steps, four times as many while more jobs wait than run;
    fewer where they would take longer than `pause` seconds (`Pace`), which is also how long other work may hold a turn
    (`TimeSlices`). observe: called after every turn, in the scheduler's thread. observe_beside: called with the seconds
    of every turn of work beside the batch. weights: of the steps."""

    def __init__(
        self,
        lm: LanguageModel,
        rows: int = 64,
        tokens: int = 1 << 20,
        chunk: int = 128,
        observe: Callable[[Tick], None] | None = None,
        weights: Weights = "auto",
        pause: float = 0.04,
        observe_beside: Callable[[float], None] | None = None,
    ) -> None:
        self.lm, self.most_rows, self.most_tokens, self.chunk, self.observe = lm, rows, tokens, chunk, observe
        self.weights, self.pause = weights, pause
        self.turns = FairLock(observe_beside)
        self._batch = Batch()
        self._prefixes = PrefixCache(tokens // _KEPT)
        self._pace, self._stepped = Pace(pause), 0.0  # seconds of the last step
        self._wake = threading.Condition()
        self._waiting: deque[tuple[Caller, Job]] = deque()
        self._callers: dict[Job, Caller] = {}
        self._reading: list[_Reading] = []  # out of the line, and not in the batch yet; the first may be a long one
        self._blocked = 0  # turns that the first in line has been overtaken or kept waiting
        self._load: tuple[int, int] | None = None  # rows that run or are read, and their tokens; of this turn
        self._apart = 0  # tokens that were drawn apart from the batch in this turn
        self._gave_way = False  # whether the last turn read a short prompt alone
        self.budget_beside = TokenBudget(tokens)
        self._grows = lm.device.type == "cpu"  # memory that no token has reached yet is untouched there
        self._closed = True
        self._thread = threading.Thread(target=self._run, name="thoughtmix-scheduler", daemon=True)

    @property
    def rows(self) -> int:
        """Rows in the batch now."""
        return self._batch.rows

    @property
    def waiting(self) -> int:
        """Jobs that are not in it yet."""
        return len(self._waiting) + len(self._reading)

    def __enter__(self) -> Scheduler:
        self._closed = False
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Everything that is still there is cancelled."""
        self._closed = True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        with self._wake:
            self._wake.notify()

    # --- the caller's side ---

    def cancel(self, caller: Caller) -> None:
        """Its rows leave before the next step, and what it waits for raises `Cancelled`."""
        caller.cancelled = True
        self.wake()

    def admit(self, rows: int, tokens: int) -> None:
        """Raises `InputError` for a generation that the memory would not hold, whatever a thinker's options made of the
        request."""
        if rows > _MANY * self.most_rows or tokens > self.most_tokens:
            raise InputError(
                f"{rows} rows and {tokens} tokens at once are more than this server holds.",
                "Ask for fewer or shorter thoughts, or for less in the thinker's options.",
            )

    def join(self, caller: Caller, job: Job) -> Generation | None:
        """Decode a job in the batch; None where its rows cannot join."""
        with self._wake:
            if self._closed:
                raise Cancelled.by_server()
            self._waiting.append((caller, job))
            self._wake.notify()
        try:
            return job.result.result()
        except _Beside:
            return None

    def slices(self, check: Callable[[], None]) -> TimeSlices:
        """For work of this thread that holds the turn: passed on to others after each slice of time, once `check` has
        said, by raising nothing, that the work is still wanted."""

        def let_others() -> None:
            check()
            self.turns.pass_on()

        return TimeSlices(let_others, self.pause)

    # --- the scheduler's thread ---

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._batch.jobs or self._waiting or self._reading):
                    self._wake.wait()
                if self._closed:
                    break
            with self.turns.next():  # one piece of work beside the batch between two steps of it, however many wait
                self._turn()
        self._abandon()

    def _turn(self) -> None:
        began = time.perf_counter()
        rows = read = tokens = self._apart = 0
        self._load = None
        middle = began
        try:
            self._leave()
            self._make_room()
            read = self._prefill()
            middle = time.perf_counter()
            rows = self._batch.rows
            tokens = self._batch.step() + self._apart
            self._stepped = time.perf_counter() - middle
        except Exception as error:  # the model itself: nobody in the batch can go on
            self._batch.fail(error)
        self._callers = {job: self._callers[job] for job in self._batch.jobs}
        if self.observe is not None:
            now = time.perf_counter()
            self.observe(Tick(rows, self.waiting, tokens, read, now - middle, middle - began))
            if not (self._batch.jobs or self._waiting or self._reading):  # idle from now on: no turn would say so
                self.observe(Tick(0, 0, 0, 0, 0.0, 0.0))

    def _leave(self) -> None:
        """Let go who was cancelled or is late."""
        for job, caller in list(self._callers.items()):
            if caller.cancelled:
                self._batch.remove(job, Cancelled.by_caller())
            elif caller.overdue():
                self._batch.remove(job)
        with self._wake:
            waiting = list(self._waiting)
            self._waiting.clear()
            for caller, job in waiting:
                if not self._refused(caller, job):
                    self._waiting.append((caller, job))
        self._reading = [each for each in self._reading if not self._refused(each.caller, each.job)]

    def _make_room(self) -> None:
        """End open-ended jobs, longest first, where running rows outgrow the memory."""
        jobs = sorted(self._batch.jobs, key=lambda job: job.step)
        held = {job: self._counted(self._callers[job], job, job.step + 1) for job in jobs}
        while jobs and sum(held.values()) > self.most_tokens:
            job = jobs.pop()
            if self._callers[job].open_ended and job.step >= EXPECTED:
                job.end_soon()
                del held[job]

    def _refused(self, caller: Caller, job: Job) -> bool:
        try:
            caller.check()
        except ThoughtmixError as error:
            job.result.set_exception(error)
            return True
        return False

    def _prefill(self) -> int:
        """Read prompts of those who wait, first come first served; as many tokens as running rows may wait for: a
        chunk, or four while more jobs wait than run (jobs: one that wants many rows is one who waits). What is read may
        take as long as the last step, however long that was: a full batch whose rows end as they come is kept full only
        so. A short one need not wait for a long one's end; nor, every other turn, for its next piece."""
        read = self._overtake()
        self._gave_way = read > 0 and not self._gave_way
        if self._gave_way:  # a short one has overtaken, and shall not wait for the long one's next piece at once
            return read
        ahead = len(self._waiting) > len(self._batch.jobs)
        most = self._pace.at_most(self.chunk, self._stepped) * (4 if ahead else 1)
        while read < most or not self._batch.jobs:
            tokens = max(1, most - read) if self._batch.jobs else self._pace.at_most(self.chunk)
            self._begin(tokens)
            if not self._reading:
                break
            read += self._read(self._reading, tokens)
            if self._reading and not self._batch.jobs:
                break  # come back after a look at who was cancelled
        return read

    def _read(self, some: Sequence[_Reading], tokens: int) -> int:
        """So many tokens of their prompts, in one pass; rows whose prompts are read join."""
        began = time.perf_counter()
        try:
            read = advance([each.prefill for each in some], tokens)
        except Exception as error:  # out of memory, say
            if len(some) > 1:  # whose failure it is shows when they are read one by one
                return sum(self._read([each], tokens) for each in list(some))
            self._failed(some[0], error)
            return 0
        self._pace.took(read, time.perf_counter() - began)
        done = [each for each in some if each.prefill.done]
        apart = [each for each in done if self._is_quick(each.job)]
        for each in done:
            if each not in apart and self._joined(each, self._batch):
                self._callers[each.job] = each.caller
        if apart:
            self._answer_apart(apart)
        return read

    def _joined(self, reading: _Reading, batch: Batch) -> bool:
        try:
            batch.join(reading.job, reading.prefill)
        except Exception as error:
            self._failed(reading, error)
            return False
        self._reading.remove(reading)
        reading.caller.begun()
        return True

    def _is_quick(self, job: Job) -> bool:
        """Whether it wants so little that it would wait mostly for others: few steps, while those of the batch are
        long."""
        return self._stepped > self.pause and bool(self._batch.jobs) and self._short(job) and job.steps <= _QUICK_STEPS

    def _answer_apart(self, some: Sequence[_Reading]) -> None:
        """Rows that have all their tokens in a few steps take these at once, in a batch of their own: a step of few
        rows takes a fraction of one that also has a large request's."""
        batch = Batch()
        for each in some:
            self._joined(each, batch)
        try:
            while batch.jobs:
                self._apart += batch.step()
        except Exception as error:
            batch.fail(error)

    def _failed(self, reading: _Reading, error: Exception) -> None:
        self._reading.remove(reading)
        reading.job.result.set_exception(error)

    def _begin(self, tokens: int) -> None:
        """Take from the front of the line those for whom there is room, while this many tokens reach their prompts."""
        while self._waiting and sum(each.prefill.left for each in self._reading) < tokens:
            if not self._room(*self._waiting[0]):
                return
            self._blocked = 0
            self._take(0)

    def _take(self, index: int) -> _Reading | None:
        """Out of the line and among those that are read; None: its rows cannot join, or there is something wrong with
        it, and it has been told."""
        with self._wake:
            caller, job = self._waiting[index]
            del self._waiting[index]
        try:
            path: DecodingPath | None = self._batch.path() if job.row_state is NO_ROW_STATE else None
            if path is None:  # to look for changes in a whole model takes some ms
                path = path_of(self.lm, weights=self.weights, row_state=job.row_state, prompts=len(job.groups.prompts))
            alike = all(type(each.prefill.path) is type(path) for each in self._reading)
            if not isinstance(path, KVPath) or not self._batch.fits(path) or not alike:
                raise _Beside
            self._reading.append(_Reading(caller, job, ChunkedPrefill(path, job.heads, self._prefixes)))
            if self._load is not None:
                rows, held = self._load
                self._load = rows + len(job.live), held + self._counted(caller, job, 0)
            return self._reading[-1]
        except Exception as error:
            job.result.set_exception(error)
            return None

    def _overtake(self) -> int:
        """Where the first in line is being read in pieces, or waits for room: read a short prompt of few rows behind
        it. One a turn, and not for ever: else a stream of short ones would keep out who needs much room."""
        if not self._reading and (not self._waiting or self._room(*self._waiting[0])):
            return 0
        self._blocked += 1
        if self._blocked > _OVERTAKEN:
            return 0
        with self._wake:
            line = list(self._waiting)
        for index, (caller, job) in enumerate(line):
            if self._short(job) and self._room(caller, job):
                short = self._take(index)
                return 0 if short is None else self._read([short], self.chunk)
        return 0

    def _short(self, job: Job) -> bool:
        return len(job.sequences) <= max(1, self.most_rows // 16) and sum(map(len, job.heads)) <= self.chunk

    def _counted(self, caller: Caller, job: Job, length: int) -> int:
        """Tokens that room is kept for: all that a job may hold, but of open-ended rows those of this length."""
        return job.tokens_by(max(EXPECTED, length)) if caller.open_ended and self._grows else job.tokens

    def _room(self, caller: Caller, job: Job) -> bool:
        """Beside rows that run or are being read. A quarter more rows is kept for jobs of few: a request that fills the
        batch keeps nobody out who wants little."""
        if not self._batch.jobs and not self._reading:
            return True
        if self._load is None:
            others = [(self._callers[other], other) for other in self._batch.jobs]
            others += [(each.caller, each.job) for each in self._reading]
            held = sum(self._counted(owner, other, 2 * other.step) for owner, other in others)
            self._load = sum(len(other.live) for _, other in others), held
        rows, held = self._load
        most = self.most_rows + (self.most_rows // 4 if self._short(job) else 0)
        if rows + len(job.sequences) > most:
            return False
        return held + self._counted(caller, job, 0) <= self.most_tokens

    def _abandon(self) -> None:
        error = Cancelled.by_server()
        self._batch.fail(error)
        with self._wake:
            left = [job for _, job in self._waiting] + [each.job for each in self._reading]
            self._waiting.clear()
            self._reading.clear()
        for job in left:
            job.result.set_exception(error)
