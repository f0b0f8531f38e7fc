"""From a request to sampling parameters, and from outputs to thoughts: what every thinker does alike."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.request import DEFAULT_MIN_P as DEFAULT_MIN_P
from thoughtmix.core.request import Prompt, Request, per_thought
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.sampling_params import SamplingParams


def sampling_params(request: Request, temperature: float | tuple[float, ...]) -> list[SamplingParams]:
    """Thought i's parameters: the request's truncations (min-p 0.1 unless it names one) at `temperature`, one for all
    or one a thought. Raises `InputError`."""
    n = request.n
    return [
        SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m, top_nsigma=s)
        for t, k, p, m, s in zip(
            per_thought("temperature", temperature, n),
            per_thought("top_k", request.top_k, n),
            per_thought("top_p", request.top_p, n),
            per_thought("min_p", DEFAULT_MIN_P if request.min_p is None else request.min_p, n),
            per_thought("top_nsigma", request.top_nsigma, n),
            strict=True,
        )
    ]


def thought_sequences(
    request: Request,
    prompts: Sequence[Prompt | tuple[int, ...]],
    params: Sequence[SamplingParams],
    offsets: Sequence[float | None] | None = None,
    stop: tuple[str, ...] | None = None,
) -> list[SequenceRequest]:
    """The sequences of thinkers whose sequence i is thought i.

    Args:
        request: Its seeds, lengths, grammar and strings that end a thought.
        prompts: What thought i continues.
        params: Thought i's.
        offsets: `SequenceRequest.offset` of each; None: none has one. A text that is continued has
            used up its own.
        stop: In place of the request's.
    """
    if offsets is None or request.drawn:
        offsets = [None] * request.n
    return [
        SequenceRequest(
            prompt,
            seed,
            sampling,
            request.max_new_tokens,
            request.stop if stop is None else stop,
            offset=offset,
            drawn=request.drawn,
            grammar=request.grammar,
            landing=request.landing_tokens,
        )
        for prompt, seed, sampling, offset in zip(prompts, request.seeds, params, offsets, strict=True)
    ]


def one_sampling(request: Request, temperature: Any, who: str) -> SamplingParams:
    """The parameters of all sequences where they are not the thoughts. Raises `InputError` for a setting that has a
    value a thought."""
    for name in ("top_k", "top_p", "min_p", "top_nsigma"):
        _require_one(name, getattr(request, name), who)
    _require_one("temperature", temperature, who)
    return sampling_params(dataclasses.replace(request, n=1), temperature)[0]


def _require_one(name: str, value: Any, who: str) -> None:
    if isinstance(value, (tuple, list)):
        raise InputError(f"{name} has a value a thought, but {who} takes one for all.", f"Pass one {name}.")


def as_thoughts(
    outputs: Sequence[SequenceOutput], seeds: Sequence[int], origins: Sequence[Mapping[str, Any]]
) -> list[Thought]:
    """One thought an output, with its seed and where it came from. Of an endpoint that gives no log-probabilities the
    likelihood is unknown, not 0."""
    return [
        Thought(
            text=output.text,
            token_ids=tuple(output.token_ids),
            seed=seed,
            logprob=None if output.tries and not output.logprobs else float(sum(output.logprobs)),
            finish=output.finish,
            token_logprobs=tuple(output.logprobs),
            origin={**origin, **_of_endpoint(output)},
        )
        for output, seed, origin in zip(outputs, seeds, origins, strict=True)
    ]


def _of_endpoint(output: SequenceOutput) -> dict[str, Any]:
    return {name: value for name in ("tries", "error", "reasoning") if (value := getattr(output, name))}


def run_facts(done: Generation) -> dict[str, Any]:
    """What a thinker says of a generation for `ThoughtSet.run`, and whether it was interrupted."""
    return {**done.facts, "interrupted": done.interrupted}


def add_endpoint_facts(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """`run["endpoint"]` of two runs, one after the other: numbers and counts add up; the rest is the later's."""
    out = {**first, **then}
    for name in set(first) & set(then) - {"concurrency"}:
        if isinstance(then[name], (int, float)):
            out[name] = round(first[name] + then[name], 8)
    out["troubles"] = dict(Counter(first["troubles"]) + Counter(then["troubles"]))
    return out
