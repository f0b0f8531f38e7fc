"""What thoughts are taught: one small class an objective. A loss is nats a token, made small.

Axis letters: b lessons, a answer tokens, k branches, v vocabulary, m likeliest tokens kept of a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtmix.graft.tuning.batches import Batch, Student, token_logprobs

Loss = tuple[Tensor, Mapping[str, Tensor]]


class Objective(Protocol):
    """The loss of a batch, and what is worth plotting beside it."""

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        """draws (b,) int64: whatever this batch draws, it draws from these."""
        ...


def divergence(logprobs: Tensor, batch: Batch) -> Tensor:
    """(): mean KL(teacher || student) of a token, nats, over the teacher's m likeliest tokens and one bin for all the
    others (context distillation: Askell et al. 2021, sec. 2.3). logprobs (b, a, v)."""
    teacher = batch["top"]
    there = torch.isfinite(teacher)
    student = logprobs.gather(-1, batch["top_ids"]).masked_fill(~there, 0.0)
    p = teacher.exp() * there
    rest, own_rest = (1 - x.sum(-1).clamp(max=1 - 1e-4) for x in (p, student.exp() * there))
    each = (p * (teacher.masked_fill(~there, 0.0) - student)).sum(-1) + rest * (rest.log() - own_rest.log())
    counted = batch["counted"]
    return (each * counted).sum() / counted.sum()


def recoverable(own: Tensor, other: Tensor) -> Tensor:
    """(): -log of the odds that an answer came from its branch and not from one other, drawn: a bound on the mutual
    information of branch and answer by one negative (Poole et al. 2019, eq. 12). own, other (b,) log-probabilities."""
    return -F.logsigmoid(own - other).mean()


@dataclass(frozen=True, slots=True)
class Styles:
    """Context distillation: branch k, without a context, answers as the base model does under context k. contrast:
    weight of `recoverable`, whose other branch is drawn among the rest."""

    branches: int
    contrast: float = 0.1

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        branch, student = batch["branch"], Student(model, batch, self.branches)
        logprobs = student(branch)
        loss = divergence(logprobs, batch)
        logs = {"lm_loss": loss}
        if self.contrast:
            other = (branch + 1 + draws % (self.branches - 1)) % self.branches
            apart = recoverable(
                token_logprobs(logprobs, batch),
                token_logprobs(student(other), batch),
            )
            logs["contrast"] = apart
            loss = loss + self.contrast * apart
        return loss, logs


@dataclass(frozen=True, slots=True)
class Modes:
    """The model's own answers, each taught to the branch that already likes it best (hard EM), every branch as often as
    any other (`balanced`): a mixture p(y|x) = mean_k p_k(y|x) whose branches split the answers among them. contrast: as
    above, but against the second best branch."""

    branches: int
    contrast: float = 0.1

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        student = Student(model, batch, self.branches)
        with torch.no_grad():
            liked = torch.stack([
                token_logprobs(student(torch.full_like(batch["branch"], k)), batch)
                for k in range(self.branches)
            ], 1)  # (b, k)  # fmt: skip
            branch = balanced(liked)
            other = liked.scatter(1, branch[:, None], -torch.inf).argmax(1)
        own = token_logprobs(student(branch), batch)
        loss = -own.sum() / batch["counted"].sum()
        logs = {"lm_loss": loss, "best": -(liked.amax(1).sum() / batch["counted"].sum())}
        if self.contrast:
            apart = recoverable(own, token_logprobs(student(other), batch))
            logs["contrast"] = apart
            loss = loss + self.contrast * apart
        return loss, logs


def balanced(liked: Tensor) -> Tensor:
    """Each answer's branch, (b,): greedily the largest of liked - its answer's mean, no branch more than ceil(b / k)
    times. liked (b, k)."""
    b, k = liked.shape
    room = [-(-b // k)] * k
    chosen = torch.full((b,), -1, dtype=torch.int64)
    for at in (liked - liked.mean(1, keepdim=True)).flatten().argsort(descending=True).tolist():
        row, branch = divmod(at, k)
        if chosen[row] < 0 and room[branch]:
            chosen[row], room[branch] = branch, room[branch] - 1
    return chosen.to(liked.device)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text: windows through drawn routes, two branches a window, with the mixture's own signals. entropy: how far the
    learned odds are from even; diversity: how alike two branches make the next token (their probability overlap)."""

    branches: int
    contrast: float = 0.1
    balance: float = 0.01

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        first = draws % self.branches
        second = (first + 1 + draws // self.branches % (self.branches - 1)) % self.branches
        student = Student(model, batch, self.branches)
        one, two = student(first), student(second)
        counted = batch["counted"]
        loss = -(token_logprobs(one, batch) + token_logprobs(two, batch)).sum() / (2 * counted.sum())
        overlap = (torch.minimum(one, two).exp().sum(-1) * counted).sum() / counted.sum()
        logs = {"lm_loss": loss, "overlap": overlap}
        loss = loss + self.contrast * overlap
        odds = [p for name, p in model.named_parameters() if "mot_prior" in name]
        if odds and self.balance:
            uneven = sum((p.float().log_softmax(-1).exp() * p.float().log_softmax(-1)).sum() for p in odds) / len(odds)
            logs["uneven"] = torch.as_tensor(uneven)
            loss = loss + self.balance * uneven
        return loss, logs
