"""A chat request and what a server answers to it: bodies, streams of events, refusals, or `Trouble`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

    from thoughtmix.core.types import FinishReason

KEY = "THOUGHTMIX_API_KEY"
"""Environment variable that holds the key for an endpoint."""
_MAX_BYTES = 16 * 2**20  # of one answer


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation to continue. None: the server's own default."""

    messages: Sequence[Mapping[str, str]]
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()


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
    """As the server counts, reasoning included, if it says."""


class Trouble(Exception):
    """One failed try.

    Args:
        kind: One word for the statistics.
        says: One line for the user.
        again: Whether another try may help.
        wait: Seconds that the server asked for.
    """

    def __init__(self, kind: str, says: str, again: bool = True, wait: float | None = None) -> None:
        self.kind, self.says, self.again, self.wait = kind, says, again, wait
        super().__init__(says)


class Stopped(Exception):
    """The caller wants no more."""


def read_body(body: bytes, reply: ChatReply) -> None:
    """A whole answer into `reply`. Raises `Trouble`."""
    answer = parse_json(body)
    choice = _first_choice(answer)
    message = choice.get("message") if choice else None
    if not isinstance(message, dict):
        raise Trouble("malformed", "the answer has no text")
    text, reasoning, finish = _text(message), _reasoning(message), str(choice and choice.get("finish_reason"))
    if text is None and not reasoning and finish not in {"length", "content_filter"}:
        if message.get("refusal"):
            raise Trouble("declined", f"it declines: {_one_line(message['refusal'])}", again=False)
        raise Trouble("malformed", "the answer has no text")
    reply.text, reply.reasoning = split_reasoning(text or "", reasoning)
    reply.tokens = _tokens(answer)
    _finish(reply, finish)


def read_stream(chunks: Iterator[bytes], reply: ChatReply, on_text: Callable[[str], None]) -> None:
    """Server-sent events into `reply`. Complete when a choice says how it finished, or at [DONE]. Raises `Trouble`.

    The client's own reader of streams does not tell [DONE] from a connection that just ends.
    """
    content = reasoning = finish = ""
    for line in _lines(chunks):
        if not line.startswith(b"data:"):
            continue  # comments and other fields
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            finish = finish or "stop"
            break
        event = parse_json(data)
        choice = _first_choice(event)
        if choice is not None:
            delta = choice.get("delta")
            if isinstance(delta, dict):
                content += _text(delta) or ""
                reasoning += _reasoning(delta)
                reply.text, reply.reasoning = split_reasoning(content, reasoning)
                on_text(reply.text)
            finish = str(choice.get("finish_reason") or finish)
        reply.tokens = _tokens(event) or reply.tokens
    if not finish:
        raise Trouble("cut", "the stream broke off")
    _finish(reply, finish)


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
        raise Trouble("malformed", f"the answer is no JSON: {_one_line(text)!r}") from None
    if not isinstance(value, dict):
        raise Trouble("malformed", f"the answer is no object: {_one_line(text)!r}")
    if value.get("error"):
        raise Trouble("error", f"it says: {_one_line(value['error'])}")
    return value


@contextmanager
def explained(keyed: bool) -> Iterator[None]:
    """Turn the client's errors into `Trouble`. keyed: whether a key was sent."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise _refusal(error, keyed) from error
    except openai.APIConnectionError as error:
        raise _broken(error.__cause__ or error) from None
    except Exception as error:
        # While a body is read, errors are those of the client's transport: httpx in openai 2, httpx2 in openai 3.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2"}:
            raise
        raise _broken(error) from None


def within(chunks: Iterator[bytes], seconds: float, stop: threading.Event) -> Iterator[bytes]:
    """The bytes as they arrive.

    Raises:
        Trouble: The whole takes longer, however steadily it drips, or does not end.
        Stopped: `stop` is set.
    """
    deadline, size = time.monotonic() + seconds, 0
    for chunk in chunks:
        size += len(chunk)
        if stop.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise Trouble("slow", f"not complete after {seconds:g} s")
        if size > _MAX_BYTES:
            raise Trouble("malformed", "the answer does not end", again=False)
        yield chunk


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date; None without one that can be read."""
    value = str(headers.get("retry-after", "")).strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None


def _finish(reply: ChatReply, finish: str) -> None:
    """How a complete answer ended. One without text is told, but not asked for again: the same would come."""
    if finish == "content_filter":
        raise Trouble("filtered", "a content filter held the answer back", again=False)
    reply.finish = "length" if finish == "length" else "stop"
    if reply.text.strip():
        reply.error = None
    elif reply.finish == "stop":
        reply.error = "the answer is empty"
    else:
        what = "went into reasoning" if reply.reasoning else "ran out before it answered"
        reply.error = f"its tokens {what}; allow more (--max-new-tokens)"


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines, which end at \\n, \\r\\n or \\r; what is left when all ended."""
    left = b""
    for chunk in chunks:
        lines = (left + chunk).splitlines(keepends=True)
        left = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        yield from lines
    yield left


def _first_choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    choices = answer.get("choices", ...)
    if choices is None or choices == []:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Trouble("malformed", "the answer has no choices")
    return choices[0]


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


def _tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _broken(error: BaseException) -> Trouble:
    """By name, for the transport's classes differ with the client's version."""
    name = type(error).__name__
    if "Timeout" in name:
        return Trouble("slow", "it takes too long")
    return Trouble("refused", "no connection") if name == "ConnectError" else Trouble("cut", "the connection broke")


def _refusal(error: openai.APIStatusError, keyed: bool) -> Trouble:
    """What a status other than 200 means."""
    status, headers = error.status_code, error.response.headers
    page = isinstance(error.body, str) and error.body.startswith("<")
    said = f": {_one_line(error.body)}" if error.body and not page else ""
    if status == 429:
        return Trouble("rate-limited", f"too many requests (429){said}", wait=retry_after(headers))
    if status in {408, 409, 425} or status >= 500:
        return Trouble("server", f"the server fails ({status}){said}", wait=retry_after(headers))
    if status in {401, 403}:
        what = "the key is refused" if keyed else f"it wants a key (export {KEY}=...)"
        return Trouble("key", f"{what} ({status})", again=False)
    if status == 404:
        return Trouble("address", f"no such address or model (404){said}", again=False)
    return Trouble("request", f"it refuses the request ({status}){said}", again=False)


def _one_line(said: object) -> str:
    """A text, or the message of an error object, as one short printable line."""
    text = str(said.get("message", said) if isinstance(said, dict) else said)
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:160]
