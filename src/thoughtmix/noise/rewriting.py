"""Draft -> n directions in one batch: what `noise` and the refining stage of `hybrid` do with an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoughtmix.core.request import OnStep, Prompt, Request, StepEvent
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Engine, Generation, LocalModelEngine, SequenceRequest
from thoughtmix.engine.requests import DEFAULT_MIN_P, as_thoughts, run_facts, sampling_params
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.noise.asking import BASE_STOP, Way, messages, prompt_ids

TEMPERATURE = 0.7
"""Of the rewriting at creativity 1."""


@dataclass(frozen=True, slots=True)
class Idea:
    """A text to disturb. ids: its tokens without the end, where the model itself wrote it."""

    text: str
    ids: tuple[int, ...] = ()

    @classmethod
    def from_thought(cls, thought: Thought, engine: Engine) -> Idea:
        """A thought as the idea for others. Its tokens go beyond its text where a stop string cut it: then left out."""
        if not isinstance(engine, LocalModelEngine):
            return cls(thought.text)
        ids = thought.token_ids
        ids = ids[:-1] if ids and ids[-1] in engine.model.eos_ids else ids
        return cls(thought.text, ids if ids and engine.model.decode(ids) == thought.text else ())


def draft(engine: Engine, prompt: Prompt, request: Request, seed: int | None = None) -> Generation:
    """What is disturbed when no idea was given: the model's likeliest answer; with a seed, a drawn one at temperature
    1. It depends on the prompt and the settings, never on n or the thoughts' seeds, so that each thought can be made
    again alone."""
    sampling = SamplingParams(temperature=0) if seed is None else SamplingParams(min_p=DEFAULT_MIN_P)
    n, see = request.n, request.on_step

    def told(event: StepEvent) -> None:
        assert see is not None
        see(StepEvent([""] * n, event.done, event.total + n * request.max_new_tokens, [False] * n))

    asked = SequenceRequest(prompt, seed or 0, sampling, request.max_new_tokens, request.stop)
    return engine.generate([asked], on_step=told if see else None)


def rewrite(
    engine: Engine,
    ideas: Sequence[Idea],
    ways: Sequence[Way],
    request: Request,
    *,
    before: Prompt | None = None,
    thinker: str = "noise",
    spent: int = 0,
) -> tuple[list[Thought], Mapping[str, Any]]:
    """Thought i is ideas[i] disturbed in ways[i], all in one batch; equal prompts are read once.

    Args:
        before: The prompt that led to the ideas; None asks about the text alone.
        request: creativity scales the temperature, 0.7 at 1, unless one is given.
        spent: Tokens made before, for `on_step`.

    Returns:
        The thoughts, and a thinker's facts.
    """
    creativity = 1.0 if request.creativity is None else float(request.creativity)
    params = sampling_params(request, TEMPERATURE * creativity if request.temperature is None else request.temperature)
    asked = [
        _prompt(engine, idea, way, seed, before) for idea, way, seed in zip(ideas, ways, request.seeds, strict=True)
    ]
    few_shot = isinstance(engine, LocalModelEngine) and not engine.model.tokenizer.chat_template
    stop = (*request.stop, *BASE_STOP) if few_shot else request.stop
    done = engine.generate(
        [
            SequenceRequest(prompt, seed, sampling, request.max_new_tokens, stop)
            for prompt, seed, sampling in zip(asked, request.seeds, params, strict=True)
        ],
        on_step=_after(request.on_step, spent),
    )
    origins = [
        {"thinker": thinker, **way.origin, "temperature": sampling.temperature, "idea": idea.text}
        for way, sampling, idea in zip(ways, params, ideas, strict=True)
    ]
    different = len({prompt if isinstance(prompt, tuple) else repr(prompt) for prompt in asked})
    return as_thoughts(done.outputs, request.seeds, origins), {**run_facts(done), "prompts": different}


def _prompt(engine: Engine, idea: Idea, way: Way, seed: int, before: Prompt | None) -> Prompt | tuple[int, ...]:
    """What asks for the rewriting: in tokens where the engine takes them, so that all directions begin alike."""
    if isinstance(engine, LocalModelEngine):
        ids = engine.encode(before) if before is not None else ()
        return tuple(prompt_ids(engine.model, idea.text, way, seed, ids, idea.ids))
    return Prompt(tuple(messages(idea.text, way, seed, before.conversation if before is not None else ())))


def _after(see: OnStep | None, spent: int) -> OnStep | None:
    """Counts what was made before."""
    if see is None or not spent:
        return see
    return lambda event: see(dataclasses.replace(event, done=event.done + spent, total=event.total + spent))
