"""Thoughts by routes: each thought travels its own way through the branches of a mixture, or of a graft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.mixture.state import BranchRowState
    from thoughtmix.models import LanguageModel

DEFAULT_TEMPERATURE = 0.7


class MixtureThinker:
    name = "mixture"
    summary = "Routes, modes and held noise in the branches of a mixture or a graft; creativity scales them (0: none)."
    options: Mapping[str, str] = {
        "read": "shared (default): the prompt is read once for all; each: by every thought through its own branches",
        "draws": "independent (default), or arithmetic: neighbouring seeds drawn apart, each thought still as likely",
    }

    def suits(self, model: LanguageModel) -> bool:
        return model.is_default or model.own_thinker == "mixture"

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """Tokens are drawn at temperature 0.7 (0 at creativity 0, so that all thoughts are one) unless one is given."""
        from thoughtmix.engine import Row, decode
        from thoughtmix.engine.rng import codes
        from thoughtmix.thinkers._common import samplers, thoughts

        n = request.n
        creativity = 1.0 if request.creativity is None else float(request.creativity)
        row_state = branch_row_state(model, request.seeds, [creativity] * n)
        temperature = DEFAULT_TEMPERATURE * (creativity > 0) if request.temperature is None else request.temperature
        drawn = samplers(request, temperature)
        read = str(request.options.get("read", "shared"))
        draws = str(request.options.get("draws", "independent"))
        places = codes(draws, request.seeds, prompt_ids, routed=True)
        decoded = decode(
            model,
            [prompt_ids],
            [
                Row(seed=s, sampler=x, stop=request.stop, code=code)
                for s, x, code in zip(request.seeds, drawn, places, strict=True)
            ],
            max_new_tokens=request.max_new_tokens,
            on_step=request.on_step,
            path=request.path,
            weights=request.weights,
            row_state=row_state,
            read=read,  # type: ignore[arg-type]  # checked by decode
            tail=row_state.unshared_suffix if read == "shared" and creativity > 0 else 0,
        )
        origins = [
            {
                "thinker": self.name, "creativity": creativity, "temperature": sampler.temperature, **route, **mode,
            }
            for sampler, route, mode in zip(drawn, row_state.routes(n), _modes(model, request.seeds), strict=True)
        ]  # fmt: skip
        facts = {**decoded.facts, "read": read, "interrupted": decoded.interrupted}
        return thoughts(decoded.rows, request.seeds, origins), facts


def _modes(model: LanguageModel, seeds: Sequence[int]) -> list[dict[str, int]]:
    """Each thought's mode, where the model has modes."""
    count = getattr(model.model.config, "modes", 0)
    return [{"mode": seed % count} if count else {} for seed in seeds]


def branch_row_state(model: LanguageModel, seeds: Sequence[int], creativity: Sequence[float]) -> BranchRowState:
    """What rows carry through this model: a Mixture-of-Thoughts transformer, or any with a graft at work.

    Raises `InputError` for other models."""
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
    from thoughtmix.mixture.state import BranchRowState
    from thoughtmix.models.adapter import put_shipped

    if isinstance(model.model, MixtureOfThoughtsTransformer):
        return BranchRowState(seeds, creativity, model.device)
    if model.is_default:
        put_shipped(model)
    for module in model.model.modules():
        graft: Any = getattr(module, "thought_graft", None)
        if graft is not None:
            return graft.row_state(seeds, creativity, model.device)
    raise InputError(
        f"{model.name} has no thought branches.",
        "Graft some: thoughtmix graft MODEL --out DIR; or train a model: thoughtmix train mixture --data FILE; "
        "or type --thinker sampling.",
    )


THINKER = MixtureThinker()
