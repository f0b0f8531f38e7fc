"""Lists of answers: asked for, side by side and again for what is missing, within one budget of tokens."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from thoughtmix.asking.answers import ListedAnswer, listed_answers, near_copy, plain_answer, same_name
from thoughtmix.asking.conversation import PARAGRAPH, Conversation, Turns, demonstrations, is_text, restated, wording
from thoughtmix.asking.draws import DrawOptions
from thoughtmix.asking.progress import Progress
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import Engine, Generation, SequenceOutput, SequenceRequest, TokenEngine
from thoughtmix.engine.requests import run_facts
from thoughtmix.engine.sampling_params import SamplingParams

Form = Literal["plain", "json", "verbalized"]
_OPENING: Mapping[Form, str] = {"plain": "1.", "json": "[", "verbalized": "["}
"""How a list begins, which a model in this process goes on with."""
_ASKING = frozenset({"a", "an", "of", "for", "me", "name", "give", "use", "idea", "old"})  # says not what for
DEMONSTRATION = 512
"""Tokens of a demonstration at most, in any form and tokenizer."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What is asked of `enumerate_answers`.

    Args:
        prompt: What the answers answer.
        seed: List i draws by seed + i.
        sampling: How.
        tokens: Most tokens of all lists and rounds together.
        form: How a list is written.
        shown: How many demonstrations stand before it; None: two where a name is asked for, or another form than
            plain, else none, since a small model takes its answers from them.
        rounds: How often a list is asked for, or for more, at most.
        stop: Strings that end a list.
        draws: How the lists are drawn beside each other.
        distinct: Whether what another list has counts as missing, too.
        ask, demonstrations: Other words than those of the form, and other demonstrations (wording.toml); empty: those
            that suit the prompt.
    """

    prompt: Prompt
    seed: int
    sampling: SamplingParams
    tokens: int
    form: Form = "plain"
    shown: int | None = None
    rounds: int = 3
    stop: tuple[str, ...] = ()
    draws: DrawOptions = field(default_factory=DrawOptions)
    distinct: bool = True
    ask: str = ""
    demonstrations: str = ""


@dataclass(slots=True)
class Listing:
    """One list and what it was given so far."""

    conversation: Conversation
    seed: int
    wanted: int
    budget: int
    answers: list[ListedAnswer] = field(default_factory=list)
    cut: list[ListedAnswer] = field(default_factory=list)
    """An answer that the end of the tokens cut: taken when nothing better comes."""
    opening: str = ""
    """What the answer that is asked for was begun with."""

    @property
    def missing(self) -> int:
        return max(0, self.wanted - len(self.answers))


@dataclass(frozen=True, slots=True)
class Enumeration:
    """What came of it."""

    lists: list[list[ListedAnswer]]
    """The answers of each list."""
    runs: list[dict[str, Any]]
    """Facts about each round."""
    tokens_left: int
    """Of the budget."""


def enumerate_answers(engine: Engine, asked: ListRequest, counts: Sequence[int], progress: Progress) -> Enumeration:
    """Lists side by side, in one batch a round.

    A list that brings too few answers, or the same ones, is asked for the rest while there are tokens and rounds. No
    answer stands twice in a list, whatever the case, punctuation and number, nor does one that changes a word of
    another, or is copied from a demonstration.

    Args:
        engine: What writes.
        asked: What, and how.
        counts: How many answers each list is to have.
        progress: Is told of every step.

    Returns:
        The answers, which may be fewer than were asked for.

    Raises:
        InputError: The prompt cannot be asked for a list.
    """
    lists = [_begin(engine, asked, count, asked.seed + i, len(counts)) for i, count in enumerate(counts)]
    runs: list[dict[str, Any]] = []
    shown = _shown_answers(asked)
    known: list[set[str]] = [shown] * len(lists) if asked.distinct else [set(shown) for _ in lists]
    for number in range(asked.rounds):
        going = [i for i, one in enumerate(lists) if one.missing and one.budget > 0]
        if not going:
            break
        open_lists = [lists[i] for i in going]
        for one in open_lists if number else ():
            _ask_again(asked, one)
        done = _generate(engine, asked, open_lists, progress)
        runs.append(run_facts(done))
        prefixes = done.prefixes or [None] * len(going)
        for i, output, prefix in zip(going, done.outputs, prefixes, strict=True):
            _take(engine, lists[i], output, known[i], asked.prompt.text)
            lists[i].conversation.answered(output, prefix)
        if done.interrupted or all(output.error is not None for output in done.outputs):
            break
    for one in lists:
        one.answers += one.cut[: one.missing]
    return Enumeration([one.answers[: one.wanted] for one in lists], runs, sum(max(0, one.budget) for one in lists))


def _begin(engine: Engine, asked: ListRequest, count: int, seed: int, lists: int) -> Listing:
    ask = _asking(asked, asked.prompt.text, count)
    opening = _OPENING[asked.form]
    prompt = restated(engine, asked.prompt, ask, _demonstrations(asked, count), opening)
    conversation = Conversation(engine, prompt, keep=not asked.draws.branches and asked.rounds > 1)
    begun = opening if is_text(engine, asked.prompt) else conversation.begin_answer(opening)
    return Listing(conversation, seed, count, _within(engine, conversation, asked.tokens // lists), opening=begun)


def _within(engine: Engine, conversation: Conversation, tokens: int) -> int:
    """No more tokens than the model's context has room for behind its prompt; one at least, so that it can refuse."""
    if not isinstance(engine, TokenEngine) or engine.model.context_length is None:
        return max(1, tokens)
    return max(1, min(tokens, engine.model.context_length - len(engine.encode(conversation.asked))))


def _demonstrations(asked: ListRequest, count: int) -> Turns:
    """Lists of as many answers as are asked for, as far as they are written."""
    out = []
    for one in demonstrations(asked.prompt, _shown(asked), asked.demonstrations):
        answers = one["answers"][:count]
        out.append((_asking(asked, one["question"], len(answers)), _written(answers, asked.form)))
    return out


def _shown(asked: ListRequest) -> int:
    if asked.shown is not None:
        return asked.shown
    return 2 if asked.form != "plain" or kind_of_answer(asked.prompt.text) in {"name", "one"} else 0


def _shown_answers(asked: ListRequest) -> set[str]:
    """Plain answers of demonstrations that ask for something else than the prompt: a model that gives one copies it."""
    prompt = set(re.findall(r"\w+", asked.prompt.text.casefold()))
    count = _shown(asked)
    return {
        plain_answer(answer)
        for one in demonstrations(asked.prompt, count, asked.demonstrations)
        if not any(same_name(word, said) for word in _subject(one["question"]) for said in prompt)
        for answer in one["answers"]
    }


def _subject(question: str) -> set[str]:
    return set(re.findall(r"\w+", question.casefold())) - _ASKING


def _asking(asked: ListRequest, prompt: str, count: int) -> str:
    """The words that ask for a list; of a plain one they say how long an answer is, where that is known."""
    each = wording()["each"].get(kind_of_answer(prompt), "")
    said: str = (asked.ask or wording()[asked.form]["ask"]).format(prompt=prompt, n=count, each=each)
    return said


def _written(answers: Sequence[str], form: Form) -> str:
    if form == "plain":
        return "\n".join(f"{i}. {answer}" for i, answer in enumerate(answers, 1))
    if form == "json":
        return json.dumps(answers, ensure_ascii=False)
    shares = [round(0.3 * 0.7**i, 2) for i in range(len(answers))]
    rows = [json.dumps({"text": a, "probability": p}, ensure_ascii=False) for a, p in zip(answers, shares, strict=True)]
    return "[" + ",\n ".join(rows) + "]"


def _ask_again(asked: ListRequest, one: Listing) -> None:
    have = len(one.answers)
    again = wording()[asked.form]["again"]
    one.conversation.ask(again.format(n=one.missing, first=have + 1, last=one.wanted))
    one.opening = one.conversation.begin_answer(f"{have + 1}." if asked.form == "plain" else _OPENING[asked.form])


def _generate(engine: Engine, asked: ListRequest, lists: Sequence[Listing], progress: Progress) -> Generation:
    prompts = [one.conversation.asked for one in lists]
    seeds = [one.seed for one in lists]
    offsets = asked.draws.offsets(engine, prompts, seeds)
    keep = all(one.conversation.keeps for one in lists) and asked.rounds > 1
    return engine.generate(
        [
            SequenceRequest(
                prompt,
                one.seed,
                asked.sampling,
                one.budget,
                _stops(engine, asked, one),
                offset=offset,
                prefix=one.conversation.prefix if keep else None,
            )
            for one, prompt, offset in zip(lists, prompts, offsets, strict=True)
        ],
        row_state=asked.draws.row_state(engine, seeds),
        keep_prefixes=keep,
        on_step=progress.on_step,
    )


def _stops(engine: Engine, asked: ListRequest, one: Listing) -> tuple[str, ...]:
    """Where a numbered list goes on beyond what was asked for; and where a list ends in a text without turns."""
    beyond = (f"\n{one.wanted + 1}.",) if asked.form == "plain" else ()
    return (*asked.stop, *beyond, *(PARAGRAPH if is_text(engine, asked.prompt) else ()))


def _take(engine: Engine, one: Listing, output: SequenceOutput, known: set[str], prompt: str) -> None:
    """The new answers of an output, and what they cost."""
    guess = one.budget if output.finish == "length" else len(output.text) // 3 + 1  # an endpoint counts for itself
    one.budget -= len(output.token_ids) or guess
    for answer in listed_answers(engine, output, one.opening) if output.error is None else ():
        key = plain_answer(answer.text)
        if not key or any(same_name(key, other, prompt) or near_copy(key, other) for other in known):
            continue
        known.add(key)
        answer = dataclasses.replace(answer, position=len(one.answers))
        (one.answers if answer.finish == "stop" else one.cut).append(answer)
