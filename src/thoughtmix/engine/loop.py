"""The decoding loop: one running batch, in which jobs are read, drawn, stepped and let go.

A one-shot call is a batch that nobody else joins. Where callers share a batch (scheduler.py), their rows join between
steps and leave when they end. A thought is the same as alone: what is shared is products whose rows do not see each
other, and the draw, which looks at a row's own logits and uniform (law 5; up to the rounding of matrix products of
different heights).
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from thoughtmix.core.errors import NumericsError
from thoughtmix.engine.backends.base import DecodingPath, KVPath
from thoughtmix.engine.backends.fused import FusedPath, newer
from thoughtmix.engine.engine import Generation
from thoughtmix.engine.guide import allowed_tokens
from thoughtmix.engine.job import Job
from thoughtmix.engine.prefill import ChunkedPrefill
from thoughtmix.engine.row_state import RowLora, stack_row_loras
from thoughtmix.engine.sampling import Drawn, SamplingTensors, draw, not_finite


@torch.no_grad()
def run(job: Job, path: DecodingPath, while_reading: AbstractContextManager[object] | None = None) -> Generation:
    """A job in a batch of its own, along a path that nobody else uses. Ctrl-C returns what is there. while_reading: the
    context in which its prompts are read."""
    batch = Batch()
    try:
        with while_reading or nullcontext():
            batch.start(job, path)
        while batch.jobs:
            batch.step()
    except KeyboardInterrupt:
        if not job.result.done():
            job.finish(path, interrupted=True)
    finally:
        path.close()
    return job.result.result()


class Batch:
    """The running batch. Not thread-safe: one thread joins, steps and removes."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._path: DecodingPath | None = None
        self._clear()

    def _clear(self) -> None:
        self._logit_parts = list[Tensor]()  # of each row's next token, those of who joined in parts of their own
        self._sampling = SamplingTensors.of([])
        self._offset = self._bits = torch.empty(0, dtype=torch.float64)
        self._hidden: dict[int, Tensor] = {}  # of each row's newest token, where a job asks (`NotesHidden`)
        self._row_lora: RowLora | None = None  # of all rows
        self._changed = True  # since they were put together

    @property
    def _logits(self) -> Tensor:
        """(rows, vocabulary), put together: they are large, and mostly drawn from as they are."""
        if len(self._logit_parts) > 1:
            self._logit_parts = [torch.cat(self._logit_parts)]
        return self._logit_parts[0]

    @_logits.setter
    def _logits(self, logits: Tensor) -> None:
        self._logit_parts = [logits]

    def _logits_of(self, job: Job, first: int) -> Tensor:
        """Of a job's rows, which stand in one part."""
        for part in self._logit_parts:
            if first < len(part):
                return part[first : first + len(job.live)]
            first -= len(part)
        raise IndexError(first)

    @property
    def rows(self) -> int:
        return sum(len(job.live) for job in self.jobs)

    # --- jobs come ---

    def start(self, job: Job, path: DecodingPath) -> None:
        """The only job of a batch that nobody joins."""
        self._path = path
        logits, job.computed = path.start(job.start)
        if logits is None:
            assert job.ahead, "who gets no logits reads at least one token by itself"
            logits = torch.zeros(len(job.live), 1, device=job.offset.device)
        self._enter(job, logits)
        while job.ahead:  # nobody else waits for a draw
            own = self._suffix_tokens(job, path)
            if path.reads_on:
                self._logits = path.read_on(own)
            else:
                self._logits = path.step(torch.tensor([token for (token,) in own], device=job.offset.device))
        job.prefill_seconds = time.perf_counter() - job.began

    @staticmethod
    def _suffix_tokens(job: Job, path: DecodingPath) -> list[list[int]]:
        """What each of its rows reads by itself in one step."""
        return job.suffix_tokens(job.ahead if path.reads_on else 1)

    def path(self) -> DecodingPath | None:
        """For rows without a state that will join those that run: over the same weights, as they will step."""
        return self._path.weights.path() if self.jobs and isinstance(self._path, FusedPath) else None

    def fits(self, path: KVPath) -> bool:
        """Whether rows of this path may join now: all do, when nobody is there."""
        return path.can_be_joined and (not self.jobs or type(self._path) is type(path))

    def join(self, job: Job, prefill: ChunkedPrefill) -> None:
        """A job whose prompts are read: its rows take part from the next step on."""
        if not self.jobs or self._path is None:
            self._clear()
            self._path = prefill.path.empty()
            self._path.row_lora = self.row_lora
        elif isinstance(self._path, FusedPath) and isinstance(prefill.path, FusedPath):
            self._path.weights = newer(self._path.weights, prefill.path.weights)
        assert isinstance(self._path, KVPath)
        self._path.join(prefill.read, job.counts, job.capacity)
        job.computed = prefill.computed
        self._enter(job, prefill.by_row(job.counts))
        job.prefill_seconds = time.perf_counter() - job.began

    def _enter(self, job: Job, logits: Tensor) -> None:
        if self.jobs:
            self._logit_parts.append(logits)
            self._sampling = SamplingTensors.cat([self._sampling, job.sampling])
            self._offset = torch.cat([self._offset, job.offset])
            self._bits = torch.cat([self._bits, job.offset_bits])
            # Those who join have read nothing in this batch: their places are never looked at.
            self._hidden = {k: torch.cat([x, x.new_zeros(len(logits), x.shape[1])]) for k, x in self._hidden.items()}
        else:
            self._logits, self._sampling = logits, job.sampling
            self._offset, self._bits = job.offset, job.offset_bits
        self.jobs.append(job)
        self._changed = True

    # --- a step ---

    @torch.no_grad()
    def step(self) -> int:
        """Draw a token for every row, tell who listens, let go who has ended, and read the rest.

        Returns:
            The number of tokens drawn. A job's own failure (its listener, its numbers) is its own; any other is
            everybody's, and raised.
        """
        if not self.jobs or self._path is None:
            return 0
        try:
            drawn = self._draw()
        except NumericsError:  # for one bad row; only its job shall fail
            self._drop_nan()
            if not self.jobs:
                return 0
            drawn = self._draw()
        ids, logprobs = drawn.ids.tolist(), drawn.logprobs.tolist()
        gone: list[int] = []
        failed: dict[Job, BaseException] = {}
        forced: dict[int, list[int]] = {}  # rows that read tokens of their prompt, and draw none yet
        at = count = 0
        for job in self.jobs:
            end = at + len(job.live)
            if job.ahead:
                forced.update(zip(range(at, end), self._suffix_tokens(job, self._path), strict=True))
            else:
                count += len(job.live)
                try:
                    logits = self._logits_of(job, at) if job.top_logprobs else None
                    ended = job.take(logits, ids[at:end], logprobs[at:end], self._path, at)
                except BaseException as error:
                    failed[job] = error
                    ended = list(range(end - at))
                gone += [at + row for row in ended]
            at = end
        tokens, rows = self._go_on(drawn, forced), torch.arange(at)
        if gone:
            rows = self._drop(gone, failed)
            tokens = tokens[rows]
        if self.jobs:
            adjusters = [job.adjuster for job in self.jobs if job.adjuster is not None]
            self._path.note = frozenset(adjuster.shallow_layer for adjuster in adjusters)
            if any(len(own) > 1 for own in forced.values()):
                pairs = zip(rows.tolist(), tokens.tolist(), strict=True)
                self._logits = self._path.read_on([forced.get(row, [token]) for row, token in pairs])
            else:
                self._logits = self._path.step(tokens)
            self._hidden = dict(self._path.hidden)
        return count

    def _draw(self) -> Drawn:
        first, allowed = self.jobs[0], self._allowed()
        if first.exclusions is not None:  # such a job is alone
            return first.draw(self._logits, allowed)
        uniform = torch.where(self._bits > 0, self._offset, torch.cat([job.uniform[:, job.step] for job in self.jobs]))
        drawn, at = list[Drawn](), 0
        if not any(job.adjusts for job in self.jobs):
            for part in self._logit_parts if allowed is None else [self._logits]:
                rows = slice(at, at + len(part))
                drawn.append(draw(part, uniform[rows], self._sampling.rows(rows), allowed))
                at = rows.stop
            return Drawn.cat(drawn)
        for job in self.jobs:
            rows = slice(at, at + len(job.live))
            logits, open = self._logits[rows], None if allowed is None else allowed[rows]
            if job.adjusts:
                hidden = {k: x[rows] for k, x in self._hidden.items()}
                drawn.append(job.draw_adjusted(logits, hidden, uniform[rows], open))
            else:
                drawn.append(draw(logits, uniform[rows], job.sampling, open))
            at = rows.stop
        return Drawn.cat(drawn)

    def _allowed(self) -> Tensor | None:
        """What grammars leave of each row; None where no row has one."""
        if not any(job.guides for job in self.jobs):
            return None
        guides = [guide for job in self.jobs for guide in job.live_guides()]
        if not any(guides):
            return None
        return allowed_tokens(guides, self._logits.shape[1], self._logits.device)

    def _go_on(self, drawn: Drawn, forced: dict[int, list[int]]) -> Tensor:
        """The token that each row goes on from: as drawn, or the last of those of its prompt (row -> tokens); what is
        drawn for such a row counts for nothing."""
        tokens, offset, bits = drawn.ids, drawn.rest, self._bits + drawn.share.log2()
        if forced:
            rows = torch.tensor(list(forced), device=tokens.device)
            tokens = tokens.index_copy(
                0, rows, torch.tensor([own[-1] for own in forced.values()], device=tokens.device)
            )
            offset, bits = offset.index_copy(0, rows, self._offset[rows]), bits.index_copy(0, rows, self._bits[rows])
        self._offset, self._bits = offset, bits
        return tokens

    def row_lora(self) -> RowLora | None:
        """Of all rows: standing routes and noise change only when rows come or go."""
        if self._changed:
            parts = [job.row_state.row_lora() for job in self.jobs]
            self._row_lora, self._changed = stack_row_loras(parts, [len(job.live) for job in self.jobs]), False
        return self._row_lora

    # --- jobs go ---

    def remove(self, job: Job, error: BaseException | None = None) -> None:
        """Let go of a job's rows now: with this error, or with what they have."""
        at = 0
        for other in self.jobs:
            if other is job:
                if error is None:
                    job.cut()
                keep = self._drop(list(range(at, at + len(job.live))), {} if error is None else {job: error})
                self._logits = self._logits[keep]
                self._hidden = {k: x[keep] for k, x in self._hidden.items()}
                return
            at += len(other.live)

    def fail(self, error: BaseException) -> None:
        """All are over: the model itself failed."""
        jobs, self.jobs = self.jobs, []
        self._path = None
        self._clear()
        for job in jobs:
            job.result.set_exception(error)

    def _drop_nan(self) -> None:
        good = torch.isfinite(self._logits.amax(-1))
        at = 0
        for job in list(self.jobs):
            end = at + len(job.live)
            if not bool(good[at:end].all()):
                self.remove(job, not_finite())
            at = end  # as the rows stood before

    def _drop(self, gone: list[int], failed: dict[Job, BaseException]) -> Tensor:
        """Take rows out; the old index of each remaining row, in the new order. Jobs without rows are finished."""
        path = self._path
        assert path is not None
        order = path.drop(gone) if len(gone) < self.rows else []
        left, at, seen = [], 0, 0
        for job in self.jobs:
            end = at + len(job.live)
            mine = [old - at for old in order[seen:] if at <= old < end]
            seen += len(mine)
            if len(mine) < end - at:
                job.stay(mine)
            if mine:
                left.append(job)
            else:
                self._settle(job, path, failed.get(job))
            at = end
        self.jobs, self._changed = left, True
        if not left and isinstance(path, KVPath):
            path.close()
        keep = torch.tensor(order, dtype=torch.long, device=self._offset.device)
        self._offset, self._bits, self._sampling = self._offset[keep], self._bits[keep], self._sampling.rows(keep)
        return keep

    @staticmethod
    def _settle(job: Job, path: DecodingPath, error: BaseException | None) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            job.finish(path, interrupted=error is not None)
        else:
            job.result.set_exception(error)
