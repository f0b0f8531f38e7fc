"""What goes wrong with a request: `Trouble`, made from the client's errors, and whether another try may help."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

KEY = "THOUGHTMIX_API_KEY"
"""Environment variable that holds the key for an endpoint."""
_MAX_BYTES = 16 * 2**20  # of one answer


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
    said = f": {one_line(error.body)}" if error.body and not page else ""
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


def one_line(said: object) -> str:
    """A text, or the message of an error object, as one short printable line."""
    text = str(said.get("message", said) if isinstance(said, dict) else said)
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:160]
