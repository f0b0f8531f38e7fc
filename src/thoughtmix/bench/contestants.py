"""Who takes part: registered thinkers and the baselines in the box, each with a ladder of settings of equal length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.bench import baselines
from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.thinkers.registry import thinker_names

if TYPE_CHECKING:
    from thoughtmix.api import Pipeline
    from thoughtmix.bench.tasks import Item
    from thoughtmix.core.types import ThoughtSet

Setting = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One cell's question: n thoughts for an item from `seed` on, with n * max_new_tokens tokens at most in all."""

    item: Item
    n: int
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """summary: one line for the report. ladder: `count` settings, from careful to bold. answer: the thoughts of one ask
    under one setting, unmeasured; it may give fewer than n (the rest count as missing), never more."""

    name: str
    summary: str
    ladder: Callable[[int], list[Setting]]
    answer: Callable[[Pipeline, Ask, Setting], ThoughtSet]


def contestant(name: str) -> Contestant:
    """A sampler, same-kl:SAMPLER, a baseline or a registered thinker, by name. Raises `UnknownName`."""
    if name in _SAMPLERS:
        summary, fixed, knob, low, high = _SAMPLERS[name]
        return Contestant(name, summary, lambda count: _steps(knob, low, high, count, fixed), _think("sampling"))
    if name.startswith("same-kl:") and name.removeprefix("same-kl:") in _SAMPLERS:
        like = name.removeprefix("same-kl:")
        summary = f"Plain temperature, each setting as far from the model's own distribution (KL) as {like}'s"
        return Contestant(name, summary, lambda count: [], _think("sampling"))  # its ladder needs the model: kl.py
    if name in _BASELINES:
        summary, fixed, knob, low, high, answer = _BASELINES[name]
        return Contestant(name, summary, lambda count: _steps(knob, low, high, count, fixed), answer)
    if name in thinker_names():
        from thoughtmix.thinkers.registry import get_thinker

        summary = get_thinker(name).summary
        if name in _DRAFTING:
            return Contestant(name, summary, lambda count: _steps("creativity", 0.25, 1.5, count, {}), _draft(name))
        return Contestant(name, summary, lambda count: _steps("creativity", 0.25, 1.5, count, {}), _think(name))
    raise UnknownName("thinker", name, contestant_names())


def contestant_names() -> list[str]:
    """Every name `contestant` accepts; the registered thinkers last."""
    own = [*_SAMPLERS, *(f"same-kl:{name}" for name in _SAMPLERS), *_BASELINES]
    return own + [name for name in thinker_names() if name not in own]


def check_settings(ladders: Mapping[str, Sequence[Setting]]) -> None:
    """Everyone gets the same number of tries: raises `InputError` when one ladder is longer than another."""
    lengths = {name: len(ladder) for name, ladder in ladders.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise InputError(f"Unequal numbers of settings: {told}.", "Give every thinker the same number.")


def _steps(knob: str, low: float, high: float, count: int, fixed: Setting) -> list[Setting]:
    """`count` values of one knob, evenly spaced; the middle one when there is only one."""
    values = [low + (high - low) * (i / (count - 1) if count > 1 else 0.5) for i in range(count)]
    return [{**fixed, knob: round(value, 4)} for value in values]


def _think(thinker: str) -> Callable[[Pipeline, Ask, Setting], ThoughtSet]:
    def answer(pipeline: Pipeline, ask: Ask, setting: Setting) -> ThoughtSet:
        how = {"seed": ask.seed, "max_new_tokens": ask.max_new_tokens, "measure": False, **setting}
        if thinker == "search":  # which would spend more: here everyone has the same
            how["tokens"] = ask.n * ask.max_new_tokens
        return pipeline(ask.item.prompt, ask.n, thinker, **how)

    return answer


def _draft(thinker: str) -> Callable[[Pipeline, Ask, Setting], ThoughtSet]:
    """A thinker that writes more texts than it gives: each is so much shorter that the budget is everyone's."""

    def answer(pipeline: Pipeline, ask: Ask, setting: Setting) -> ThoughtSet:
        short = ask.n * ask.max_new_tokens // _DRAFTING[thinker](setting, ask.n)
        # Seeds of the bench are repetitions: each has drafts of its own. What a stage added is not asked here.
        more = {"draft": ask.seed, "report": False} if thinker == "hybrid" else {}
        return _think(thinker)(pipeline, dataclasses.replace(ask, max_new_tokens=max(1, short)), {**more, **setting})

    return answer


def _hybrid_rows(setting: Setting, n: int) -> int:
    from thoughtmix.thinkers.hybrid import HybridThinker, Stages

    return Stages.parse(
        HybridThinker.Options(**{k: v for k, v in setting.items() if k in HybridThinker.Options.model_fields})
    ).texts(n)


# Texts written in all for n thoughts.
_DRAFTING: dict[str, Callable[[Setting, int], int]] = {
    "noise": lambda setting, n: n if "idea" in setting else n + 1,
    "hybrid": _hybrid_rows,
}
_OFF: Setting = {"min_p": 0.0}
# name: (summary, what is fixed, the knob, its lowest and highest value)
_SAMPLERS: dict[str, tuple[str, Setting, str, float, float]] = {
    "sampling": ("Temperature with min-p 0.1, this package's default", {}, "temperature", 0.5, 2.0),
    "arithmetic": ("The same, thoughts drawn apart by codes", {"draws": "arithmetic"}, "temperature", 0.5, 2.0),
    "temperature": ("Temperature alone, nothing truncated", _OFF, "temperature", 0.4, 1.2),
    "top-k": ("Temperature with top-k 40", {**_OFF, "top_k": 40}, "temperature", 0.4, 1.4),
    "top-p": ("Temperature with top-p 0.9", {**_OFF, "top_p": 0.9}, "temperature", 0.4, 1.4),
    "top-nsigma": ("Temperature with top-n-sigma 1", {**_OFF, "top_nsigma": 1.0}, "temperature", 0.5, 2.0),
}
# ... and what answers
_BASELINES: dict[str, tuple[str, Setting, str, float, float, Callable[..., ThoughtSet]]] = {
    "paraphrase": ("Each thought asked in other words", {}, "temperature", 0.3, 1.5, baselines.paraphrased),
    "styles": ("Each thought with one of eight style instructions", {}, "temperature", 0.3, 1.5, baselines.styled),
    "examples": ("Each thought after the examples of one of eight contexts, the teachers of the packaged graft",
                 {"draws": "arithmetic"}, "temperature", 0.5, 2.0, baselines.shown),
    "list": ("n different answers asked for in one prompt", {}, "temperature", 0.3, 1.5, baselines.listed),
    "beam": ("Diverse beam search, n groups of one beam", {}, "penalty", 0.5, 6.0, baselines.beamed),
    "gaussian": ("A random direction held per thought, added at the middle layer; temperature 0.7, min-p 0.1",
                 {"temperature": 0.7}, "strength", 0.1, 0.8, baselines.perturbed),
}  # fmt: skip
