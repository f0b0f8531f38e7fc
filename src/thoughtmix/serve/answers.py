"""Thoughts as OpenAI's answers and chunks."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from thoughtmix import __version__
from thoughtmix.core.types import Thought
from thoughtmix.models import LanguageModel
from thoughtmix.serve.service import Answer

FINGERPRINT = f"thoughtmix-{__version__}"
DONE = b"data: [DONE]\n\n"


class ChatFormat:
    """How chat answers look.

    Args:
        lm: Whose answers.
        top: Alternatives a token; None: no log-probabilities.
    """

    object, chunk_object = "chat.completion", "chat.completion.chunk"
    id_prefix, greets = "chatcmpl", True

    def __init__(self, lm: LanguageModel, top: int | None) -> None:
        self.lm, self.top = lm, top

    def envelope(self, object: str) -> dict[str, Any]:
        """What an answer (`object`) or every chunk (`chunk_object`) begins with."""
        return {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "object": object,
            "created": int(time.time()),
            "model": self.lm.name,
            "system_fingerprint": FINGERPRINT,
        }

    def choice(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        """A whole thought."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": thought.text, "refusal": None},
            **self._ending(thought, answer),
        }

    def first_piece(self, index: int) -> dict[str, Any]:
        """A choice's chunk before there is text, where `greets`."""
        return {**self.piece(index, ""), "delta": {"role": "assistant", "content": ""}}

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk's choice: new text of a thought."""
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def last_piece(self, index: int, text: str, thought: Thought, answer: Answer) -> dict[str, Any]:
        """A choice's last chunk, with the text that is left."""
        return {**self.piece(index, text), **self._ending(thought, answer)}

    def _ending(self, thought: Thought, answer: Answer) -> dict[str, Any]:
        return {
            "logprobs": None if self.top is None else self.logprobs(thought, answer, self.top),
            "finish_reason": "stop" if thought.finish == "stop" else "length",  # out of time is out of length
            "thoughtmix": thought_facts(thought),
        }

    def logprobs(self, thought: Thought, answer: Answer, top: int) -> dict[str, Any]:
        content = [
            {**_token(self.lm, token, value), "top_logprobs": [_token(self.lm, i, v) for i, v in best]}
            for token, value, best in _tokens(thought, answer, self.lm, top)
        ]
        return {"content": content, "refusal": None}


class CompletionFormat(ChatFormat):
    """How text completions look."""

    object = chunk_object = "text_completion"
    id_prefix, greets = "cmpl", False

    def choice(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        return self.last_piece(index, thought.text, thought, answer)

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def logprobs(self, thought: Thought, answer: Answer, top: int) -> dict[str, Any]:
        rows = _tokens(thought, answer, self.lm, top)
        names = [_piece(self.lm, token) for token, _, _ in rows]
        offsets = [sum(len(name) for name in names[:i]) for i in range(len(names))]
        best = [{_piece(self.lm, i): finite(v) for i, v in row} for _, _, row in rows]
        return {
            "tokens": names,
            "token_logprobs": [finite(v) for _, v, _ in rows],
            "top_logprobs": best if top else None,
            "text_offset": offsets,
        }


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens read and drawn, of all prompts together."""
    read, drawn = sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def set_facts(answers: Sequence[Answer]) -> dict[str, Any]:
    """The set's own `thoughtmix`; of several prompts the first's metrics and distances."""
    made = answers[0].thoughts
    return {
        "metrics": finite(made.metrics),
        "distances": finite(made.distances),
        "thinker": made.thinker,
        "run": finite(made.run),
    }


def thought_facts(thought: Thought) -> dict[str, Any]:
    """A choice's `thoughtmix`."""
    return {
        "seed": thought.seed,
        "logprob": finite(thought.logprob),
        "origin": finite(thought.origin),
        "scores": finite(thought.scores),
    }


def _tokens(
    thought: Thought, answer: Answer, lm: LanguageModel, top: int
) -> list[tuple[int, float, list[tuple[int, float]]]]:
    """Of each token of a thought but the one that ended it: its id, log-probability and likeliest alternatives."""
    ids, values = list(thought.token_ids), list(thought.token_logprobs)
    best = answer.top.get(tuple(ids), [])
    if len(values) != len(ids):
        return []  # a thinker that gives none
    if ids and thought.finish == "stop" and ids[-1] in lm.eos_ids:
        ids, values = ids[:-1], values[:-1]
    rows = [list(zip(*row, strict=True))[:top] for row in best[: len(ids)]] or [[] for _ in ids]
    return list(zip(ids, values, rows, strict=True))


def _token(lm: LanguageModel, token: int, value: float) -> dict[str, Any]:
    piece = _piece(lm, token)
    return {"token": piece, "logprob": finite(value), "bytes": list(piece.encode())}


def _piece(lm: LanguageModel, token: int) -> str:
    return str(lm.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null, or, of a log-probability of 0, OpenAI's -9999."""
    if isinstance(value, float):
        return value if math.isfinite(value) else -9999.0 if value < 0 else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def server_sent_event(body: Any) -> bytes:
    """One event of a stream."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "replace")
