"""Token-level noise with a mask predictor: it forgets a share of the idea's tokens and denoises them anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from thoughtmix.core.types import Thought
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.renoise import forget
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise

LEVEL, STEPS = 0.5, 64


def renoised(
    dm: DiffusionModel,
    texts: Sequence[str],
    seeds: Sequence[int],
    level: float,
    how: str = "random",
    temperature: float = 1.0,
    facts: Mapping[str, Any] | None = None,
) -> tuple[list[Thought], Mapping[str, Any]]:
    """Text i with a share of its tokens forgotten and written anew by seed i; equal texts are denoised in one batch.
    At temperature 0 nothing is drawn: the texts come back as they are. A token's log-probability is the model's at the
    step that decided it, 0 where it was kept."""
    out: dict[int, Thought] = {}
    cost, tokens = ForwardCost(), 0
    for text in dict.fromkeys(texts):
        own = [i for i, t in enumerate(texts) if t == text]
        origin = {"thinker": "noise", "direction": "words", "family": "words", "tokens": level, "idea": text}
        if not temperature:
            out |= {i: Thought(text, (), seeds[i], 0.0, "stop", origin=origin) for i in own}
            continue
        start = forget(dm, text, level, [seeds[i] for i in own], how=how, temperature=temperature, cost=cost)
        tokens += int(start.masked.sum())
        done = denoise(dm.denoiser, start, DenoisingConfig(Random(), steps=STEPS), cost=cost)
        sure = torch.where(start.masked, done.confidence.double().clamp(min=1e-30).log(), 0.0)  # (rows, t); given: 0
        for i, written, ids, logs in zip(own, dm.texts(done), done.ids.tolist(), sure.tolist(), strict=True):
            out[i] = Thought(written, tuple(ids), seeds[i], float(sum(logs)), "stop", tuple(logs), origin)
    more = {"path": "diffusion", "calls": cost.calls, "row_passes": cost.row_passes}
    return [out[i] for i in range(len(texts))], {
        **(facts or {}), **more, "tokens": int((facts or {}).get("tokens", 0)) + tokens,
    }  # fmt: skip
