"""What an experiment runs: sizes, prompts, settings, ablations; all of it fixed before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.mixture import RECIPE

PROMPTS = ("ROMEO:", "To be or not to be", "Once upon a time", "The meaning of life", "In the beginning")

TRAINED: Mapping[str, Mapping[str, Any]] = {
    "no modes": {"modes": 0},
    "no combiner": {"combiner": "weights"},
    "held noise": {"noise": "held"},
    "drawn routes": {"routing": "gumbel"},
    "diversity loss": {"diversity_weight": 0.01},
    "blind routes": {
        "follow": False, "modes": 0, "routing": "gumbel", "noise": "held", "branches_max": 3,
        "entropy_weight": 0.01, "diversity_weight": 0.01,
    },
}  # fmt: skip
"""Ablations that are trained anew: name -> what is changed in the mixture. no modes: a mixture of experts, top-2 for
each token. drawn routes: Gumbel noise on the router's logits, held for the thought. blind routes: drawn for the thought
before the text is known, with held noise and the signals for entropy and diversity."""

BASELINE_SETTINGS: tuple[Mapping[str, float], ...] = (
    *({"temperature": t} for t in (0.1, 0.2, 0.3, 0.5, 0.7)),
    *({"temperature": t, "top_p": 0.9} for t in (0.2, 0.3, 0.5, 0.7, 0.9)),
    *({"temperature": t, "min_p": 0.1} for t in (0.3, 0.4, 0.5, 0.7, 0.9)),
)
MIXTURE_SETTINGS: tuple[Mapping[str, float], ...] = tuple(
    {"creativity": c, "temperature": t} for c in (1.0, 1.5, 2.0) for t in (0.0, 0.2, 0.4, 0.6, 0.8)
)
"""As many for each."""

LADDER = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Creativity at temperature 0: whatever differs then comes from routes and noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """minutes: about how long all of it takes on this machine (training gets 0.6 of it); steps: of every training,
    whatever the minutes say. seeds: how often each of the
    two models is trained. n thoughts of `tokens` tokens a prompt. keep: settings of each that are reported on held-out
    prompts."""

    data: str
    minutes: float = 10.0
    steps: int | None = None
    seeds: int = 1
    n: int = 8
    tokens: int = 100
    context: int = 64
    batch_size: int = 12
    layers: int = 4
    width: int = 128
    heads: int = 4
    branches: int = 8
    development: int = 8
    held_out: int = 16
    keep: int = 5
    seed: int = 0
    ablations: tuple[str, ...] = tuple(TRAINED)
    learning_rate: float = 1e-3
    mixture: Mapping[str, Any] = field(default_factory=lambda: dict(RECIPE))
    """Further fields of `MixtureOfThoughtsConfig`."""

    def __post_init__(self) -> None:
        for name in ("minutes", "seeds", "tokens", "context", "batch_size"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass more than 0 (--{name.replace('_', '-')}).")
        if self.n < 2:
            raise InputError(f"n is {self.n}; diversity needs two thoughts.", "Pass 2 or more (-n 8).")
        if self.development < 2 or self.held_out < 2:
            raise InputError("There must be 2 prompts of each kind.", "Pass --prompts 24 or so.")
        unknown = set(self.ablations) - set(TRAINED)
        if unknown:
            raise InputError(f"Unknown ablation {sorted(unknown)[0]!r}.", f"Known: {', '.join(TRAINED)}.")

    @property
    def trainings(self) -> int:
        """Models to train: both contenders for each seed, the judge, the ablations."""
        return 2 * self.seeds + 1 + len(self.ablations)


def split_prompts(text: str, plan: Plan) -> tuple[list[str], list[str]]:
    """(development, held-out) prompts: beginnings of lines of a text that no model was trained on, evenly spread; the
    named prompts are held out."""
    lines = [line for line in text.splitlines() if len(line.split()) >= 4]
    wanted = plan.development + plan.held_out - len(PROMPTS)
    if len(lines) < wanted:
        raise InputError(
            f"The validation text has {len(lines)} lines to take prompts from, not {wanted}.", "Pass more text."
        )
    places = [int((i + 0.5) * len(lines) / wanted) for i in range(wanted)]
    begun = [" ".join(lines[p].split()[:3]) for p in places]
    step = max(1, wanted // plan.development)
    chosen = set(range(0, wanted, step)[: plan.development])
    development = [p for i, p in enumerate(begun) if i in chosen]
    held_out = [*PROMPTS, *(p for i, p in enumerate(begun) if i not in chosen)]
    return development, held_out[: max(plan.held_out, len(PROMPTS))]
