"""Next-token prediction, for a mixture and its baseline: the batches, the loss, the evaluation.

With which mode a model that has some learns a window: modes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.training.modes import ModeSearch, marginal_loss, mode_information, mode_loss, mode_losses
from thoughtmix.training.pace import evenly
from thoughtmix.training.trainer import Batch

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer


class LanguageTask:
    """Next-token prediction on windows of one long text, for `MixtureOfThoughtsTransformer` and the baseline.

    Half of the training windows are one thought from the first token (the route comes from the prior); the others are
    cut at a random place into a prompt and its continuation. A model with modes reads a part of them without one, and
    each other as `search` says.

    Args:
        tokens: (length,) int64 ids to train on.
        validation: (length,) int64 ids to evaluate on.
        context: Predicted tokens of a window.
        seed: Of the batches.
        windows: Validation windows looked at in one evaluation; 0: all of them.
        search: How a model with modes learns a window.

    Raises:
        InputError: A text is shorter than a window.
    """

    def __init__(
        self,
        tokens: Tensor,
        validation: Tensor,
        context: int,
        seed: int = 0,
        windows: int = 0,
        search: ModeSearch | None = None,
    ) -> None:
        for name, ids in (("training", tokens), ("validation", validation)):
            if len(ids) <= context + 1:
                raise InputError(
                    f"The {name} text has {len(ids)} tokens, a window takes {context + 1}.",
                    "Pass a longer text (--data) or a shorter window (--context).",
                )
        self.tokens, self.validation, self.context, self.seed = tokens, validation, context, seed
        self.search = search or ModeSearch()
        most = (len(validation) - 1) // context
        count = min(windows, most) if windows else most
        self.starts = np.unique(np.linspace(0, len(validation) - context - 1, count).astype(int))

    def batch(self, step: int, rows: range, total: int) -> Batch:
        """ids (b, context + 1); cuts (b,) tokens of the prompt; seeds (b,); plain (b,) bool: trained without a mode."""
        draw = np.random.default_rng([self.seed, 1, step])
        starts = draw.integers(0, len(self.tokens) - self.context - 1, total)
        cuts = draw.integers(1, self.context, total) * (draw.random(total) < 0.5)
        seeds = draw.integers(0, 2**62, total)
        plain = draw.random(total) < self.search.share_plain(step)
        mine = slice(rows.start, rows.stop)
        return {
            "ids": torch.stack([self.tokens[s : s + self.context + 1] for s in starts[mine]]),
            "cuts": torch.from_numpy(cuts[mine]),
            "seeds": torch.from_numpy(seeds[mine]),
            "plain": torch.from_numpy(plain[mine]),
        }

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The language-model loss with the model's training signals, and each of them for the log."""
        return mode_loss(model, batch, self.search)

    @torch.no_grad()
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """Mean loss of a token, in nats, over a share of the windows, spread evenly over the validation text.

        Returns:
            `val_loss` as trained (creativity 1, the window's own seed), `val_loss_0` at creativity 0, and where there
            are modes `val_loss_marginal`, -log of the windows' mean likelihood over all of them: the whole mixture's;
            `val_loss_best`, of the best of them for each window; `val_information`, nats that a window says about its
            mode.
        """
        found = {}
        starts = self.starts[evenly(len(self.starts), share)]
        if model.config.modes:
            each = mode_losses(model, self.validation, starts, self.context)
            found["val_loss_marginal"] = marginal_loss(each) / self.context
            found["val_loss_best"] = float(each.min(1).mean()) / self.context
            found["val_information"] = mode_information(each)
        found["val_loss"] = self._mean_loss(model, starts, creativity=1.0)
        found["val_loss_0"] = self._mean_loss(model, starts, creativity=0.0)
        return found

    def _mean_loss(
        self, model: MixtureOfThoughtsTransformer, starts: NDArray[np.int64], creativity: float, batch_size: int = 64
    ) -> float:
        total = 0.0
        device = next(model.parameters()).device
        for at in range(0, len(starts), batch_size):
            some = starts[at : at + batch_size]
            ids = torch.stack([self.validation[s : s + self.context + 1] for s in some]).to(device)
            seeds = torch.arange(at, at + len(some), device=device)
            logits = model(ids[:, :-1], creativity=creativity, thought_seeds=seeds).logits
            total += float(F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
        return total / (len(starts) * self.context)
