"""A language model as judge: one word of several as its verdict, asked in both orders, so that place decides nothing.

    compare(LocalJudge(model), prompt, [(a, b), ...])     who is better, a tie where the two orders disagree
    grade(EndpointJudge(endpoint), prompt, answers)       P(yes) to a rubric, of "yes or no" and of "no or yes"

Verdicts are probabilities where the judge gives them (a model here always, an endpoint by log-probabilities), else what
it says. Name a judge that wrote none of the answers, and one that can tell: position bias shows as ties, ignorance and
a taste for long or bland answers do not show at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from thoughtmix.core.errors import InputError
from thoughtmix.models.judge import RUBRIC, question

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

BETTER = "Which answer is better: more to the point, more correct and better written?"
PLACES = ("first", "second")
_CARE = "Pay no heed to their order or length."
Verdict = tuple[float, ...]
"""Probabilities of the words, summing to 1."""


class VerdictJudge(Protocol):
    """Answers questions with one of a few words."""

    @property
    def name(self) -> str: ...

    def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[Verdict | None]:
        """The probability of each word as the answer to each question; None: it said none of them."""
        ...


class LocalJudge:
    """A causal language model of this machine as judge. Raises `InputError` for one of another kind."""

    batch = 8
    """Questions that are read in one forward."""

    def __init__(self, model: LanguageModel) -> None:
        if not model.causal or model.encoder_decoder:
            raise InputError(f"{model.name} is no decoder-only model.", "Name one.")
        self.model = model
        self.tokens = 0
        """Read so far."""

    @property
    def name(self) -> str:
        return self.model.name

    def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[Verdict | None]:
        """From the likelihood of each word's first token, in whatever way it is written. Raises as `check` does."""
        ids = self.check(words)
        encoded = [self.model.encode(text) for text in questions]
        self.tokens += sum(map(len, encoded))
        out: list[Verdict | None] = [None] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))  # neighbours are about as long
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            for i, found in zip(some, self._read([encoded[i] for i in some], ids), strict=True):
                out[i] = found
        return out

    def check(self, words: Sequence[str]) -> list[set[int]]:
        """The tokens that each word may begin with. Raises `InputError` where they do not tell the words apart."""
        ids = [self._first_tokens(word) for word in words]
        if not all(ids) or len(set[int]().union(*ids)) < sum(map(len, ids)):
            raise InputError(f"{self.name} has no tokens for {' and '.join(words)}.", "Name another judge.")
        return ids

    def _first_tokens(self, word: str) -> set[int]:
        """Of the ways to write a word."""
        ways = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
        ids = (self.model.tokenizer(way, add_special_tokens=False)["input_ids"] for way in ways)
        unknown = self.model.tokenizer.unk_token_id
        return {found[0] for found in ids if found and found[0] != unknown}

    def _read(self, questions: Sequence[Sequence[int]], words: Sequence[set[int]]) -> list[Verdict]:
        """One forward. Padded on the right: who reads from left to right never looks there."""
        import torch

        from thoughtmix.engine.backends.base import keeps_logits

        lengths = [len(ids) for ids in questions]
        longest, keep = max(lengths), max(lengths) - min(lengths) + 1
        padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in questions]
        few: dict[str, Any] = {"logits_to_keep": keep} if keeps_logits(type(self.model.model)) else {}
        input_ids = torch.tensor(padded, device=self.model.device)
        with torch.inference_mode():
            logits = self.model.model(input_ids=input_ids, use_cache=False, **few).logits  # (questions, keep or all, v)
            ends = [length - 1 - longest for length in lengths]  # counted from the end
            logprobs = logits[range(len(questions)), ends].double().log_softmax(-1)
            said = torch.stack([logprobs[:, sorted(ids)].logsumexp(-1) for ids in words], -1)  # (questions, words)
            return [tuple(row) for row in said.softmax(-1).tolist()]


def compare(judge: VerdictJudge, prompt: str, pairs: Sequence[tuple[str, str]], rubric: str = "") -> list[float | None]:
    """Which of two answers to a prompt is better, asked twice with their places swapped.

    Returns:
        For each pair 1 where the first of it wins in both orders, 0 where the second does, 0.5 for a tie (the orders
        disagree, or the answers are the same text), None where the judge said neither.
    """
    apart = [i for i, (a, b) in enumerate(pairs) if a.split() != b.split()]
    asked = [(pairs[i][0], pairs[i][1]) for i in apart] + [(pairs[i][1], pairs[i][0]) for i in apart]
    found = judge.verdicts([_which(prompt, a, b, rubric or BETTER) for a, b in asked], PLACES)
    out: list[float | None] = [0.5] * len(pairs)
    for i, given, swapped in zip(apart, found[: len(apart)], found[len(apart) :], strict=True):
        if given is None or swapped is None:
            out[i] = None
        else:
            wins = sum((p > 0.5) - (p < 0.5) for p in (given[0], swapped[1]))
            out[i] = {2: 1.0, -2: 0.0}.get(wins, 0.5)
    return out


def grade(judge: VerdictJudge, prompt: str, answers: Sequence[str], rubric: str = "") -> list[float | None]:
    """P(yes) / (P(yes) + P(no)) to a rubric on each answer: the mean of both orders of the words. None: no verdict."""
    ways = (("yes", "no"), ("no", "yes"))
    texts = [question(prompt, a, rubric or RUBRIC, order) for order in ways for a in answers]
    found = judge.verdicts(texts, ways[0])
    both = zip(found[: len(answers)], found[len(answers) :], strict=True)
    return [None if one is None or other is None else (one[0] + other[0]) / 2 for one, other in both]


def _which(prompt: str, a: str, b: str, rubric: str) -> str:
    return (
        f"Question: {prompt}\n\nFirst answer: {a}\n\nSecond answer: {b}\n\n{rubric} {_CARE} "
        f"Reply with one word, {PLACES[0]} or {PLACES[1]}."
    )
