"""Language models as judges: both orders, ties, silence; verdicts from likelihoods here and from replies elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from badserver import serving
from tiny import language_model

from thoughtmix import InputError
from thoughtmix.metrics.verdict import LocalJudge, compare, grade
from thoughtmix.models.chat import ChatReply
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.models.judge import EndpointJudge, _verdict


class Scripted:
    """Judges by a function of the question."""

    name = "scripted"

    def __init__(self, says: Callable[[str], tuple[float, ...] | None]) -> None:
        self.says, self.asked = says, list[str]()

    def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[tuple[float, ...] | None]:
        self.asked += questions
        return [self.says(question) for question in questions]


def longer(question: str) -> tuple[float, ...]:
    """Takes the longer answer, wherever it stands."""
    first, _, second = question.partition("First answer: ")[2].partition("\n\nSecond answer: ")
    second = second.partition("\n\n")[0]
    return (0.8, 0.2) if len(first) > len(second) else (0.2, 0.8)


PAIRS = [("a long answer", "short"), ("short", "a long answer"), ("same", " same ")]


def test_the_better_answer_wins_wherever_it_stands() -> None:
    judge = Scripted(longer)
    assert compare(judge, "?", PAIRS) == [1.0, 0.0, 0.5]
    assert len(judge.asked) == 4, "equal texts are a tie without asking"
    assert all("Reply with one word, first or second." in question for question in judge.asked)


@pytest.mark.parametrize("place", [(1.0, 0.0), (0.0, 1.0), (0.51, 0.49), (0.5, 0.5)])
def test_a_judge_who_goes_by_place_gives_ties_alone(place: tuple[float, float]) -> None:
    """Asked in one order only, it would give the first system every win."""
    assert compare(Scripted(lambda question: place), "?", PAIRS) == [0.5, 0.5, 0.5]


def test_no_verdict_is_none_and_no_tie() -> None:
    silent = Scripted(lambda question: None if "First answer: a long" in question else longer(question))
    assert compare(silent, "?", [*PAIRS, ("x", "yz")]) == [None, None, 0.5, 0.0], "one order is not enough"
    assert grade(silent, "?", ["a"], "Good? First answer: a long") == [None]


def test_a_rubric_is_asked_with_both_orders_of_its_words() -> None:
    """A judge who says the word that was named last with p 0.9 knows nothing: 0.5."""
    judge = Scripted(lambda question: (0.1, 0.9) if question.endswith("yes or no.") else (0.9, 0.1))
    assert grade(judge, "?", ["a", "b"]) == [pytest.approx(0.5)] * 2
    assert grade(Scripted(lambda question: (0.7, 0.3)), "?", ["a"]) == [pytest.approx(0.7)]
    assert {question.rpartition("word, ")[2] for question in judge.asked} == {"yes or no.", "no or yes."}


def test_verdicts_of_a_model_here_are_those_of_its_logits() -> None:
    model = language_model("llama")
    words, real = {"first": 20, "second": 30}, model.tokenizer

    class Named:
        """The tiny tokenizer, with words for the verdicts."""

        unk_token_id = 3

        def __call__(self, text: str, **how: Any) -> Any:
            known = words.get(text.strip().lower())
            return {"input_ids": [known] if known else real(text, **how)["input_ids"]}

        def __len__(self) -> int:
            return len(real)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    object.__setattr__(model, "tokenizer", Named())
    judge = LocalJudge(model)
    asked = ["w5 w6 w7", "w9", *(f"w{i} w8 w40" for i in range(10, 20))]
    got = judge.verdicts(asked, ("first", "second"))
    for text, said in zip(asked, got, strict=True):
        p = model.model(torch.tensor([model.encode(text)])).logits[0, -1].double().softmax(-1)
        assert said == pytest.approx([float(p[i] / (p[20] + p[30])) for i in (20, 30)], rel=1e-5)
    with pytest.raises(InputError, match="no tokens for yes and no"):
        judge.verdicts(["w5"], ("yes", "no"))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (ChatReply("First", first=[("First", -0.1), (" second", -3.0), ("x", -4.0)]), None),
        (ChatReply("The first one falls short, so: second."), (0.0, 1.0)),
        (ChatReply("**Second**", first=[("**", -0.01)]), (0.0, 1.0)),
        (ChatReply("Neither."), "none"),
        (ChatReply("first", reasoning="hm", first=[("second", -0.01)]), (1.0, 0.0)),
    ],
)  # fmt: skip
def test_verdicts_elsewhere_come_from_the_verdict_token_else_from_what_is_said(reply: ChatReply, said: Any) -> None:
    got = _verdict(reply, ("first", "second"))
    if said == "none":
        assert got is None
        return
    if said is None:
        a, b = math.exp(-0.1), math.exp(-3.0)
        said = (a / (a + b), b / (a + b))
    assert got == pytest.approx(said)


def test_a_judge_at_an_endpoint_is_asked_in_both_orders() -> None:
    """One without log-probabilities, which says in words what `longer` thinks, and another that goes by place."""

    def says(number: int, body: dict[str, Any]) -> str:
        if "logprobs" in body:
            return "no logprobs"
        return "says First" if longer(body["messages"][0]["content"])[0] > 0.5 else "says Second"

    how: dict[str, Any] = {"first_wait": 0.01, "timeout": 2, "tries": 3}
    with serving(says) as server:
        assert compare(EndpointJudge(Endpoint(server.url, "m", **how)), "?", PAIRS) == [1.0, 0.0, 0.5]
        asked = {body["messages"][0]["content"] for body in server.seen}
    assert len(asked) == 2, "the second pair is the first, swapped: both orders of it"
    with serving(lambda number, body: "no logprobs" if "logprobs" in body else "says First") as server:
        assert compare(EndpointJudge(Endpoint(server.url, "m", **how)), "?", PAIRS) == [0.5, 0.5, 0.5]
