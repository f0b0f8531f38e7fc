"""Draft, then n directions away from it in one batch. Creativity 0: nothing is disturbed, all thoughts are the draft.

The draft is the model's likeliest answer (or, with the option `draft`, one drawn by that seed): it depends on prompt
and settings alone, not on n nor on the thoughts' seeds. The thought of seed s takes direction s mod (number of
directions) and draws its tokens by s. So `n=1, seed=s+i` is thought i of `seed=s`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request
from thoughtmix.noise.options import HELP, turns, ways, whole

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.models import LanguageModel
    from thoughtmix.noise.rewriting import Idea


class NoiseThinker:
    name = "noise"
    summary = "Drafts, then rewrites the draft (or an idea of yours) in n directions; creativity 0 is the draft itself."
    options: Mapping[str, str] = {
        **HELP,
        "idea": "a text to disturb; without it, an answer to the prompt is drafted first",
        "draft": "a seed: the draft is drawn by it at temperature 1; default: the likeliest answer",
    }

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        return disturb(model, prompt_ids, request)


def disturb(
    model: LanguageModel, before: Sequence[int], request: Request
) -> tuple[list[Thought], Mapping[str, Any]]:  # fmt: skip
    """What the thinker does. before: the prompt; () with the option `idea`: the text stands alone."""
    from thoughtmix.models import load_embedder
    from thoughtmix.noise.rewriting import Idea, draft, rewrite

    idea = _idea(request)
    seed = whole(request.options, "draft", None)
    if not model.causal:
        from thoughtmix.noise.denoising import denoised

        return denoised(model, before, request, idea, seed)
    found = turns(ways(request.options, load_embedder), request.seeds)
    still = request.creativity == 0
    spent: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "prefill_seconds": 0.0}
    if idea is None:
        made = draft(model, before, request, seed)
        row, spent = made.rows[0], made.facts
        drafted = _thought(row, request.seed, "draft" if seed is None else f"draft {seed}")
        if still or made.interrupted or not row.text.strip():
            return _copies(drafted, request), {**spent, "interrupted": made.interrupted}
        idea = Idea.of(drafted, model)
    elif still:
        return _copies(_given(idea, request), request), {"path": "none", **spent}
    rewritten, facts = rewrite(
        model, [idea] * request.n, found, request, before=before, spent=int(spent["tokens"])
    )  # fmt: skip
    return rewritten, together(spent, facts)


def together(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of two runs, one after the other: tokens and seconds add up."""
    out = {**first, **then}
    for name in ("tokens", "seconds", "prefill_seconds", "calls", "row_passes"):
        if name in out:
            out[name] = round(first.get(name, 0) + then.get(name, 0), 4)
    if out.get("seconds"):
        out["tokens_per_second"] = round(out["tokens"] / out["seconds"], 1)
    return out


def _idea(request: Request) -> Idea | None:
    from thoughtmix.noise.rewriting import Idea

    if "idea" not in request.options:
        return None
    text = request.options["idea"]
    if not isinstance(text, str) or not text.strip():
        raise InputError("The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
    return Idea(text.strip())


def _thought(row: Any, seed: int, direction: str) -> Thought:
    from thoughtmix.thinkers._common import thoughts

    return thoughts([row], [seed], [{"thinker": "noise", "direction": direction, "family": "none"}])[0]


def _given(idea: Idea, request: Request) -> Thought:
    from thoughtmix.core.types import Thought

    origin = {"thinker": "noise", "direction": "none", "family": "none", "idea": idea.text}
    return Thought(idea.text, idea.ids, request.seed, 0.0, "stop", origin=origin)


def _copies(thought: Thought, request: Request) -> list[Thought]:
    """n times the same."""
    return [dataclasses.replace(thought, seed=seed) for seed in request.seeds]


THINKER = NoiseThinker()
