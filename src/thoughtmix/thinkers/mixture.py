"""Thoughts by routes: each thought travels its own way through the branches of a mixture, or of a graft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from thoughtmix.asking.draws import Draws, arithmetic_offsets, draws_option
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, TokenEngine
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params, thought_sequences
from thoughtmix.engine.row_state import Read
from thoughtmix.thinkers.base import Thinker, Thoughts, Work

DEFAULT_TEMPERATURE = 0.7


class MixtureThinker(Thinker):
    name = "mixture"
    summary = "Routes, modes and held noise in the branches of a mixture or a graft; creativity scales them (0: none)."
    needs = frozenset({Capability.LEFT_TO_RIGHT, Capability.BRANCHES})
    in_vllm = "each thought is a LoRA adapter of the graft, reads the prompt itself, and has its noise at 0"
    streams = continues = True
    guided = True

    class Options(ThinkerOptions):
        read: Literal["shared", "each"] = option(
            "shared",
            "Who reads the prompt: shared, once for all; each, every thought through its own branches.",
            served=True,
        )
        draws: Draws = draws_option()

    def suits(self, engine: Engine) -> bool:
        if not super().suits(engine):
            return False
        from thoughtmix.graft.branched import offers_branches

        return offers_branches(engine)

    def made_for(self, engine: Engine) -> bool:
        """Not for the default model, which takes its packaged graft only when asked: docs/results/graft.md."""
        # `suits` imports PEFT, and all of transformers with it: last.
        return isinstance(engine, TokenEngine) and not engine.model.is_default and self.suits(engine)

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        readers = n if self.Options.model_validate(options).read == "each" else 1
        return Work(readers * read + n * length)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Tokens are drawn at temperature 0.7 (0 at creativity 0, so that all thoughts are one) unless one is given."""
        from thoughtmix.graft.branched import branch_rows

        options = self.Options.model_validate(request.options)
        n = request.n
        creativity = 1.0 if request.creativity is None else float(request.creativity)
        row_state, said = branch_rows(engine, request.seeds, [creativity] * n)
        temperature = DEFAULT_TEMPERATURE * (creativity > 0) if request.temperature is None else request.temperature
        params = sampling_params(request, temperature)
        offsets = arithmetic_offsets(engine, [prompt] * n, request.seeds, options.draws, routed=True)
        read: Read = options.read if Capability.ROW_STATE in engine.capabilities else "each"
        done = engine.generate(
            thought_sequences(request, [prompt] * request.n, params, offsets),
            row_state=row_state,
            read=read,
            on_step=request.on_step,
        )
        same = {"thinker": self.name, "creativity": creativity}
        origins = [
            {**same, "temperature": sampling.temperature, **route, **mode}
            for sampling, route, mode in zip(params, row_state.routes(n), _modes(engine, request.seeds), strict=True)
        ]
        return as_thoughts(done.outputs, request.seeds, origins), {**run_facts(done), "read": read, **said}


def _modes(engine: Engine, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Each thought's mode, where the model has modes."""
    from thoughtmix.graft.branched import mode_count

    count = mode_count(engine.model) if isinstance(engine, LocalModelEngine) else 0
    return [{"mode": seed % count} if count else {} for seed in seeds]


THINKER = MixtureThinker()
