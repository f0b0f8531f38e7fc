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


def head(kind: str, lm: LanguageModel) -> dict[str, Any]:
    """What every answer and chunk begins with. kind: chat.completion, chat.completion.chunk or text_completion."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": lm.name,
        "system_fingerprint": FINGERPRINT,
    }  # fmt: skip


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    read, drawn = sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def of_set(answers: Sequence[Answer]) -> dict[str, Any]:
    """The set's own `thoughtmix`; of several prompts the first's metrics and distances."""
    made = answers[0].thoughts
    return {
        "metrics": finite(made.metrics), "distances": finite(made.distances), "thinker": made.thinker,
        "run": finite(made.run),
    }  # fmt: skip


def of_thought(thought: Thought) -> dict[str, Any]:
    return {
        "seed": thought.seed, "logprob": finite(thought.logprob), "origin": finite(thought.origin),
        "scores": finite(thought.scores),
    }  # fmt: skip


def finish(thought: Thought) -> str:
    """OpenAI knows no third way: a thought cut by the time limit ended by its length."""
    return "stop" if thought.finish == "stop" else "length"


def chat_choice(index: int, thought: Thought, answer: Answer, lm: LanguageModel, top: int | None) -> dict[str, Any]:
    return {
        "index": index, "message": {"role": "assistant", "content": thought.text, "refusal": None},
        "logprobs": None if top is None else chat_logprobs(thought, answer, lm, top),
        "finish_reason": finish(thought), "thoughtmix": of_thought(thought),
    }  # fmt: skip


def text_choice(index: int, thought: Thought, answer: Answer, lm: LanguageModel, top: int | None) -> dict[str, Any]:
    return {
        "index": index, "text": thought.text,
        "logprobs": None if top is None else text_logprobs(thought, answer, lm, top),
        "finish_reason": finish(thought), "thoughtmix": of_thought(thought),
    }  # fmt: skip


def chat_logprobs(thought: Thought, answer: Answer, lm: LanguageModel, top: int) -> dict[str, Any]:
    content = [
        {**_token(lm, token, value), "top_logprobs": [_token(lm, i, v) for i, v in best]}
        for token, value, best in _tokens(thought, answer, lm, top)
    ]
    return {"content": content, "refusal": None}


def text_logprobs(thought: Thought, answer: Answer, lm: LanguageModel, top: int) -> dict[str, Any]:
    rows = _tokens(thought, answer, lm, top)
    names = [_piece(lm, token) for token, _, _ in rows]
    offsets = [sum(len(name) for name in names[:i]) for i in range(len(names))]
    best = [{_piece(lm, i): finite(v) for i, v in row} for _, _, row in rows]
    return {
        "tokens": names, "token_logprobs": [finite(v) for _, v, _ in rows], "top_logprobs": best if top else None,
        "text_offset": offsets,
    }  # fmt: skip


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


def sse(body: Any) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


DONE = b"data: [DONE]\n\n"
