"""n rows of one prompt, each with its own sampler and random stream. creativity is the temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.models import LanguageModel


class SamplingThinker:
    name = "sampling"
    summary = "Plain sampling; creativity is the temperature (0 greedy, 1 the model's own distribution), min-p 0.1."
    options: Mapping[str, str] = {
        "draws": "independent (default), or arithmetic: neighbouring seeds drawn apart, each thought still as likely",
    }

    def suits(self, model: LanguageModel) -> bool:
        return model.causal

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        from thoughtmix.engine import Row, decode
        from thoughtmix.engine.rng import codes
        from thoughtmix.thinkers._common import samplers, thoughts

        if request.creativity is not None and request.temperature is not None:
            raise InputError(
                "For sampling, creativity is the temperature: both were given.",
                "Pass only one (--creativity or --temperature).",
            )
        temperature = request.creativity if request.temperature is None else request.temperature
        drawn = samplers(request, 1.0 if temperature is None else temperature)
        places = codes(str(request.options.get("draws", "independent")), request.seeds, prompt_ids)
        decoded = decode(
            model,
            [prompt_ids],
            [
                Row(seed=s, sampler=sampler, stop=request.stop, code=code)
                for s, sampler, code in zip(request.seeds, drawn, places, strict=True)
            ],
            max_new_tokens=request.max_new_tokens,
            on_step=request.on_step,
            path=request.path,
            weights=request.weights,
        )
        origins = [{"thinker": self.name, "temperature": sampler.temperature} for sampler in drawn]
        facts = {**decoded.facts, "interrupted": decoded.interrupted}
        return thoughts(decoded.rows, request.seeds, origins), facts


THINKER = SamplingThinker()
