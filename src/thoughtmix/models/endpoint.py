"""Any server that speaks OpenAI's chat completions: many conversations at once, tried again when something fails.

    Endpoint("http://localhost:8000").complete([ChatRequest([{"role": "user", "content": "Name a fruit."}])])

The `openai` client carries the requests. Its own retries are off: each would wait alone, where a server that asks for a
pause needs one from all. A finished answer is never lost: each conversation is a request of its own, and one that
finally fails is a `ChatReply` with `finish="cancelled"`, its error, and what had arrived. The key is sent to the
endpoint and shown nowhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.chat import (
    KEY,
    ChatReply,
    ChatRequest,
    Stopped,
    Trouble,
    explained,
    parse_json,
    read_body,
    read_stream,
    within,
)

if TYPE_CHECKING:
    import openai

Ask = ChatRequest  # its first name
_OPENAI = "api.openai.com"
_HINT = "Pass --endpoint http://localhost:8000/v1"
_OPTIONAL = ("seed", "temperature", "top_p", "stop")


@dataclass
class Backoff:
    """Exponential back-off with jitter (Brooker 2015) whose pauses all requests share.

    Before try k + 1 it waits first * 2^k seconds times a number from 0.5 to 1.5, at most `longest`; or what the server
    asks for (Retry-After), and then so do all others: who wants less traffic is not asked by another thread meanwhile.
    """

    tries: int = 6
    first: float = 0.5
    longest: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to end all waiting."""
    retries: int = 0
    waited: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)
    _pause_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _jitter: random.Random = field(default_factory=random.Random)  # its own: the global state is not moved

    def run(self, attempt: Callable[[], None]) -> Trouble | None:
        """Call `attempt` until it raises no `Trouble`.

        Returns:
            The last trouble, if that was final.

        Raises:
            Stopped: `stop` was set.
        """
        for number in range(1, self.tries + 1):
            self._sleep(self._pause_until - time.monotonic())
            try:
                attempt()
                return None
            except Trouble as trouble:
                with self._lock:
                    self.troubles[trouble.kind] += 1
                if not trouble.again or number == self.tries:
                    return trouble
                if trouble.wait is not None and trouble.wait > self.longest:
                    says = f"{trouble.says}; it asks to wait {trouble.wait:.0f} s, more than {self.longest:g}"
                    return Trouble(trouble.kind, says, again=False)
                self._wait(trouble, number)
        raise AssertionError("tries is at least 1")

    def _wait(self, trouble: Trouble, number: int) -> None:
        with self._lock:
            self.retries += 1
            seconds = min(self.longest, self.first * 2 ** (number - 1) * self._jitter.uniform(0.5, 1.5))
            if trouble.wait is not None:
                seconds = trouble.wait + self._jitter.uniform(0, self.first)
                self._pause_until = max(self._pause_until, time.monotonic() + trouble.wait)
        self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self.waited += seconds
            self.stop.wait(seconds)
        if self.stop.is_set():
            raise Stopped


class Endpoint:
    """A model behind a URL. Its methods may be called from one thread at a time.

    Args:
        url: http://host:port, with /v1 or /v1/chat/completions after it or not.
        model: Its name there; None: the first that the server lists.
        key: None: THOUGHTMIX_API_KEY, and for api.openai.com OPENAI_API_KEY.
        stream: Answers come in pieces, so that what arrived before a connection broke is there to see.
        concurrency: Requests in flight.
        timeout: Seconds for one try.
        tries, first_wait, longest_wait: See `Backoff`.

    Raises:
        InputError: The URL is none, or a key would go over plain http to another machine.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        stream: bool = False,
        concurrency: int = 4,
        timeout: float = 120.0,
        tries: int = 6,
        first_wait: float = 0.5,
        longest_wait: float = 60.0,
    ) -> None:
        if concurrency < 1 or tries < 1 or not timeout > 0:
            raise InputError(f"concurrency={concurrency}, tries={tries}, timeout={timeout}.", "Pass 1 or more of each.")
        self.base = _base(url)
        self.model, self.stream, self.concurrency, self.timeout = model, stream, concurrency, timeout
        self._key = _key(urlsplit(self.base), key)
        self._tries, self._first, self._longest = tries, first_wait, longest_wait
        self._client: openai.OpenAI | None = None
        self._limit = "max_tokens"  # or max_completion_tokens, once the server refused that
        self._left_out: set[str] = set()  # parameters that the server refused
        self.facts: dict[str, Any] = {}
        """Of the last `complete`: requests, retries, seconds waited, troubles by kind, how many finally failed."""
        self.interrupted = False
        """Whether the last `complete` was ended by Ctrl-C."""

    @property
    def name(self) -> str:
        """For reports: the model and where it is, without user names or keys."""
        return f"{self.model or 'default'} at {urlsplit(self.base).netloc}"

    def complete(
        self, requests: Sequence[ChatRequest], on_piece: Callable[[int, str], None] | None = None
    ) -> list[ChatReply]:
        """Send the requests, `concurrency` at a time. Ctrl-C ends it with what is there (`interrupted`).

        Args:
            on_piece: on_piece(i, text) is called in this thread as text of request i arrives. When a try fails after
                pieces came, the next begins anew, and only what goes beyond those is told.

        Returns:
            One reply each, in their order.

        Raises:
            ModelError: No model was named, and the server lists none.
        """
        backoff = Backoff(self._tries, self._first, self._longest)
        replies = [ChatReply() for _ in requests]
        self.interrupted = False
        client = self._client or self._connect()
        self._client = None
        try:
            self.model = self.model or self._first_model(client, backoff)
            self._run(client, requests, replies, backoff, on_piece)
            self._client = client  # its connections serve the next call
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            backoff.stop.set()
            out = [dataclasses.replace(r) for r in replies]  # threads that still end do not reach these
            if self._client is None:
                client.close()  # so that the server stops writing what nobody reads
        self.facts = {
            "requests": sum(r.tries for r in out),
            "retries": backoff.retries,
            "waited_seconds": round(backoff.waited, 3),
            "troubles": dict(backoff.troubles),
            "failed": sum(r.error is not None for r in out),
            "concurrency": min(self.concurrency, len(requests)),
            **({"left_out": sorted(self._left_out)} if self._left_out else {}),
        }
        return out

    def _run(
        self,
        client: openai.OpenAI,
        requests: Sequence[ChatRequest],
        replies: list[ChatReply],
        backoff: Backoff,
        on_piece: Callable[[int, str], None] | None,
    ) -> None:
        """Run them over daemon threads, which an interrupted program need not wait for; tell pieces from here."""
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        news: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()  # None: the request has ended
        for i in range(len(requests)):
            todo.put(i)

        def serve(i: int) -> None:
            self._one(client, requests[i], replies[i], backoff, lambda text: news.put((i, text)))
            news.put((i, None))

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while not backoff.stop.is_set():
                    serve(todo.get_nowait())

        for _ in range(min(self.concurrency, len(requests))):
            threading.Thread(target=work, daemon=True).start()
        left, told = len(requests), [0] * len(requests)
        while left:
            try:
                i, text = news.get(timeout=0.2)  # not forever: Ctrl-C must come through on every system
            except queue.Empty:
                continue
            if text is None:
                left -= 1
            elif on_piece is not None and len(text) > told[i]:
                on_piece(i, text[told[i] :])
                told[i] = len(text)

    def _one(
        self,
        client: openai.OpenAI,
        request: ChatRequest,
        reply: ChatReply,
        backoff: Backoff,
        on_text: Callable[[str], None],
    ) -> None:
        """Fill `reply`, in as many tries as it takes."""
        best = ""  # of all tries that broke off, the longest

        def attempt() -> None:
            nonlocal best
            try:
                self._try(client, request, reply, backoff.stop, on_text)
            except Trouble:
                best = max(best, reply.text, key=len)
                raise

        try:
            trouble = backoff.run(attempt)
        except Stopped:
            reply.finish = "cancelled"
        except Exception as error:  # a bug must not leave the caller waiting
            reply.error = f"{type(error).__name__}: {error}"
        else:
            if trouble is not None:
                reply.error, reply.text, reply.finish = trouble.says, best, "cancelled"

    def _try(
        self,
        client: openai.OpenAI,
        request: ChatRequest,
        reply: ChatReply,
        stop: threading.Event,
        on_text: Callable[[str], None],
    ) -> None:
        """One try: one request, and at once another where the server says which parameter it does not take.

        Raises:
            Trouble: It failed.
            Stopped: The caller wants no more.
        """
        import openai

        while True:
            body = self._body(request)
            reply.text = reply.reasoning = ""
            reply.tries += 1
            try:
                with (
                    explained(self._key is not None),
                    client.chat.completions.with_streaming_response.create(**body) as response,
                ):
                    chunks = within(response.iter_bytes(), self.timeout, stop)
                    if "text/event-stream" in response.headers.get("content-type", ""):
                        read_stream(chunks, reply, on_text)
                    else:
                        read_body(b"".join(chunks), reply)
                        on_text(reply.text)
                    return
            except Trouble as trouble:
                refused = trouble.__cause__
                if not (isinstance(refused, openai.APIStatusError) and self._adapt(body, refused)):
                    raise

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        """As this server takes it: what is None, or was refused before, is left out."""
        given = {
            "seed": request.seed,
            self._limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop) or None,
        }
        return {
            "model": self.model,
            "messages": [dict(m) for m in request.messages],
            "stream": self.stream,
            "extra_headers": self._headers(),
            **{k: v for k, v in given.items() if v is not None and k not in self._left_out},
        }

    def _adapt(self, body: Mapping[str, Any], error: openai.APIStatusError) -> bool:
        """Whether a refused request can be put otherwise, which later ones then are from the beginning."""
        if error.status_code not in {400, 422}:
            return False
        if "max_tokens" in body and "max_completion_tokens" in str(error.body):
            self._limit = "max_completion_tokens"
            return True
        if error.param in _OPTIONAL and error.param in body and str(error.code).startswith("unsupported"):
            self._left_out.add(error.param)
            return True
        return False

    def _first_model(self, client: openai.OpenAI, backoff: Backoff) -> str:
        found: list[str] = []

        def attempt() -> None:
            with (
                explained(self._key is not None),
                client.models.with_streaming_response.list(extra_headers=self._headers()) as response,
            ):
                body = parse_json(b"".join(within(response.iter_bytes(), self.timeout, backoff.stop)))
            match body.get("data"):
                case [{"id": name}, *_]:
                    found.append(str(name))
                case _:
                    raise Trouble("malformed", "the list of models is no list of models")

        trouble = backoff.run(attempt)
        if trouble is not None:
            raise ModelError(
                f"{urlsplit(self.base).netloc} lists no model: {trouble.says}.",
                "Name one (--model), or check --endpoint.",
            )
        return found[0]

    def _connect(self) -> openai.OpenAI:
        """One pool of connections for all requests."""
        import openai

        key = self._key or "none"  # it insists on one; `_headers` says whether it is sent
        return openai.OpenAI(api_key=key, base_url=self.base, timeout=self.timeout, max_retries=0)

    def _headers(self) -> dict[str, Any]:
        """What the environment holds for OpenAI (key, organisation, project, headers) goes to OpenAI alone."""
        from openai import omit

        headers: dict[str, Any] = {"Authorization": f"Bearer {self._key}" if self._key else omit}
        if urlsplit(self.base).hostname != _OPENAI:
            headers |= {"OpenAI-Organization": omit, "OpenAI-Project": omit}
        return headers


def _base(url: str) -> str:
    """http://host:port/v1, whichever part of it was given."""
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"The endpoint {url!r} is no http address.", _HINT)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("An endpoint's address holds no user, password or query.", f"{_HINT}; the key: {KEY}.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _key(address: SplitResult, named: str | None) -> str | None:
    """The key for this address. OpenAI's goes nowhere else unless it is named."""
    host = str(address.hostname)
    key = named or os.environ.get(KEY) or (os.environ.get("OPENAI_API_KEY") if host == _OPENAI else None)
    if key and address.scheme == "http" and not _is_this_machine(host):
        raise InputError(f"A key is not sent to {host} over plain http.", f"Pass an https:// address, or unset {KEY}.")
    return key or None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
