"""Engines whose answers a test writes, and a tiny chat model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from noiseland import chat_model

from thoughtmix.core.request import StepEvent
from thoughtmix.engine.engine import Capability, Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE

__all__ = ["Scripted", "chat_model", "numbered"]


def numbered(*answers: str, first: int = 1) -> str:
    return "\n".join(f"{i}. {answer}" for i, answer in enumerate(answers, first))


class Scripted:
    """Text alone, as an endpoint gives it. `script(call, i, said)` is what sequence i of generation `call` gets, where
    `said` is the conversation as JSON; a text that ends with "…" was cut by the budget. `calls` keeps all requests."""

    name, kind = "scripted", "endpoint"
    capabilities = frozenset({Capability.LEFT_TO_RIGHT})

    def __init__(self, script: Callable[[int, int, str], str]) -> None:
        self.script = script
        self.calls: list[Sequence[SequenceRequest]] = []

    def environment(self) -> dict[str, Any]:
        return {}

    def generate(self, sequences: Sequence[SequenceRequest], *, on_step: Any = None, **more: Any) -> Generation:
        assert more.pop("row_state", NO_ROW_STATE) is NO_ROW_STATE and not any(more.values()), (
            "only text is asked of an engine that has only text"
        )
        call = len(self.calls)
        self.calls.append(sequences)
        outputs = []
        for i, sequence in enumerate(sequences):
            text = self.script(call, i, said(sequence))
            finish = "length" if text.endswith("…") else "stop"
            outputs.append(SequenceOutput(text=text.removesuffix("…"), finish=finish, tries=1))  # type: ignore[arg-type]
        if on_step is not None:
            on_step(StepEvent([o.text for o in outputs], 10, 20, [True] * len(outputs)))
        tokens = sum(len(o.text.split()) for o in outputs)
        return Generation(outputs, "endpoint", seconds=0.1, extra={"tokens": tokens})

    def said(self, call: int, i: int = 0) -> str:
        """The conversation of a request."""
        return said(self.calls[call][i])


def said(sequence: SequenceRequest) -> str:
    prompt: Any = sequence.prompt
    return (
        "\n".join(f"{m['role']}: {m['content']}" for m in prompt.conversation)
        if hasattr(prompt, "raw")
        else json.dumps(prompt)
    )
