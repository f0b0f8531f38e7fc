"""Token-level noise with a mask predictor: it forgets a share of the idea's tokens and denoises them anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request
from thoughtmix.core.types import Thought
from thoughtmix.diffusion.load import DiffusionModel, wrap_diffusion
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.renoise import forget
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise
from thoughtmix.noise.words import check

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.noise.rewriting import Idea

LEVEL, STEPS = 0.5, 64


def denoised(
    model: LanguageModel, before: Sequence[int], request: Request, idea: Idea | None, seed: int | None
) -> tuple[list[Thought], Mapping[str, Any]]:
    """The thinker on a model that writes in any order. Raises `InputError` for directions, which it cannot follow."""
    from thoughtmix.thinkers.diffusion import THINKER as diffusion

    for name in ("families", "directions", "strength", "language", "order", "file"):
        if name in request.options:
            raise InputError(f"{model.name} follows no instructions, {name} was given.", "Pass tokens=0.5 alone.")
    dm = wrap_diffusion(model.model, model.tokenizer, model.name)
    text, facts = (idea.text, {}) if idea else ("", {})
    if idea is None:
        first = dataclasses.replace(request, n=1, seed=seed or 0, options={}, on_step=None, temperature=None,
                                    creativity=0.0 if seed is None else None)  # fmt: skip
        made, found = diffusion.think(model, before, first)
        text, facts = made[0].text, dict(found)
        if request.creativity == 0 or facts.pop("interrupted", False) or not text.strip():
            copies = [dataclasses.replace(made[0], seed=s) for s in request.seeds]
            return copies, {**facts, "interrupted": made[0].finish == "cancelled"}
    level = check(request.options.get("tokens", LEVEL), str(request.options.get("mask", "random")))
    heat = request.temperature if request.temperature is not None else request.creativity
    if isinstance(heat, tuple):
        raise InputError("A mask predictor takes one temperature for all thoughts.", "Pass one value.")
    return renoised(dm, [text] * request.n, list(request.seeds), level, str(request.options.get("mask", "random")),
                    1.0 if heat is None else float(heat), facts)  # fmt: skip


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
