"""What an endpoint answers, read: bodies, streams of events, refusals. Whatever does not fit becomes a `Trouble`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.models.retry import Stopped, Trouble, retry_after

if TYPE_CHECKING:
    import httpx

    from thoughtmix.core.types import FinishReason

KEYS = ("THOUGHTMIX_API_KEY", "OPENAI_API_KEY")
"""Environment variables in which a key is looked for, in this order."""
_MOST = 16 * 2**20  # bytes of one answer


@dataclass(slots=True)
class Reply:
    """What became of an `Ask`. error: why it finally failed, in one line. tokens: as the server counts, if it says."""

    text: str = ""
    finish: FinishReason = "cancelled"
    error: str | None = None
    tries: int = 0
    tokens: int | None = None


@contextmanager
def explained() -> Iterator[None]:
    """Turns httpx's errors into `Trouble`."""
    import httpx

    try:
        yield
    except httpx.TimeoutException:
        raise Trouble("slow", "it takes too long") from None
    except httpx.ConnectError:
        raise Trouble("refused", "no connection") from None
    except httpx.UnsupportedProtocol:
        raise Trouble("address", "the address is not http", again=False) from None
    except httpx.DecodingError:
        raise Trouble("malformed", "the answer cannot be decoded") from None
    except (httpx.HTTPError, httpx.StreamError):
        raise Trouble("cut", "the connection broke") from None


def within(response: httpx.Response, seconds: float, stop: threading.Event) -> Iterator[bytes]:
    """The bytes as they arrive. Raises `Trouble` when the whole takes longer, however steadily it drips."""
    deadline, size = time.monotonic() + seconds, 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if stop.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise Trouble("slow", f"not complete after {seconds:g} s")
        if size > _MOST:
            raise Trouble("malformed", "the answer does not end", again=False)
        yield chunk


def read(pieces: Iterator[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", errors="replace")


def parsed(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Trouble("malformed", f"the answer is no JSON: {_line(text)!r}") from None
    if not isinstance(body, dict):
        raise Trouble("malformed", f"the answer is no object: {_line(text)!r}")
    if body.get("error"):
        raise Trouble("error", f"it says: {_line(_said(body))}")
    return body


def whole(body: dict[str, Any], reply: Reply) -> None:
    choice = _choice(body)
    message = choice.get("message") if choice else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise Trouble("malformed", "the answer has no text")
    reply.text, reply.tokens = text, _tokens(body)
    reply.finish = "length" if choice and choice.get("finish_reason") == "length" else "stop"


def follow(pieces: Iterator[bytes], reply: Reply, see: Callable[[str], None]) -> None:
    """Server-sent events into `reply`. Complete when a choice says how it finished, or at [DONE]."""
    finish = ""
    for line in _lines(pieces):
        if not line.startswith("data:"):
            continue  # comments and other fields
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            finish = finish or "stop"
            break
        body = parsed(data)
        choice = _choice(body)
        if choice is not None:
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(text, str) and text:
                reply.text += text
                see(reply.text)
            finish = str(choice.get("finish_reason") or finish)
        reply.tokens = _tokens(body) or reply.tokens
    if not finish:
        raise Trouble("cut", "the stream broke off")
    reply.finish = "length" if finish == "length" else "stop"


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines by newline (not by the other characters at which str.splitlines cuts); what is left when all ended."""
    left = b""
    for piece in pieces:
        left = (left + piece).replace(b"\r\n", b"\n")
        *whole, left = left.split(b"\n")
        yield from (line.decode("utf-8", errors="replace") for line in whole)
    yield left.decode("utf-8", errors="replace")


def _choice(body: dict[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
        raise Trouble("malformed", "the answer has no choices")
    return choices[0] if choices else None


def _tokens(body: dict[str, Any]) -> int | None:
    usage = body.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def refusal(status: int, headers: Mapping[str, Any], text: str, keyed: bool) -> Trouble:
    """What a status other than 200 means."""
    try:
        body = json.loads(text)
        said = f": {_line(_said(body))}" if isinstance(body, dict) and body.get("error") else ""
    except (ValueError, RecursionError):
        said = ""
    if status == 429:
        return Trouble("rate-limited", f"too many requests (429){said}", wait=retry_after(headers))
    if status in {408, 409, 425} or status >= 500:
        return Trouble("server", f"the server fails ({status}){said}", wait=retry_after(headers))
    if status in {401, 403}:
        what = "the key is refused" if keyed else f"it wants a key (export {KEYS[0]}=...)"
        return Trouble("key", f"{what} ({status})", again=False)
    if status == 404:
        return Trouble("address", f"no such address or model (404){said}", again=False)
    return Trouble("request", f"it refuses the request ({status}){said}", again=False)


def _said(body: dict[str, Any]) -> str:
    error = body["error"]
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _line(text: str) -> str:
    """One short printable line."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:160]
