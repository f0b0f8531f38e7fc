"""From a request to samplers, and from decoded rows to thoughts: what every thinker does alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.thinker import Request, per_thought
from thoughtmix.core.types import Thought
from thoughtmix.engine.sampling import Sampler

if TYPE_CHECKING:
    from thoughtmix.engine.loop import Continuation

DEFAULT_MIN_P = 0.1


def samplers(request: Request, temperature: float | tuple[float, ...]) -> list[Sampler]:
    """Thought i's sampler: the request's truncations (min-p 0.1 unless it names one) at `temperature`, one for all or
    one a thought. Raises `InputError`."""
    n = request.n
    return [
        Sampler(temperature=t, top_k=k, top_p=p, min_p=m, top_nsigma=s)
        for t, k, p, m, s in zip(
            per_thought("temperature", temperature, n),
            per_thought("top_k", request.top_k, n),
            per_thought("top_p", request.top_p, n),
            per_thought("min_p", DEFAULT_MIN_P if request.min_p is None else request.min_p, n),
            per_thought("top_nsigma", request.top_nsigma, n),
            strict=True,
        )
    ]


def thoughts(rows: Sequence[Continuation], seeds: Sequence[int], origins: Sequence[Mapping[str, Any]]) -> list[Thought]:
    """One thought a row, with its seed and where it came from."""
    return [
        Thought(
            text=row.text,
            token_ids=tuple(row.token_ids),
            seed=seed,
            logprob=float(sum(row.logprobs)),
            finish=row.finish,
            token_logprobs=tuple(row.logprobs),
            origin=origin,
        )
        for row, seed, origin in zip(rows, seeds, origins, strict=True)
    ]
