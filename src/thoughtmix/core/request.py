"""What is asked of a thinker: the prompt, the settings of the call, and what is told while it works."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar

from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.options import ThinkerOptions

Number = TypeVar("Number", int, float)
Message = Mapping[str, Any]
PromptLike = str | Sequence[Message]
"""How users give a prompt: a text, or chat messages `{"role": ..., "content": ...}`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it was given, before any tokenizer has seen it. raw: continue the text as it stands, without the
    model's chat template. template_kwargs: what the template gets beside the messages (`enable_thinking`, say). tools:
    functions that it tells the model of, as OpenAI writes them."""

    content: str | tuple[Message, ...]
    raw: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_user(cls, given: PromptLike | Prompt, raw: bool = False) -> Prompt:
        """`given`, or the text or messages in it."""
        if isinstance(given, Prompt):
            return given
        return cls(given if isinstance(given, str) else _messages(given), raw)

    @property
    def text(self) -> str:
        """The user's text; of a conversation the last that a user said."""
        if isinstance(self.content, str):
            return self.content
        said = [m["content"] for m in self.content if m.get("role") == "user"]
        return said[-1] if said else self.content[-1]["content"]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation when one was given, else ()."""
        return () if isinstance(self.content, str) else tuple(dict(m) for m in self.content)

    @property
    def conversation(self) -> list[Message]:
        """As chat messages: a text is one message of a user."""
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        return list(self.content)


def _messages(given: Any) -> tuple[Message, ...]:
    """As a tuple; what is no sequence is left as it is, for the tokenizer's side to refuse by name."""
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)) else given


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One decoding step of the whole batch, as given to `on_step`.

    `pieces[i]` is the new text of thought i (often empty: ended, or half a character), `done` and `total` count tokens
    over all thoughts (`total` is the most there can be).
    """

    pieces: Sequence[str]
    done: int
    total: int
    finished: Sequence[bool]
    outputs: Sequence[Any] = ()
    """The sequences so far (`SequenceOutput`), from engines that have them: they go on growing."""


class TextEmbedder(Protocol):
    """Anything that turns texts into unit vectors."""

    @property
    def name(self) -> str: ...

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        """(len(texts), d), rows of length 1."""
        ...


OnStep = Callable[[StepEvent], None]


MAX_NEW_TOKENS = 96
"""Tokens of a thought, unless a caller says otherwise;"""
LANDING = 0.33
"""and the share of them in which it ends with its sentence: from the 64th on."""
MOST_DRAWN = 2**24
"""Tokens that a thought may have when it is continued."""
DEFAULT_MIN_P = 0.1
"""Of the likeliest token's probability, what a token needs to be drawn, unless a caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call for n thoughts, checked. A setting that may differ by thought is a tuple of n values."""

    n: int = 8
    seed: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    creativity: float | None = None
    """None: the thinker's own default."""
    temperature: float | tuple[float, ...] | None = None
    top_k: int | tuple[int, ...] = 0
    top_p: float | tuple[float, ...] = 1.0
    min_p: float | tuple[float, ...] | None = None
    top_nsigma: float | tuple[float, ...] = 0.0
    stop: tuple[str, ...] = ()
    drawn: int = 0
    """Tokens that each seed has drawn before, where the prompt ends with the beginning of the answer: the seed's stream
    goes on behind them, so that a thought that was cut and continued is the one that a longer budget had made."""
    landing: float = 0.0
    """Share of the tokens, the last ones, in which a thought ends with its sentence; 0: exactly at the budget."""
    grammar: Grammar | None = None
    """What every thought must be: a JSON schema, a regular expression."""
    options: ThinkerOptions = field(default_factory=ThinkerOptions)
    """The thinker's own options: an instance of its `Options`."""
    on_step: OnStep | None = None
    embedder: Callable[[], TextEmbedder] | None = None
    """Loads the caller's embedder, for thinkers that need one; None: the packaged one."""
    judge: Callable[[], Any] | None = None
    """Loads the caller's judge (a `LanguageModel`, or None), which scores and never selects."""

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.n < 1:
            raise InputError(f"n is {self.n}; there must be at least one thought.", "Pass n=1 or more (-n 1).")
        if self.max_new_tokens < 1:
            raise InputError(
                f"max_new_tokens is {self.max_new_tokens}; a thought needs at least one token.",
                "Pass max_new_tokens=1 or more (--max-new-tokens 1).",
            )
        if self.creativity is not None and not 0 <= self.creativity < float("inf"):
            raise InputError(f"creativity is {self.creativity}.", "Pass 0 (deterministic) or more (--creativity 0).")
        if not -(2**63) <= self.seed <= 2**63 - 1 - self.n:
            raise InputError(f"seed {self.seed} does not fit in 64 bits.", "Pass a smaller seed (--seed 0).")
        if not 0 <= self.drawn <= MOST_DRAWN:
            raise InputError(f"drawn is {self.drawn}.", "Pass how many tokens the text has already, or 0.")
        if not 0 <= self.landing <= 1:
            raise InputError(f"landing is {self.landing}.", f"Pass 0 (off) to 1 (--landing {LANDING}).")
        if any(not s for s in self.stop):
            raise InputError("A stop string is empty.", "Leave it out, or pass a text (--stop '###').")

    def _check_kinds(self) -> None:
        """Take numpy's numbers as Python's, and refuse values of another kind. Raises `InputError`."""
        for name, example in (("n", 8), ("seed", 0), ("max_new_tokens", MAX_NEW_TOKENS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise InputError(f"{name} is {value!r}, which is no whole number.", f"Pass {name}={example}.")
            object.__setattr__(self, name, int(value))
        for name, optional in (("creativity", True), ("landing", False)):
            value = getattr(self, name)
            if isinstance(value, bool) or (not isinstance(value, numbers.Real) and not (optional and value is None)):
                raise InputError(f"{name} is {value!r}, which is no number.", f"Pass one number ({name}=1).")
            if value is not None and not isinstance(value, int):
                object.__setattr__(self, name, float(value))
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) for text in self.stop):
            raise InputError(f"stop is {self.stop!r}.", "Pass a text, or several: stop=['###'].")
        if self.on_step is not None and not callable(self.on_step):
            raise InputError(
                f"on_step is {self.on_step!r}.", "Pass a function that takes a StepEvent, or leave it out."
            )

    def recorded(self) -> dict[str, Any]:
        """What repeats the run, as JSON: no callbacks, and how it was computed is said elsewhere."""
        skip = {"on_step", "embedder", "judge", "options", "grammar"}
        skip |= set() if self.drawn else {"drawn"}
        out = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in skip}
        form = {} if self.grammar is None else self.grammar.recorded()
        return {**out, **form, "options": self.options.given()}

    @property
    def landing_tokens(self) -> int:
        """`SequenceRequest.landing` of every thought; none where a grammar says how it ends."""
        return 0 if self.grammar is not None else int(self.landing * self.max_new_tokens)

    @property
    def seeds(self) -> range:
        """Thought i's own seed is seed + i: `n=1, seed=s+i` gives thought i of `seed=s` again."""
        return range(self.seed, self.seed + self.n)


SETTINGS = frozenset(f.name for f in fields(Request)) - {"options", "embedder", "grammar"} | {"json_schema", "regex"}
"""Names of the settings of a call, which no option of a thinker takes away from it."""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def per_thought(name: str, value: Number | tuple[Number, ...], n: int) -> tuple[Number, ...]:
    """A setting as n values: one for all, or one a thought. Raises `InputError` when there are not n."""
    if not isinstance(value, (tuple, list)):
        return (value,) * n
    if len(value) != n:
        raise InputError(f"{name} has {len(value)} values for {n} thoughts.", f"Pass one value, or {n}.")
    return tuple(value)
