"""Token-level noise with a mask predictor: it forgets a share of the idea's tokens and denoises them anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from thoughtmix.core.types import Thought
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.renoise import forget
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise_steps

LEVEL, STEPS = 0.5, 64


def renoise_texts(
    model: DiffusionModel,
    texts: Sequence[str],
    seeds: Sequence[int],
    level: float,
    mask: str = "random",
    temperature: float = 1.0,
) -> tuple[list[Thought], dict[str, Any]]:
    """Text i with a share of its tokens forgotten and written anew by seed i; equal texts are denoised in one batch.

    Args:
        level: That share, above 0 and up to 1.
        mask: Which tokens: as in `forget`.
        temperature: At 0 nothing is drawn: the texts come back as they are.

    Returns:
        The thoughts (a token's log-probability is the model's at the step that decided it, 0 where it was kept), and
        facts about the run.

    Raises:
        InputError: The model cannot read a text.
    """
    out: dict[int, Thought] = {}
    cost, tokens = ForwardCost(), 0
    for text in dict.fromkeys(texts):
        own = [i for i, t in enumerate(texts) if t == text]
        origin = {"thinker": "noise", "direction": "words", "family": "words", "holes": level, "idea": text}
        if not temperature:
            out |= {i: Thought(text, (), seeds[i], 0.0, "stop", origin=origin) for i in own}
            continue
        start = forget(model, text, level, [seeds[i] for i in own], how=mask, temperature=temperature, cost=cost)
        tokens += int(start.masked.sum())
        done, config = start, DenoisingConfig(Random(), steps=STEPS)
        for state, _ in denoise_steps(model.denoiser, start, config, cost):
            done = state
        logprobs = torch.where(start.masked, done.confidence.double().clamp(min=1e-30).log(), 0.0)  # (rows, t)
        for i, written, ids, logs in zip(own, model.texts(done), done.ids.tolist(), logprobs.tolist(), strict=True):
            out[i] = Thought(written, tuple(ids), seeds[i], float(sum(logs)), "stop", tuple(logs), origin)
    facts = {"path": "diffusion", "calls": cost.calls, "row_passes": cost.row_passes, "tokens": tokens}
    return [out[i] for i in range(len(texts))], facts
