"""What makes a partial thought worth expanding: small scorers, added up with weights; and how far texts lie apart.

They steer the search and so must not report on it: measure the result by something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError, NumericsError, UnknownName
from thoughtmix.core.request import TextEmbedder
from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.metrics.verdict import LocalJudge
from thoughtmix.models.judge import RUBRIC, EndpointJudge, question

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

Distance = Callable[[Sequence[str]], NDArray[np.float64]]
"""(n,) texts -> (n, n) distances, 0 on the diagonal."""


def word_distance(texts: Sequence[str]) -> NDArray[np.float64]:
    """1 less the cosine of the sets of words and pairs of neighbouring words: 0 for the same, 1 for none in common.
    (Ochiai 1957; unlike Jaccard's index a kernel, as choosing by a determinantal point process needs.)"""
    columns: dict[tuple[str, ...], int] = {}
    rows = []
    for text in texts:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        found: set[tuple[str, ...]] = {*((w,) for w in words), *pairwise(words)} or {()}
        rows.append([columns.setdefault(item, len(columns)) for item in sorted(found)])
    table = np.zeros((len(texts), max(len(columns), 1)))
    for i, row in enumerate(rows):
        table[i, row] = len(row) ** -0.5
    return _cosine_distances(table)


def embedding_distance(embedder: TextEmbedder) -> Distance:
    """1 less the cosine in an embedding: the same measure as the metrics', so that those say less about the result."""
    return lambda texts: _cosine_distances(np.asarray(embedder.encode([t or " " for t in texts]), dtype=np.float64))


def _cosine_distances(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.clip(1 - unit @ unit.T, 0, 2).round(12)  # the same text is at 0
    np.fill_diagonal(out, 0)
    return out


@dataclass(frozen=True, slots=True)
class Leaf:
    """A thought so far."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of its tokens, nats."""
    done: bool
    """Whether it is complete."""


class Evaluator(Protocol):
    """Scores leaves; higher is better. -inf: this cannot become good any more, drop it."""

    name: str

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> Sequence[float]:
        """One value a leaf. found: the complete thoughts so far."""
        ...


class Likelihood:
    """Mean log-probability of a token, nats, under the model that wrote it. Rewards blandness and loops."""

    name = "likelihood"

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        return [sum(x.logprobs) / len(x.logprobs) if x.logprobs else 0.0 for x in leaves]


class Relevance:
    """Cosine of text and prompt in an embedding, -1 to 1. Rewards repeating the question."""

    name = "relevance"

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        vectors = self.embedder.encode([prompt, *(x.text or " " for x in leaves)])
        return [float(v) for v in vectors[1:] @ vectors[0]]


class Novelty:
    """Distance to the nearest complete thought so far, 0 to 1; 1 while there is none. A leaf is scored once, when it
    appears. Rewards drift: read it beside relevance or likelihood."""

    name = "novelty"

    def __init__(self, distance: Distance = word_distance) -> None:
        self.distance = distance

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        if not found or not leaves:
            return [1.0] * len(leaves)
        distances = self.distance([*(x.text for x in leaves), *found])[: len(leaves), len(leaves) :]
        return [float(v) for v in np.clip(distances.min(1), 0, 1)]


class Length:
    """1 where a text has `least` to `most` words; less the further outside, by its share of the limit. A text that goes
    on is not too short yet."""

    name = "length"

    def __init__(self, least: int = 3, most: int = 120) -> None:
        if not 0 <= least <= most or most < 1:
            raise InputError(f"Lengths from {least} to {most} words.", "Pass 0 <= least <= most.")
        self.least, self.most = least, most

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        return [self._one(len(x.text.split()), x.done) for x in leaves]

    def _one(self, words: int, done: bool) -> float:
        if words > self.most:
            return self.most / words
        return words / self.least if done and words < self.least else 1.0


class Repetition:
    """Share of a text's groups of n words that are not repeated ones, 0 to 1: 1 when nothing comes twice."""

    name = "repetition"

    def __init__(self, n: int = 3) -> None:
        self.n = n

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        out = []
        for x in leaves:
            words = re.findall(r"\w+", x.text.lower())
            groups = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
            out.append(len(set(groups)) / len(groups) if groups else 1.0)
        return out


class Substance:
    """0 for a text that begins as a stock phrase does ("I'm sorry for any confusion"), else 1. Small models find those
    likeliest of all, and a search for likelihood ends in them."""

    name = "substance"

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        return [float(not is_stock_phrase(x.text)) for x in leaves]


class Verifier:
    """A check of your own. check(text, done) -> how good, 0 to 1: 0 that it cannot become right any more, and for a
    complete text 1 that it is right. answer(text): what the text answers, so that two ways to say it count once."""

    name = "verifier"

    def __init__(
        self, check: Callable[[str, bool], float | bool], answer: Callable[[str], str | None] | None = None
    ) -> None:
        self.check, self.answer = check, answer

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        values = [float(self.check(x.text, x.done)) for x in leaves]
        return [v if v > 0 else -math.inf for v in values]

    def accepts(self, text: str) -> bool:
        """Whether a complete text is right."""
        return float(self.check(text, True)) >= 1


class Judge:
    """P(yes) / (P(yes) + P(no)) of a language model asked, by a rubric, about the text so far. Name a model that did
    not write the text, and one that can tell: small ones say yes to everything."""

    name = "judge"
    rubric = RUBRIC

    def __init__(self, model: LanguageModel, rubric: str = "") -> None:
        self.judge, self.rubric = LocalJudge(model), rubric or self.rubric
        self.judge.check(("yes", "no"))

    @property
    def tokens(self) -> int:
        """Read so far."""
        return self.judge.tokens

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        said = self.judge.verdicts([question(prompt, x.text, self.rubric) for x in leaves], ("yes", "no"))
        return [0.5 if p is None else p[0] for p in said]


class RemoteJudge:
    """`Judge`, of a model at an endpoint. An answer that it says nothing about scores 0.5."""

    name = "judge"

    def __init__(self, judge: EndpointJudge, rubric: str = "") -> None:
        self.judge, self.rubric = judge, rubric or RUBRIC

    def scores(self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]) -> list[float]:
        values = self.judge.probabilities(prompt, [x.text for x in leaves], self.rubric)
        return [0.5 if value is None else value for value in values]


@dataclass(frozen=True)
class Evaluators:
    """Several, added up: the sum of weight times score. One that says -inf, at a weight above 0, drops the leaf."""

    parts: tuple[tuple[Evaluator, float], ...] = field(default_factory=lambda: ((Likelihood(), 1.0),))

    def __post_init__(self) -> None:
        if not self.parts or any(not 0 < weight < math.inf for _, weight in self.parts):
            raise InputError("Evaluators need weights above 0.", "Pass some, e.g. likelihood=1,novelty=0.5.")

    @property
    def weights(self) -> dict[str, float]:
        return {part.name: weight for part, weight in self.parts}

    @property
    def verifiers(self) -> list[Verifier]:
        return [part for part, _ in self.parts if isinstance(part, Verifier)]

    def evaluate(
        self, prompt: str, leaves: Sequence[Leaf], found: Sequence[str]
    ) -> list[tuple[float, dict[str, float]]]:
        """Of each leaf: its value, and the score of each evaluator.

        Raises:
            NumericsError: A score is NaN or +inf.
        """
        totals = [0.0] * len(leaves)
        scores: list[dict[str, float]] = [{} for _ in leaves]
        for part, weight in self.parts:
            for i, value in enumerate(part.scores(prompt, leaves, found)):
                if math.isnan(value) or value == math.inf:
                    raise NumericsError(f"The evaluator {part.name} gave {value}.", "Mend it, or leave it out.")
                scores[i][part.name] = value
                totals[i] += weight * value
        return list(zip(totals, scores, strict=True))


NAMES = ("judge", "length", "likelihood", "novelty", "relevance", "repetition", "substance")


def parse_weights(text: str) -> dict[str, float]:
    """ "likelihood=1,novelty=0.5" -> weights by name.

    Raises:
        UnknownName: No evaluator has such a name.
        InputError: A weight is no number above 0, or nothing is named.
    """
    out: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, weight = part.partition("=")
        if name not in NAMES:
            raise UnknownName("evaluator", name, NAMES)
        try:
            out[name] = float(weight) if equals else 1.0
        except ValueError:
            raise InputError(f"The weight of {name} is {weight!r}.", f"Write {name}=1.") from None
        if not 0 < out[name] < math.inf:
            raise InputError(f"The weight of {name} is {weight}.", f"Pass a number above 0 ({name}=1).")
    if not out:
        raise InputError("No evaluator was named.", "Pass some: likelihood=1,novelty=0.5.")
    return out


def evaluators(
    weights: Mapping[str, float],
    *,
    embedder: TextEmbedder | None = None,
    distance: Distance = word_distance,
    judge: LanguageModel | EndpointJudge | None = None,
    rubric: str = "",
    least: int = 3,
    most: int = 120,
) -> Evaluators:
    """By name.

    Args:
        weights: As `parse_weights` gives them.
        embedder: Needed by relevance.
        distance: What novelty measures with.
        judge: The model that judge asks.
        rubric: What it is asked; "": its own question.
        least, most: Words that length allows.

    Raises:
        InputError: One lacks what it needs.
    """
    made: dict[str, Evaluator] = {
        "likelihood": Likelihood(),
        "novelty": Novelty(distance),
        "length": Length(least, most),
        "repetition": Repetition(),
        "substance": Substance(),
    }
    if embedder is not None:
        made["relevance"] = Relevance(embedder)
    if judge is not None and "judge" in weights:
        made["judge"] = RemoteJudge(judge, rubric) if isinstance(judge, EndpointJudge) else Judge(judge, rubric)
    for name in weights:
        if name not in made:
            need = "judge" if name == "judge" else "embedder"
            raise InputError(f"This evaluator needs a {need}.", f"Name one (--{need}), or leave the evaluator out.")
    return Evaluators(tuple((made[name], weight) for name, weight in weights.items()))
