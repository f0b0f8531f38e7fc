"""The fused step as a CUDA graph: recorded once, then replayed with one call a token.

A step of a small model is some thousand kernels of a few microseconds each, so that a GPU waits for Python to launch
them. A graph launches them all at once, but always over the same memory and shapes. So rows that end stay where they
are until half have ended (what is drawn for them is thrown away); own tokens are looked at up to a power of two, and
masked; and a step is recorded anew when either changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.fused_torch import TorchPath, TorchWeights
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.prompt_kv import PromptKV
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowLora, RowState

Replay = Callable[[], Tensor]
Recorder = Callable[[Callable[[], Tensor]], Replay]


def record(step: Callable[[], Tensor]) -> Replay:
    """A step, which reads and writes memory that stays in place, as a graph."""
    aside: Any = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose and set up their kernels, which must not be recorded
        step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class CudaGraphPath(TorchPath):
    """The fused path of a batch that nobody joins, on a GPU.

    Args:
        weights, row_state, read: As of `TorchPath`.
        recorder: Makes a step repeatable; tests run it again instead, without a GPU.
    """

    def __init__(
        self,
        weights: TorchWeights,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        recorder: Recorder = record,
    ) -> None:
        super().__init__(weights, row_state, read)
        self.cache.fixed = True
        self._record = recorder
        self._replay: Replay | None = None
        self._live: list[int] = []  # which of the cache's rows are the batch's rows
        self._at: Tensor | None = None  # the same, on the device; None: all
        self._row_lora: RowLora | None = None  # of all rows of the cache
        self._tokens = torch.zeros(0, dtype=torch.int64)

    @torch.inference_mode()
    def start(self, asked: Start) -> tuple[Tensor | None, int]:
        done = super().start(asked)
        self._settle()
        return done

    @torch.inference_mode()
    def join(self, prompts: Sequence[PromptKV], counts: Sequence[int], capacity: int) -> None:
        super().join(prompts, counts, capacity)
        self._settle()

    def _settle(self) -> None:
        """All rows of the cache are the batch's."""
        self._live, self._at, self._replay, self._row_lora = list(range(self.cache.rows)), None, None, None
        self._tokens = torch.zeros(self.cache.rows, dtype=torch.int64, device=self.weights.embed.device)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        if self._row_lora is None:
            self._row_lora = self._active_row_lora()  # of the live rows, which are all
        if self._at is None:
            self._tokens.copy_(tokens)
        else:
            self._tokens.index_copy_(0, self._at, tokens)
        if self.note:  # hidden states are asked for: a graph would not give them
            self.cache.unmask()
            logits, self._replay = self._whole_step(self._tokens, self._row_lora), None
            self.hidden = self.hidden if self._at is None else {k: x[self._at] for k, x in self.hidden.items()}
        else:
            if self._replay is None or self.cache.moved:
                self._replay = self._record(self._step)
                self.cache.moved = False
            self.hidden, logits = {}, self._replay()
        self.cache.advance()
        return logits.clone() if self._at is None else logits[self._at]

    def _step(self) -> Tensor:
        self.cache.unmask()
        return self._whole_step(self._tokens, self._row_lora)

    @torch.inference_mode()
    def drop(self, gone: list[int]) -> list[int]:
        leaving = set(gone)
        order = [row for row in range(len(self._live)) if row not in leaving]
        live = [self._live[row] for row in order]
        if 2 * len(live) > self.cache.rows:
            self._live, self._at = live, torch.tensor(live, device=self._tokens.device)
            return order
        staying = set(live)
        moved = self.cache.drop([row for row in range(self.cache.rows) if row not in staying])
        number = dict(zip(live, order, strict=True))
        self._settle()
        return [number[row] for row in moved]

    @torch.inference_mode()
    def keep(self, row: int, ids: list[int]) -> Prefix:
        return super().keep(self._live[row], ids)

    def close(self) -> None:
        self._replay = None
        super().close()
