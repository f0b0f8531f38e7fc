"""Prompts and their answers: training texts that end, several of them to one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.training.modes import (
    ModeSearch,
    marginal_loss,
    mode_information,
    mode_loss,
    seed_losses,
)
from thoughtmix.training.pace import evenly
from thoughtmix.training.trainer import Batch

IGNORED = -100  # of labels: not learned


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """A prompt, its answers (each with what ends it), and how often each is given."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]


class AnswerTask:
    """Answers to prompts, for `MixtureOfThoughtsTransformer` and the baseline; prompts are read and not learned.

    A batch holds groups of `group` answers to the same prompt, drawn as often as they are given. Modes are shared out
    within a group: so each becomes a way to answer, where a balance over the whole batch leaves them free to become
    subjects.

    Args:
        training: What to learn from.
        validation: What evaluations look at: prompts with one answer or more, all of which count as often.
        group: Answers of one prompt in a batch. A batch of each process holds whole groups.
        search: How a model with modes learns them.
        tail: The last tokens of a prompt that a thought reads through its own mode; see `MixtureOfThoughtsConfig`.
        seed: Of the batches.

    Raises:
        InputError: There is nothing to learn from or to look at.
    """

    def __init__(
        self,
        training: Sequence[AnsweredPrompt],
        validation: Sequence[AnsweredPrompt],
        group: int,
        search: ModeSearch | None = None,
        tail: int = 1,
        seed: int = 0,
    ) -> None:
        if not training or not validation:
            raise InputError("There are no prompts to learn from, or none to look at.", "Pass both.")
        self.training, self.group, self.tail, self.seed = training, group, tail, seed
        self.search = search or ModeSearch()
        self.shares = [np.cumsum(p.weights) / np.sum(p.weights) for p in training]
        self.pairs = [(p.prompt, answer) for p in validation for answer in p.answers]

    def batch(self, step: int, rows: range, total: int) -> Batch:
        """ids, labels, mask (b, t), padded on the right; cuts, seeds, plain, group (b,): see `modes.mode_loss`."""
        draw = np.random.default_rng([self.seed, 2, step])
        groups = -(-total // self.group)
        prompts = draw.integers(0, len(self.training), groups)
        which = draw.random((groups, self.group))
        seeds = draw.integers(0, 2**62, groups * self.group)
        plain = draw.random(groups) < self.search.share_plain(step)
        pairs = []
        for row in rows:
            g, i = divmod(row, self.group)
            own = self.training[prompts[g]]
            pairs.append((own.prompt, own.answers[int(np.searchsorted(self.shares[prompts[g]], which[g, i]))]))
        group = np.asarray(rows) // self.group
        return {
            **collate(pairs, self.tail),
            "seeds": torch.from_numpy(seeds[rows.start : rows.stop]),
            "plain": torch.from_numpy(plain[group]),
            "group": torch.from_numpy(group),
        }

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As `modes.mode_loss`."""
        return mode_loss(model, batch, self.search)

    @torch.no_grad()
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """Mean nats of an answer's token, on an evenly spread share of the validation answers.

        Returns:
            `val_loss` as trained (creativity 1, a mode by the answer's number), `val_loss_0` at creativity 0, and where
            there are modes `val_loss_marginal`, of all of them together, `val_loss_best`, of the best for each answer,
            and `val_information`, nats that an answer says about its mode.
        """
        some = [self.pairs[i] for i in evenly(len(self.pairs), share)]
        tokens = sum(len(answer) for _, answer in some)
        found = {}
        if model.config.modes:
            each = self._losses(model, some, 1.0)
            found["val_loss_marginal"] = marginal_loss(each) * len(some) / tokens
            found["val_loss_best"] = float(each.min(1).sum()) / tokens
            found["val_information"] = mode_information(each)
            found["val_loss"] = float(each.mean(1).sum()) / tokens
        else:
            found["val_loss"] = float(self._losses(model, some, 0.0).sum()) / tokens
        found["val_loss_0"] = float(self._losses(model, some, 0.0).sum()) / tokens
        return found

    def _losses(
        self, model: Any, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], creativity: float
    ) -> NDArray[np.float64]:
        """(pairs, modes) nats of each answer under each mode; (pairs, 1) at creativity 0."""
        device, out = next(model.parameters()).device, []
        m = model.config.modes if creativity else 1
        for at in range(0, len(pairs), 32):
            batch = {name: x.to(device) for name, x in collate(pairs[at : at + 32], self.tail).items()}
            ids, labels = batch["ids"], batch["labels"]
            if creativity:
                seeds = torch.arange(m, device=device).expand(len(ids), m)
                out.append(seed_losses(model, ids, seeds, batch["cuts"], labels))
            else:
                logits = model(ids[:, :-1], creativity=0.0, thought_seeds=[0] * len(ids)).logits.float()
                loss = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=IGNORED)
                out.append(loss.sum(1, keepdim=True))
        return torch.cat(out).double().cpu().numpy()


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], tail: int) -> Batch:
    """ids, labels, mask (b, t) of prompts and answers, padded on the right, and cuts (b,), `tail` tokens before the
    prompt's end."""
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(pairs):
        begin, end = len(prompt), len(prompt) + len(answer)
        ids[i, :end] = torch.tensor([*prompt, *answer])
        labels[i, begin:end] = ids[i, begin:end]
        mask[i, :end] = 1
    cuts = torch.tensor([max(0, len(prompt) - tail) for prompt, _ in pairs])
    return {"ids": ids, "labels": labels, "mask": mask, "cuts": cuts}
