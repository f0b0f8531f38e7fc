"""Draft -> n directions in one batch: what `noise` and the refining stage of `hybrid` do with a local model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.core.thinker import Request, StepEvent
from thoughtmix.core.types import Thought
from thoughtmix.engine import Row, Sampler, decode
from thoughtmix.noise.asking import BASE_STOP, Way, prompt_ids
from thoughtmix.thinkers._common import DEFAULT_MIN_P, samplers, thoughts

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

TEMPERATURE = 0.7
"""Of the rewriting at creativity 1."""


@dataclass(frozen=True, slots=True)
class Idea:
    """A text to disturb. ids: its tokens without the end, where the model itself wrote it."""

    text: str
    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, thought: Thought, model: LanguageModel) -> Idea:
        """A thought as the idea for others. Its tokens go beyond its text where a stop string cut it: then left out."""
        ids = thought.token_ids
        ids = ids[:-1] if ids and ids[-1] in model.eos_ids else ids
        return cls(thought.text, ids if ids and model.decode(ids) == thought.text else ())


def draft(model: LanguageModel, before: Sequence[int], request: Request, seed: int | None = None) -> Any:
    """What is disturbed when no idea was given, as `Decoded`: the model's likeliest answer; with a seed, a drawn one at
    temperature 1. It depends on the prompt and the settings, never on n or the thoughts' seeds, so that each thought
    can be made again alone."""
    sampler = Sampler(temperature=0) if seed is None else Sampler(min_p=DEFAULT_MIN_P)
    n, see = request.n, request.on_step

    def told(event: StepEvent) -> None:
        assert see is not None
        see(StepEvent([""] * n, event.done, event.total + n * request.max_new_tokens, [False] * n))

    return decode(
        model, [list(before)], [Row(seed=seed or 0, sampler=sampler, stop=request.stop)],
        max_new_tokens=request.max_new_tokens, on_step=told if see else None, path=request.path,
        weights=request.weights,
    )  # fmt: skip


def rewrite(
    model: LanguageModel,
    ideas: Sequence[Idea],
    ways: Sequence[Way],
    request: Request,
    *,
    before: Sequence[int] = (),
    thinker: str = "noise",
    spent: int = 0,
) -> tuple[list[Thought], Mapping[str, Any]]:
    """Thought i is ideas[i] disturbed in ways[i], all in one batch; equal prompts are read once.

    before: the prompt that led to the ideas, ending where their text began; () asks about the text alone.
    creativity scales the temperature, 0.7 at 1, unless one is given. spent: tokens made before, for `on_step`.
    Facts: a thinker's.
    """
    creativity = 1.0 if request.creativity is None else float(request.creativity)
    drawn = samplers(request, TEMPERATURE * creativity if request.temperature is None else request.temperature)
    stop = request.stop if model.tokenizer.chat_template else (*request.stop, *BASE_STOP)
    asked = [
        tuple(prompt_ids(model, idea.text, way, seed, before, idea.ids))
        for idea, way, seed in zip(ideas, ways, request.seeds, strict=True)
    ]
    prompts = list(dict.fromkeys(asked))
    place = {ids: i for i, ids in enumerate(prompts)}
    decoded = decode(
        model,
        prompts,
        [
            Row(seed=seed, sampler=x, prompt=place[ids], stop=stop)
            for seed, x, ids in zip(request.seeds, drawn, asked, strict=True)
        ],
        max_new_tokens=request.max_new_tokens,
        on_step=_later(request.on_step, spent),
        path=request.path,
        weights=request.weights,
    )
    origins = [
        {"thinker": thinker, **way.origin, "temperature": sampler.temperature, "idea": idea.text}
        for way, sampler, idea in zip(ways, drawn, ideas, strict=True)
    ]
    facts = {**decoded.facts, "prompts": len(prompts), "interrupted": decoded.interrupted}
    return thoughts(decoded.rows, request.seeds, origins), facts


def _later(see: Callable[[StepEvent], None] | None, spent: int) -> Callable[[StepEvent], None] | None:
    """Counts what was made before."""
    if see is None or not spent:
        return see
    return lambda event: see(dataclasses.replace(event, done=event.done + spent, total=event.total + spent))
