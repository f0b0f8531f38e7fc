"""Thoughts by experts: each thought runs under its own routing of a mixture-of-experts model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.core.thinker import Request

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.models import LanguageModel


class ExpertsThinker:
    name = "experts"
    summary = "Steers the routing of a mixture-of-experts model, each thought by its own profile or noise."
    options: Mapping[str, str] = {
        "profiles": "noise (default), router, all, discovered, a built-in label, or FILE.json; several with commas",
        "strength": "times the biases of a profile (default 1)",
        "head": "this many of a token's experts stay as the router wants under noise (default 0)",
        "read": "shared (default): the prompt is read once, by the model's own routing; each: by every thought's own",
    }

    def suits(self, model: LanguageModel) -> bool:
        from thoughtmix.experts.families import find_moe_layers

        try:
            return bool(find_moe_layers(model.model))
        except ThoughtmixError:
            return False

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """A thought's profile follows from its seed: profile number seed mod their count. Tokens are drawn at
        temperature 0.7 (0 at creativity 0, so that all thoughts are one) unless one is given."""
        from thoughtmix.experts.branches import profiles_of, think_under

        options = request.options
        found = profiles_of(model, options.get("profiles", "noise"))
        thoughts, facts = think_under(
            model,
            prompt_ids,
            request,
            [found[seed % len(found)] for seed in request.seeds],
            strength=_number("strength", options.get("strength", 1.0)),
            head=int(_number("head", options.get("head", 0))),
            read=str(options.get("read", "shared")),
        )
        return thoughts, {**facts, "profiles": [p.name for p in found]}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e6 < value < 1e6:
        raise InputError(f"{name} is {value!r}, not a number.", f"Pass --option {name}=1.")
    return float(value)


THINKER = ExpertsThinker()
