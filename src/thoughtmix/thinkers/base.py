"""What a thinker is: the one interface between `think` and everything that can produce thoughts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, described
from thoughtmix.core.request import Prompt, Request, TextEmbedder
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, lacking
from thoughtmix.engine.requests import add_endpoint_facts

Thoughts = tuple[list[Thought], Mapping[str, Any]]
"""n thoughts in order of their seeds, and facts about the run for `ThoughtSet.run`."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a request may cost at most, declared before it runs.

    tokens: That go through the served model, read or drawn, drafts and scoring included.
    side: That go through other models (a mask predictor, the embedder), once a pass; also through the served one where
        it is a mask predictor.
    """

    tokens: int = 0
    side: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.side + other.side)


MOST_EMBEDDED = 256
"""Tokens of a text that the packaged embedder reads."""


def embedding_work(texts: int, length: int) -> Work:
    """Of embedding so many texts of up to so many tokens."""
    return Work(0, texts * min(length + 2, MOST_EMBEDDED))


class Thinker(ABC):
    """Turns one prompt into n thoughts. Stateless; loaded weights live in the engine.

    A subclass declares what everybody needs to know of it; command line, server, page, docs and bench are made from
    these declarations and know no thinker by name.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `thoughtmix thinkers`."""
    Options: ClassVar[type[ThinkerOptions]] = ThinkerOptions
    """Its own options, typed. Anything else is refused."""
    needs: ClassVar[frozenset[Capability]] = frozenset()
    """What the engine must be able to do."""
    elsewhere: ClassVar[str] = ""
    """What of it differs where the engine has only text to give (docs/engines.md)."""
    in_vllm: ClassVar[str] = ""
    """What of it differs in vLLM, beyond where thoughts are written (docs/engines.md)."""
    streams: ClassVar[bool] = False
    """Whether sequence i of its last generation is thought i, so that its text may be shown while it grows. What others
    do on the way is no answer yet."""
    continues: ClassVar[bool] = False
    """Whether a thought is what the engine writes behind the prompt as it stands, so that one that was cut can be gone
    on with (`Request.drawn`)."""
    creativity_is_temperature: ClassVar[bool] = False
    """Then only one of the two may be given, and front ends offer the one or the other."""
    guided: ClassVar[bool] = False
    """Whether all its texts are what `Request.grammar` says, by construction."""
    token_budget_option: ClassVar[str | None] = None
    """The option that caps all tokens drawn, where it spends by a budget and not by n."""

    @property
    def options(self) -> Mapping[str, str]:
        """Its options: name -> one line of help."""
        return described(self.Options)

    def suits(self, engine: Engine) -> bool:
        """Whether it can work with this engine and model, as far as can be told without trying."""
        return not self.lacks(engine.capabilities)

    def lacks(self, capabilities: frozenset[Capability]) -> list[Capability]:
        """What an engine of these lacks for it: of `needs`, and of what it needs where there is more than text."""
        return lacking(self.needs, capabilities)

    def made_for(self, engine: Engine) -> bool:
        """Whether it is what a user of this engine's model expects when no thinker is named."""
        return False

    def texts(self, n: int, options: ThinkerOptions) -> int:
        """How many texts it writes in all for n thoughts: drafts and branches count. The server admits by it, and the
        bench gives everyone equal budgets."""
        return n

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        """The most that a request costs: a server admits by it, and refuses what is over its limits.

        Args:
            engine: That would run it.
            n: Thoughts.
            read: Tokens of the prompt at most.
            length: Tokens of a thought at most.
            options: An instance of `Options`.
        """
        return Work(read + max(n, self.texts(n, options)) * length)

    def repetition(self, seed: int) -> Mapping[str, Any]:
        """Options with which a benchmark's repetition `seed` is independent of the others, where seeds of thoughts
        alone do not make it so; and those that leave out what a benchmark does not ask."""
        return {}

    def resolve(self, engine: Engine, prompt: Prompt, request: Request) -> tuple[Thinker, Request, Mapping[str, Any]]:
        """Who is to serve a request, the request as that one takes it, and facts about the choice: for one that
        chooses another."""
        return self, request, {}

    @abstractmethod
    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """n thoughts.

        Args:
            engine: Has everything in `needs`.
            prompt: What is asked.
            request: Settings; `request.options` is an instance of `Options`, and `self.Options.model_validate` makes
                that known to a type checker.

        Returns:
            The thoughts in order of their seeds, and facts about the run; fewer than n where the model gave no more,
            and then the fact `missing`. A fact `interrupted` that is true says that the thoughts are what was complete
            when the run was stopped.

        Raises:
            InputError: Settings or options that it cannot serve.
        """
        ...


def one_temperature(request: Request, thinker: str, default: float = 1.0) -> float | tuple[float, ...]:
    """Where creativity is the temperature: the one that was given. Raises `InputError` when both were."""
    if request.creativity is not None and request.temperature is not None:
        raise InputError(
            f"For {thinker}, creativity is the temperature: both were given.",
            "Pass only one (--creativity or --temperature).",
        )
    given = request.creativity if request.temperature is None else request.temperature
    return default if given is None else given


def add_facts(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of two runs, one after the other: tokens, seconds and passes add up."""
    out = {**first, **then}
    for name in ("tokens", "seconds", "prefill_seconds", "calls", "row_passes"):
        if name in out:
            out[name] = round(first.get(name, 0) + then.get(name, 0), 4)
    if "endpoint" in first and "endpoint" in then:
        out["endpoint"] = add_endpoint_facts(first["endpoint"], then["endpoint"])
    if out.get("seconds"):
        out["tokens_per_second"] = round(out["tokens"] / out["seconds"], 1)
    return out


def sum_facts(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several runs, one after the other."""
    out: dict[str, Any] = {}
    for facts in runs:
        out = add_facts(out, facts) if out else dict(facts)
    return out


def packaged_embedder() -> TextEmbedder:
    """For thinkers that embed texts, where the caller brings no embedder."""
    from thoughtmix.models import load_embedder

    return load_embedder()
