"""Thoughts that leave where their set has been: plain sampling whose logits a distiller adjusts, which learns from all
of the set's hidden states while they are written. creativity scales by how much; 0 is plain sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.asking.draws import Draws, arithmetic_offsets, draws_option
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, local_model
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params, thought_sequences
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.thinkers.base import Thinker, Thoughts

if TYPE_CHECKING:
    from thoughtmix.explore.row_state import ExploringRows


class ExploreThinker(Thinker):
    name = "explore"
    summary = "Sampling that leaves what its set has seen; creativity scales by how much (0: plain sampling)."
    needs = frozenset({Capability.LEFT_TO_RIGHT, Capability.TOKENS, Capability.ROW_STATE, Capability.WEIGHTS})
    streams = continues = True
    guided = True

    class Options(ThinkerOptions):
        beta: float = option(
            0.25,
            "By how much a token gains that is said here more than where the set has been; times creativity",
            served=True,
            ge=0,
            le=10,
        )
        layer: int = option(1, "After how many of the model's layers the distiller looks", served=True, ge=1, le=10**4)
        width: int = option(128, "Directions of that state that it looks at", served=True, ge=1, le=512)
        ridge: float = option(
            100.0, "How slowly it learns: tokens seen count little against this many", served=True, ge=1, le=10**6
        )
        draws: Draws = draws_option()

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Tokens are drawn at temperature 1 and min-p 0.1 unless others are given. A thought depends on its whole set:
        the prompt, the settings and the seeds of all."""
        local, options = local_model(engine, self.name), self.Options.model_validate(request.options)
        creativity = 1.0 if request.creativity is None else float(request.creativity)
        beta = options.beta * creativity
        params = sampling_params(request, 1.0 if request.temperature is None else request.temperature)
        offsets = arithmetic_offsets(engine, [prompt] * request.n, request.seeds, options.draws)
        rows = _exploring(local, request, options, beta) if beta else None
        done = engine.generate(
            thought_sequences(request, [prompt] * request.n, params, offsets),
            row_state=rows or NO_ROW_STATE,
            on_step=request.on_step,
        )
        novelty = rows.mean_novelty() if rows else [None] * request.n
        origins = [
            {
                "thinker": self.name,
                "beta": beta,
                "temperature": sampling.temperature,
                **({} if error is None else {"novelty": round(error, 4)}),
            }
            for sampling, error in zip(params, novelty, strict=True)
        ]
        return as_thoughts(done.outputs, request.seeds, origins), run_facts(done)


def _exploring(
    engine: LocalModelEngine, request: Request, options: ExploreThinker.Options, beta: float
) -> ExploringRows:
    """The state of a set's rows. Raises `InputError` for a model whose states cannot be read so."""
    from thoughtmix.engine.backends.hidden import decoder_layers
    from thoughtmix.explore.head import OutputHead
    from thoughtmix.explore.row_state import ExploringRows

    model = engine.model.model
    count = len(decoder_layers(model))
    if options.layer >= count:
        raise InputError(
            f"layer is {options.layer}, and {engine.name} has {count} layers, the last of which is to be predicted.",
            f"Pass layer=1 to {count - 1} (--layer 1).",
        )
    with engine.exclusive():
        head = OutputHead.of(model)
    return ExploringRows(head, request.n, beta, options.layer, options.width, options.ridge, request.seeds[0])


THINKER = ExploreThinker()
