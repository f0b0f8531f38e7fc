"""Plain sampling from the model, the baseline that every other thinker must beat: n sequences of one prompt, each with
its own parameters and random stream. creativity is the temperature."""

from __future__ import annotations

from thoughtmix.asking.draws import Draws, arithmetic_offsets, draws_option
from thoughtmix.core.options import ThinkerOptions
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params, thought_sequences
from thoughtmix.thinkers.base import Thinker, Thoughts, one_temperature


class SamplingThinker(Thinker):
    name = "sampling"
    summary = "Plain sampling; creativity is the temperature (0 greedy, 1 the model's own distribution), min-p 0.1."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "draws=arithmetic and top_nsigma are refused"
    elsewhere = "draws=arithmetic is refused; min-p is the server's"
    streams = continues = True
    guided = True

    class Options(ThinkerOptions):
        draws: Draws = draws_option()

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        options = self.Options.model_validate(request.options)
        params = sampling_params(request, one_temperature(request, self.name))
        offsets = arithmetic_offsets(engine, [prompt] * request.n, request.seeds, options.draws)
        done = engine.generate(
            thought_sequences(request, [prompt] * request.n, params, offsets),
            on_step=request.on_step,
        )
        origins = [{"thinker": self.name, "temperature": sampling.temperature} for sampling in params]
        return as_thoughts(done.outputs, request.seeds, origins), run_facts(done)


THINKER = SamplingThinker()
