"""What an engine is: anything that continues sequences, and says what it can.

    engine.generate([SequenceRequest(prompt, seed=0), SequenceRequest(prompt, seed=1)])

Thinkers get an engine as an argument and never ask which one it is: they say which capabilities they need.

    local      our decoding loop over a Hugging Face model (local.py)
    shared     the same loop, joined by many callers: the server's (shared.py)
    endpoint   any OpenAI-compatible server (endpoint.py)
    vllm       vLLM in this process (vllm.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import OnStep, Prompt
from thoughtmix.core.sentences import sentence_end
from thoughtmix.core.types import FinishReason
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from thoughtmix.engine.prefix_cache import Prefix
    from thoughtmix.engine.without_replacement import Excluded
    from thoughtmix.models import LanguageModel


class Capability(StrEnum):
    """What an engine may be able to do."""

    LEFT_TO_RIGHT = "writing from left to right"
    """It has a `generate` at all: mask predictors, which write in any order, have not."""
    TOKENS = "tokens"
    """Prompts may be token ids, and the outputs' token ids are given."""
    LOGPROBS = "log-probabilities"
    TOP_LOGPROBS = "log-probabilities of alternatives"
    SEEDS = "seeds"
    """A sequence depends on its prompt, settings and seed alone."""
    PREFIXES = "kept prefixes"
    """What a sequence has read can be kept, and another can begin there."""
    WITHOUT_REPLACEMENT = "draws without replacement"
    ARITHMETIC = "arithmetic sampling"
    GUIDED = "texts held to a grammar"
    ROW_STATE = "per-row model state"
    BRANCHES = "thought branches"
    """A row may go its own way through the branches of a graft or a mixture: by its state, or as an adapter."""
    WEIGHTS = "the model's weights in this process"
    """`engine.model` is a `LanguageModel`: its layers may be read, hooked and called."""


EVERYTHING = frozenset(Capability)
"""What a causal model in this process can do."""
ENCODER_DECODER = EVERYTHING - {Capability.PREFIXES}
"""What one with an encoder can do: that is given the prompt, and a half-written answer cannot be gone on with."""
MASK_PREDICTOR = frozenset({Capability.TOKENS, Capability.WEIGHTS})
"""What one that writes in any order can do."""


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One sequence to make: what it continues, whose random stream, drawn how, ending where."""

    prompt: Prompt | tuple[int, ...]
    """Token ids need `Capability.TOKENS`. Sequences with equal prompts share what is read of them."""
    seed: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    """Strings that end it; they are no part of its text."""
    end_ids: frozenset[int] | None = None
    """Tokens that end it; None: the model's own."""
    offset: float | None = None
    """Arithmetic sampling (Vilnis et al. 2023): this point of [0, 1) is the sequence's place in the distribution of all
    continuations, read off token by token; sequences whose offsets lie apart draw apart, and each is still distributed
    as the model says. After `OFFSET_BITS` bits it is used up, and the seed's stream goes on; None: from the
    start."""
    prefix: Prefix | None = None
    """What an earlier call kept of the prompt's beginning: only the tokens past it are computed."""
    exclude: tuple[Excluded, ...] = ()
    """Continuations that are not to be drawn again (`without_replacement`)."""
    grammar: Grammar | None = None
    """What the whole text must be (`Capability.GUIDED`). Tokens are drawn from those that it allows, renormalised at
    each step; the text ends, by end tokens and stop strings, only where it is whole, and as soon as nothing can
    follow. One that runs out of tokens before is unfinished: its finish is "length"."""
    landing: int = 0
    """In its last so many tokens it ends with the first whole sentence; when none comes, it is cut back to the last
    one, if that leaves half of the text. Its finish is then "sentence", and its tokens are those of its text."""
    drawn: int = 0
    """Tokens that the seed has drawn for the text before: its stream goes on behind them."""


OFFSET_BITS = 6
"""An offset is read for this many bits: enough to keep 64 thoughts apart. Each bit read doubles what is left of the
rounding of the logits, and a thought must be the same alone and in any batch."""


@dataclass(slots=True)
class SequenceOutput:
    """What became of a sequence. An ended one's tokens include its end token; its text does not."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of each token, in nats, under the model at temperature 1 and before any truncation; [] where unknown."""
    finish: FinishReason = "cancelled"
    text: str = ""
    shares: list[float] = field(default_factory=list)
    """Without replacement: the probability that each token had in the draw before anything was subtracted."""
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    """Of each token, if asked for: the likeliest ids and their log-probabilities, likeliest first."""
    error: str | None = None
    """Why it finally failed, in one line (endpoints)."""
    dropped: int = 0
    """Tokens that were drawn and cut back to a sentence."""
    tries: int = 0
    """Requests that it took (endpoints)."""
    reasoning: str = ""
    """What the model thought before the text, where a server keeps it apart (endpoints)."""

    def cut_back(self, tokens_of: Callable[[int], int]) -> None:
        """End a text that was cut with its last whole sentence, if that leaves half of it.

        Args:
            tokens_of: How many of its tokens the first so many characters take.
        """
        end = sentence_end(self.text)
        if not end or 2 * end < len(self.text):
            return
        count = tokens_of(end)
        self.text, self.finish = self.text[:end], "sentence"
        self.dropped = len(self.token_ids) - count
        for kept in (self.token_ids, self.logprobs, self.shares, self.top):
            del kept[count:]


@dataclass(slots=True)
class Generation:
    """All sequences, in the order they were asked for, and how the run went."""

    outputs: list[SequenceOutput]
    path: str
    """How it was computed: fused, shared, expanded or recompute (see `engine.backends`), endpoint or vllm."""
    weights: str = "native"
    prefill_seconds: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    computed: int = 0
    """Tokens that went through the model, read or stepped: a prompt that rows share counts once, and on the fused path
    a beginning that neighbouring prompts share, too."""
    prefixes: list[Prefix | None] = field(default_factory=list)
    """With `keep_prefixes`: of each sequence that ended, all its tokens but the last, which was never read."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further facts for `ThoughtSet.run` (of an endpoint: retries, usage)."""

    @property
    def facts(self) -> dict[str, Any]:
        """For `ThoughtSet.run`."""
        tokens = sum(len(o.token_ids) + o.dropped for o in self.outputs)
        return {
            "path": self.path,
            "weights": self.weights,
            "seconds": round(self.seconds, 4),
            "prefill_seconds": round(self.prefill_seconds, 4),
            "tokens": tokens,
            "tokens_per_second": round(tokens / self.seconds, 1) if self.seconds else 0.0,
            **self.extra,
        }


class Engine(Protocol):
    """Continues sequences."""

    @property
    def name(self) -> str:
        """Of the model, as thought sets record it."""
        ...

    @property
    def kind(self) -> str:
        """local, shared, endpoint, vllm, ..."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    def environment(self) -> dict[str, Any]:
        """Device, number type and versions, for `ThoughtSet.run`."""
        ...

    def generate(
        self,
        sequences: Sequence[SequenceRequest],
        *,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        top_logprobs: int = 0,
        keep_prefixes: bool = False,
        without_replacement: bool = False,
        on_step: OnStep | None = None,
    ) -> Generation:
        """Continue every sequence until it ends.

        Args:
            sequences: Any number, of any prompts.
            row_state: What the rows take through the model beside their tokens, in the order of `sequences`.
            read: A prompt is read once for all its rows ("shared"), or by each row for itself ("each").
            top_logprobs: How many likeliest tokens to note at each step.
            keep_prefixes: Hand out a `Prefix` of every sequence that ends; for read="shared".
            without_replacement: No sequence draws what it excludes, nor what an earlier one of the same prompt drew:
                it then depends on those, too. Not for sequences with an offset.
            on_step: Called after every step. An exception in it stops the run; KeyboardInterrupt returns what is there,
                with `interrupted` set.

        Returns:
            One output a sequence, in their order. Output i depends on its prompt, settings and seed alone, up to the
            rounding of matrix products of different heights.

        Raises:
            InputError: A prompt that cannot be continued, or something that this engine cannot do.
            NumericsError: The model gave NaN or infinity.
        """
        ...


@runtime_checkable
class TokenEngine(Engine, Protocol):
    """An engine with `Capability.TOKENS`: its tokenizer, chat template and limits are known here."""

    @property
    def model(self) -> LanguageModel:
        """Its weights are there with `Capability.WEIGHTS` alone."""
        ...

    def encode(self, prompt: Prompt | tuple[int, ...]) -> list[int]:
        """Token ids of a prompt, ending where the answer begins. Raises `InputError`."""
        ...


@runtime_checkable
class LocalModelEngine(TokenEngine, Protocol):
    """An engine with `Capability.WEIGHTS` and `Capability.TOKENS`."""

    def exclusive(self) -> AbstractContextManager[None]:
        """The model, for work on it that is not `generate`. Where others share the machine they have their turns
        between two of torch's operations, and the work ends by an error when nobody waits for its result any more."""
        ...


_WHO_CAN = "Use a local model: leave out --endpoint, or pass a folder or a Hugging Face id as --model."
_WHO_CAN_BESIDE_VLLM = "Use our own loop: --engine local."


def lacking(needs: Iterable[Capability], capabilities: frozenset[Capability]) -> list[Capability]:
    """What is needed and not there, in the order of `Capability`."""
    missing = frozenset(needs) - capabilities
    return [capability for capability in Capability if capability in missing]


def require(engine: Engine, needs: Iterable[Capability], who: str) -> None:
    """Raises `InputError` naming what `who` needs and `engine` lacks."""
    missing = lacking(needs, engine.capabilities)
    if Capability.LEFT_TO_RIGHT in missing:
        raise InputError(f"{engine.name} does not write from left to right.", "Type --thinker diffusion.")
    if missing:
        who_can = _WHO_CAN_BESIDE_VLLM if engine.kind == "vllm" else _WHO_CAN
        if Capability.WEIGHTS in engine.capabilities:
            who_can = "Choose a decoder-only model (--model)."
        raise InputError(f"{who} needs {', '.join(missing)}, which {engine.name} ({engine.kind}) lacks.", who_can)


def local_model(engine: Engine, who: str) -> LocalModelEngine:
    """The engine as one whose model is in this process. Raises `InputError` where it is not."""
    require(engine, {Capability.WEIGHTS, Capability.TOKENS}, who)
    assert isinstance(engine, LocalModelEngine), "it says that it has the weights"
    return engine
