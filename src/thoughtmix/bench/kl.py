"""How far a sampler is from the model's own distribution, and the plain temperature that is as far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtmix.engine.requests import DEFAULT_MIN_P
from thoughtmix.engine.sampling import SamplingTensors, truncated
from thoughtmix.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

COLDEST, HOTTEST = 0.05, 5.0
STEPS = 24  # tokens looked at in each prompt's continuation


@torch.no_grad()
def own_logits(lm: LanguageModel, prompts: Sequence[str], seed: int = 0) -> Tensor:
    """(tokens, vocabulary) float64 logits of the model along its own samples at temperature 1, where samplers are
    compared."""
    from thoughtmix.engine import LocalEngine, SequenceRequest

    engine, parts = LocalEngine(lm), []
    for i, prompt in enumerate(prompts):
        ids = lm.encode(prompt)
        asked = SequenceRequest(tuple(ids), seed + i, max_new_tokens=STEPS, end_ids=frozenset())
        own = engine.generate([asked]).outputs[0].token_ids
        full = torch.tensor([[*ids, *own]], device=lm.device)
        model: Any = lm.model
        parts.append(model(input_ids=full, use_cache=False).logits[0, len(ids) - 1 : -1].double())
    return torch.cat(parts)


def divergence(logits: Tensor, sampler: SamplingParams) -> tuple[float, float]:
    """KL(sampler || model) in nats a token, and by how much the mean log-probability of a drawn token exceeds that of
    the model's own draws (positive: the sampler is the more careful one). Means over logits (tokens, vocabulary)."""
    own = logits.log_softmax(-1)
    batch = SamplingTensors.of([sampler] * len(logits), logits.device)
    kept = truncated(logits, batch) > -torch.inf
    drawn = torch.where(kept, logits / sampler.temperature, -torch.inf).log_softmax(-1)
    p = drawn.exp()
    kl = torch.where(p > 0, p * (drawn - own), 0.0).sum(-1).mean()
    shift = (p * own).sum(-1).mean() - (own.exp() * own).sum(-1).mean()
    return float(kl), float(shift)


def same_divergence(logits: Tensor, sampler: SamplingParams) -> float:
    """The temperature whose KL to the model equals the sampler's: below 1 for a more careful sampler, above 1 for a
    bolder one, within 0.05 to 5. By bisection: the KL grows with the distance from 1."""
    target, shift = divergence(logits, sampler)
    near, far = (1.0, COLDEST) if shift >= 0 else (1.0, HOTTEST)
    for _ in range(40):
        middle = (near + far) / 2
        if divergence(logits, SamplingParams(temperature=middle))[0] < target:
            near = middle
        else:
            far = middle
    return (near + far) / 2


def same_kl_ladder(
    lm: LanguageModel, prompts: Sequence[str], ladder: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each setting of a sampler, plain temperature at the same KL, measured along the model's own text."""
    logits = own_logits(lm, prompts)
    matched = [same_divergence(logits, SamplingParams(**{"min_p": DEFAULT_MIN_P, **setting})) for setting in ladder]
    return [{"min_p": 0.0, "temperature": round(t, 4)} for t in matched]
