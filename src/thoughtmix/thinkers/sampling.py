"""Plain sampling from the model, the baseline that every other thinker must beat: n sequences of one prompt, each with
its own parameters and random stream. creativity is the temperature."""

from __future__ import annotations

from typing import Literal, cast

from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, SequenceRequest, local_model, require
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params
from thoughtmix.thinkers.base import Thinker, Thoughts, one_temperature

Draws = Literal["independent", "arithmetic"]


def draws_option() -> Draws:
    """The option of thinkers whose sequences may be drawn apart."""
    help = "How thoughts are drawn: independent, or arithmetic: neighbouring seeds apart, each still as likely."
    return cast("Draws", option("independent", help, served=True))


class SamplingThinker(Thinker):
    name = "sampling"
    summary = "Plain sampling; creativity is the temperature (0 greedy, 1 the model's own distribution), min-p 0.1."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    elsewhere = "draws=arithmetic is refused; min-p is the server's"
    streams = True
    guided = True

    class Options(ThinkerOptions):
        draws: Draws = draws_option()

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        options = self.Options.model_validate(request.options)
        temperature = one_temperature(request, self.name)
        params = sampling_params(request, 1.0 if temperature is None else temperature)
        offsets = arithmetic_offsets(engine, prompt, request, options.draws)
        done = engine.generate(
            [
                SequenceRequest(
                    prompt,
                    seed,
                    sampling,
                    request.max_new_tokens,
                    request.stop,
                    offset=offset,
                    grammar=request.grammar,
                )
                for seed, sampling, offset in zip(request.seeds, params, offsets, strict=True)
            ],
            on_step=request.on_step,
        )
        origins = [{"thinker": self.name, "temperature": sampling.temperature} for sampling in params]
        return as_thoughts(done.outputs, request.seeds, origins), run_facts(done)


def arithmetic_offsets(
    engine: Engine, prompt: Prompt, request: Request, draws: Draws, routed: bool = False
) -> list[float | None]:
    """`SequenceRequest.offset` of each thought. routed: see `engine.rng.arithmetic_offset`."""
    if draws == "independent":
        return [None] * request.n
    from thoughtmix.engine.rng import arithmetic_offset

    require(engine, {Capability.ARITHMETIC}, "draws=arithmetic")
    ids = local_model(engine, "draws=arithmetic").encode(prompt)
    return [arithmetic_offset(seed, ids, routed) for seed in request.seeds]


THINKER = SamplingThinker()
