"""How a rewriting is asked for: the prompt around an idea, for chat models, base models and endpoints; and which words
of the idea become holes.

Several directions at once are asked for in one rewriting that obeys them all. One after another costs as many
generations as directions, each reads only what the last one left of the idea, and errors add up.

The idea always stands before the instruction, so that prompts of different directions begin alike.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ModelError, UnknownName
from thoughtmix.noise.catalogue import Direction

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

BASE_STOP = ("\n\n", "\nText:", "\nTexte :")
"""Where a base model's answer to the few-shot prompt ends."""
HOLE = "___"
MASKS = ("random", "span")
SPAN = 4  # words that fall together
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What is done to an idea for one thought."""

    directions: tuple[Direction, ...] = ()
    """Followed all at once; with none, masked words are only filled in again."""
    strength: str = "precise"
    language: str = "en"
    holes: float = 0.0
    """Share of the words that are masked first."""
    mask: str = "random"

    def masked_idea(self, idea: str, seed: int) -> str:
        """The idea as the model sees it: with holes when words are masked."""
        return mask_words(idea, self.holes, seed, self.mask) if self.holes else idea

    @property
    def instruction(self) -> str:
        """Everything that is asked for, as one text."""
        words = _wording()[self.language]
        asked = [d.instruction(self.strength, self.language) for d in self.directions]
        if self.holes:
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
        return {**out, "language": self.language, **({"holes": self.holes} if self.holes else {})}


def messages(
    idea: str, disturbance: Disturbance, seed: int = 0, before: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, str]]:
    """The conversation that asks for it. before: the messages up to the idea, which is then the assistant's answer."""
    text, only = disturbance.masked_idea(idea, seed), _wording()[disturbance.language]["only"]
    asked = f"{disturbance.instruction} {only}"
    if before and not disturbance.holes:  # holes are shown as they are, not as an answer
        return [*map(dict, before), {"role": "assistant", "content": text}, {"role": "user", "content": asked}]
    return [{"role": "user", "content": f"{text}\n\n{asked}"}]


def few_shot(idea: str, disturbance: Disturbance, seed: int = 0) -> str:
    """A text that a model without a chat template continues with the rewriting."""
    words = _wording()[disturbance.language]
    shots = [f"{words['shot'].format(text=t, instruction=i)} {answer}" for t, i, answer in words["examples"]]
    flat = " ".join(disturbance.masked_idea(idea, seed).split())
    return "\n\n".join([*shots, words["shot"].format(text=flat, instruction=disturbance.instruction)])


def prompt_ids(
    model: LanguageModel,
    idea: str,
    disturbance: Disturbance,
    seed: int = 0,
    before: Sequence[int] = (),
    idea_ids: Sequence[int] = (),
) -> list[int]:
    """Token ids that ask `model` for it.

    Args:
        before: The prompt that led to the idea, ending where its answer began. A chat then goes on in tokens, so that
            everything up to the instruction is the same for all directions.
        idea_ids: The idea's own tokens, without an end token, where the model wrote it; else it is tokenised.

    Raises:
        InputError: The idea cannot be encoded.
        ModelError: The chat template cannot go on after an answer.
    """
    if not model.codec.chat_template:
        return model.encode(few_shot(idea, disturbance, seed))
    if not before or disturbance.holes:
        return model.encode(messages(idea, disturbance, seed))
    answer = list(idea_ids) or model.encoder.text(idea, frame=False)
    asked = f"{disturbance.instruction} {_wording()[disturbance.language]['only']}"
    try:
        turn = model.encoder.next_turn(asked)
    except InputError as error:
        raise ModelError(
            f"{model.name} cannot be asked after an answer: {error}", "Pass idea=... (--option)."
        ) from None
    return [*before, *answer, *turn]


def mask_words(text: str, level: float, seed: int, mask: str = "random") -> str:
    """`text` with round(level * words), at least one, of its words replaced by ___; punctuation and spacing stay. Holes
    that touch (nothing but spaces between) become one, which hides how many words it stands for.

    Args:
        text: One without words becomes one hole.
        level: Share of the words, above 0 and up to 1.
        seed: Its own random stream decides.
        mask: random, each word by itself; span: stretches of up to 4 words from random places.

    Raises:
        InputError, UnknownName: Another level, another mask.
    """
    from thoughtmix.engine.rng import NOISE, generator  # imports torch: not for the names alone

    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level <= 1:
        raise InputError(f"holes is {level!r}.", "Pass the share of words to mask, above 0 and up to 1 (holes=0.3).")
    if mask not in MASKS:
        raise UnknownName("way of masking", mask, MASKS)
    words = list(_WORD.finditer(text))
    if not words:
        return HOLE
    count = max(1, round(level * len(words)))
    order = generator(seed, NOISE).permutation(len(words))
    hidden: set[int] = set()
    for start in order.tolist():
        for at in range(start, min(start + (SPAN if mask == "span" else 1), len(words))):
            if len(hidden) < count:
                hidden.add(at)
    out, end = [], 0
    for i, word in enumerate(words):
        between = text[end : word.start()]
        if i in hidden and i - 1 in hidden and not between.strip():
            end = word.end()
            continue
        out += [between, HOLE if i in hidden else word.group()]
        end = word.end()
    return "".join([*out, text[end:]])


@functools.cache
def _wording() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("wording.toml").read_text(encoding="utf-8"))
