"""Which mode a text is learned with, and what is made small: the likelihood of a set of modes.

A mode z is held for a whole text y, so a model with M modes is the mixture p(y | x) = 1/M sum_z p(y | x, z), x what
lies before. Its likelihood can be raised by three roads (`ModeSearch.objective`):

marginal  exactly: -log 1/M sum_z p(y | x, z), all modes read with a gradient.
sampled   one mode, drawn from p(z | y, x). Its gradient is the marginal's on average, by Fisher's identity:
          grad log p(y | x) = E_{p(z | y, x)} grad log p(y | x, z). One pass with a gradient, M without.
best      the mode under which the text is likeliest, as far as a balance allows: hard EM, or multiple-choice learning
          (Guzman-Rivera et al. 2012; Lee et al. 2016, Stochastic multiple choice learning, eq. 3).

The first two do not ask modes to differ: a model whose modes are all alike can be as likely, and training finds that
one. The third does, since its loss is the marginal's and what a text leaves open about its mode:
min_z -log p(y | x, z) + log M = -log p(y | x) - log max_z p(z | y, x). So it makes I(z; y | x) large, which is at most
log M nats a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from thoughtmix.core.errors import InputError
from thoughtmix.engine.counter_rng import key, uniform

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
    from thoughtmix.mixture.output import MixtureOutput

OBJECTIVES = ("best", "sampled", "marginal")
BALANCES = ("group", "batch", "none")

_CANDIDATES_STREAM, _POSTERIOR_STREAM = 6, 7  # what keys are drawn for; routes and noise have smaller names


@dataclass(frozen=True, slots=True)
class ModeSearch:
    """How a model with modes learns a text. Raises `InputError` for what is out of range.

    Attributes:
        objective: best, sampled or marginal; see above.
        candidates: Modes tried for a text, drawn anew each time; 0: all. Of "best" alone, the others try all.
        lookahead: Tokens of a continuation by which modes are compared; 0: all of it. 12 are as good as all 64 of a
            window, at a quarter of the time (docs/LOG.md).
        plain: Share of texts read without a mode, so that creativity 0 is good too.
        plain_steps: So many steps at first, all texts are: what is to be said is learned before who says what.
        balance: What keeps every mode in use under "best". group: the different texts of one prompt go to different
            modes, equal ones to the same; of batches without groups: as batch. batch: every mode gets as many texts.
            none: nothing.
    """

    objective: str = "best"
    candidates: int = 4
    lookahead: int = 12
    plain: float = 0.5
    plain_steps: int = 0
    balance: str = "group"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective is {self.objective!r}.", f"Pass {', '.join(OBJECTIVES)} (--objective).")
        if self.balance not in BALANCES:
            raise InputError(f"balance is {self.balance!r}.", f"Pass {', '.join(BALANCES)} (--balance).")
        for name in ("candidates", "lookahead", "plain_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass 0 or more (--{name.replace('_', '-')}).")
        if not 0 <= self.plain <= 1:
            raise InputError(f"plain is {self.plain}.", "Pass 0 to 1 (--plain).")

    def share_plain(self, step: int) -> float:
        """Of the texts of this step."""
        return 1.0 if step < self.plain_steps else self.plain


def mode_loss(model: Any, batch: Mapping[str, Tensor], search: ModeSearch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What is made small for a batch, mean nats of a token plus the model's training signals, and each for the log.

    Args:
        model: A `MixtureOfThoughtsTransformer`, or what spreads one over processes.
        batch: ids (b, t); cuts (b,) where continuations begin; seeds (b,); plain (b,) bool: without a mode. Maybe
            labels (b, t), -100 where a token is not learned; mask (b, t), 0 where padded; group (b,): rows of one
            number stand together and continue the same prompt.
    """
    raw = unwrapped(model)
    seeds, creativity = batch["seeds"], None
    if raw.config.modes:
        if search.objective == "marginal":
            return marginal_batch_loss(model, batch)
        seeds = chosen_seeds(model, batch, search)
        creativity = (~batch["plain"]).float()
    # The model shifts labels itself, so it reads one token more than a window predicts from.
    out = model(
        batch["ids"],
        labels=batch.get("labels", batch["ids"]),
        attention_mask=batch.get("mask"),
        thought_seeds=seeds,
        creativity=creativity,
        prompt_lengths=batch["cuts"],
    )
    return out.loss, _logs(out)


def marginal_batch_loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-log 1/M sum_z p(text | z) over all texts, a token; a text that is plain has the same loss under all modes."""
    m = unwrapped(model).config.modes
    seeds = batch["seeds"] - batch["seeds"] % m
    wide = {name: x.repeat_interleave(m, 0) for name, x in batch.items()}
    labels = wide.get("labels", wide["ids"])
    out = model(
        wide["ids"],
        labels=labels,
        attention_mask=wide.get("mask"),
        thought_seeds=(seeds[:, None] + torch.arange(m, device=seeds.device)).flatten(),
        creativity=(~wide["plain"]).float(),
        prompt_lengths=wide["cuts"],
    )
    each = _nll(out.logits[:, :-1], labels[:, 1:]).sum(1).view(-1, m)
    tokens = (labels[::m, 1:] != -100).sum()
    marginal = (math.log(m) - (-each).logsumexp(1)).sum() / tokens
    loss = marginal + (out.loss - out.lm_loss)  # and the training signals
    out.lm_loss = marginal
    return loss, _logs(out)


def _logs(out: MixtureOutput) -> dict[str, Tensor]:
    signals = dict(out.signals or {})
    layers = signals.pop("diversity_by_layer", torch.zeros(0))
    assert out.lm_loss is not None
    logs = {"lm_loss": out.lm_loss, **signals, **{f"diversity_{i}": v for i, v in enumerate(layers)}}
    return {name: value.detach() for name, value in logs.items()}


# --- which mode -------------------------------------------------------------------------------------------------------


def chosen_seeds(model: Any, batch: Mapping[str, Tensor], search: ModeSearch) -> Tensor:
    """(b,) seeds, each of the mode that its text is to be learned with; see `mode_loss` for the batch.

    A batch is balanced over all processes. Where plain, the seed is the row's own.
    """
    raw = unwrapped(model)
    seeds, count = batch["seeds"], raw.config.modes
    tried = search.candidates if search.objective == "best" else 0
    options = uniform(key(seeds, _CANDIDATES_STREAM), count).argsort(1)[:, : tried or count]  # (b, m) modes
    if not tried:
        options = torch.arange(count, device=seeds.device).expand(len(seeds), count)
    base = (seeds - seeds % count)[:, None]
    some = (~batch["plain"]).nonzero()[:, 0]
    loss = torch.full(options.shape, torch.nan, device=seeds.device)
    if len(some):
        part = {name: x[some] for name, x in batch.items()}
        loss[some] = text_losses(raw, part, (base + options)[some], search.lookahead)
    if search.objective == "sampled":
        noise = -(-uniform(key(seeds, _POSTERIOR_STREAM), count).log()).log()  # Gumbel: the maximum is a draw
        mine = (noise - loss.nan_to_num().double()).argmax(1)
    elif search.balance == "none":
        mine = options.gather(1, loss.nan_to_num().argmin(1, keepdim=True))[:, 0]
    elif search.balance == "group" and "group" in batch:
        mine = seeds.new_zeros(len(seeds))
        for group in batch["group"][some].unique():
            at = some[batch["group"][some] == group]
            distinct, which = batch["labels"][at].unique(dim=0, return_inverse=True)
            first = torch.stack([(which == i).nonzero()[0, 0] for i in range(len(distinct))])
            cost = loss[at][first].double() * which.bincount()[:, None]
            found = balanced_assignment(cost.cpu().numpy(), options[at][first].cpu().numpy(), count)
            mine[at] = torch.from_numpy(found).to(mine.device)[which]
    else:
        mine = _balanced_over_processes(loss, options, count)
    return torch.where(batch["plain"], seeds, base[:, 0] + mine)


def _balanced_over_processes(loss: Tensor, options: Tensor, count: int) -> Tensor:
    all_loss, all_options, first = _from_all_processes(loss, options)
    wanted = ~np.isnan(all_loss[:, 0])
    chosen = np.zeros(len(all_loss), dtype=np.int64)
    chosen[wanted] = balanced_assignment(all_loss[wanted], all_options[wanted], count)
    return torch.from_numpy(chosen[first : first + len(loss)]).to(loss.device)


def balanced_assignment(loss: NDArray[np.float64], options: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(b,) a mode for each of b texts, from loss (b, m) under its options (b, m) among `count` modes.

    No mode takes more than ceil(b / count) texts, and the sum of the losses is the least that leaves (the assignment
    problem, by scipy), so that one mode cannot win everything while the others learn nothing. A text whose options
    would all be full takes its best, over the limit.
    """
    room = math.ceil(len(loss) / count) if len(loss) else 0
    worst = (float(loss.max() - loss.min()) + 1) * (len(loss) + 1) if len(loss) else 0.0  # dearer than any exchange
    cost = np.full((len(loss), count), worst)
    np.put_along_axis(cost, options, loss - loss.min() if len(loss) else loss, 1)
    mode = linear_sum_assignment(np.repeat(cost, room, axis=1))[1] // max(room, 1)
    best = options[np.arange(len(loss)), loss.argmin(1)] if len(loss) else mode
    return np.where((options == mode[:, None]).any(1), mode, best)


# --- how likely a text is under a mode --------------------------------------------------------------------------------


@torch.no_grad()
def text_losses(
    model: MixtureOfThoughtsTransformer, batch: Mapping[str, Tensor], seeds: Tensor, lookahead: int = 0
) -> Tensor:
    """(b, m) summed negative log-likelihood, nats, of each continuation as the thought of each of its seeds (b, m).

    lookahead: so many of its tokens; 0: all. Where rows continue one prompt and their seeds say their modes and nothing
    else, the prompt is read once for each mode.
    """
    c = model.config
    if "group" in batch and c.follow and c.noise == "none" and c.routing == "topk":
        return grouped_losses(model, batch).gather(1, seeds % c.modes)
    ids, cuts, labels = batch["ids"], batch["cuts"], batch.get("labels", batch["ids"])
    if lookahead:
        (ids, cuts), labels = lookahead_window(ids, cuts, lookahead), lookahead_window(labels, cuts, lookahead)[0]
    return seed_losses(model, ids, seeds, cuts, labels)


@torch.no_grad()
def seed_losses(
    model: MixtureOfThoughtsTransformer, ids: Tensor, seeds: Tensor, cuts: Tensor, labels: Tensor | None = None
) -> Tensor:
    """ids (b, t + 1), seeds (b, m), cuts (b,) -> (b, m): the summed negative log-likelihood, nats, of each row after
    its prompt of `cuts` tokens, as the thought of each of its seeds. labels (b, t + 1): -100 does not count."""
    m = seeds.shape[1]
    wide, cuts = ids.repeat_interleave(m, 0), cuts.repeat_interleave(m)
    logits = model(wide[:, :-1], creativity=1.0, thought_seeds=seeds.flatten(), prompt_lengths=cuts).logits
    loss = _nll(logits, (ids if labels is None else labels).repeat_interleave(m, 0)[:, 1:])
    after = torch.arange(loss.shape[1], device=ids.device) >= cuts[:, None]  # what the continuation's tokens predict
    return (loss * after).sum(1).view(seeds.shape)


@torch.no_grad()
def grouped_losses(model: MixtureOfThoughtsTransformer, batch: Mapping[str, Tensor]) -> Tensor:
    """(b, M) as `text_losses` under each mode, the texts of a group side by side behind the prompt that they share.

    A row is a group g under a mode z: prompt (p tokens, padded on the left), then n continuations of a tokens each.
    They see the prompt and themselves, and all begin at the prompt's end: a mask and positions say so.
    """
    ids, labels, group = batch["ids"], batch["labels"], batch["group"]
    heads = torch.cat([group.new_ones(1, dtype=torch.bool), group[1:] != group[:-1]]).nonzero()[:, 0]
    g, n, m, device = len(heads), len(ids) // len(heads), model.config.modes, ids.device
    begin = (labels != -100).int().argmax(1)[heads, None]  # (g, 1) where answers begin: the prompt's length
    p, a = int(begin.max()), int((labels != -100).sum(1).max())
    place = begin.repeat_interleave(n, 0) + torch.arange(a, device=device)  # (g n, a) of answers in their rows
    inside = place < ids.shape[1]
    place = place.clamp(max=ids.shape[1] - 1)
    targets = torch.where(inside, labels.gather(1, place), -100).view(g, 1, n, a).expand(g, m, n, a)
    column = torch.arange(p + n * a, device=device)
    slot = torch.where(column < p, -1, (column - p) // a)
    position = torch.where(column < p, column - p, (column - p) % a) + begin  # (g, p + n a), negative where padded
    sees = ((slot[None] == slot[:, None]) | (slot[None] < 0)) & (column[None] <= column[:, None])
    mask = (sees & (position >= 0)[:, None]) | torch.eye(len(column), dtype=torch.bool, device=device)
    prompts = ids[heads].gather(1, position[:, :p].clamp(min=0))
    logits = model(
        torch.cat([prompts, ids.gather(1, place).view(g, n * a)], 1).repeat_interleave(m, 0),
        attention_mask=mask.repeat_interleave(m, 0)[:, None],
        position_ids=position.clamp(min=0).repeat_interleave(m, 0),
        creativity=1.0,
        thought_seeds=torch.arange(m, device=device).repeat(g),
        prompt_lengths=batch["cuts"][heads].repeat_interleave(m),
        logits_to_keep=column[p - 1 :],
    ).logits.float()
    first = logits[:, 0].log_softmax(-1).view(g, m, 1, -1).expand(-1, -1, n, -1)  # all begin behind the same token
    loss = -first.gather(3, targets[..., :1])[..., 0]
    if a > 1:
        later = logits[:, 1:].unflatten(1, (n, a))[:, :, :-1].flatten(0, 1)
        loss = loss + _nll(later, targets[..., 1:].reshape(-1, a - 1)).sum(1).view(g, m, n)
    return loss.transpose(1, 2).reshape(len(ids), m)


def _nll(logits: Tensor, target: Tensor) -> Tensor:
    """(b, t, v), (b, t) -> (b, t) nats; 0 where the target is -100."""
    return F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none", ignore_index=-100)


def lookahead_window(ids: Tensor, cuts: Tensor, tokens: int, before: int = 4) -> tuple[Tensor, Tensor]:
    """The place where each row's continuation begins: ids (b, t + 1), cuts (b,) -> (b, s + 1) and the cuts there, with
    up to `before` tokens of the prompt and about `tokens` after it (earlier ones where the window ends sooner)."""
    length = min(ids.shape[1], before + tokens + 1)
    start = (cuts - before).clamp(min=0, max=ids.shape[1] - length)
    return ids.gather(1, start[:, None] + torch.arange(length, device=ids.device)), cuts - start


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
        out.append(seed_losses(model, ids, seeds.to(device), cuts))
    return torch.cat(out).double().cpu().numpy()


def marginal_loss(losses: NDArray[np.float64]) -> float:
    """Mean over texts of -log (1/M) sum_z exp(-loss_z), nats a text: all M modes are as likely beforehand."""
    low = losses.min(1)
    return float((low - np.log(np.exp(low[:, None] - losses).mean(1))).mean())


def mode_information(losses: NDArray[np.float64]) -> float:
    """Nats that a text says about its mode, log M - H(z | text) averaged over texts, from losses (texts, M): 0 where
    all modes are alike, log M where each text belongs to one."""
    log_p = -losses - np.logaddexp.reduce(-losses, axis=1, keepdims=True)
    return float(np.log(losses.shape[1]) + (np.exp(log_p) * log_p).sum(1).mean())


# --- processes --------------------------------------------------------------------------------------------------------


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


def unwrapped(model: Any) -> MixtureOfThoughtsTransformer:
    """The model within what Accelerate made of it for several processes."""
    inner: MixtureOfThoughtsTransformer = model.module if isinstance(model, DistributedDataParallel) else model
    return inner
