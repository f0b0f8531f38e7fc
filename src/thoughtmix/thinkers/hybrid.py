"""Generator -> evaluator -> refiner, as a pipeline of any thinkers: "sampling>select>noise".

All stages but the last work on a pool of `drafts` texts that depends on prompt and settings alone (its seeds begin at
the option `draft`). The last stage makes the thoughts: the one of seed s from pool[s mod size], in direction s mod
(number of directions), with draws of seed s. So `n=1, seed=s+i` is thought i of `seed=s`, as for every thinker.

What each stage added is in `run["stages"]`, by scorers that selected nothing (see `measures`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request, StepEvent
from thoughtmix.hybrid.stages import Pipeline
from thoughtmix.noise.options import HELP

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.models import LanguageModel


class HybridThinker:
    name = "hybrid"
    summary = "Drafts by any thinker, selects, and refines by noise or renoising; says what each stage added."
    options: Mapping[str, str] = {
        "stages": "sampling>select>noise (default): a thinker, then select, noise and renoise in any order",
        "drafts": "texts that are drafted (8)",
        "keep": "how many drafts a selection leaves (half of them)",
        "draft": "the first draft's seed (0); drafts do not depend on the thoughts' seeds",
        "by": "what selects: likelihood (default), relevance, difference, or both (likelihood and difference)",
        "judge": "a model, named as --model, that reports and selects nothing",
        "report": "true (default): measure what each stage added",
        "level": "share of a draft's tokens that renoise forgets (0.5)",
        "mask_model": "the mask predictor of renoise (shakespeare-diffusion, or the model itself if it is one)",
        **HELP,
    }

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """Raises `InputError` for settings that differ by thought: a pool has other thoughts than the result."""
        from thoughtmix.hybrid.running import run

        pipeline = Pipeline.of(request.options)
        if pipeline.after[-1:] == ("select",) and request.n > pipeline.keep:
            raise InputError(
                f"{request.n} thoughts of {pipeline.keep} selected ones.", "Pass a larger keep (--option)."
            )
        for name in ("temperature", "top_k", "top_p", "min_p", "top_nsigma"):
            if isinstance(getattr(request, name), tuple) and pipeline.after:
                raise InputError(f"hybrid takes one {name} for all thoughts.", "Pass one value.")
        made, facts = run(model, prompt_ids, request, pipeline)
        return [_named(t, s) for t, s in zip(made, request.seeds, strict=True)], facts


def _named(thought: Thought, seed: int) -> Thought:
    return dataclasses.replace(thought, seed=seed, origin={**thought.origin, "thinker": "hybrid"})


class Progress:
    """The engine's events of one stage after another as those of one run; only the last stage shows text."""

    def __init__(self, request: Request, total: int) -> None:
        self.request, self.total, self.before, self.done = request, total, 0, 0
        self.last = False

    def stage(self, last: bool) -> None:
        self.before += self.done
        self.done, self.last = 0, last

    def see(self, event: StepEvent) -> None:
        assert self.request.on_step is not None
        self.done = event.done
        n = self.request.n
        pieces, finished = (event.pieces, event.finished) if self.last else ([""] * n, [False] * n)
        self.request.on_step(StepEvent(pieces, self.before + event.done, self.total, finished))


THINKER = HybridThinker()
