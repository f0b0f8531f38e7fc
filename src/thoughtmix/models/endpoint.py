"""Any server that speaks OpenAI's chat completions: many conversations at once, tried again when something fails.

    Endpoint("http://localhost:8000").complete([Ask([{"role": "user", "content": "Name a fruit."}])])

A finished answer is never lost: each conversation is a request of its own, and one that finally fails is a `Reply` with
`finish="cancelled"`, its error, and what had arrived. The key is sent to the endpoint and shown nowhere.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.retry import Backoff, Stopped, Trouble
from thoughtmix.models.wire import KEYS, Reply, explained, follow, parsed, read, refusal, whole, within

if TYPE_CHECKING:
    import httpx

_HINT = "Pass --endpoint http://localhost:8000/v1"


@dataclass(frozen=True, slots=True)
class Ask:
    """One conversation to continue. None: the server's own default."""

    messages: Sequence[Mapping[str, str]]
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """As the API has it: what is None is left out."""
        out: dict[str, Any] = {"model": model, "messages": [dict(m) for m in self.messages], "stream": stream}
        for name in ("seed", "max_tokens", "temperature", "top_p"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        return {**out, "stop": list(self.stop)} if self.stop else out


class Endpoint:
    """A model behind a URL. Its methods may be called from one thread at a time.

    url: http://host:port, with /v1 or /v1/chat/completions after it or not. model: its name there; None: the first that
    the server lists. key: None: THOUGHTMIX_API_KEY, then OPENAI_API_KEY. stream: answers come in pieces, so that what
    arrived before a connection broke is there to see. concurrency: requests in flight. timeout: seconds for one try.
    tries, first_wait, longest_wait: see `Backoff`. Raises `InputError` for a URL that is none.
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
        self._key = key or next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        self._tries, self._first, self._longest = tries, first_wait, longest_wait
        self.facts: dict[str, Any] = {}
        """Of the last `complete`: requests, retries, seconds waited, troubles by kind, how many finally failed."""
        self.interrupted = False
        """Whether the last `complete` was ended by Ctrl-C."""

    @property
    def name(self) -> str:
        """For reports: the model and where it is, without user names or keys."""
        return f"{self.model or 'default'} at {urlsplit(self.base).netloc}"

    def complete(
        self, asks: Sequence[Ask], on_piece: Callable[[int, str], None] | None = None
    ) -> list[Reply]:  # fmt: skip
        """One reply each, in their order. on_piece(i, text): called in this thread as text of ask i arrives; when a try
        fails after pieces came, the next begins anew, and only what goes beyond those is told.
        Ctrl-C returns what is there (`interrupted`). Raises `ModelError` when no model was named and none is listed."""
        backoff = Backoff(self._tries, self._first, self._longest)
        news: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()
        replies = [Reply() for _ in asks]
        self.interrupted = False
        with self._client() as client:
            try:
                self.model = self.model or self._first_model(client, backoff)
                self._all(client, asks, replies, backoff, news, on_piece)
            except KeyboardInterrupt:
                self.interrupted = True
            finally:
                backoff.stop.set()
                out = [dataclasses.replace(r) for r in replies]  # threads that still end do not reach these
        self.facts = {
            "requests": sum(r.tries for r in out), "retries": backoff.retries,
            "waited_seconds": round(backoff.waited, 3), "troubles": dict(backoff.troubles),
            "failed": sum(r.error is not None for r in out), "concurrency": min(self.concurrency, len(asks)),
        }  # fmt: skip
        return out

    def _all(
        self,
        client: httpx.Client,
        asks: Sequence[Ask],
        replies: list[Reply],
        backoff: Backoff,
        news: queue.SimpleQueue[tuple[int, str | None]],
        on_piece: Callable[[int, str], None] | None,
    ) -> None:
        """Run them over daemon threads, which an interrupted program need not wait for; tell pieces from here."""
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for i in range(len(asks)):
            todo.put(i)

        def see(i: int, text: str) -> None:
            news.put((i, text))

        def work() -> None:
            while not backoff.stop.is_set():
                try:
                    i = todo.get_nowait()
                except queue.Empty:
                    return
                self._one(client, asks[i], replies[i], backoff, partial(see, i))
                news.put((i, None))

        for _ in range(min(self.concurrency, len(asks))):
            threading.Thread(target=work, daemon=True).start()
        left, told = len(asks), [0] * len(asks)
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
        self, client: httpx.Client, ask: Ask, reply: Reply, backoff: Backoff, see: Callable[[str], None]
    ) -> None:  # fmt: skip
        best = ""  # of all tries that broke off, the longest

        def attempt() -> None:
            nonlocal best
            reply.text = ""
            reply.tries += 1
            try:
                self._try(client, ask, reply, backoff.stop, see)
            except Trouble:
                best = max(best, reply.text, key=len)
                raise

        try:
            _, trouble = backoff.run(attempt)
        except Stopped:
            reply.finish = "cancelled"
        except Exception as error:  # a bug must not leave the caller waiting
            reply.error = f"{type(error).__name__}: {error}"
        else:
            if trouble is not None:
                reply.error, reply.text, reply.finish = trouble.says, best, "cancelled"

    def _try(
        self, client: httpx.Client, ask: Ask, reply: Reply, stop: threading.Event, see: Callable[[str], None]
    ) -> None:  # fmt: skip
        """One request. Raises `Trouble`, `Stopped`."""
        body = ask.body(str(self.model), self.stream)
        with explained(), client.stream("POST", f"{self.base}/chat/completions", json=body) as response:
            pieces = within(response, self.timeout, stop)
            if response.status_code != 200:
                raise refusal(response.status_code, response.headers, read(pieces), self._key is not None)
            if "text/event-stream" in response.headers.get("content-type", ""):
                follow(pieces, reply, see)
            else:
                whole(parsed(read(pieces)), reply)
                see(reply.text)

    def _first_model(self, client: httpx.Client, backoff: Backoff) -> str:
        found: list[str] = []

        def attempt() -> None:
            with explained(), client.stream("GET", f"{self.base}/models") as response:
                body = read(within(response, self.timeout, backoff.stop))
            if response.status_code != 200:
                raise refusal(response.status_code, response.headers, body, self._key is not None)
            rows = parsed(body).get("data")
            if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict) or "id" not in rows[0]:
                raise Trouble("malformed", "the list of models is no list of models")
            found.append(str(rows[0]["id"]))

        _, trouble = backoff.run(attempt)
        if trouble is not None:
            raise ModelError(f"{urlsplit(self.base).netloc} lists no model: {trouble.says}.",
                             "Name one (--model), or check --endpoint.")  # fmt: skip
        return found[0]

    def _client(self) -> httpx.Client:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.Client(timeout=self.timeout, headers=headers)


def _base(url: str) -> str:
    """http://host:port/v1, whichever part of it was given."""
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"The endpoint {url!r} is no http address.", _HINT)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("An endpoint's address holds no user, password or query.", f"{_HINT}; the key: {KEYS[0]}.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
