"""Systems, what a bench compares: samplers, the baselines in the box, and every registered thinker.

A system has one knob that its grid of settings varies, and answers a request within a number of tokens that is the same
for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thoughtmix.bench import baselines
from thoughtmix.bench.trials import Setting, TrialRequest
from thoughtmix.core.errors import UnknownName
from thoughtmix.core.options import parse_options
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.registry import get_thinker, thinker_names

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.pipeline import Pipeline

Answer = Callable[["Pipeline", TrialRequest, Setting], "ThoughtSet"]


@dataclass(frozen=True, slots=True)
class System:
    """Something that gives n thoughts for a prompt, and the settings that it may try."""

    name: str
    summary: str
    """One line for the report."""
    answer: Answer
    """The thoughts of a request under one setting, unmeasured. Fewer than n may come (the rest count as missing)."""
    knob: str
    """What the grid varies, from a careful value to a bold one."""
    low: float
    high: float
    fixed: Setting = field(default_factory=dict)
    """What all its settings have in common."""
    same_kl: bool = False
    """The grid is that of a sampler, which `grids.build_grids` replaces by plain temperatures at the same KL."""

    def grid(self, count: int) -> list[Setting]:
        """`count` settings, evenly spaced along the knob. The middle one when there is only one."""
        shares = [i / (count - 1) if count > 1 else 0.5 for i in range(count)]
        return [{**self.fixed, self.knob: round(self.low + (self.high - self.low) * share, 4)} for share in shares]


def get_system(name: str) -> System:
    """The system of a name. Raises `UnknownName`."""
    if name in _OWN:
        return _OWN[name]
    if name in thinker_names():
        thinker = get_thinker(name)
        knob, low = ("temperature", 0.3) if thinker.creativity_is_temperature else ("creativity", 0.25)
        return System(name, thinker.summary, _ask_thinker(name), knob, low, 1.5)
    raise UnknownName("thinker", name, system_names())


def system_names() -> list[str]:
    """Every name that `get_system` accepts, the registered thinkers last."""
    return [*_OWN, *(name for name in thinker_names() if name not in _OWN)]


def equal_budget(thinker: Thinker, setting: Setting, request: TrialRequest) -> Setting:
    """The setting, completed so that a thinker draws no more than n * max_new_tokens tokens in all: by the option that
    caps them, where it has one, else by making each of the texts that it writes so much shorter."""
    total = request.n * request.max_new_tokens
    if thinker.token_budget_option is not None:
        return {"max_new_tokens": request.max_new_tokens, **setting, thinker.token_budget_option: total}
    given = {
        name: value
        for name, value in {**setting, **setting.get("options", {})}.items()
        if name in thinker.Options.model_fields
    }
    texts = thinker.texts(request.n, parse_options(thinker.Options, given, thinker.name))
    return {"max_new_tokens": max(1, total // texts), **setting}


def _ask_thinker(name: str) -> Answer:
    def answer(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
        thinker = get_thinker(name)
        how = equal_budget(thinker, {"landing": 0.0, **thinker.repetition(request.seed), **setting}, request)
        return pipeline(request.item.prompt, request.n, name, **{"seed": request.seed, "measure": False, **how})

    return answer


def _sampler(name: str, summary: str, low: float, high: float, **fixed: Any) -> System:
    """A sampler, whose knob is the temperature."""
    return System(name, summary, _ask_thinker("sampling"), "temperature", low, high, fixed)


_SAMPLERS = [
    _sampler("sampling", "Temperature with min-p 0.1, this package's default", 0.5, 2.0),
    _sampler("arithmetic", "The same, thoughts drawn apart by their offsets", 0.5, 2.0, draws="arithmetic"),
    _sampler("temperature", "Temperature alone, nothing truncated", 0.4, 1.2, min_p=0.0),
    _sampler("top-k", "Temperature with top-k 40", 0.4, 1.4, min_p=0.0, top_k=40),
    _sampler("top-p", "Temperature with top-p 0.9", 0.4, 1.4, min_p=0.0, top_p=0.9),
    _sampler("top-nsigma", "Temperature with top-n-sigma 1", 0.5, 2.0, min_p=0.0, top_nsigma=1.0),
]
_MATCHED = [
    dataclasses.replace(
        like,
        name=f"same-kl:{like.name}",
        summary=f"Plain temperature, each setting as far from the model's own distribution (KL) as {like.name}'s",
        same_kl=True,
    )
    for like in _SAMPLERS
]
_EXAMPLES = "Each thought after the examples of one of eight contexts, the teachers of the packaged graft"
_GAUSSIAN = "A random direction held per thought, added at the middle layer; temperature 0.7, min-p 0.1"
_ARITHMETIC = {"draws": "arithmetic"}
_BASELINES = [
    System("paraphrase", "Each thought asked in other words", baselines.paraphrases, "temperature", 0.3, 1.5),
    System("styles", "Each thought with one of eight style instructions", baselines.styles, "temperature", 0.3, 1.5),
    System("examples", _EXAMPLES, baselines.few_shot_examples, "temperature", 0.5, 2.0, _ARITHMETIC),
    System("beam", "Diverse beam search, n groups of one beam", baselines.diverse_beam_search, "penalty", 0.5, 6.0),
    System("gaussian", _GAUSSIAN, baselines.gaussian_noise, "strength", 0.1, 0.8, {"temperature": 0.7}),
]
_OWN = {system.name: system for system in (*_SAMPLERS, *_MATCHED, *_BASELINES)}
