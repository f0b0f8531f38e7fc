"""n rows of one prompt, each with its own sampler and random stream. creativity is the temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.errors import InputError
from thoughtmix.thinker import Request, per_thought

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.thoughts import Thought

DEFAULT_MIN_P = 0.1


class SamplingThinker:
    name = "sampling"
    summary = "Plain sampling; creativity is the temperature (0 greedy, 1 the model's own distribution), min-p 0.1."
    options: Mapping[str, str] = {
        "draws": "independent (default), or arithmetic: neighbouring seeds drawn apart, each thought still as likely",
    }

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        from thoughtmix.decoding import Row, Sampler, decode
        from thoughtmix.decoding.randomness import codes
        from thoughtmix.thoughts import Thought

        if request.creativity is not None and request.temperature is not None:
            raise InputError(
                "For sampling, creativity is the temperature: both were given.",
                "Pass only one (--creativity or --temperature).",
            )
        temperature = request.creativity if request.temperature is None else request.temperature
        samplers = [
            Sampler(temperature=t, top_k=k, top_p=p, min_p=m, top_nsigma=s)
            for t, k, p, m, s in zip(
                per_thought("temperature", 1.0 if temperature is None else temperature, request.n),
                per_thought("top_k", request.top_k, request.n),
                per_thought("top_p", request.top_p, request.n),
                per_thought("min_p", DEFAULT_MIN_P if request.min_p is None else request.min_p, request.n),
                per_thought("top_nsigma", request.top_nsigma, request.n),
                strict=True,
            )
        ]
        places = codes(str(request.options.get("draws", "independent")), request.seeds, prompt_ids)
        decoded = decode(
            model,
            [prompt_ids],
            [
                Row(seed=s, sampler=sampler, stop=request.stop, code=code)
                for s, sampler, code in zip(request.seeds, samplers, places, strict=True)
            ],
            max_new_tokens=request.max_new_tokens,
            on_step=request.on_step,
            path=request.path,
            weights=request.weights,
        )
        thoughts = [
            Thought(
                text=row.text,
                token_ids=tuple(row.token_ids),
                seed=seed,
                logprob=float(sum(row.logprobs)),
                finish=row.finish,
                token_logprobs=tuple(row.logprobs),
                origin={"thinker": self.name, "temperature": sampler.temperature},
            )
            for row, seed, sampler in zip(decoded.rows, request.seeds, samplers, strict=True)
        ]
        return thoughts, {**decoded.facts, "interrupted": decoded.interrupted}


THINKER = SamplingThinker()
