"""What a thinker is: the one interface between `think` and everything that can produce thoughts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.models import LanguageModel

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One decoding step of the whole batch, as given to `on_step`.

    `pieces[i]` is the new text of thought i (often empty: ended, or half a character),
    `done` and `total` count tokens over all thoughts (`total` is the most there can be).
    """

    pieces: Sequence[str]
    done: int
    total: int
    finished: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Request:
    """One call for n thoughts, checked. A setting that may differ by thought is a tuple of n values."""

    n: int = 8
    seed: int = 0
    max_new_tokens: int = 64
    creativity: float | None = None
    """None: the thinker's own default."""
    temperature: float | tuple[float, ...] | None = None
    top_k: int | tuple[int, ...] = 0
    top_p: float | tuple[float, ...] = 1.0
    min_p: float | tuple[float, ...] | None = None
    top_nsigma: float | tuple[float, ...] = 0.0
    stop: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """The thinker's own options, checked by the thinker."""
    on_step: Callable[[StepEvent], None] | None = None
    path: Literal["auto", "fused", "shared", "expanded"] = "auto"
    weights: Literal["auto", "native", "fp16"] = "auto"

    def __post_init__(self) -> None:
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
        if any(not s for s in self.stop):
            raise InputError("A stop string is empty.", "Leave it out, or pass a text (--stop '###').")

    def recorded(self) -> dict[str, Any]:
        """What repeats the run, as JSON: no callbacks, and how it was computed is said elsewhere."""
        skip = {"on_step", "path", "weights"}
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in skip}

    @property
    def seeds(self) -> range:
        """Thought i's own seed is seed + i: `n=1, seed=s+i` gives thought i of `seed=s` again."""
        return range(self.seed, self.seed + self.n)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def per_thought(name: str, value: Number | tuple[Number, ...], n: int) -> tuple[Number, ...]:
    """A setting as n values: one for all, or one a thought. Raises `InputError` when there are not n."""
    if not isinstance(value, (tuple, list)):
        return (value,) * n
    if len(value) != n:
        raise InputError(f"{name} has {len(value)} values for {n} thoughts.", f"Pass one value, or {n}.")
    return tuple(value)


class Thinker(Protocol):
    """Turns one prompt into n thoughts. Stateless; loaded weights live on the model.

    One that cannot work with every model may also say so before it is asked: `suits(model) -> bool`, see `suits`.
    """

    name: str
    summary: str
    """One line for `thoughtmix thinkers`."""
    options: Mapping[str, str]
    """Its own options: name -> one line of help. Anything else in `Request.options` is refused."""

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """n thoughts in order of their seeds, and facts about the run (decoding path...) for `ThoughtSet.run`."""
        ...


def suits(thinker: Thinker, model: LanguageModel) -> bool:
    """Whether this thinker can work with this model, as far as it says; `think` raises when it cannot."""
    says: Callable[[LanguageModel], bool] | None = getattr(thinker, "suits", None)
    return says is None or says(model)
