"""A chat request and what a server answers to it: bodies, streams of events, refusals, or `Trouble`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from thoughtmix.models.trouble import Trouble, one_line

if TYPE_CHECKING:
    from thoughtmix.core.types import FinishReason


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation to continue. None: the server's own default."""

    messages: Sequence[Mapping[str, str]]
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    """Alternatives to the first token that are asked for."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters, as the API names them."""

    def follows(self, other: ChatRequest) -> bool:
        """Whether it is `other` with the next seed."""
        if self.seed is None or other.seed is None or self.seed != other.seed + 1:
            return False
        return self == replace(other, seed=self.seed)


@dataclass(slots=True)
class ChatReply:
    """What became of a `ChatRequest`."""

    text: str = ""
    reasoning: str = ""
    """What a reasoning model thought before it answered, where the server shows it."""
    finish: FinishReason = "cancelled"
    error: str | None = None
    """Why there is no text, or not all of it, in one line."""
    tries: int = 0
    tokens: int | None = None
    """As the server counts, reasoning included, if it says so of this answer alone."""
    logprobs: list[float] | None = None
    """Of its tokens, nats; None where the server gives none of them, or they are the reasoning's, too."""
    first: list[tuple[str, float]] = field(default_factory=list)
    """Alternatives to its first token and their log-probabilities, where asked for and given (not streamed)."""
    seed: int | None = None
    """That the server says it has used."""
    done: bool = False
    """Whether all of it is here, or no other try would bring more."""

    def begin(self) -> None:
        """For a new try, unless it is done."""
        if not self.done:
            self.text = self.reasoning = ""
            self.error = self.logprobs = None
            self.tries += 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read, written, and thought before (which are among the written), and dollars, as far as a server says."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost is None and other.cost is None else (self.cost or 0.0) + (other.cost or 0.0)
        return Usage(
            self.prompt + other.prompt, self.completion + other.completion, self.reasoning + other.reasoning, cost
        )

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Usage:
        """Of an answer or an event."""
        usage = answer.get("usage")
        if not isinstance(usage, Mapping):
            return cls()
        details = usage.get("completion_tokens_details")
        thought = details.get("reasoning_tokens") if isinstance(details, Mapping) else 0
        cost = usage.get("cost")
        return cls(
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            _count(thought),
            float(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) else None,
        )

    def facts(self, prices: tuple[float, float] | None) -> dict[str, Any]:
        """For reports. prices: dollars for a million tokens read and written; what the server says goes before."""
        out: dict[str, Any] = {"prompt_tokens": self.prompt, "completion_tokens": self.completion}
        if self.reasoning:
            out["reasoning_tokens"] = self.reasoning
        if self.cost is not None:
            out["cost_usd"] = round(self.cost, 8)
        elif prices is not None:
            out["cost_usd"] = round((self.prompt * prices[0] + self.completion * prices[1]) / 1e6, 8)
        return out


def read_body(body: bytes, replies: Sequence[ChatReply]) -> Usage:
    """A whole answer into the replies that are not done; fewer choices leave the last ones open. Raises `Trouble`."""
    answer = parse_json(body)
    usage = Usage.read(answer)
    choices = _choices(answer)
    if not choices:
        raise Trouble("malformed", "the answer has no text")
    for at, choice in enumerate(choices):
        reply = _reply_of(choice, at, replies)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Trouble("malformed", "the answer has no text")
        if reply is None or reply.done:
            continue
        text, reasoning, finish = _text(message), _reasoning(message), str(choice.get("finish_reason"))
        if text is None and not reasoning and finish not in {"length", "content_filter"}:
            if not message.get("refusal"):
                raise Trouble("malformed", "the answer has no text")
            _failed(reply, f"it declines: {one_line(message['refusal'])}")
            continue
        reply.text, reply.reasoning = split_reasoning(text or "", reasoning)
        reply.tokens = usage.completion or None if len(replies) == 1 else None
        _finish(reply, finish, _logprobs(choice), whole=reply.text == text)
        reply.seed, reply.first = _seed(choice), _alternatives(choice)
    return usage


def read_stream(chunks: Iterator[bytes], replies: Sequence[ChatReply], on_text: Callable[[int, str], None]) -> Usage:
    """Server-sent events into the replies that are not done. A choice is complete when it says how it finished, all are
    at [DONE]. on_text(i, text): all of reply i so far. Raises `Trouble`; what was complete before stays.

    The client's own reader of streams does not tell [DONE] from a connection that just ends.
    """
    parts = [_Parts() for _ in replies]
    usage, ended = Usage(), False
    for line in _lines(chunks):
        if not line.startswith(b"data:"):
            continue  # comments and other fields
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            ended = True
            break
        event = parse_json(data)
        found = Usage.read(event)  # the last says it all
        usage = found if found != Usage() else usage
        for at, choice in enumerate(_choices(event)):
            reply = _reply_of(choice, at, replies)
            if reply is None or reply.done:
                continue
            index = next(i for i, one in enumerate(replies) if one is reply)
            part = parts[index]
            part.add(choice)
            reply.text, reply.reasoning = split_reasoning(part.content, part.reasoning)
            on_text(index, reply.text)
            if part.finish:
                part.end(reply)
    for reply, part in zip(replies, parts, strict=True):
        if ended and not reply.done and part.begun:
            part.end(reply)
    if len(replies) == 1:
        replies[0].tokens = usage.completion or replies[0].tokens
    if not all(reply.done for reply, part in zip(replies, parts, strict=True) if part.begun or not ended):
        raise Trouble("cut", "the stream broke off")
    if not any(reply.done for reply in replies):
        raise Trouble("malformed", "the answer has no text")
    return usage


@dataclass(slots=True)
class _Parts:
    """A choice of a stream so far."""

    content: str = ""
    reasoning: str = ""
    finish: str = ""
    begun: bool = False
    logprobs: list[float] = field(default_factory=list)
    seed: int | None = None

    def add(self, choice: dict[str, Any]) -> None:
        self.begun = True
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self.content += _text(delta) or ""
            self.reasoning += _reasoning(delta)
        self.logprobs += _logprobs(choice) or []
        seed = _seed(choice)
        self.seed = self.seed if seed is None else seed
        self.finish = str(choice.get("finish_reason") or self.finish)

    def end(self, reply: ChatReply) -> None:
        reply.seed = self.seed
        _finish(reply, self.finish or "stop", self.logprobs or None, whole=reply.text == self.content)


def split_reasoning(content: str, reasoning: str = "") -> tuple[str, str]:
    """The text proper, and what comes before it in <think> ... </think>; half a tag is neither yet.

    Chat templates that write <think> themselves leave the closing tag alone in the answer.
    """
    content = content.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )  # no half of a pair, which no file takes
    head, closed, tail = content.partition("</think>")
    begun = head.lstrip()
    if closed and (begun.startswith("<think>") or "<think>" not in head):
        return tail.lstrip(), reasoning + begun.removeprefix("<think>").strip()
    if begun.startswith("<think>"):
        return "", reasoning + begun.removeprefix("<think>").strip()
    return ("" if begun and "<think>".startswith(begun) else content), reasoning


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that a body or an event holds. Raises `Trouble`, also for an error told with status 200."""
    text = body.decode("utf-8-sig", errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Trouble("malformed", f"the answer is no JSON: {one_line(text)!r}") from None
    if not isinstance(value, dict):
        raise Trouble("malformed", f"the answer is no object: {one_line(text)!r}")
    if value.get("error"):
        raise Trouble("error", f"it says: {one_line(value['error'])}")
    return value


def _finish(reply: ChatReply, finish: str, logprobs: list[float] | None, whole: bool) -> None:
    """How a complete answer ended. One without text is told, but not asked for again: the same would come. whole: its
    text is all that the log-probabilities are of."""
    if finish == "content_filter":
        return _failed(reply, "a content filter held the answer back")
    reply.done, reply.finish = True, "length" if finish == "length" else "stop"
    reply.logprobs = logprobs if whole else None
    if reply.text.strip():
        reply.error = None
    elif reply.finish == "stop":
        reply.error = "the answer is empty"
    else:
        what = "went into reasoning" if reply.reasoning else "ran out before it answered"
        reply.error = f"its tokens {what}; allow more (--max-new-tokens)"
    return None


def _failed(reply: ChatReply, says: str) -> None:
    """For good: it would be the same again."""
    reply.done, reply.finish, reply.error, reply.text = True, "cancelled", says, ""


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines, which end at \\n, \\r\\n or \\r; what is left when all ended."""
    left = b""
    for chunk in chunks:
        lines = (left + chunk).splitlines(keepends=True)
        left = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        yield from lines
    yield left


def _choices(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Of an answer or an event. Raises `Trouble`."""
    choices = answer.get("choices", ...)
    if choices is None:
        return []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Trouble("malformed", "the answer has no choices")
    return choices


def _reply_of(choice: dict[str, Any], at: int, replies: Sequence[ChatReply]) -> ChatReply | None:
    """The reply that a choice is of, by its index; None: more than were asked for."""
    index = choice.get("index", at)
    index = index if isinstance(index, int) and not isinstance(index, bool) else at
    return replies[index] if 0 <= index < len(replies) else None


def _logprobs(choice: dict[str, Any]) -> list[float] | None:
    """Of a choice's tokens, if it gives one of each."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, list):
        return None
    given = [token.get("logprob") if isinstance(token, dict) else None for token in content]
    numbers = [min(float(v), 0.0) for v in given if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return numbers if numbers and len(numbers) == len(content) else None


def _alternatives(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """To a choice's first token."""
    try:
        given = choice["logprobs"]["content"][0]["top_logprobs"]
        return [(str(one["token"]), float(one["logprob"])) for one in given]
    except (KeyError, IndexError, TypeError, ValueError):
        return []


def _seed(choice: dict[str, Any]) -> int | None:
    """That it used, as our own server says."""
    facts = choice.get("thoughtmix")
    seed = facts.get("seed") if isinstance(facts, dict) else None
    return seed if isinstance(seed, int) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(message: dict[str, Any]) -> str | None:
    """Of a message or a delta: a text, or parts of which some are texts."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _reasoning(message: dict[str, Any]) -> str:
    """DeepSeek's field, which most servers took over, or OpenRouter's and vLLM's later one."""
    fields = (message.get("reasoning_content"), message.get("reasoning"))
    return next((field for field in fields if isinstance(field, str)), "")
