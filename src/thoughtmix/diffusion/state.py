"""The state of rows that are being denoised.

It is never changed in place: a step gives a new state, so keeping one is a snapshot that costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.counter_rng import key

Memory = dict[str, Tensor]
"""What a denoiser keeps between steps, every tensor with rows first; it travels with the rows."""

_FORK = 0x666F726B  # names a clone's stream


@dataclass(frozen=True)
class DiffusionState:
    """b rows of length t, padded on any side; every tensor has rows first."""

    ids: Tensor  # (b, t) int64; where undecided, the mask (or noise)
    masked: Tensor  # (b, t) bool: undecided
    locked: Tensor  # (b, t) bool: given, never changed, whatever is remasked
    real: Tensor  # (b, t) bool: False is padding
    seeds: Tensor  # (b,) int64: whose rows these are
    streams: Tensor  # (b,) int64: what they draw from; a clone has a stream of its own
    temperature: Tensor  # (b,) float64; 0 takes the likeliest token
    confidence: Tensor  # (b, t) float32: probability (temperature 1) of a token when it was kept; 1 locked, 0 masked
    steps: Tensor  # (b,) int64: steps taken
    block: Tensor  # (b,) int64: the block of positions that the row is in; -1: none has begun
    block_step: Tensor  # (b,) int64: steps taken in that block
    block_steps: Tensor  # (b,) int64: steps planned for that block
    block_masked: Tensor  # (b,) int64: masked positions of that block when it began
    run_steps: Tensor  # (b,) int64: steps taken since the start, or the last `restart`
    logprob: Tensor  # (b,) float64: of the tokens kept so far, nats at temperature 1, each at the step that kept it
    memory: Memory = field(default_factory=dict)  # what the denoiser keeps

    @classmethod
    def from_tokens(
        cls,
        ids: Tensor,
        masked: Tensor,
        seeds: Sequence[int] | Tensor,
        *,
        locked: Tensor | None = None,
        real: Tensor | None = None,
        temperature: float | Sequence[float] | Tensor = 1.0,
        fill: int = 0,
    ) -> DiffusionState:
        """Rows of which no step has been taken.

        Args:
            ids: (b, t) token ids.
            masked: (b, t) bool, what is to be written; its ids become `fill`.
            seeds: One a row.
            locked: (b, t) bool, what no remasking may touch. None: all that is not masked.
            real: (b, t) bool, False is padding. None: there is none.
            temperature: One for all rows, or one a row.
            fill: What undecided positions hold, the mask.

        Raises:
            InputError: For shapes and values that do not fit.
        """
        b, device = len(ids), ids.device
        real = torch.ones_like(masked) if real is None else real
        locked = ~masked if locked is None else locked
        for name, x in (("masked", masked), ("locked", locked), ("real", real)):
            if x.shape != ids.shape or x.dtype != torch.bool:
                raise InputError(f"{name} is no bool tensor of shape {tuple(ids.shape)}.", "Pass one flag a token.")
        masked = masked & real
        if bool((masked & locked).any()):
            raise InputError("A position is both masked and locked.", "Lock only tokens that are there.")
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
            block=zero - 1,
            block_step=zero,
            block_steps=zero,
            block_masked=zero,
            run_steps=zero,
            logprob=zero.double(),
        )

    @classmethod
    def from_prompts(
        cls,
        prompts: Sequence[Sequence[int] | Tensor],
        lengths: int | Sequence[int],
        seeds: Sequence[int],
        fill: int,
        temperature: float | Sequence[float] = 1.0,
        device: torch.device | str = "cpu",
        *,
        suffix: Sequence[int] = (),
    ) -> DiffusionState:
        """Rows of a locked prompt and `lengths` tokens to write after it, padded on the right.

        Args:
            prompts: Token ids, one prompt a row; an empty one is unconditional.
            lengths: Tokens to write, one number for all rows or one a row.
            seeds, fill, temperature: As in `from_tokens`.
            suffix: Locked tokens behind each row.

        Raises:
            InputError: For numbers that do not fit the rows.
        """
        counts = [lengths] * len(prompts) if isinstance(lengths, int) else list(lengths)
        if len(counts) != len(prompts) or min(counts, default=1) < 1:
            raise InputError(
                f"Lengths {lengths} for {len(prompts)} rows.", "Pass one of 1 or more a row (--max-new-tokens 256)."
            )
        if not prompts:
            raise InputError("There are no rows.", "Pass one prompt or more; an empty prompt is one.")
        width = max(len(p) + n for p, n in zip(prompts, counts, strict=True)) + len(suffix)
        ids = torch.full((len(prompts), width), fill, dtype=torch.int64)
        masked, real = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for i, (prompt, n) in enumerate(zip(prompts, counts, strict=True)):
            start, end = len(prompt), len(prompt) + n
            ids[i, :start] = torch.as_tensor(prompt, dtype=torch.int64)
            masked[i, start:end] = True
            ids[i, end : end + len(suffix)] = torch.as_tensor(suffix, dtype=torch.int64)
            real[i, : end + len(suffix)] = True
        ids, masked, real = (x.to(device) for x in (ids, masked, real))
        return cls.from_tokens(ids, masked, seeds, real=real, temperature=temperature, fill=fill)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_masked(self) -> Tensor:
        """(b,) masked positions."""
        return self.masked.sum(1)

    @property
    def writable(self) -> Tensor:
        """(b, t) bool: positions that are written here, neither given nor padding."""
        return self.real & ~self.locked

    @property
    def filled(self) -> Tensor:
        """(b,) float64: the share of the writable positions that is decided; 1 where there are none."""
        many = self.writable.sum(1).double()
        return torch.where(many > 0, 1 - self.num_masked / many.clamp(min=1), 1.0)

    @property
    def position_ids(self) -> Tensor:
        """(b, t) the place of each real token in its row, whatever the padding."""
        return (self.real.cumsum(1) - 1).clamp(min=0)

    def replace(self, **fields: Any) -> DiffusionState:
        return dataclasses.replace(self, **fields)

    def select_rows(self, rows: Sequence[int] | Tensor) -> DiffusionState:
        """These rows in this order, with their streams: a row taken twice goes on the same way twice."""
        at = torch.as_tensor(rows, dtype=torch.int64, device=self.ids.device)
        moved = {f.name: getattr(self, f.name)[at] for f in dataclasses.fields(self) if f.name != "memory"}
        return DiffusionState(**moved, memory={name: x[at] for name, x in self.memory.items()})

    def fork(self, rows: Sequence[int] | Tensor) -> DiffusionState:
        """`select_rows`, and every further copy of a row draws anew: from the stream of (row, its steps, which copy).

        The first copy keeps its stream, so a row that is not cloned goes on as if nobody had chosen.
        """
        out = self.select_rows(rows)
        parents = torch.as_tensor(rows, device=self.ids.device)
        copy = (parents[:, None] == parents[None, :]).tril(-1).sum(1)  # how many before me came from my parent
        fresh = key(out.streams, _FORK, out.steps, copy)
        return out.replace(streams=torch.where(copy > 0, fresh, out.streams))

    def with_rows(self, rows: Tensor, part: DiffusionState) -> DiffusionState:
        """This state with `rows` (k,) replaced by the k rows of `part`."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "memory"]
        out = {name: getattr(self, name).index_copy(0, rows, getattr(part, name)) for name in names}
        memory = {}
        for name, x in part.memory.items():
            whole = self.memory.get(name)
            if whole is None or whole.shape[1:] != x.shape[1:]:
                whole = x.new_zeros((len(self), *x.shape[1:]))
            memory[name] = whole.index_copy(0, rows, x)
        return self.replace(**out, memory=memory)

    def remask(self, where: Tensor, fill: int) -> DiffusionState:
        """Positions `where` (b, t) undecided again, locked ones and padding excepted."""
        where = where & self.writable & ~self.masked
        return self.replace(
            ids=self.ids.masked_fill(where, fill),
            masked=self.masked | where,
            confidence=self.confidence.masked_fill(where, 0.0),
        )

    def restart(self) -> DiffusionState:
        """Ready to be denoised under another configuration: the steps taken in a block are forgotten."""
        zero = torch.zeros_like(self.block_step)
        return self.replace(block=zero - 1, block_step=zero, block_steps=zero, block_masked=zero, run_steps=zero)


def _signed(seed: int) -> int:
    """Any 64-bit seed as torch's int64."""
    return (int(seed) + 2**63) % 2**64 - 2**63
