"""Truncate and draw: one token a row from (rows, vocabulary) logits, without sorting the vocabulary.

Every truncation here is a floor under the logits: a token stays when its logit is at least the floor of its
row. So the four combine by taking the highest floor, and the draw touches only the tokens above it. The draw
is the inverse CDF over those, in vocabulary order, in float64: it depends on the row's own logits and
uniform alone, so a thought does not change with its neighbours (law 5).

Same distributions as transformers' processors in their order temperature, top-k, top-p, min-p, save that
tokens tied exactly at a top-p floor are all kept (a sort would drop some of them by position).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from thoughtmix import kernels
from thoughtmix.core.errors import NumericsError
from thoughtmix.engine.sampling_params import SamplingParams

COLDEST, HOTTEST = 1e-30, 1e30
"""Temperatures beyond these give the same draws as these."""


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """The samplers of a batch as tensors, one value a row."""

    temperature: Tensor  # (rows,) float64, as are the others
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    top_nsigma: Tensor

    @classmethod
    def of(cls, samplers: Sequence[SamplingParams], device: torch.device | str = "cpu") -> SamplingTensors:
        def column(name: str) -> Tensor:
            return torch.tensor([getattr(s, name) for s in samplers], dtype=torch.float64, device=device)

        made = cls(*(column(f.name) for f in fields(cls)))
        # Below 1e-30 only ties share the draw, and above 1e30 it is even, as far as float32 can tell; further out 1 / T
        # over- or underflows, and 0 * inf would be NaN. 0 stays 0: greedy.
        warm = made.temperature.clamp(COLDEST, HOTTEST)
        return replace(made, temperature=torch.where(made.temperature > 0, warm, 0.0))

    @classmethod
    def cat(cls, parts: Sequence[SamplingTensors]) -> SamplingTensors:
        """Parts one below the other."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def rows(self, keep: Tensor | slice) -> SamplingTensors:
        return SamplingTensors(*(getattr(self, f.name)[keep] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """ids (rows,) int64 and their log-probabilities (rows,) float32, in nats under the untouched model (temperature 1,
    nothing truncated). share (rows,) float64: the probability that each had in the draw. rest (rows,) float64 in
    [0, 1): where in its token's interval the uniform fell, uniform again given the token."""

    ids: Tensor
    logprobs: Tensor
    share: Tensor
    rest: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Drawn]) -> Drawn:
        """Parts one below the other."""
        return (
            parts[0] if len(parts) == 1 else cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))
        )


def not_finite() -> NumericsError:
    """The error for logits that no token can be drawn from."""
    return NumericsError("The model produced NaN or infinite logits.", "Try --dtype float32, or check the weights.")


def draw(logits: Tensor, uniform: Tensor, sampler: SamplingTensors, allowed: Tensor | None = None) -> Drawn:
    """One token a row.

    logits: (rows, vocabulary), any float type; -inf means forbidden. uniform: (rows,) float64 in [0, 1). allowed:
    (rows, vocabulary) bool, what a grammar leaves of each row: as if the logits of the others were -inf, save that
    log-probabilities are still those of the untouched model.
    Raises `NumericsError` on NaN, +inf or a row of only -inf.
    """
    whole = logits.float()
    x = whole if allowed is None else whole.masked_fill(~allowed, -torch.inf)
    blocks = _blocks(x)  # (rows, V / width, width)
    if _kernels_draw(blocks, whole):
        return _draw_by_kernels(blocks, whole, uniform, sampler)
    return _draw_by_torch(blocks, whole, uniform, sampler)


def _kernels_draw(blocks: Tensor, whole: Tensor) -> bool:
    cpu = blocks.device.type == "cpu" and blocks.is_contiguous() and whole.is_contiguous()
    return cpu and blocks.shape[-1] >= 16 and kernels.library() is not None


def _draw_by_kernels(blocks: Tensor, whole: Tensor, uniform: Tensor, sampler: SamplingTensors) -> Drawn:
    """By C functions, a row a thread. Sums of many probabilities are rounded in another order there, and top-p adds
    them in float32, so that a uniform which lies within about 1e-7 of the edge of two tokens may give the other one."""
    rows, count, width = blocks.shape
    drawn = Drawn(
        torch.empty(rows, dtype=torch.int64), blocks.new_empty(rows), *torch.empty(2, rows, dtype=torch.float64)
    )
    kept = [x.double().contiguous() for x in (uniform, *(getattr(sampler, f.name) for f in fields(sampler)))]
    by_name = dict(zip(("uniform", *(f.name for f in fields(sampler))), (x.data_ptr() for x in kept), strict=True))
    tops, threads = blocks.new_empty(rows, count), torch.get_num_threads()
    weights = blocks.new_empty(threads if bool((sampler.top_p < 1).any()) else 0, count * width)
    asked = kernels.Draw(
        rows=rows, columns=count * width, width=width, logits=blocks.data_ptr(), whole=whole.data_ptr(),
        ids=drawn.ids.data_ptr(), logprobs=drawn.logprobs.data_ptr(), share=drawn.share.data_ptr(),
        rest=drawn.rest.data_ptr(), tops=tops.data_ptr(), weights=weights.data_ptr(), **by_name,
    )  # fmt: skip
    if not kernels.library().thoughtmix_draw(asked, threads):
        raise not_finite()
    return drawn


def _draw_by_torch(blocks: Tensor, whole: Tensor, uniform: Tensor, sampler: SamplingTensors) -> Drawn:
    x, block_top = blocks.flatten(1), blocks.amax(-1)  # one pass finds both the maximum and where to look
    top = block_top.amax(-1)
    if not bool(torch.isfinite(top).all()):
        raise not_finite()
    floor = _floor(x, top, sampler)  # (rows,) float32
    survives = block_top >= floor[:, None]  # (rows, blocks)
    # Few surviving blocks: gather them. Many (little truncation): two dense passes are cheaper. The choice
    # looks at the row alone, so that both the token and its rounding stay the row's own.
    dense = survives.sum(1) * 8 > survives.shape[1]
    ids = torch.empty(len(x), dtype=torch.int64, device=x.device)
    share, rest = torch.empty_like(uniform), torch.empty_like(uniform)
    if bool(dense.any()):
        some = dense.nonzero()[:, 0]
        part = slice(None) if bool(dense.all()) else some
        ids[some], share[some], rest[some] = _draw_dense(
            blocks[part], top[part], floor[part], uniform[part], sampler.temperature[part]
        )
    if not bool(dense.all()):
        some = (~dense).nonzero()[:, 0]
        ids[some], share[some], rest[some] = _draw_sparse(
            blocks, survives & ~dense[:, None], some, top, floor, uniform, sampler.temperature
        )
    share = torch.where(sampler.temperature > 0, share, 1.0)  # of likeliest tokens that tie, greedy takes the first
    logprobs = whole.gather(1, ids[:, None])[:, 0] - _logsumexp(whole)
    if not bool(torch.isfinite(logprobs).all()):  # of a token that a grammar forbids
        raise not_finite()
    return Drawn(ids, logprobs, share, rest)


def truncated(logits: Tensor, sampler: SamplingTensors) -> Tensor:
    """(rows, vocabulary) float32: the logits of the tokens that survive each row's truncations, -inf for the others."""
    x = logits.float()
    top = x.amax(-1)
    if not bool(torch.isfinite(top).all()):
        raise not_finite()
    return x.masked_fill(x < _floor(x, top, sampler)[:, None], -torch.inf)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens that survive each row's truncations: ids (rows, k), ascending, and their logits (rows, k)
    float32, -inf where a row has fewer. rest: (rows, vocabulary), all that survives, -inf elsewhere; None where that is
    no more than these."""

    ids: Tensor
    logits: Tensor
    rest: Tensor | None = None

    def draw(self, uniform: Tensor, temperature: Tensor, untouched: Tensor) -> Drawn:
        """One token a row from these, with `rest` where there is one. untouched: (rows, vocabulary), the model's
        logits, for the log-probabilities."""
        off, on = torch.zeros_like(temperature), torch.ones_like(temperature)
        plain = SamplingTensors(temperature, off, on, off, off)
        if self.rest is not None:
            drawn = draw(self.rest.scatter(1, self.ids, self.logits), uniform, plain)
        else:
            drawn = draw(self.logits, uniform, plain)
            drawn = replace(drawn, ids=self.ids.gather(1, drawn.ids[:, None])[:, 0])
        whole = untouched.float()
        return replace(drawn, logprobs=whole.gather(1, drawn.ids[:, None])[:, 0] - _logsumexp(whole))


def candidates(logits: Tensor, sampler: SamplingTensors, most: int) -> Candidates:
    """What each row may draw; of its likeliest tokens at most so many. k is what the row with the most of them needs.

    logits: (rows, vocabulary), finite or -inf.
    """
    x = logits.float()
    blocks = _blocks(x)
    block_top = blocks.amax(-1)  # (rows, blocks)
    floor = _floor(x, block_top.amax(-1), sampler)[:, None]
    # The `most` likeliest tokens lie in the `most` blocks with the likeliest maxima.
    wanted = int((block_top >= floor).sum(1).max())
    block = block_top.topk(min(wanted, most)).indices[..., None]  # (rows, count, 1)
    inside = blocks.gather(1, block.expand(-1, -1, blocks.shape[-1])).flatten(1)
    k = int((inside >= floor).sum(1).max())
    # A pass over the whole vocabulary that makes another is dear: only where there is no way round it.
    rest = x.masked_fill(x < floor, -torch.inf) if max(k, wanted) > most else None
    values, place = inside.topk(min(k, most))
    width = blocks.shape[-1]
    ids, order = (block[..., 0].gather(1, place // width) * width + place % width).sort(1)
    values = values.gather(1, order)
    return Candidates(ids, values.masked_fill(values < floor, -torch.inf), rest)


def _logsumexp(x: Tensor) -> Tensor:
    """(rows,) over the vocabulary; on CPU a few rows at a time, so that the temporaries stay in cache."""
    rows = max(1, 2**18 // x.shape[1]) if x.device.type == "cpu" else len(x)
    return torch.cat([torch.logsumexp(part, -1) for part in x.split(rows)])


def _blocks(x: Tensor) -> Tensor:
    """x (rows, V) seen as (rows, V / width, width), with the widest divisor of V in 16..128, else width 1."""
    size = x.shape[1]
    width = next((w for w in range(min(128, size), 15, -1) if size % w == 0), 1)
    return x.unflatten(1, (size // width, width))


def _floor(x: Tensor, top: Tensor, s: SamplingTensors) -> Tensor:
    """(rows,) float32: the lowest logit that survives all truncations. Greedy rows keep the maximum alone."""
    top64 = top.double()
    floor = torch.full_like(top64, -torch.finfo(torch.float32).max)  # not -inf: a forbidden token never survives
    # p_i >= min_p * p_max  <=>  l_i >= l_max + T log(min_p)
    floor = torch.where(s.min_p > 0, torch.maximum(floor, top64 + s.temperature * s.min_p.log()), floor)
    if bool((s.top_nsigma > 0).any()):
        spread = x.std(-1, correction=0).double()
        if not bool(torch.isfinite(spread).all()):  # forbidden tokens (-inf) do not count
            allowed = torch.where(torch.isfinite(x), x, torch.nan)
            spread = (allowed - allowed.nanmean(-1, keepdim=True)).square().nanmean(-1).sqrt().double()
        floor = torch.where(s.top_nsigma > 0, torch.maximum(floor, top64 - s.top_nsigma * spread), floor)
    if bool((s.top_k > 0).any()):
        k = s.top_k.clamp(max=x.shape[1]).long()
        best = x.topk(int(k.max()), dim=-1).values  # (rows, k) descending
        kth = best.gather(1, (k - 1).clamp(min=0)[:, None])[:, 0].double()
        floor = torch.where(s.top_k > 0, torch.maximum(floor, kth), floor)
        kth = torch.where(s.top_k > 0, kth, -torch.inf)
    else:
        kth = torch.full_like(top64, -torch.inf)
    some = (s.top_p < 1).nonzero()[:, 0]
    if len(some):
        temperature = torch.where(s.temperature > 0, s.temperature, 1.0)[some]
        floor[some] = torch.maximum(floor[some], _nucleus_floor(x[some], s.top_p[some], temperature, kth[some]))
    # The maximum always survives, whatever rounding did to a floor that lies on it.
    floor = torch.where(s.temperature > 0, torch.minimum(floor, top64), top64)
    return floor.clamp(min=-torch.finfo(torch.float32).max).float()  # a forbidden token stays below it


def _nucleus_floor(x: Tensor, p: Tensor, temperature: Tensor, kth: Tensor) -> Tensor:
    """(rows,) float64: the lowest logit in each row's nucleus, after top-k.

    Sorts only the 256 likeliest tokens, then 8 times more of the rows whose mass was not reached.
    """
    inverse = (1 / temperature).float()[:, None]
    if bool(torch.isfinite(kth).any()):
        x = torch.where(x >= kth.float()[:, None], x, -torch.inf)
    top = x.amax(-1, keepdim=True)  # taken off before the division, which could overflow
    mass = torch.logsumexp((x - top) * inverse, -1, keepdim=True).double()
    floor = torch.empty_like(p)
    todo = torch.arange(len(x), device=x.device)
    size = 256
    while len(todo):
        size = min(size, x.shape[1])
        best = x[todo].topk(size).values  # (todo, size) descending
        share = ((best - top[todo]).double() / temperature[todo, None] - mass[todo]).exp()
        inside = share.cumsum(1) - share < p[todo, None]  # the mass of the likelier tokens falls short of p
        last = (inside.sum(1) - 1).clamp(min=0)
        floor[todo] = best.gather(1, last[:, None])[:, 0].double()
        todo = todo[inside[:, -1]] if size < x.shape[1] else todo[:0]
        size *= 8
    return floor


def _draw_sparse(
    blocks: Tensor, survives: Tensor, some: Tensor, top: Tensor, floor: Tensor, uniform: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, shares and rests of the rows `some`, whose few surviving blocks (rows, blocks) are set in `survives`."""
    row, block = survives.nonzero(as_tuple=True)
    values = blocks[row, block]  # (hits, width)
    hit, offset = (values >= floor[row, None]).nonzero(as_tuple=True)  # by row, then by token
    owner = row[hit]
    count = torch.bincount(owner, minlength=len(top))[some]  # (some,), at least one each
    start = count.cumsum(0) - count
    local = torch.repeat_interleave(torch.arange(len(some), device=row.device), count)  # candidate -> its row
    place = torch.arange(len(hit), device=row.device) - start[local]
    # A greedy row holds only its maxima: divide by 1 there, and take the first.
    warm = temperature[some] > 0
    value = values[hit, offset].double() - top.double()[owner]
    weight = (value / torch.where(warm, temperature[some], 1.0)[local]).exp()
    padded = torch.zeros(len(some), int(count.max()), dtype=torch.float64, device=row.device)
    padded[local, place] = weight
    cdf = padded.cumsum(1)
    target = uniform[some] * cdf[:, -1] * warm
    nth = torch.minimum((cdf <= target[:, None]).sum(1), count - 1)
    pick = start + nth
    ids = block[hit[pick]] * blocks.shape[-1] + offset[pick]
    mass, end = (table.gather(1, nth[:, None])[:, 0] for table in (padded, cdf))
    return ids, mass / cdf[:, -1], _within(target - (end - mass), mass)


def _draw_dense(
    blocks: Tensor, top: Tensor, floor: Tensor, uniform: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, shares and rests by two inverse CDFs: which block, then which token in it. blocks: (rows, blocks, width)."""
    warm = temperature > 0
    scale = torch.where(warm, 1 / temperature, 1.0).float()[:, None, None]
    # In place: at 32 rows of 50,000 tokens each temporary costs more than its arithmetic.
    weight = (blocks - top[:, None, None]).mul_(scale).exp_().mul_(blocks >= floor[:, None, None])
    cdf = weight.sum(-1).double().cumsum(1)  # (rows, blocks)
    target = (uniform * warm)[:, None] * cdf[:, -1:]
    # Rounding may leave the target at or past the end: stay on the last block with any weight.
    block = torch.minimum((cdf <= target).sum(1, keepdim=True), (cdf < cdf[:, -1:]).sum(1, keepdim=True))
    inside = weight.gather(1, block[:, :, None].expand(-1, -1, weight.shape[-1]))[:, 0].double().cumsum(1)
    # What is left of the target within the block. Blocks are summed in float32 and tokens in float64: below 0 it would
    # fall on the block's first token, whether that has any weight or not.
    rest = (target - (cdf.gather(1, block) - inside[:, -1:])).clamp(min=0.0)
    # The same at the end of the block.
    last = (inside < inside[:, -1:]).sum(1, keepdim=True)
    offset = torch.minimum((inside <= rest).sum(1, keepdim=True), last)
    end = inside.gather(1, offset)
    mass = end - torch.where(offset > 0, inside.gather(1, (offset - 1).clamp(min=0)), 0.0)
    ids = (block * blocks.shape[-1] + offset)[:, 0]
    return ids, (mass / cdf[:, -1:])[:, 0], _within(rest - (end - mass), mass)[:, 0]


def _within(above: Tensor, mass: Tensor) -> Tensor:
    """How far into an interval of this mass a target lies, in [0, 1) whatever rounding did."""
    return (above / mass).clamp(0.0, 1.0 - 2.0**-53)
