"""Lessons as the trainer wants them: a batch is a function of the step, so that a run resumed sees the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.graft.tuning.batches import Batch, Student, collate, token_logprobs
from thoughtmix.graft.tuning.lessons import Lesson
from thoughtmix.graft.tuning.objectives import Objective, divergence


class TuneTask:
    """Lessons of like length share a batch; which lessons, and in which order, follows from the seed."""

    def __init__(
        self,
        lessons: Sequence[Lesson],
        held: Sequence[Lesson],
        objective: Objective,
        branches: int,
        tail: int,
        seed: int = 0,
    ) -> None:
        if not lessons or not held:
            raise InputError("There are no lessons to learn from or to check by.", "Pass more prompts (--prompts).")
        self.objective, self.branches, self.tail, self.seed = objective, branches, tail, seed
        rng = np.random.default_rng([seed, 79])
        mixed = [lessons[i] for i in rng.permutation(len(lessons))]
        self.lessons = sorted(mixed, key=lambda lesson: len(lesson.ids) // 4)  # stable: mixed within like lengths
        chosen = [held[i] for i in rng.permutation(len(held))[:48]]
        self.held = sorted(chosen, key=lambda lesson: len(lesson.ids))

    def batch(self, step: int, rows: range, total: int) -> Batch:
        per_epoch = max(1, len(self.lessons) // total)
        epoch, at = divmod(step, per_epoch)
        rng = np.random.default_rng([self.seed, 80, epoch])
        shift = int(rng.integers(len(self.lessons)))
        start = int(rng.permutation(per_epoch)[at]) * total + shift
        mine = [self.lessons[(start + i) % len(self.lessons)] for i in rows]
        draws = np.random.default_rng([self.seed, 81, step]).integers(0, 2**62, total)[rows.start : rows.stop]
        return {**collate(mine, self.tail), "draws": torch.from_numpy(draws)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, logs = self.objective(model, batch, batch["draws"])
        return loss, {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """On prompts not learned from: `val_loss`, KL from the teacher (nats a token; the NLL where there is none);
        `val_recovered`, the share of answers whose branch is the likeliest of four (chance 0.25)."""
        total, count, right = 0.0, 0, 0
        device = next(model.parameters()).device
        rng = np.random.default_rng([self.seed, 82])
        for at in range(0, len(self.held), 16):
            batch = {k: v.to(device) for k, v in collate(self.held[at : at + 16], self.tail).items()}
            student = Student(model, batch, self.branches)
            logprobs = student(batch["branch"])
            tokens = int(batch["counted"].sum())
            own = token_logprobs(logprobs, batch)
            taught = batch["top"].shape[-1] > 0
            total += float(divergence(logprobs, batch)) * tokens if taught else -float(own.sum())
            count += tokens
            best = torch.ones_like(own, dtype=torch.bool)
            for step in 1 + rng.permutation(self.branches - 1)[:3]:
                other = (batch["branch"] + int(step)) % self.branches
                best &= own > token_logprobs(student(other), batch)
            right += int(best.sum())
        return {"val_loss": total / count, "val_recovered": right / len(self.held)}
