"""The endpoint engine: any OpenAI-compatible server continues the sequences, one request each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from thoughtmix.core import __version__
from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import OnStep, Prompt, StepEvent
from thoughtmix.engine.engine import Capability, Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.requests import DEFAULT_MIN_P
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.models.chat import ChatRequest
from thoughtmix.models.endpoint import Endpoint

_LOCAL = "Leave it out, or use a local model."


class EndpointEngine:
    """An engine over chat completions elsewhere.

    Outputs have text, and log-probabilities where the server gives them; no token ids. A sequence whose request finally
    fails has finish "cancelled" and says why in `error`; the others stand.
    """

    kind = "endpoint"
    capabilities = frozenset({Capability.LEFT_TO_RIGHT, Capability.GUIDED})

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        return self.endpoint.name

    def environment(self) -> dict[str, Any]:
        return {"thoughtmix": __version__}

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
        """See `Engine.generate`. min-p, which chat completions do not have, is left to the server where it is the
        default; asked for otherwise it is refused, as whatever else an endpoint cannot do."""
        if row_state is not NO_ROW_STATE or keep_prefixes or without_replacement or top_logprobs:
            raise InputError("An endpoint gives text alone.", _LOCAL)
        began = time.perf_counter()
        replies = self.endpoint.complete([_chat_request(s) for s in sequences], _told(sequences, on_step))
        outputs = [
            SequenceOutput(
                logprobs=r.logprobs or [],
                finish=r.finish,
                text=r.text,
                error=r.error,
                tries=r.tries,
                reasoning=r.reasoning,
            )
            for r in replies
        ]
        for sequence, output in zip(sequences, outputs, strict=True):
            if sequence.landing and output.finish == "length":
                output.cut_back(lambda end: 0)  # which tokens are left is not known: without likelihoods, then
            _check_form(sequence, output)
        return Generation(
            outputs,
            path="endpoint",
            weights="unknown",
            seconds=time.perf_counter() - began,
            interrupted=self.endpoint.interrupted,
            extra={"endpoint": self.endpoint.facts, "tokens": self.endpoint.facts["completion_tokens"]},
        )


def _chat_request(sequence: SequenceRequest) -> ChatRequest:
    """As the API has it. Raises `InputError` for what it has not."""
    p = sequence.sampling
    if not isinstance(sequence.prompt, Prompt) or sequence.prompt.raw:
        raise InputError("An endpoint takes chat messages, neither tokens nor raw text.", _LOCAL)
    for name, value, off in (
        ("top_k", p.top_k, {0}),
        ("min_p", p.min_p, {0, DEFAULT_MIN_P}),
        ("top_nsigma", p.top_nsigma, {0}),
        ("offset", sequence.offset, {None}),
    ):
        if value not in off:
            raise InputError(f"An endpoint takes no {name}.", _LOCAL)
    return ChatRequest(
        sequence.prompt.conversation,
        sequence.seed % 2**31,
        sequence.max_new_tokens,
        p.temperature,
        None if p.top_p == 1 else float(p.top_p),
        sequence.stop,
        extra={} if sequence.grammar is None else _form(sequence.grammar),
    )


def _form(grammar: Grammar) -> dict[str, Any]:
    """A JSON schema as OpenAI has it, an expression as vLLM and our own server do: others refuse it, or do not know it,
    and then `_check_form` does."""
    if grammar.kind == "json_schema":
        named = {"name": "thought", "schema": json.loads(grammar.text), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"extra_body": {"structured_outputs": {grammar.kind: grammar.text}}}


def _check_form(sequence: SequenceRequest, output: SequenceOutput) -> None:
    """An answer of another form is none."""
    if sequence.grammar is None or output.finish != "stop" or sequence.grammar.may_be(output.text):
        return
    field = "response_format" if sequence.grammar.kind == "json_schema" else "structured_outputs"
    output.text, output.finish = "", "cancelled"
    output.error = f"the answer has not the form that was asked for: the server does not heed {field}"


def _told(sequences: Sequence[SequenceRequest], see: OnStep | None) -> Callable[[int, str], None] | None:
    """Pieces as they come, as `StepEvent`s; a piece counts as a token. One without any asks whether to go on."""
    if see is None:
        return None
    count, total, done = len(sequences), sum(s.max_new_tokens for s in sequences), 0

    def piece(i: int, text: str) -> None:
        nonlocal done
        done += bool(text)
        pieces = [""] * count
        pieces[i] = text
        see(StepEvent(pieces, done, total, [False] * count))

    return piece
