"""Draft, then n directions away from it in one batch. Creativity 0: nothing is disturbed, all thoughts are the draft.

The draft is the model's likeliest answer (or, with the option `draft`, one drawn by that seed): it depends on prompt
and settings alone, not on n nor on the thoughts' seeds. The thought of seed s takes direction s mod (number of
directions) and draws its tokens by s. So `n=1, seed=s+i` is thought i of `seed=s`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, local_model
from thoughtmix.engine.requests import as_thoughts
from thoughtmix.noise.rewriting import INSTRUCTION, Idea, NoiseOptions, disturbances, draft, rewrite
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, add_facts, embedding_work, packaged_embedder

_DRAFT_STEPS = 128
_DENOISING_PASSES = 72
"""Of a text that is renoised: 64 steps, and 8 passes that read how sure it is."""


def rewriting_work(n: int, read: int, idea: int, length: int) -> Work:
    """Of rewriting ideas of so many tokens, n times, behind a prompt that is read once."""
    return Work(read + n * (INSTRUCTION + idea + length))


def denoising_work(n: int, length: int) -> Work:
    """Of renoising n texts of so many tokens."""
    return Work(0, n * length * _DENOISING_PASSES)


def most_tokens(text: str) -> int:
    """Of a text, at most or nearly: two characters each."""
    return len(text) // 2 + 8


class NoiseThinker(Thinker):
    name = "noise"
    summary = "Drafts, then rewrites the draft (or an idea of yours) in n directions; creativity 0 is the draft itself."
    elsewhere = "the draft is the server's own answer at temperature 0"

    guided = True

    class Options(NoiseOptions):
        idea: str | None = option(
            None, "A text to disturb; without it, an answer to the prompt is drafted first", served=True, role="text"
        )
        standalone: bool = option(
            False, "Rewrite the idea as a text of its own, not as an answer to the prompt", served=True
        )
        draft: int | None = option(
            None,
            "A seed: the draft is drawn by it at temperature 1; left out: the likeliest answer",
            served=True,
            ge=0,
            lt=2**63,
        )

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return n + (self.Options.model_validate(options).idea is None)

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        """Rewritings begin alike, so that what led to the idea is read once."""
        given = self.Options.model_validate(options)
        idea = length if given.idea is None else most_tokens(given.idea)
        if Capability.LEFT_TO_RIGHT not in engine.capabilities:
            return denoising_work(n, idea) + Work(0, 0 if given.idea is not None else (read + length) * _DRAFT_STEPS)
        draft = 0 if given.idea is not None else read + length
        embedded = embedding_work(64, INSTRUCTION) if given.order == "different" else Work()
        return Work(draft) + rewriting_work(n, read, idea, length) + embedded

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        options = self.Options.model_validate(request.options)
        if options.idea is not None and not options.idea.strip():
            raise InputError("The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
        if request.grammar is not None and options.idea is not None and request.creativity == 0:
            raise InputError("At creativity 0 an idea is given back as it is.", "Pass --creativity 1.")
        if Capability.LEFT_TO_RIGHT in engine.capabilities:
            return _rewrite(engine, prompt, request, options)
        return _denoise(engine, prompt, request, options)


def _rewrite(engine: Engine, prompt: Prompt, request: Request, options: NoiseThinker.Options) -> Thoughts:
    """By instructions."""
    choices = disturbances(options, request.embedder or packaged_embedder)
    if options.idea is not None:
        idea, spent = Idea(options.idea.strip()), {"tokens": 0, "seconds": 0.0, "prefill_seconds": 0.0}
        if request.creativity == 0:
            given = Thought(idea.text, (), 0, 0.0, "stop", origin={**_origin("none"), "idea": idea.text})
            return _copies(given, request), {"path": "none", **spent}
    else:
        made = draft(engine, prompt, request, options.draft)
        direction = "draft" if options.draft is None else f"draft {options.draft}"
        drafted = as_thoughts(made.outputs, [request.seed], [_origin(direction)])[0]
        spent = made.facts
        failed = made.interrupted or made.outputs[0].error is not None or not drafted.text.strip()
        if request.creativity == 0 or failed:
            return _copies(drafted, request), {**spent, "interrupted": made.interrupted}
        idea = Idea.from_thought(drafted, engine)
    before = None if options.standalone else prompt
    thoughts, facts = rewrite(engine, [idea] * request.n, choices, request, before=before, spent=int(spent["tokens"]))
    return thoughts, add_facts(spent, facts)


def _denoise(engine: Engine, prompt: Prompt, request: Request, options: NoiseThinker.Options) -> Thoughts:
    """By forgetting a share of the idea's tokens, on a model that writes in any order. Raises `InputError` for
    directions, which it cannot follow."""
    from thoughtmix.diffusion.load import wrap_diffusion
    from thoughtmix.noise.denoising import LEVEL, renoise_texts
    from thoughtmix.thinkers.diffusion import THINKER as diffusion

    local = local_model(engine, "noise on a mask predictor")
    model = local.model
    for name in ("families", "directions", "strength", "language", "order", "file"):
        if name in options.model_fields_set:
            raise InputError(f"{engine.name} follows no instructions, {name} was given.", "Pass holes=0.5 alone.")
    temperature = request.temperature if request.temperature is not None else request.creativity
    if isinstance(temperature, tuple):
        raise InputError("A mask predictor takes one temperature for all thoughts.", "Pass one value.")
    text, spent = options.idea or "", dict[str, Any]()
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
        made, facts = diffusion.think(engine, prompt, first)
        text, spent = made[0].text, dict(facts)
        if request.creativity == 0 or spent["interrupted"] or not text.strip():
            return _copies(made[0], request), spent
    with local.exclusive():
        thoughts, facts = renoise_texts(
            wrap_diffusion(model.model, model.tokenizer, model.name),
            [text] * request.n,
            request.seeds,
            LEVEL if options.holes is None else options.holes,
            options.mask,
            1.0 if temperature is None else float(temperature),
        )
    return thoughts, add_facts(spent, facts)


def _origin(direction: str) -> dict[str, Any]:
    return {"thinker": "noise", "direction": direction, "family": "none"}


def _copies(thought: Thought, request: Request) -> list[Thought]:
    """n times the same."""
    return [dataclasses.replace(thought, seed=seed) for seed in request.seeds]


THINKER = NoiseThinker()
