"""Thoughts by routes: each thought travels its own way through the branches of a Mixture-of-Thoughts model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.errors import InputError
from thoughtmix.thinker import Request, per_thought

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.thoughts import Thought

DEFAULT_TEMPERATURE = 0.7
DEFAULT_MIN_P = 0.1


class MixtureThinker:
    name = "mixture"
    summary = (
        "Modes, routes and held noise inside a Mixture-of-Thoughts model; creativity scales them (0 deterministic)."
    )
    options: Mapping[str, str] = {
        "read": "shared (default): the prompt is read once for all; each: by every thought through its own branches",
    }

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """Tokens are drawn at temperature 0.7 (0 at creativity 0, so that all thoughts are one) unless one is given."""
        from thoughtmix.decoding import Row, Sampler, decode
        from thoughtmix.mixture.state import Carried
        from thoughtmix.thoughts import Thought

        _check(model)
        n = request.n
        creativity = 1.0 if request.creativity is None else float(request.creativity)
        temperature = DEFAULT_TEMPERATURE * (creativity > 0) if request.temperature is None else request.temperature
        samplers = [
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
        carried = Carried(request.seeds, [creativity] * n, model.device)
        read = str(request.options.get("read", "shared"))
        decoded = decode(
            model,
            [prompt_ids],
            [Row(seed=s, sampler=x, stop=request.stop) for s, x in zip(request.seeds, samplers, strict=True)],
            max_new_tokens=request.max_new_tokens,
            on_step=request.on_step,
            path=request.path,
            carried=carried,
            read=read,  # type: ignore[arg-type]  # checked by decode
        )
        thoughts = [
            Thought(
                text=row.text,
                token_ids=tuple(row.token_ids),
                seed=seed,
                logprob=float(sum(row.logprobs)),
                finish=row.finish,
                token_logprobs=tuple(row.logprobs),
                origin={
                    "thinker": self.name,
                    "creativity": creativity,
                    "temperature": sampler.temperature,
                    **route,
                    **mode,
                },
            )
            for row, seed, sampler, route, mode in zip(
                decoded.rows, request.seeds, samplers, carried.routes(n), _modes(model, request.seeds), strict=True
            )
        ]
        return thoughts, {**decoded.facts, "read": read, "interrupted": decoded.interrupted}


def _modes(model: LanguageModel, seeds: Sequence[int]) -> list[dict[str, int]]:
    """Each thought's mode, where the model has modes."""
    count = model.model.config.modes
    return [{"mode": seed % count} if count else {} for seed in seeds]


def _check(model: LanguageModel) -> None:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

    if not isinstance(model.model, MixtureOfThoughtsTransformer):
        raise InputError(
            f"{model.name} has no thought branches.",
            "Train a model that has: thoughtmix train mixture --data FILE; or type --thinker sampling.",
        )


THINKER = MixtureThinker()
