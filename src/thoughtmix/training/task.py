"""Next-token prediction, for a mixture and its baseline: the batches, the loss, the evaluation.

A model with modes learns each text with the mode that suits it: some modes are tried, and the texts of a batch are
assigned to them in equal shares (the first half of hard EM).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from thoughtmix.core.errors import InputError
from thoughtmix.engine.counter_rng import key, uniform
from thoughtmix.training.pace import evenly
from thoughtmix.training.trainer import Batch

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

PLAIN = 0.5  # share of windows trained without a mode, so that creativity 0 is good too
CANDIDATES = 4  # modes tried for each other window
LOOKAHEAD = 12  # by so many tokens of its continuation: as good as all of them, at a quarter of the time (docs/LOG.md)

_CANDIDATES_STREAM = 6  # what the candidates' key is drawn for; routes and noise have smaller names


class LanguageTask:
    """Next-token prediction on windows of one long text, for `MixtureOfThoughtsTransformer` and the baseline.

    Half of the training windows are one thought from the first token (the route comes from the prior); the others are
    cut at a random place into a prompt and its continuation. A model with modes reads a part of them without one
    (`PLAIN`), and each other with the one that suits it best.

    Args:
        tokens: (length,) int64 ids to train on.
        validation: (length,) int64 ids to evaluate on.
        context: Predicted tokens of a window.
        seed: Of the batches.
        windows: Validation windows looked at in one evaluation; 0: all of them.

    Raises:
        InputError: A text is shorter than a window.
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
        """ids (b, context + 1); cuts (b,) tokens of the prompt; seeds (b,); plain (b,) bool: trained without a mode."""
        draw = np.random.default_rng([self.seed, 1, step])
        starts = draw.integers(0, len(self.tokens) - self.context - 1, total)
        cuts = draw.integers(1, self.context, total) * (draw.random(total) < 0.5)
        seeds = draw.integers(0, 2**62, total)
        plain = draw.random(total) < PLAIN
        mine = slice(rows.start, rows.stop)
        return {
            "ids": torch.stack([self.tokens[s : s + self.context + 1] for s in starts[mine]]),
            "cuts": torch.from_numpy(cuts[mine]),
            "seeds": torch.from_numpy(seeds[mine]),
            "plain": torch.from_numpy(plain[mine]),
        }

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The language-model loss with the model's training signals, and each of them for the log."""
        seeds, creativity = batch["seeds"], None
        if _unwrapped(model).config.modes:
            seeds = best_modes(model, batch, CANDIDATES, LOOKAHEAD)
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
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """Mean loss of a token, in nats, over a share of the windows, spread evenly over the validation text.

        Returns:
            `val_loss` as trained (creativity 1, the window's own seed), `val_loss_0` at creativity 0, and where there
            are modes `val_loss_marginal`, -log of the windows' mean likelihood over all of them: the whole mixture's.
        """
        found = {}
        starts = self.starts[evenly(len(self.starts), share)]
        if model.config.modes:
            each = mode_losses(model, self.validation, starts, self.context)
            found["val_loss_marginal"] = marginal_loss(each) / self.context
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


# --- modes ------------------------------------------------------------------------------------------------------------


def best_modes(model: Any, batch: Mapping[str, Tensor], candidates: int, lookahead: int) -> Tensor:
    """(b,) seeds, each of the mode that its window of a `LanguageTask.batch` is to be trained with.

    It is the best of `candidates` drawn for the window, by the first `lookahead` tokens of its continuation, as far as
    `balanced_assignment` allows over the windows of all processes. Where plain, the seed is the row's own.
    """
    raw = _unwrapped(model)
    seeds, count = batch["seeds"], raw.config.modes
    options = uniform(key(seeds, _CANDIDATES_STREAM), count).argsort(1)[:, :candidates]  # (b, m) modes
    base = (seeds - seeds % count)[:, None]
    some = (~batch["plain"]).nonzero()[:, 0]
    loss = torch.full(options.shape, torch.nan, device=seeds.device)
    if len(some):
        ids, cuts = lookahead_window(batch["ids"][some], batch["cuts"][some], lookahead)
        loss[some] = _seed_losses(raw, ids, (base + options)[some], cuts)
    all_loss, all_options, first = _from_all_processes(loss, options)
    wanted = ~np.isnan(all_loss[:, 0])
    chosen = seeds.new_zeros(len(all_loss))
    chosen[torch.from_numpy(wanted)] = torch.from_numpy(
        balanced_assignment(all_loss[wanted], all_options[wanted], count)
    )
    mine = chosen[first : first + len(seeds)]
    return torch.where(batch["plain"], seeds, base[:, 0] + mine)


def lookahead_window(ids: Tensor, cuts: Tensor, tokens: int, before: int = 4) -> tuple[Tensor, Tensor]:
    """The place where each row's continuation begins: ids (b, t + 1), cuts (b,) -> (b, s + 1) and the cuts there, with
    up to `before` tokens of the prompt and about `tokens` after it (earlier ones where the window ends sooner)."""
    length = min(ids.shape[1], before + tokens + 1)
    start = (cuts - before).clamp(min=0, max=ids.shape[1] - length)
    return ids.gather(1, start[:, None] + torch.arange(length, device=ids.device)), cuts - start


def balanced_assignment(loss: NDArray[np.float64], options: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(b,) a mode for each of b windows, from loss (b, m) under its options (b, m) among `count` modes.

    No mode takes more than ceil(b / count) windows, but where a window's options are all full: then it takes its best,
    over the limit. Whoever has most to lose by the second choice chooses first (Vogel's rule), so that one mode cannot
    win everything while the others learn nothing.
    """
    room = np.full(count, math.ceil(len(loss) / count))
    out = np.full(len(loss), -1, dtype=np.int64)
    for _ in range(len(loss)):
        cost = np.where(room[options] > 0, loss, np.inf)
        full = np.isinf(cost).all(1)
        cost[full] = loss[full]
        ranked = np.sort(cost, 1)
        regret = ranked[:, 1] - ranked[:, 0] if cost.shape[1] > 1 else np.zeros(len(loss))
        row = int(np.where(out < 0, regret, -1.0).argmax())
        out[row] = options[row, int(cost[row].argmin())]
        room[out[row]] -= 1
    return out


def mode_losses(
    model: MixtureOfThoughtsTransformer, tokens: Tensor, starts: NDArray[Any], context: int, rows: int = 64
) -> NDArray[np.float64]:
    """(windows, modes) summed negative log-likelihood, nats, of each window under each mode."""
    m = model.config.modes
    device = next(model.parameters()).device
    out = []
    for at in range(0, len(starts), max(1, rows // m)):
        some = starts[at : at + max(1, rows // m)]
        ids = torch.stack([tokens[s : s + context + 1] for s in some]).to(device)
        seeds = (torch.arange(at, at + len(some)) * m)[:, None] + torch.arange(m)
        cuts = torch.zeros(len(some), dtype=torch.int64, device=device)
        out.append(_seed_losses(model, ids, seeds.to(device), cuts))
    return torch.cat(out).double().cpu().numpy()


def marginal_loss(losses: NDArray[np.float64]) -> float:
    """Mean over windows of -log (1/M) sum_z exp(-loss_z), nats a window: all M modes are as likely beforehand."""
    low = losses.min(1)
    return float((low - np.log(np.exp(low[:, None] - losses).mean(1))).mean())


@torch.no_grad()
def _seed_losses(model: MixtureOfThoughtsTransformer, ids: Tensor, seeds: Tensor, cuts: Tensor) -> Tensor:
    """ids (b, t + 1), seeds (b, m), cuts (b,) -> (b, m): the summed negative log-likelihood, nats, of each row after
    its prompt of `cuts` tokens, as the thought of each of its seeds."""
    m = seeds.shape[1]
    wide, cuts = ids.repeat_interleave(m, 0), cuts.repeat_interleave(m)
    logits = model(wide[:, :-1], creativity=1.0, thought_seeds=seeds.flatten(), prompt_lengths=cuts).logits
    loss = F.cross_entropy(logits.float().transpose(1, 2), wide[:, 1:], reduction="none")
    after = torch.arange(loss.shape[1], device=ids.device) >= cuts[:, None]  # what the continuation's tokens predict
    return (loss * after).sum(1).view(seeds.shape)


def _from_all_processes(loss: Tensor, options: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Rows of all processes, and which of them is our first."""
    first = 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        first = torch.distributed.get_rank() * len(loss)
        loss, options = (_all_gather(x) for x in (loss, options))
    return loss.double().cpu().numpy(), options.cpu().numpy(), first


def _all_gather(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def _unwrapped(model: Any) -> MixtureOfThoughtsTransformer:
    """The model within what Accelerate made of it for several processes."""
    inner: MixtureOfThoughtsTransformer = model.module if isinstance(model, DistributedDataParallel) else model
    return inner
