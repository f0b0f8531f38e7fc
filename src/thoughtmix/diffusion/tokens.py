"""What could stand at each masked position: one draw each, and how sure the model is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.core.errors import NumericsError

_ELEMENTS = 2**22  # of float64 at once: 32 MB


@dataclass(frozen=True)
class Proposals:
    """(b, t) each, defined at candidates, 0 elsewhere. drawn: a token a position; logp: its log-probability under the
    model at temperature 1, nats; logq: under the distribution it was drawn from; top, second: the two largest
    log-probabilities; entropy: nats, at temperature 1."""

    drawn: Tensor
    logp: Tensor
    logq: Tensor
    top: Tensor
    second: Tensor
    entropy: Tensor


def propose(
    logits: Tensor, candidates: Tensor, uniform: Tensor, temperature: Tensor, top_p: float = 1.0, min_p: float = 0.0
) -> Proposals:
    """logits (b, t, v), -inf is forbidden; candidates (b, t) bool; uniform (b, t) in (0, 1); temperature (b,), 0 takes
    the likeliest. The draw is the inverse distribution function in float64: exact where Gumbel noise in float32 would
    lower the temperature (Zheng et al. 2025), and one uniform a position instead of v.

    Raises `NumericsError` for logits that are no numbers.
    """
    b, t, v = logits.shape
    row, place = candidates.nonzero(as_tuple=True)
    out = torch.zeros((6, b, t), dtype=torch.float64, device=logits.device)
    size = max(1, _ELEMENTS // v)
    for at in range(0, len(row), size):
        r, p = row[at : at + size], place[at : at + size]
        out[:, r, p] = _draw(logits[r, p].double(), uniform[r, p], temperature[r], top_p, min_p)
    return Proposals(out[0].long(), *out[1:].unbind(0))


def _draw(x: Tensor, uniform: Tensor, temperature: Tensor, top_p: float, min_p: float) -> Tensor:
    """x (n, v) float64 -> (6, n): drawn, logp, logq, top, second, entropy."""
    logp = x - x.logsumexp(-1, keepdim=True)
    two, ids = logp.topk(min(2, x.shape[1]), -1)
    if not bool(two[:, 0].isfinite().all()):
        raise NumericsError("The model produced NaN or infinite logits.", "Try --dtype float32, or check the weights.")
    p = logp.exp()
    entropy = torch.special.entr(p).sum(-1)
    warm = temperature > 0
    q = p
    if not bool((temperature == 1).all()):
        q = (logp / torch.where(warm, temperature, 1.0)[:, None]).softmax(-1)
    if min_p > 0:
        q = q * (q >= min_p * q.amax(-1, keepdim=True))
    if top_p < 1:
        q = _nucleus(q, top_p)
    cdf = q.cumsum(-1)
    total = cdf[:, -1:]
    # Rounding may leave the target at or past the end: stay on the last token with any weight.
    drawn = torch.minimum((cdf <= uniform[:, None] * total).sum(-1), (cdf < total).sum(-1))
    drawn = torch.where(warm, drawn, ids[:, 0])
    logq = torch.where(warm, (q.gather(1, drawn[:, None]) / total)[:, 0].log(), 0.0)
    second = two[:, 1] if two.shape[1] > 1 else torch.full_like(two[:, 0], -torch.inf)
    return torch.stack([drawn.double(), logp.gather(1, drawn[:, None])[:, 0], logq, two[:, 0], second, entropy])


def _nucleus(q: Tensor, top_p: float) -> Tensor:
    """The smallest set of the likeliest with at least this mass (Holtzman et al. 2020), not renormalised."""
    sorted_q, order = q.sort(dim=-1, descending=True, stable=True)
    kept = sorted_q.cumsum(-1) - sorted_q < top_p * q.sum(-1, keepdim=True)
    return q * torch.zeros_like(kept).scatter(-1, order, kept)
