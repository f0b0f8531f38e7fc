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
from thoughtmix.serve.checked import Answer
from thoughtmix.serve.logprobs import Draw, PlacedToken, TokenPlacer, draws_of
from thoughtmix.serve.service import Service
from thoughtmix.serve.tools import HeldBack, ToolPlan

FINGERPRINT = f"thoughtmix-{__version__}"
DONE = b"data: [DONE]\n\n"


class ChatFormat:
    """How chat answers look.

    Args:
        service: Whose answers.
        top: Alternatives a token; None: no log-probabilities.
    """

    object, chunk_object = "chat.completion", "chat.completion.chunk"
    id_prefix, greets = "chatcmpl", True

    def __init__(self, service: Service, top: int | None) -> None:
        self.model, self.vocabulary, self.top = service.lm.name, service.vocabulary, top

    def envelope(self, object: str) -> dict[str, Any]:
        """What an answer (`object`) or every chunk (`chunk_object`) begins with."""
        return {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "object": object,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def choice(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        """A whole thought."""
        placer = TokenPlacer(self.vocabulary)
        placer.add(self.draws(thought, answer))
        return {
            "index": index,
            "message": {"role": "assistant", "content": thought.text, "refusal": None},
            "logprobs": self.logprobs(placer.finish(thought.text)),
            **self.ending(thought),
        }

    def first_piece(self, index: int) -> dict[str, Any]:
        """A choice's chunk before there is text, where `greets`."""
        return {**self.piece(index, "", []), "delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, index: int, text: str, tokens: Sequence[PlacedToken]) -> dict[str, Any]:
        """A chunk's choice: new text of a thought, and the tokens that it is made of."""
        delta = {"content": text} if text else {}
        logprobs = self.logprobs(tokens) if tokens else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def shown(self, index: int, text: str) -> str:
        """Of new text of a stream, what is the answer's own."""
        return text

    def last_piece(self, index: int, text: str, tokens: Sequence[PlacedToken], thought: Thought) -> dict[str, Any]:
        """The last chunk's choice: what is left of the text, and how the thought ended."""
        return {**self.piece(index, text, tokens), **self.ending(thought)}

    def ending(self, thought: Thought) -> dict[str, Any]:
        """What a choice, or its last chunk, says beside its text. Out of time is out of length."""
        return {"finish_reason": "stop" if thought.finish == "stop" else "length", "thoughtmix": thought_facts(thought)}

    def draws(self, thought: Thought, answer: Answer) -> list[Draw]:
        """Of a whole thought; [] unless log-probabilities are wanted."""
        if self.top is None:
            return []
        return draws_of(thought, answer.top.get(tuple(thought.token_ids), []), self.top)

    def logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        """Of these tokens; None unless wanted."""
        if self.top is None:
            return None
        content = []
        for token in tokens:
            drawn, own = token.draw, self.vocabulary.token_bytes(token.draw.id)
            name = token.piece if own is None else self.vocabulary.token_text(drawn.id)
            entry = {"token": name, "logprob": finite(drawn.logprob), "bytes": list(token.bytes)}
            top = [entry if i == drawn.id else self._alternative(i, logprob) for i, logprob in drawn.top]
            content.append({**entry, "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _alternative(self, token: int, logprob: float) -> dict[str, Any]:
        name, own = self.vocabulary.token_text(token), self.vocabulary.token_bytes(token)
        alone = name.encode("utf-8", "replace") if own is None else own
        return {"token": name, "logprob": finite(logprob), "bytes": list(alone)}


class ToolFormat(ChatFormat):
    """How chat answers look that may call tools.

    Args:
        service, top: As above.
        plan: How they call.
    """

    def __init__(self, service: Service, top: int | None, plan: ToolPlan) -> None:
        super().__init__(service, top)
        self._plan = plan
        self._held: dict[int, HeldBack] = {}

    def choice(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        whole = super().choice(index, thought, answer)
        said, calls = self._plan.read(thought.text)
        content = said if said.strip() or not calls else None
        whole["message"] |= {"content": content, "tool_calls": [call.function() for call in calls] or None}
        return whole

    def shown(self, index: int, text: str) -> str:
        return self._held.setdefault(index, HeldBack(self._plan)).add(text)

    def last_piece(self, index: int, text: str, tokens: Sequence[PlacedToken], thought: Thought) -> dict[str, Any]:
        """Calls come whole, in the last chunk."""
        said, calls = self._plan.read(thought.text)
        held = self._held.setdefault(index, HeldBack(self._plan))
        last = super().last_piece(index, held.rest(said), tokens, thought)
        if calls:
            last["delta"]["tool_calls"] = [{"index": i, **call.function()} for i, call in enumerate(calls)]
        return last

    def ending(self, thought: Thought) -> dict[str, Any]:
        end = super().ending(thought)
        called = end["finish_reason"] == "stop" and self._plan.read(thought.text)[1]
        return {**end, "finish_reason": "tool_calls"} if called else end


class CompletionFormat(ChatFormat):
    """How text completions look."""

    object = chunk_object = "text_completion"
    id_prefix, greets = "cmpl", False

    def choice(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        whole = super().choice(index, thought, answer)
        del whole["message"]
        return {**whole, "text": thought.text}

    def piece(self, index: int, text: str, tokens: Sequence[PlacedToken]) -> dict[str, Any]:
        logprobs = self.logprobs(tokens) if tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        return {
            "tokens": [token.piece for token in tokens],
            "token_logprobs": [finite(token.draw.logprob) for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens] if self.top else None,
            "text_offset": [token.offset for token in tokens],
        }

    def _alternatives(self, token: PlacedToken) -> dict[str, Any]:
        """By text, the drawn one as `tokens` has it. Of several with the same text the later ones go by their ids."""
        named: dict[str, Any] = {}
        for i, value in token.draw.top:
            drawn = i == token.draw.id
            name = token.piece if drawn else self.vocabulary.token_text(i)
            taken = not drawn and (name in named or name == token.piece)
            named[f"token_id:{i}" if taken else name] = finite(value)
        return named


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
        "finish": thought.finish,
        "tokens": len(thought.token_ids),
        "characters": len(thought.text),
    }


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


def progress_comment(done: int, total: int) -> bytes:
    """A line of a stream that clients skip, unless they look for it: tokens drawn so far, and at most."""
    return f": progress {done}/{total}\n\n".encode()
