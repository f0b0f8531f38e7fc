"""The loss of set reward on the tokens of drawn thoughts, with its gradient, a few tokens at a time.

Over a vocabulary of 49,152 an elementwise operation on a step's tokens costs as much as a layer of the model. So loss
and gradient are made in one pass over pieces that stay in the processor's cache, and nothing of the vocabulary's width
is kept but the gradient, in the dtype of the logits.

Axis letters: m tokens, v vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 16  # tokens; 3 MB of float32 at 49,152
_AT_ONCE_ON_GPU = 1024


def set_loss(
    logits: Tensor,
    base: Tensor,
    answer: Tensor,
    advantage: Tensor,
    kl_weight: Tensor,
    temperature: float,
    min_p: float,
) -> tuple[Tensor, Tensor]:
    """(): sum over tokens of -advantage log q(answer) + kl_weight KL(p || base), and (m,) that KL, nats, without
    gradient.

    p is the softmax of the logits; q is what the engine draws from: tokens below min-p times the likeliest left out,
    temperature applied to the others, renormalised. What is left out is held fixed (its border carries no gradient),
    and the answer's own token never is: of packed weights and these, rounding may put it on either side.

    Args:
        logits: (m, v), at temperature 1.
        base: (m, v), logits of the base model.
        answer: (m,) the tokens drawn.
        advantage: (m,).
        kl_weight: (m,).
        temperature: Of the draws.
        min_p: Of the draws.
    """
    loss, kl = _SetLoss.apply(logits, base, answer, advantage, kl_weight, temperature, min_p)
    return loss, kl


class _SetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        base: Tensor,
        answer: Tensor,
        advantage: Tensor,
        kl_weight: Tensor,
        temperature: float,
        min_p: float,
    ) -> tuple[Tensor, Tensor]:
        gradient, kl = torch.empty_like(logits), torch.empty_like(advantage)
        loss = advantage.new_zeros(())
        tokens = _AT_ONCE if logits.device.type == "cpu" else _AT_ONCE_ON_GPU
        for at in range(0, len(logits), tokens):
            some = slice(at, at + tokens)
            token, a, w = answer[some, None], advantage[some, None], kl_weight[some, None]
            logp = logits[some].float().log_softmax(-1)
            floor = logp.amax(-1, keepdim=True) + temperature * math.log(max(min_p, 1e-30))
            tempered = (logp / temperature).masked_fill_((logp < floor).scatter_(-1, token, False), -torch.inf)
            logq = tempered.log_softmax(-1)
            loss -= (a * logq.gather(-1, token)).sum()
            p = logp.exp()
            apart = logp.sub_(F.log_softmax(base[some].float(), -1))
            kl[some] = (p * apart).sum(-1)
            loss += (w * kl[some, None]).sum()
            found = apart.sub_(kl[some, None]).mul_(p).mul_(w)
            found.addcmul_(logq.exp_(), a / temperature).scatter_add_(-1, token, -a / temperature)
            gradient[some] = found.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(kl)
        return loss, kl

    @staticmethod
    def backward(ctx: Any, over: Tensor, _: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * over.to(gradient.dtype), None, None, None, None, None, None
