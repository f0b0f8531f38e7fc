"""A request of one prompt, as it is once it has been checked, and what is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import ThoughtSet
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.limits import Limits
from thoughtmix.serve.schemas import ThoughtRequest
from thoughtmix.thinkers.base import Thinker, Work

_SMALLEST_NUCLEUS = 1e-9
"""OpenAI's top_p may be 0: the likeliest token alone."""


@dataclass(frozen=True)
class CheckedRequest:
    """One prompt's request, checked against the limits."""

    prompt: Prompt
    thinker: Thinker
    """Who makes the thoughts: chosen, where the one that was asked for chooses."""
    choice: Mapping[str, Any]
    """Facts about that."""
    request: Request
    select: int | None
    quality_floor: float
    measure: bool
    top_logprobs: int
    streams: bool
    """Whether its pieces may be shown as they come; else its progress is, and its thoughts when they stand."""
    fit: bool
    """Whether it named no length, and may be made to fit behind its prompt."""
    cost: int
    """Bytes of keys and values that are set aside for it: of one that names no length none, it waits for room."""
    work: Work
    """What it may cost at most."""


@dataclass(frozen=True)
class Answer:
    """The thoughts, in the order they are answered."""

    thoughts: ThoughtSet
    prompt_tokens: int
    completion_tokens: int
    """All that were drawn, of drafts and of thoughts that were not selected, too."""
    top: Mapping[tuple[int, ...], list[tuple[list[int], list[float]]]]
    """Token ids of a thought -> of each token the likeliest ids and their log-probabilities."""


def check_counts(body: ThoughtRequest, limits: Limits) -> None:
    """Raises `Refused` (400) for more thoughts than one request may ask, or than it may select from."""
    n = body.n
    if n > limits.thoughts:
        raise Refused(400, f"n is {n}, this server makes up to {limits.thoughts}. Ask for fewer.", param="n")
    if body.select is not None and body.select > n:
        raise Refused(400, f"Cannot select {body.select} of {n} thoughts. Pass select 1 to {n}.", param="select")


def settings_of(body: ThoughtRequest) -> Request:
    """What a request says of how thoughts are drawn."""
    return Request(
        n=body.n,
        creativity=body.creativity,
        temperature=body.temperature,
        top_k=body.top_k or 0,
        min_p=body.min_p,
        top_p=1.0 if body.top_p is None else max(body.top_p, _SMALLEST_NUCLEUS),
        stop=body.stops,
        landing=body.landing,
        drawn=body.drawn,
    )


def most_prompt_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt at most, or nearly: two characters each."""
    texts = [prompt.content] if isinstance(prompt.content, str) else [m["content"] for m in prompt.content]
    texts += [value for value in prompt.template_kwargs.values() if isinstance(value, str)]
    told = [*prompt.tools, *(m["tool_calls"] for m in prompt.messages if "tool_calls" in m)]
    texts += [json.dumps(each) for each in told]
    return sum(len(t) for t in texts) // 2 + 16 * len(texts) + 8
