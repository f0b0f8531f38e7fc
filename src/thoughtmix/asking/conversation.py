"""A prompt put in other words, after examples; and a conversation that goes on, read once."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from thoughtmix.asking.question import kind_of_answer
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import Capability, Engine, SequenceOutput, TokenEngine

if TYPE_CHECKING:
    from thoughtmix.engine.prefix_cache import Prefix

Turns = Sequence[tuple[str, str]]
"""Questions with their answers."""
PARAGRAPH = ("\n\n",)
"""Where an answer ends in a text without turns."""
TURN = 64
"""Tokens of a question that asks for more, at most."""


@functools.cache
def wording() -> dict[str, Any]:
    """wording.toml."""
    return tomllib.loads(files(__package__).joinpath("wording.toml").read_text(encoding="utf-8"))


def demonstrations(prompt: Prompt, count: int, kind: str = "") -> list[dict[str, Any]]:
    """`count` questions with answers: of a kind of wording.toml, else names where the prompt asks for a name, else
    sentences."""
    short = kind_of_answer(prompt.text) in {"name", "phrase", "one"}
    found: list[dict[str, Any]] = wording()[kind or ("name" if short else "sentence")]
    return found[len(found) - count :] if count else []


def is_text(engine: Engine, prompt: Prompt) -> bool:
    """Whether the prompt is continued as a text: there are no turns."""
    return prompt.raw or (isinstance(engine, TokenEngine) and not engine.model.codec.chat_template)


def restated(engine: Engine, prompt: Prompt, say: str, shown: Turns = (), opening: str = "") -> Prompt:
    """The prompt with `say` as what the user says last, after the turns in `shown`.

    A model without a chat template gets paragraphs, and `opening` as the beginning of its answer.

    Raises:
        InputError: A conversation that does not end with the user's turn.
    """
    if is_text(engine, prompt) and isinstance(prompt.content, str):
        paragraphs = [text for pair in shown for text in pair]
        return dataclasses.replace(prompt, content="\n\n".join([*paragraphs, say, opening]))
    turns = [{"role": role, "content": text} for pair in shown for role, text in zip(_ROLES, pair, strict=True)]
    before = prompt.conversation
    if not before or before[-1].get("role") != "user":
        raise InputError(
            "The conversation ends with an answer, not with a question.",
            "End it with the user's message, or pass --thinker sampling.",
        )
    first = next(i for i, message in enumerate(before) if message.get("role") != "system")
    asked = {**before[-1], "content": say}
    return dataclasses.replace(prompt, content=(*before[:first], *turns, *before[first:-1], asked))


_ROLES = ("user", "assistant")


def short_prompt(engine: Engine, prompt: Prompt) -> Prompt:
    """The prompt with a hint at the length of an answer, where it asks for something short that is to be invented. A
    small model takes the hint; without it, its answers are paragraphs."""
    hint = wording()["hint"].get(kind_of_answer(prompt.text))
    if hint is None or is_text(engine, prompt):
        return prompt
    return restated(engine, prompt, hint.format(prompt=prompt.text))


class Conversation:
    """A prompt that grows by answers and further questions.

    Where the engine takes tokens and keeps what it has read (`Capability.PREFIXES`), the conversation goes on in
    tokens: answers may be begun for the model, and only what is new is read. keep: False where the rows read it each
    in their own way.
    """

    def __init__(self, engine: Engine, prompt: Prompt, keep: bool = True) -> None:
        self.engine, self.prompt = engine, prompt
        self.prefix: Prefix | None = None
        self._text = is_text(engine, prompt)
        self._ids: list[int] = []
        self._keep, self._opening = keep, ""
        if Capability.PREFIXES in engine.capabilities and isinstance(engine, TokenEngine):
            self._ids = engine.encode(prompt)

    @property
    def keeps(self) -> bool:
        """Whether its generations are to keep prefixes."""
        return self._keep and bool(self._ids)

    def begin_answer(self, opening: str) -> str:
        """Begin the next answer for the model, which goes on with it. What its text then begins with: nothing where
        the engine takes no tokens, as of an endpoint."""
        if not self._ids:
            return ""
        assert isinstance(self.engine, TokenEngine)
        self._ids += self.engine.model.encoder.text(opening, frame=False)
        self._opening = opening
        return opening

    @property
    def asked(self) -> Prompt | tuple[int, ...]:
        """For `SequenceRequest.prompt`."""
        return tuple(self._ids) if self._ids else self.prompt

    def answered(self, output: SequenceOutput, prefix: Prefix | None = None) -> None:
        """Put an answer behind it; it is then to be asked on. prefix: what was kept of this very conversation."""
        opening, self._opening = self._opening, ""
        text = output.text.strip() or "-"
        self.prompt = _with_answer(self.prompt, (opening + output.text).strip() or "-", self._text)
        if not self._ids:
            return
        assert isinstance(self.engine, TokenEngine)
        said = _whole_tokens(self.engine, output) if output.text.strip() else []
        same = len(self._ids) + len(said)  # tokens that the sequence had, too
        self._ids += said or self.engine.model.encoder.text(text, frame=False)
        if prefix is not None:
            self.prefix = prefix.cut(min(prefix.length, same, len(self._ids) - 1))

    def fits(self, tokens: int) -> bool:
        """Whether the model's context has room for so many more; true where that is not known."""
        limit = self.engine.model.context_length if isinstance(self.engine, TokenEngine) else None
        if limit is None or not isinstance(self.engine, TokenEngine):
            return True
        return len(self.engine.encode(self.asked)) + tokens <= limit

    def ask(self, say: str) -> None:
        """The user's next turn, after an answer. Raises `ModelError` where the chat template cannot go on."""
        if self._text:
            self.prompt = dataclasses.replace(self.prompt, content=f"{self.prompt.content}\n\n{say}\n\n")
        else:
            turn = {"role": "user", "content": say}
            self.prompt = dataclasses.replace(self.prompt, content=(*self.prompt.conversation, turn))
        if self._ids:
            assert isinstance(self.engine, TokenEngine)
            model = self.engine.model
            self._ids += model.encoder.text(f"\n\n{say}\n\n", frame=False) if self._text else self._next_turn(say)

    def _next_turn(self, say: str) -> list[int]:
        assert isinstance(self.engine, TokenEngine)
        model = self.engine.model
        try:
            return model.encoder.next_turn(say, self.prompt.template_kwargs)
        except InputError as error:
            raise ModelError(
                f"{model.name} cannot be asked after an answer: {error}", "Pass --thinker list --rounds 1."
            ) from None


def _with_answer(prompt: Prompt, text: str, as_text: bool) -> Prompt:
    if as_text:
        return dataclasses.replace(prompt, content=f"{prompt.content}{text}")
    answer: Mapping[str, str] = {"role": "assistant", "content": text}
    return dataclasses.replace(prompt, content=(*prompt.conversation, answer))


def _whole_tokens(engine: TokenEngine, output: SequenceOutput) -> list[int]:
    """The tokens of an output's text, without an end token or what a stop string cut off."""
    ids = list(output.token_ids)
    while ids and ids[-1] in engine.model.eos_ids:
        ids.pop()
    while len(ids) > 1 and len(engine.model.decode(ids[:-1])) >= len(output.text):
        ids.pop()
    return ids
