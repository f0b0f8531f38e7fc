"""One batch for many decodes: their rows join between steps, are drawn and stepped together, and leave when they end.

A thought is the same as alone: what is shared is products whose rows do not see each other, and the draw, which looks
at a row's own logits and uniform (law 5; up to the rounding of matrix products of different heights).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtmix.core.errors import NumericsError
from thoughtmix.core.request import OnStep
from thoughtmix.engine.backends.fused import FusedPath, FusedWeights
from thoughtmix.engine.backends.shared import SharedPath
from thoughtmix.engine.cohorts import Cohorts, running
from thoughtmix.engine.engine import Generation
from thoughtmix.engine.loop import Grouped, _Batch, _check
from thoughtmix.engine.prefill import Reading
from thoughtmix.engine.row_state import NO_ROW_STATE, RowLora, RowState, stack_row_loras
from thoughtmix.engine.sampling import Drawn, SamplingTensors, draw, not_finite
from thoughtmix.engine.wide import Wide

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


class Job(_Batch):
    """One decode in the batch. `result` is set when its last row has ended, or with what went wrong."""

    def __init__(
        self,
        lm: LanguageModel,
        asked: Grouped,
        on_step: OnStep | None = None,
        row_state: RowState = NO_ROW_STATE,
        top: int = 0,
    ) -> None:
        """row_state: one that is a per-row LoRA. Raises `InputError` for what cannot be continued."""
        _check(lm, asked)
        super().__init__(lm, asked, on_step, row_state, "shared", top)
        self.step, self.began = 0, time.perf_counter()
        self.ahead = self.tail  # tokens of it that rows have not read yet
        self.prefill, self.read = 0.0, 0  # read: tokens of its prompts that were computed
        self.result: Future[Generation] = Future()

    @property
    def tokens(self) -> int:
        """Most tokens whose keys and values it will hold."""
        return sum(map(len, self.heads)) + len(self.rows) * self.capacity

    def row_lora(self) -> RowLora | None:
        """What its live rows do to a graft."""
        return self.row_state.row_lora()

    def take(self, logits: Tensor, ids: Sequence[int], logprobs: Sequence[float]) -> list[int]:
        """Note a step's tokens; which positions of `live` end here. Raises what `on_step` raises."""
        self._note(logits, ids, logprobs)
        gone = self._ended(self.step)
        self.step += 1
        self._report(gone)
        return gone

    def stay(self, order: Sequence[int]) -> None:
        """Go on with these of the live rows, in this order."""
        self.live = [self.live[old] for old in order]
        self.uniform = self.uniform[list(order)]
        self.row_state.reorder(order)

    def finish(self, path: str, weights: str, interrupted: bool = False) -> None:
        for result, text in zip(self.results, self.texts, strict=True):
            result.text = text.finish()
        seconds = time.perf_counter() - self.began
        computed = self.read + self.tail * len(self.rows)
        computed += sum(len(r.token_ids) - 1 for r in self.results if r.token_ids)
        self.result.set_result(Generation(self.results, path, weights, self.prefill, seconds, interrupted, computed))

    def cut(self) -> None:
        """End every row with what it has."""
        for row in self.live:
            if self.results[row].finish == "cancelled":
                self.results[row].finish = "length"


class Continuous:
    """The running batch. Not thread-safe: one thread joins, steps and removes."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._path: FusedPath | SharedPath | None = None
        self._cohorts: Cohorts | Wide = Cohorts()
        self._clear()

    def _clear(self) -> None:
        self._logits = torch.empty(0)  # of each row's next token
        self._sampler = SamplingTensors.of([])
        self._code = self._bits = torch.empty(0, dtype=torch.float64)
        self._row_lora: RowLora | None = None  # of all rows
        self._changed = True  # since they were put together

    @property
    def rows(self) -> int:
        return self._cohorts.rows

    def fits(self, route: FusedPath | SharedPath) -> bool:
        """Whether rows of this path may join now: all do, when nobody is there."""
        return not self.jobs or self._path is None or type(self._path) is type(route)

    def join(self, job: Job, reading: Reading) -> None:
        """A job whose prompts are read: its rows take part from the next step on."""
        state, logits = reading.result()
        if not self.jobs or self._path is None:
            self._path, self._cohorts = running(reading.route)
            if isinstance(self._path, FusedPath):
                self._path.row_lora = self.row_lora
            self._logits, self._sampler, self._code, self._bits = logits, job.sampler, job.code, job.bits
        else:
            if isinstance(self._path, FusedPath) and isinstance(reading.route, FusedPath):
                self._path.weights = _newer(self._path.weights, reading.route.weights)
            self._logits = torch.cat([self._logits, logits])
            self._sampler = _joined(self._sampler, job.sampler)
            self._code, self._bits = torch.cat([self._code, job.code]), torch.cat([self._bits, job.bits])
        self._cohorts.join(state)
        self.jobs.append(job)
        self._changed = True
        job.prefill, job.read = time.perf_counter() - job.began, reading.computed

    @torch.no_grad()
    def step(self) -> int:
        """Draw a token for every row, tell who listens, let go who has ended, and read the rest. Returns the number of
        tokens drawn. A job's own failure (its listener, its numbers) is its own; any other is everybody's."""
        if not self.jobs:
            return 0
        try:
            drawn = self._draw()
        except NumericsError:  # for one bad row; only its job shall fail
            self._drop_nan()
            if not self.jobs:
                return 0
            drawn = self._draw()
        ids, logprobs = drawn.ids.tolist(), drawn.logprobs.tolist()
        gone, over, at, count = [], [], 0, 0
        read: dict[int, int] = {}  # rows that read a token of their prompt, and draw none yet
        for job in self.jobs:
            end = at + len(job.live)
            if job.ahead:
                read.update(zip(range(at, end), job.own(job.ahead), strict=True))
                job.ahead -= 1
                at = end
                continue
            count += len(job.live)
            try:
                left = job.take(self._logits[at:end], ids[at:end], logprobs[at:end])
            except BaseException as error:
                over.append((job, error))
                left = list(range(end - at))
            gone += [at + position for position in left]
            at = end
        tokens = self._went(drawn, read)
        if gone:
            tokens = tokens[self._drop(gone, dict(over))]
        if self.jobs:
            assert self._path is not None
            self._logits = self._path.step(tokens)
        return count

    def _went(self, drawn: Drawn, read: dict[int, int]) -> Tensor:
        """The token that each row goes on from: as drawn, or of its prompt (position -> token), whose draw counts for
        nothing."""
        tokens, code, bits = drawn.ids, drawn.rest, self._bits + drawn.share.log2()
        if read:
            own = torch.tensor(list(read), device=tokens.device)
            tokens = tokens.index_copy(0, own, torch.tensor(list(read.values()), device=tokens.device))
            code, bits = code.index_copy(0, own, self._code[own]), bits.index_copy(0, own, self._bits[own])
        self._code, self._bits = code, bits
        return tokens

    def remove(self, job: Job, error: BaseException | None = None) -> None:
        """Let go of a job's rows now: with this error, or with what they have."""
        at = 0
        for other in self.jobs:
            if other is job:
                if error is None:
                    job.cut()
                keep = self._drop(list(range(at, at + len(job.live))), {} if error is None else {job: error})
                self._logits = self._logits[keep]
                return
            at += len(other.live)

    def fail(self, error: BaseException) -> None:
        """All are over: the model itself failed."""
        jobs, self.jobs = self.jobs, []
        self._path, self._cohorts = None, Cohorts()
        self._clear()
        for job in jobs:
            job.result.set_exception(error)

    def row_lora(self) -> RowLora | None:
        """Standing routes and noise change only when rows come or go."""
        if self._changed:
            parts, sizes = [job.row_lora() for job in self.jobs], [len(job.live) for job in self.jobs]
            self._row_lora, self._changed = stack_row_loras(parts, sizes), False
        return self._row_lora

    def _draw(self) -> Drawn:
        uniform = torch.cat([job.uniform[:, job.step] for job in self.jobs])
        return draw(self._logits, torch.where(self._bits > 0, self._code, uniform), self._sampler)

    def _drop_nan(self) -> None:
        good = torch.isfinite(self._logits.amax(-1))
        at = 0
        for job in list(self.jobs):
            end = at + len(job.live)
            if not bool(good[at:end].all()):
                self.remove(job, not_finite())
            at = end

    def _drop(self, gone: list[int], over: dict[Job, BaseException]) -> Tensor:
        """Take rows out; the old index of each remaining row, in the new order. Jobs without rows are finished."""
        assert self._path is not None
        order = self._path.drop(gone)
        left, at, seen = [], 0, 0
        for job in self.jobs:
            end = at + len(job.live)
            mine = [old - at for old in order[seen:] if at <= old < end]
            seen += len(mine)
            if len(mine) < end - at:
                job.stay(mine)
            if mine:
                left.append(job)
            elif isinstance(error := over.get(job), KeyboardInterrupt) or error is None:
                weights = getattr(getattr(self._path, "weights", None), "kind", "native")
                job.finish(self._path.name, weights, interrupted=error is not None)
            else:
                job.result.set_exception(error)
            at = end
        self.jobs, self._changed = left, True
        keep = torch.tensor(order, dtype=torch.long, device=self._code.device)
        self._code, self._bits, self._sampler = self._code[keep], self._bits[keep], self._sampler.rows(keep)
        return keep


def _newer(one: FusedWeights, other: FusedWeights) -> FusedWeights:
    """Those with a graft, which may have been put on while the others' prompts were read; rows without one do not
    mind."""
    return one if one.grafted and not other.grafted else other


def _joined(one: SamplingTensors, other: SamplingTensors) -> SamplingTensors:
    def column(name: str) -> Any:
        return torch.cat([getattr(one, name), getattr(other, name)])

    return SamplingTensors(*(column(name) for name in SamplingTensors.__dataclass_fields__))
