"""Work that several share a machine for, in slices of time: torch's operations are where it can be cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thoughtmix.core.interruptible import may_be_interrupted

_LARGEST = 1 << 30
"""Multiplications of one product on a CPU; a larger one (a head's, over a long text) is done some rows at a time."""


class TimeSlices(TorchFunctionMode):
    """As a context: calls `pause` between two of torch's operations of this thread whenever a slice of time is spent,
    within forwards that say so (`interruptible`).

    Any model's forward can be cut so, wherever it was written: nothing is hooked or patched, and other threads see
    nothing of it. An operation costs about 3 microseconds more.

    Args:
        pause: Lets others have their turn. What it raises ends the work.
        seconds: Of a slice, up to the operation in which it ends.
    """

    def __init__(self, pause: Callable[[], None], seconds: float) -> None:
        super().__init__()
        self._pause, self._seconds = pause, seconds
        self._since = time.perf_counter()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = self._linear(*args, **(kwargs or {})) if func is F.linear else func(*args, **(kwargs or {}))
        self._look()
        return out

    def _look(self) -> None:
        if time.perf_counter() - self._since >= self._seconds and may_be_interrupted():
            self._pause()
            self._since = time.perf_counter()

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W^T + b, x (..., inputs), some rows at a time where it is large."""
        many = input.numel() // max(1, input.shape[-1]) * weight.numel() > _LARGEST
        if not many or input.device.type != "cpu" or torch.is_grad_enabled():
            return F.linear(input, weight, bias)
        flat = input.reshape(-1, input.shape[-1])
        rows, out = max(1, _LARGEST // weight.numel()), flat.new_empty(len(flat), weight.shape[0])
        for at in range(0, len(flat), rows):
            part, into = flat[at : at + rows], out[at : at + rows]
            if bias is None:
                torch.mm(part, weight.mT, out=into)
            else:
                torch.addmm(bias, part, weight.mT, out=into)
            self._look()
        return out.view(*input.shape[:-1], -1)
