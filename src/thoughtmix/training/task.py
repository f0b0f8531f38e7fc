"""What is trained: the batches, the loss and the evaluation of one kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.training.modes import best_modes, marginal, mode_losses, model_of

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

Batch = dict[str, Tensor]


class Task(Protocol):
    """A batch is a function of (step, row): so that a run resumed, or spread over processes, sees the same ones."""

    def batch(self, step: int, rows: range, total: int) -> Batch:
        """Rows `rows` of the `total` of this step, on the CPU."""
        ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What is made small (a mean over rows), and what is worth plotting beside it."""
        ...

    def evaluate(self, model: Any) -> dict[str, float]:
        """`val_loss`, by which the best state is chosen, and others."""
        ...


PLAIN = 0.5  # share of windows trained without a mode, so that creativity 0 is good too
CANDIDATES = 4  # modes tried for each other window
GLIMPSE = 12  # by so many tokens of its continuation: as good as all of them, at a quarter of the time (docs/LOG.md)


class LanguageTask:
    """Next-token prediction on windows of one long text, for `MixtureOfThoughtsTransformer` and the baseline.

    tokens and validation: (length,) int64 ids. Half of the training windows are one thought from the first token (the
    route comes from the prior); the others are cut at a random place into a prompt and its continuation. A model with
    modes reads a part of them without one (`PLAIN`), and each other with the one that suits it best (modes.py).
    """

    def __init__(self, tokens: Tensor, validation: Tensor, context: int, seed: int = 0, windows: int = 0) -> None:
        for name, ids in (("training", tokens), ("validation", validation)):
            if len(ids) <= context + 1:
                raise InputError(
                    f"The {name} text has {len(ids)} tokens, a window takes {context + 1}.",
                    "Pass a longer text (--data) or a shorter window (--context).",
                )
        self.tokens, self.validation, self.context, self.seed = tokens, validation, context, seed
        most = (len(validation) - 1) // context
        count = min(windows, most) if windows else most
        self.starts = np.unique(np.linspace(0, len(validation) - context - 1, count).astype(int))

    def batch(self, step: int, rows: range, total: int) -> Batch:
        draw = np.random.default_rng([self.seed, 1, step])
        starts = draw.integers(0, len(self.tokens) - self.context - 1, total)
        cuts = draw.integers(1, self.context, total) * (draw.random(total) < 0.5)
        seeds = draw.integers(0, 2**62, total)
        plain = draw.random(total) < PLAIN
        mine = slice(rows.start, rows.stop)
        windows = torch.stack([self.tokens[s : s + self.context + 1] for s in starts[mine]])
        return {"ids": windows, "cuts": torch.from_numpy(cuts[mine]), "seeds": torch.from_numpy(seeds[mine]),
                "plain": torch.from_numpy(plain[mine])}  # fmt: skip

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        seeds, creativity = batch["seeds"], None
        if model_of(model).config.modes:
            seeds = best_modes(model, batch, CANDIDATES, GLIMPSE)
            creativity = (~batch["plain"]).float()
        # The model shifts labels itself, so it reads one token more than a window predicts from.
        out = model(
            batch["ids"], labels=batch["ids"], thought_seeds=seeds, creativity=creativity, prompt_lengths=batch["cuts"]
        )
        signals = dict(out.signals or {})
        layers = signals.pop("diversity_by_layer", torch.zeros(0))
        logs = {"lm_loss": out.lm_loss, **signals, **{f"diversity_{i}": v for i, v in enumerate(layers)}}
        return out.loss, {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """Mean loss of a token over windows spread evenly over the validation text, nats: `val_loss` as trained
        (creativity 1, the window's own seed), `val_loss_0` deterministic (creativity 0), and where there are modes
        `val_loss_marginal`, -log of the windows' mean likelihood over all of them: that of the whole mixture."""
        more = {}
        if model.config.modes:
            each = mode_losses(model, self.validation, self.starts, self.context)
            more = {"val_loss_marginal": marginal(each) / self.context}
        return more | {
            "val_loss": windows_loss(model, self.validation, self.starts, self.context),
            "val_loss_0": windows_loss(model, self.validation, self.starts, self.context, creativity=0.0),
        }


def windows_loss(
    model: MixtureOfThoughtsTransformer,
    tokens: Tensor,
    starts: np.ndarray[Any, Any],
    context: int,
    creativity: float = 1.0,
    batch_size: int = 64,
) -> float:
    """Mean negative log-likelihood of a token, nats, over windows of `context` predicted tokens."""
    total = 0.0
    device = next(model.parameters()).device
    for at in range(0, len(starts), batch_size):
        some = starts[at : at + batch_size]
        ids = torch.stack([tokens[s : s + context + 1] for s in some]).to(device)
        seeds = torch.arange(at, at + len(some), device=device)
        logits = model(ids[:, :-1], creativity=creativity, thought_seeds=seeds).logits
        total += float(F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
    return total / (len(starts) * context)
