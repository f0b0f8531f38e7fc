"""The state of rows that are being denoised. Never changed in place: a step gives a new canvas, so keeping one is a
snapshot that costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.denoiser import Memory
from thoughtmix.engine.counter_rng import key

_FORK = 0x666F726B  # names a clone's stream


@dataclass(frozen=True)
class Canvas:
    """b rows of length t, padded on any side. All tensors have rows first.

    masked: undecided; its ids are the mask (or noise). locked: given, never changed, whatever is remasked. real: False
    is padding. seeds: whose rows these are; streams: what they draw from (a clone has another). steps: that each row
    took so far; passes: forward passes that it paid for them; block: the row's current one, -1: none begun; phase:
    steps done in it, of `planned`; begun: how many of its positions were masked when it began.
    confidence: the probability (temperature 1) of a token when it was kept; 1 where locked, 0 where masked.
    logprob: of the tokens kept so far, under the model at temperature 1, each at the step that kept it; proposal: under
    what they were drawn from. parents: the row of the canvas before the last `fork` or `pick` that each came from.
    memory: the denoiser's.
    """

    ids: Tensor  # (b, t) int64
    masked: Tensor  # (b, t) bool
    locked: Tensor  # (b, t) bool
    real: Tensor  # (b, t) bool
    seeds: Tensor  # (b,) int64
    streams: Tensor  # (b,) int64
    temperature: Tensor  # (b,) float64
    confidence: Tensor  # (b, t) float32
    steps: Tensor  # (b,) int64, as are the next five
    passes: Tensor
    block: Tensor
    phase: Tensor
    planned: Tensor
    begun: Tensor
    logprob: Tensor  # (b,) float64
    proposal: Tensor  # (b,) float64
    parents: Tensor  # (b,) int64
    memory: Memory = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ids: Tensor,
        masked: Tensor,
        seeds: Sequence[int] | Tensor,
        *,
        locked: Tensor | None = None,
        real: Tensor | None = None,
        temperature: float | Sequence[float] | Tensor = 1.0,
        fill: int = 0,
    ) -> Canvas:
        """ids (b, t); masked: what is to be filled in (their ids become `fill`, the mask); locked: what no remasking
        may touch, None: all that is not masked. Raises `InputError` for shapes and values that do not fit."""
        b = len(ids)
        real = torch.ones_like(masked) if real is None else real
        locked = ~masked if locked is None else locked
        for name, x in (("masked", masked), ("locked", locked), ("real", real)):
            if x.shape != ids.shape or x.dtype != torch.bool:
                raise InputError(f"{name} is no bool tensor of shape {tuple(ids.shape)}.", "Pass one flag a token.")
        masked = masked & real
        if bool((masked & locked).any()):
            raise InputError("A position is both masked and locked.", "Lock only tokens that are there.")
        device = ids.device
        numbers = seeds if isinstance(seeds, Tensor) else torch.tensor([_signed(s) for s in seeds], dtype=torch.int64)
        warm = torch.as_tensor(temperature, dtype=torch.float64)
        if len(numbers) != b or warm.ndim > 1 or warm.numel() not in {1, b}:
            raise InputError(f"Seeds or temperatures do not fit {b} rows.", "Pass one a row.")
        if not bool(((warm >= 0) & warm.isfinite()).all()):
            raise InputError(f"temperature is {temperature}.", "Pass 0 (greedy) or more (--temperature 0.8).")
        numbers = numbers.to(device)
        zero = torch.zeros(b, dtype=torch.int64, device=device)
        return cls(
            ids=ids.masked_fill(masked, fill),
            masked=masked,
            locked=locked & real,
            real=real,
            seeds=numbers,
            streams=key(numbers, 0),
            temperature=warm.to(device).expand(b).clone(),
            confidence=(real & ~masked).float(),
            steps=zero,
            passes=zero,
            block=zero - 1,
            phase=zero,
            planned=zero,
            begun=zero,
            logprob=zero.double(),
            proposal=zero.double(),
            parents=torch.arange(b, device=device),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def left(self) -> Tensor:
        """(b,) masked positions."""
        return self.masked.sum(1)

    @property
    def places(self) -> Tensor:
        """(b, t) each real token's place in its row, whatever the padding."""
        return (self.real.cumsum(1) - 1).clamp(min=0)

    def replace(self, **fields: Any) -> Canvas:
        return dataclasses.replace(self, **fields)

    def pick(self, rows: Sequence[int] | Tensor) -> Canvas:
        """These rows in this order, with their streams: a row taken twice goes on the same way twice."""
        at = torch.as_tensor(rows, dtype=torch.int64, device=self.ids.device)
        moved = {f.name: getattr(self, f.name)[at] for f in dataclasses.fields(self) if f.name != "memory"}
        return Canvas(**{**moved, "parents": at, "memory": {name: x[at] for name, x in self.memory.items()}})

    def fork(self, rows: Sequence[int] | Tensor) -> Canvas:
        """`pick`, and every further copy of a row draws anew: from the stream of (row, its steps, which copy). The
        first copy keeps its stream, so a row that is not cloned goes on as if nobody had chosen."""
        out = self.pick(rows)
        same = out.parents[:, None] == out.parents[None, :]
        copy = same.tril(-1).sum(1)  # how many before me came from my parent
        fresh = key(out.streams, _FORK, out.steps, copy)
        return out.replace(streams=torch.where(copy > 0, fresh, out.streams))

    def put(self, rows: Tensor, part: Canvas) -> Canvas:
        """This canvas with `rows` (k,) replaced by the k rows of `part`."""
        out = {}
        for f in dataclasses.fields(self):
            if f.name not in {"memory", "parents"}:
                out[f.name] = getattr(self, f.name).index_copy(0, rows, getattr(part, f.name))
        memory = {}
        for name, x in part.memory.items():
            whole = self.memory.get(name)
            if whole is None or whole.shape[1:] != x.shape[1:]:
                whole = x.new_zeros((len(self), *x.shape[1:]))
            memory[name] = whole.index_copy(0, rows, x)
        return self.replace(**out, memory=memory)

    def remask(self, where: Tensor, fill: int) -> Canvas:
        """Positions `where` (b, t) undecided again, locked ones and padding excepted."""
        where = where & self.real & ~self.locked & ~self.masked
        return self.replace(
            ids=self.ids.masked_fill(where, fill),
            masked=self.masked | where,
            confidence=self.confidence.masked_fill(where, 0.0),
        )

    def restart(self) -> Canvas:
        """Ready to be denoised under a new plan: what was counted of the old one is forgotten."""
        zero = torch.zeros_like(self.phase)
        return self.replace(block=zero - 1, phase=zero, planned=zero, begun=zero)


def blank(
    prompts: Sequence[Sequence[int] | Tensor],
    lengths: int | Sequence[int],
    seeds: Sequence[int],
    fill: int,
    temperature: float | Sequence[float] = 1.0,
    device: torch.device | str = "cpu",
) -> Canvas:
    """Rows of a locked prompt and `lengths` tokens to fill in after it, padded on the right. Raises `InputError`."""
    counts = [lengths] * len(prompts) if isinstance(lengths, int) else list(lengths)
    if len(counts) != len(prompts) or min(counts, default=1) < 1:
        raise InputError(f"Lengths {lengths} for {len(prompts)} rows.", "Pass one of 1 or more a row (--length 256).")
    if not prompts:
        raise InputError("There are no rows.", "Pass one prompt or more; an empty prompt is one.")
    width = max(len(p) + n for p, n in zip(prompts, counts, strict=True))
    ids = torch.full((len(prompts), width), fill, dtype=torch.int64)
    masked, real = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, n) in enumerate(zip(prompts, counts, strict=True)):
        at = len(prompt)
        ids[i, :at] = torch.as_tensor(prompt, dtype=torch.int64)
        masked[i, at : at + n] = real[i, : at + n] = True
        real[i, : at + n] = True
    place = torch.device(device)
    return Canvas.of(
        ids.to(place), masked.to(place), seeds, real=real.to(place), temperature=temperature, fill=fill
    )  # fmt: skip


def _signed(seed: int) -> int:
    """Any 64-bit seed as torch's int64."""
    return (int(seed) + 2**63) % 2**64 - 2**63
