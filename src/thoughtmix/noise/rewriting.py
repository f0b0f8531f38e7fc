"""Draft -> n directions in one batch: what `noise` and the refining stage of `hybrid` do with an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thoughtmix.core.options import Names, ThinkerOptions, option
from thoughtmix.core.request import OnStep, Prompt, Request, StepEvent, TextEmbedder
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Engine, Generation, SequenceRequest, TokenEngine
from thoughtmix.engine.requests import DEFAULT_MIN_P, as_thoughts, run_facts, sampling_params
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.noise.catalogue import Catalogue, most_different
from thoughtmix.noise.prompts import BASE_STOP, Disturbance, messages, prompt_ids

INSTRUCTION = 400
"""Most tokens that ask for a rewriting, the idea and what led to it left out: the packaged directions take up to 150, a
few-shot prompt twice that."""
TEMPERATURE = 0.7
"""Of the rewriting at creativity 1."""


class NoiseOptions(ThinkerOptions):
    """How texts are disturbed: what `noise` and the refining stage of `hybrid` have in common."""

    families: Names = option(
        (),
        "style, angle, constraint, creative, with commas (all when left out); their directions take turns",
        served=True,
    )
    directions: Names = option(
        (), "Names with commas (see `thoughtmix noise --list`); poem+critic: both at once", served=True
    )
    strength: Literal["precise", "vague", "chaotic"] = option(
        "precise", "How the instructions are worded", served=True, role="strength"
    )
    language: Literal["en", "fr"] = option("en", "Of the instructions: en or fr", served=True, role="language")
    order: Literal["families", "different"] = option(
        "families", "families take turns, or different: the n most different instructions first", served=True
    )
    file: Names = option((), "TOML files with directions of your own, with commas")
    holes: float | None = option(
        None,
        "Share of the idea's words that become holes to fill in; alone, or with directions",
        served=True,
        gt=0,
        le=1,
        old="tokens",
    )
    mask: Literal["random", "span"] = option(
        "random", "Which words: random ones, or span: stretches of them", served=True
    )


def disturbances(options: NoiseOptions, embedder: Callable[[], TextEmbedder]) -> list[Disturbance]:
    """What thoughts take turns at.

    Args:
        options: Which directions, how they are worded, which words are masked.
        embedder: Loads what order=different needs.

    Raises:
        UnknownName: A direction, family, strength or language does not exist.
        InputError: A file of directions cannot be read.
    """
    holes = options.holes or 0.0
    if holes and not options.families and not options.directions:
        return [Disturbance((), options.strength, options.language, holes, options.mask)]
    choices = Catalogue.load(*options.file).choose(options.families, options.directions)
    for choice in choices:
        for direction in choice:
            direction.instruction(options.strength, options.language)  # a user's own may lack one: refused at once
    if options.order == "different":
        choices = most_different(choices, embedder(), options.strength, options.language)
    return [Disturbance(choice, options.strength, options.language, holes, options.mask) for choice in choices]


@dataclass(frozen=True, slots=True)
class Idea:
    """A text to disturb. ids: its tokens without the end, where the model itself wrote it."""

    text: str
    ids: tuple[int, ...] = ()

    @classmethod
    def from_thought(cls, thought: Thought, engine: Engine) -> Idea:
        """A thought as the idea for others. Its tokens go beyond its text where a stop string cut it: then left out."""
        if not isinstance(engine, TokenEngine):
            return cls(thought.text)
        ids = thought.token_ids
        ids = ids[:-1] if ids and ids[-1] in engine.model.eos_ids else ids
        return cls(thought.text, ids if ids and engine.model.decode(ids) == thought.text else ())


def draft(engine: Engine, prompt: Prompt, request: Request, seed: int | None = None) -> Generation:
    """What is disturbed when no idea was given: the model's likeliest answer; with a seed, a drawn one at temperature
    1. It depends on the prompt and the settings, never on n or the thoughts' seeds, so that each thought can be made
    again alone."""
    sampling = SamplingParams(temperature=0) if seed is None else SamplingParams(min_p=DEFAULT_MIN_P)
    n, on_step = request.n, request.on_step

    def without_text(event: StepEvent) -> None:
        assert on_step is not None
        on_step(StepEvent([""] * n, event.done, event.total + n * request.max_new_tokens, [False] * n))

    length, form = request.max_new_tokens, request.grammar
    sequence = SequenceRequest(
        prompt, seed or 0, sampling, length, request.stop, grammar=form, landing=int(request.landing * length)
    )
    return engine.generate([sequence], on_step=without_text if on_step else None)


def rewrite(
    engine: Engine,
    ideas: Sequence[Idea],
    choices: Sequence[Disturbance],
    request: Request,
    *,
    before: Prompt | None = None,
    thinker: str = "noise",
    spent: int = 0,
) -> tuple[list[Thought], Mapping[str, Any]]:
    """Thought i is ideas[i], disturbed, all in one batch; equal prompts are read once.

    Args:
        choices: The thought of seed s takes choices[s mod len]: neighbours go different ways, and a seed's way does not
            depend on how many thoughts there are.
        before: The prompt that led to the ideas; None asks about the text alone.
        request: creativity scales the temperature, 0.7 at 1, unless one is given.
        spent: Tokens made before, for `on_step`.

    Returns:
        The thoughts, and a thinker's facts.
    """
    creativity = 1.0 if request.creativity is None else float(request.creativity)
    params = sampling_params(request, TEMPERATURE * creativity if request.temperature is None else request.temperature)
    chosen = [choices[seed % len(choices)] for seed in request.seeds]
    prompts = [
        _prompt(engine, idea, disturbance, seed, before)
        for idea, disturbance, seed in zip(ideas, chosen, request.seeds, strict=True)
    ]
    few_shot = isinstance(engine, TokenEngine) and not engine.model.codec.chat_template
    stop = (*request.stop, *BASE_STOP) if few_shot else request.stop
    done = engine.generate(
        [
            SequenceRequest(
                prompt,
                seed,
                sampling,
                request.max_new_tokens,
                stop,
                grammar=request.grammar,
                landing=request.landing_tokens,
            )
            for prompt, seed, sampling in zip(prompts, request.seeds, params, strict=True)
        ],
        on_step=_after(request.on_step, spent),
    )
    origins = [
        {"thinker": thinker, **disturbance.origin, "temperature": sampling.temperature, "idea": idea.text}
        for disturbance, sampling, idea in zip(chosen, params, ideas, strict=True)
    ]
    different = len({prompt if isinstance(prompt, tuple) else repr(prompt) for prompt in prompts})
    return as_thoughts(done.outputs, request.seeds, origins), {**run_facts(done), "prompts": different}


def _prompt(
    engine: Engine, idea: Idea, disturbance: Disturbance, seed: int, before: Prompt | None
) -> Prompt | tuple[int, ...]:
    """What asks for the rewriting: in tokens where the engine takes them, so that all directions begin alike."""
    if isinstance(engine, TokenEngine):
        ids = engine.encode(before) if before is not None else ()
        return tuple(prompt_ids(engine.model, idea.text, disturbance, seed, ids, idea.ids))
    return Prompt(tuple(messages(idea.text, disturbance, seed, before.conversation if before is not None else ())))


def _after(on_step: OnStep | None, spent: int) -> OnStep | None:
    """Counts what was made before."""
    if on_step is None or not spent:
        return on_step
    return lambda event: on_step(dataclasses.replace(event, done=event.done + spent, total=event.total + spent))
