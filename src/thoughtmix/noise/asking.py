"""How a rewriting is asked for: the prompt around an idea, for chat models, base models and endpoints.

Several directions at once are asked for in one rewriting that obeys them all. One after another costs as many
generations as directions, each reads only what the last one left of the idea, and errors add up.

The idea always stands before the instruction, so that prompts of different directions begin alike.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError
from thoughtmix.noise.catalogue import Direction
from thoughtmix.noise.words import masked

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

BASE_STOP = ("\n\n", "\nText:", "\nTexte :")
"""Where a base model's answer to the few-shot prompt ends."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is done to an idea for one thought: directions at once (none with words masked: only filled in again), how
    strongly, in which language, and the share of words that are masked first."""

    directions: tuple[Direction, ...] = ()
    strength: str = "precise"
    language: str = "en"
    tokens: float = 0.0
    how: str = "random"

    def text(self, idea: str, seed: int) -> str:
        """The idea as the model sees it: with holes when words are masked."""
        return masked(idea, self.tokens, seed, self.how) if self.tokens else idea

    @property
    def instruction(self) -> str:
        """Everything that is asked for, as one text."""
        words = _wording()[self.language]
        asked = [d.instruction(self.strength, self.language) for d in self.directions]
        if self.tokens:
            asked.insert(0, words["gaps"])
        if len(asked) < 2:
            return asked[0]
        return " ".join([words["several"], *(f"{i}. {text}" for i, text in enumerate(asked, 1))])

    @property
    def origin(self) -> dict[str, Any]:
        """For `Thought.origin`."""
        out: dict[str, Any] = {
            "direction": "+".join(d.name for d in self.directions) or "words",
            "family": "+".join(dict.fromkeys(d.family for d in self.directions)) or "words",
        }
        if self.directions:
            out["strength"] = self.strength
        return {**out, "language": self.language, **({"tokens": self.tokens} if self.tokens else {})}


def messages(idea: str, way: Way, seed: int = 0, before: Sequence[Mapping[str, str]] = ()) -> list[dict[str, str]]:
    """The conversation that asks for it. before: what was said up to the idea, which is then the assistant's answer."""
    text, only = way.text(idea, seed), _wording()[way.language]["only"]
    asked = f"{way.instruction} {only}"
    if before and not way.tokens:  # holes are shown as they are, not as something that was said
        return [*map(dict, before), {"role": "assistant", "content": text}, {"role": "user", "content": asked}]
    return [{"role": "user", "content": f"{text}\n\n{asked}"}]


def few_shot(idea: str, way: Way, seed: int = 0) -> str:
    """A text that a model without a chat template continues with the rewriting."""
    words = _wording()[way.language]
    shots = [f"{words['shot'].format(text=t, instruction=i)} {answer}" for t, i, answer in words["examples"]]
    flat = " ".join(way.text(idea, seed).split())
    return "\n\n".join([*shots, words["shot"].format(text=flat, instruction=way.instruction)])


def prompt_ids(
    model: LanguageModel, idea: str, way: Way, seed: int = 0, before: Sequence[int] = (), said: Sequence[int] = ()
) -> list[int]:
    """Token ids that ask `model` for it.

    before: the prompt that led to the idea, ending where its answer began; said: the answer's own tokens, without an
    end token, where the model wrote it (else the idea is tokenised). A chat then goes on in tokens, so that everything
    up to the instruction is the same for all directions. Raises `InputError`, `ModelError`.
    """
    if not model.tokenizer.chat_template:
        return model.encode(few_shot(idea, way, seed))
    if not before or way.tokens:
        return model.encode(messages(idea, way, seed))
    answer = list(said) or list(model.tokenizer(idea, add_special_tokens=False, verbose=False)["input_ids"])
    turn = _next_turn(model, f"{way.instruction} {_wording()[way.language]['only']}")
    return [*before, *answer, *turn]


def _next_turn(model: LanguageModel, text: str) -> list[int]:
    """The tokens between an answer and the next: its end, a user's turn that says `text`, the start of the next answer;
    read off the chat template."""
    mark = "thoughtmix was here"
    turns = [
        {"role": "user", "content": "?"}, {"role": "assistant", "content": mark}, {"role": "user", "content": text},
    ]  # fmt: skip
    try:
        rendered = str(model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template may refuse with any Jinja error
        raise ModelError(
            f"The chat template of {model.name} refuses a second turn: {error}.", "Pass idea=..."
        ) from None
    if mark not in rendered:
        raise ModelError(f"The chat template of {model.name} drops earlier answers.", "Pass idea=... (--option).")
    after = rendered.rpartition(mark)[2]
    return list(model.tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"])


@functools.cache
def _wording() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("wording.toml").read_text(encoding="utf-8"))
