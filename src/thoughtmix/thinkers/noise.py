"""Draft, then n directions away from it in one batch. Creativity 0: nothing is disturbed, all thoughts are the draft.

The draft is the model's likeliest answer (or, with the option `draft`, one drawn by that seed): it depends on prompt
and settings alone, not on n nor on the thoughts' seeds. The thought of seed s takes direction s mod (number of
directions) and draws its tokens by s. So `n=1, seed=s+i` is thought i of `seed=s`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, require
from thoughtmix.engine.requests import as_thoughts
from thoughtmix.noise.options import NoiseOptions, turns, ways
from thoughtmix.noise.rewriting import Idea, draft, rewrite
from thoughtmix.thinkers.base import Thinker, Thoughts, packaged_embedder

_TYPE_ONE = 'Type one: thoughtmix noise "a cafe where people repair things"'


class NoiseThinker(Thinker):
    name = "noise"
    summary = "Drafts, then rewrites the draft (or an idea of yours) in n directions; creativity 0 is the draft itself."

    class Options(NoiseOptions):
        idea: str | None = option(
            None, "A text to disturb; without it, an answer to the prompt is drafted first", served=True, role="text"
        )
        draft: int | None = option(
            None,
            "A seed: the draft is drawn by it at temperature 1; left out: the likeliest answer",
            served=True,
            ge=0,
            lt=2**63,
        )

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return n + (cast("NoiseThinker.Options", options).idea is None)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        options = cast("NoiseThinker.Options", request.options)
        if options.idea is not None and not options.idea.strip():
            raise InputError("The idea is empty.", _TYPE_ONE)
        if Capability.LEFT_TO_RIGHT not in engine.capabilities:
            return denoise_anew(engine, prompt, request, options)
        return disturb(engine, prompt, request, options)


def disturb(engine: Engine, prompt: Prompt | None, request: Request, options: NoiseThinker.Options) -> Thoughts:
    """By instructions. prompt None, with an idea: the text stands alone."""
    found = turns(ways(options, request.embedder or packaged_embedder), request.seeds)
    still = request.creativity == 0
    spent: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "prefill_seconds": 0.0}
    if options.idea is not None:
        idea = Idea(options.idea.strip())
        if still:
            return _copies(_given(idea, request), request), {"path": "none", **spent}
    else:
        assert prompt is not None, "without an idea there is a prompt"
        made = draft(engine, prompt, request, options.draft)
        name = "draft" if options.draft is None else f"draft {options.draft}"
        drafted = as_thoughts(made.outputs, [request.seed], [_origin(name, "none")])[0]
        spent = made.facts
        if still or made.interrupted or not drafted.text.strip():
            return _copies(drafted, request), {**spent, "interrupted": made.interrupted}
        idea = Idea.from_thought(drafted, engine)
    before = int(spent["tokens"])
    rewritten, facts = rewrite(engine, [idea] * request.n, found, request, before=prompt, spent=before)
    return rewritten, together(spent, facts)


def denoise_anew(engine: Engine, prompt: Prompt, request: Request, options: NoiseThinker.Options) -> Thoughts:
    """By forgetting a share of the idea's tokens, on a model that writes in any order. Raises `InputError` for
    directions, which it cannot follow."""
    from thoughtmix.diffusion.load import wrap_diffusion
    from thoughtmix.noise.denoising import LEVEL, renoised
    from thoughtmix.thinkers.diffusion import THINKER as diffusion

    require(engine, {Capability.WEIGHTS}, "noise on a mask predictor")
    assert isinstance(engine, LocalModelEngine)
    for name in ("families", "directions", "strength", "language", "order", "file"):
        if name in options.model_fields_set:
            raise InputError(f"{engine.name} follows no instructions, {name} was given.", "Pass tokens=0.5 alone.")
    text, facts = options.idea or "", dict[str, Any]()
    if options.idea is None:
        first = dataclasses.replace(
            request,
            n=1,
            seed=options.draft or 0,
            options=diffusion.Options(),
            on_step=None,
            temperature=None,
            creativity=0.0 if options.draft is None else None,
        )
        made, found = diffusion.think(engine, prompt, first)
        text, facts = made[0].text, dict(found)
        if request.creativity == 0 or facts.pop("interrupted", False) or not text.strip():
            return _copies(made[0], request), {**facts, "interrupted": made[0].finish == "cancelled"}
    heat = request.temperature if request.temperature is not None else request.creativity
    if isinstance(heat, tuple):
        raise InputError("A mask predictor takes one temperature for all thoughts.", "Pass one value.")
    dm = wrap_diffusion(engine.model.model, engine.model.tokenizer, engine.name)
    level = LEVEL if options.tokens is None else options.tokens
    warm = 1.0 if heat is None else float(heat)
    return renoised(dm, [text] * request.n, list(request.seeds), level, options.mask, warm, facts)


def together(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of two runs, one after the other: tokens and seconds add up."""
    out = {**first, **then}
    for name in ("tokens", "seconds", "prefill_seconds", "calls", "row_passes"):
        if name in out:
            out[name] = round(first.get(name, 0) + then.get(name, 0), 4)
    if out.get("seconds"):
        out["tokens_per_second"] = round(out["tokens"] / out["seconds"], 1)
    return out


def _origin(direction: str, family: str) -> dict[str, Any]:
    return {"thinker": "noise", "direction": direction, "family": family}


def _given(idea: Idea, request: Request) -> Thought:
    return Thought(
        idea.text, idea.ids, request.seed, 0.0, "stop", origin={**_origin("none", "none"), "idea": idea.text}
    )


def _copies(thought: Thought, request: Request) -> list[Thought]:
    """n times the same."""
    return [dataclasses.replace(thought, seed=seed) for seed in request.seeds]


THINKER = NoiseThinker()
