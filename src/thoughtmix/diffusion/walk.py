"""Rows denoised until each has reached a level, and what is known of them there from the steps' own logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.denoiser import Denoiser
from thoughtmix.diffusion.sampler import Meter, Plan, Step, stream


@dataclass
class Watch:
    """What the last step of each row said; rows as in the canvas, all tensors rows first. guess (b, t): its text, the
    likeliest token where undecided. certainty (b, t): the probability of each. fresh (b, t): positions that were
    undecided before that step. drift (b,): sum over steps of log p - log q of the tokens kept, p the model at
    temperature 1, q what they were drawn from."""

    guess: Tensor
    certainty: Tensor
    fresh: Tensor
    drift: Tensor

    @classmethod
    def of(cls, canvas: Canvas) -> Watch:
        return cls(canvas.ids, canvas.confidence * canvas.real, canvas.masked, torch.zeros_like(canvas.logprob))

    def see(self, rows: Tensor, step: Step) -> None:
        """rows: where the rows of `step` stand here."""
        self.guess = self.guess.index_copy(0, rows, step.guess)
        self.certainty = self.certainty.index_copy(0, rows, step.certainty)
        self.fresh = self.fresh.index_copy(0, rows, step.before.masked)
        self.drift = self.drift.index_add(0, rows, step.log_model - step.log_tokens)

    def pick(self, rows: Tensor | Sequence[int]) -> Watch:
        at = torch.as_tensor(rows, device=self.guess.device)
        return Watch(self.guess[at], self.certainty[at], self.fresh[at], self.drift[at])


def opened(canvas: Canvas) -> Tensor:
    """(b, t) bool: positions that are written here: neither given nor padding."""
    return canvas.real & ~canvas.locked


def filled(canvas: Canvas) -> Tensor:
    """(b,) float64: the share of these that is decided; 1 where there are none."""
    many = opened(canvas).sum(1).double()
    return torch.where(many > 0, 1 - canvas.left / many.clamp(min=1), 1.0)


def advance(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan,
    level: float | Tensor,
    watch: Watch,
    meter: Meter | None = None,
    on_step: Callable[[Canvas], None] | None = None,
) -> Canvas:
    """Every row denoised until at least `level` (of it, or of all) of its open positions are decided; one that is there
    waits, so that rows stand at the same level of noise when they are compared. `watch` follows; on_step: after each
    step, with the whole canvas."""
    goal = torch.as_tensor(level, dtype=torch.float64, device=canvas.ids.device).expand(len(canvas)) - 1e-9
    todo = ((filled(canvas) < goal) & (canvas.left > 0)).nonzero()[:, 0]
    while len(todo):
        whole = len(todo) == len(canvas)
        part = canvas if whole else canvas.pick(todo)
        for now, step in stream(denoiser, part, plan, meter):
            part = now
            watch.see(todo[step.rows], step)
            there = filled(part) >= goal[todo]
            if on_step is not None:
                on_step(part if whole else canvas.put(todo, part))
            if bool(there.any()):
                break
        canvas = part if whole else canvas.put(todo, part)
        todo = todo[~there & (part.left > 0)]
    return canvas
