"""Which mode suits a text: try some, and share the texts of a batch out evenly (hard EM's first half)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from thoughtmix.engine.counter_rng import key, uniform

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

_CANDIDATES = 6  # what the candidates' key is drawn for; routes and noise have smaller names


def model_of(model: Any) -> MixtureOfThoughtsTransformer:
    """The model within what Accelerate wrapped."""
    found: MixtureOfThoughtsTransformer = getattr(model, "module", model)
    return found


@torch.no_grad()
def losses_of(model: MixtureOfThoughtsTransformer, ids: Tensor, seeds: Tensor, cuts: Tensor) -> Tensor:
    """ids (b, t + 1), seeds (b, m), cuts (b,) -> (b, m): the summed negative log-likelihood, nats, of each row after
    its prompt of `cuts` tokens, as the thought of each of its seeds."""
    m = seeds.shape[1]
    wide, cuts = ids.repeat_interleave(m, 0), cuts.repeat_interleave(m)
    logits = model(wide[:, :-1], creativity=1.0, thought_seeds=seeds.flatten(), prompt_lengths=cuts).logits
    loss = F.cross_entropy(logits.float().transpose(1, 2), wide[:, 1:], reduction="none")
    after = torch.arange(loss.shape[1], device=ids.device) >= cuts[:, None]  # what the continuation's tokens predict
    return (loss * after).sum(1).view(seeds.shape)


def glimpse(ids: Tensor, cuts: Tensor, tokens: int, before: int = 4) -> tuple[Tensor, Tensor]:
    """The place where each row's continuation begins: ids (b, t + 1), cuts (b,) -> (b, s + 1) and the cuts there, with
    up to `before` tokens of the prompt and about `tokens` after it (earlier ones where the window ends sooner)."""
    length = min(ids.shape[1], before + tokens + 1)
    start = (cuts - before).clamp(min=0, max=ids.shape[1] - length)
    return ids.gather(1, start[:, None] + torch.arange(length, device=ids.device)), cuts - start


def best_modes(model: Any, batch: Mapping[str, Tensor], candidates: int, tokens: int) -> Tensor:
    """(b,) seeds for `ids`, `seeds`, `cuts` and `plain` of a batch: each of the mode that its window is to be trained
    with, the best of so many drawn for it, by the first `tokens` of its continuation, as far as `shared_out` allows
    over all processes; where plain, the row's own.
    """
    raw = model_of(model)
    seeds, count = batch["seeds"], raw.config.modes
    options = uniform(key(seeds, _CANDIDATES), count).argsort(1)[:, :candidates]  # (b, m) modes
    base = (seeds - seeds % count)[:, None]
    some = (~batch["plain"]).nonzero()[:, 0]
    loss = torch.full(options.shape, torch.nan, device=seeds.device)
    if len(some):
        ids, cuts = glimpse(batch["ids"][some], batch["cuts"][some], tokens)
        loss[some] = losses_of(raw, ids, (base + options)[some], cuts)
    all_loss, all_options, first = _everyones(loss, options)
    wanted = ~np.isnan(all_loss[:, 0])
    chosen = seeds.new_zeros(len(all_loss))
    chosen[torch.from_numpy(wanted)] = torch.from_numpy(shared_out(all_loss[wanted], all_options[wanted], count))
    mine = chosen[first : first + len(seeds)]
    return torch.where(batch["plain"], seeds, base[:, 0] + mine)


def _everyones(loss: Tensor, options: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Rows of all processes, and which of them is our first."""
    first = 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        first = torch.distributed.get_rank() * len(loss)
        loss, options = (_gathered(x) for x in (loss, options))
    return loss.double().cpu().numpy(), options.cpu().numpy(), first


def _gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def shared_out(loss: NDArray[np.float64], options: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """A mode for each of b windows, from loss (b, m) under its options (b, m) among `count` modes.

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
        out.append(losses_of(model, ids, seeds.to(device), torch.zeros(len(some), dtype=torch.int64, device=device)))
    return torch.cat(out).double().cpu().numpy()


def marginal(losses: NDArray[np.float64]) -> float:
    """Mean over windows of -log (1/M) sum_z exp(-loss_z), nats a window: all M modes are as likely beforehand."""
    low = losses.min(1)
    return float((low - np.log(np.exp(low[:, None] - losses).mean(1))).mean())
