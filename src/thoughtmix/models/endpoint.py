"""Any server that speaks OpenAI's chat completions: many conversations at once, tried again when something fails.

    Endpoint("http://localhost:8000").complete([ChatRequest([{"role": "user", "content": "Name a fruit."}])])

The `openai` client carries the requests. Its own retries are off: each would wait alone, where a server that asks for a
pause needs one from all. A finished answer is never lost: one that finally fails is a `ChatReply` with
`finish="cancelled"`, its error, and what had arrived, and the others stand. What a server takes is found out, not asked
(see `Dialect`). The key is sent to the endpoint and shown nowhere.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.address import base_url, find_key, is_openai
from thoughtmix.models.backoff import Backoff, Pause
from thoughtmix.models.chat import ChatReply, ChatRequest, Usage, parse_json, read_body, read_stream
from thoughtmix.models.dialect import Dialect
from thoughtmix.models.trouble import Stopped, Trouble, explained, within

if TYPE_CHECKING:
    import openai

_log = logging.getLogger("thoughtmix.endpoint")
MOST_N = 32
"""Answers that are asked for in one request: what fails, fails for all of them."""
_ALONE = frozenset({"slow", "cut", "malformed"})
"""Troubles that an answer may cause by itself, or that a request for fewer may not meet."""


class Endpoint:
    """A model behind a URL. Its methods may be called from one thread at a time; `sibling` is for another thread.

    Args:
        url: http://host:port, with /v1 or /v1/chat/completions after it or not.
        model: Its name there; None: the first that the server lists.
        key: The key itself; it goes before `key_env`.
        key_env: The environment variable that holds the key (see `find_key`).
        key_over_http: Let a key go over plain http to another machine.
        stream: Answers come in pieces, so that what arrived before a connection broke is there to see.
        logprobs: Ask for log-probabilities, where the server gives them.
        prices: US dollars for a million tokens read, and for a million written; None: unknown.
        concurrency: Requests in flight.
        timeout: Seconds for one try.
        tries: How often a request is tried in all.
        first_wait: Seconds before the second try; doubled, with jitter, before each further one (see `Backoff`).
        longest_wait: Seconds between two tries at most.

    Raises:
        InputError: The URL is none, or a key would go over plain http to another machine.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        key_env: str | None = None,
        key_over_http: bool = False,
        stream: bool = False,
        logprobs: bool = False,
        prices: tuple[float, float] | None = None,
        concurrency: int = 4,
        timeout: float = 120.0,
        tries: int = 6,
        first_wait: float = 0.5,
        longest_wait: float = 60.0,
    ) -> None:
        if concurrency < 1 or tries < 1 or not timeout > 0:
            raise InputError(f"concurrency={concurrency}, tries={tries}, timeout={timeout}.", "Pass 1 or more of each.")
        if prices is not None and not all(0 <= price < float("inf") for price in prices):
            raise InputError(f"Prices of {prices}.", "Pass dollars for a million tokens read, and written: 0.15,0.6.")
        self.base = base_url(url)
        self.model, self.stream, self.concurrency, self.timeout = model, stream, concurrency, timeout
        self.logprobs, self.prices = logprobs, prices
        self._key = find_key(self.base, key, key_env, key_over_http)
        self._tries, self._first, self._longest = tries, first_wait, longest_wait
        self._idle: list[openai.OpenAI] = []  # their connections serve the next call
        self._pause, self._slots = Pause(), threading.BoundedSemaphore(concurrency)
        self.dialect = Dialect()
        """What the server takes, as far as that was found out."""
        self.facts: dict[str, Any] = {}
        """Of the last `complete`: requests, retries, seconds waited, troubles by kind, how many finally failed, tokens,
        cost."""
        self.interrupted = False
        """Whether the last `complete` was ended by Ctrl-C."""

    @property
    def name(self) -> str:
        """For reports: the model and where it is, without user names or keys."""
        return f"{self.model or 'default'} at {urlsplit(self.base).netloc}"

    def sibling(self) -> Endpoint:
        """The same endpoint for another thread: connections, pauses, the number of requests in flight, and what was
        found out of the server, are shared."""
        other = copy.copy(self)
        other.facts, other.interrupted = {}, False
        return other

    def find_model(self) -> str:
        """The name that is asked for; the first that the server lists, where none was named. Raises `ModelError`."""
        if self.model is None:
            client = self._connected()
            self.model = self._first_model(client, self._backoff())
            self._idle.append(client)
        return self.model

    def complete(
        self, requests: Sequence[ChatRequest], on_piece: Callable[[int, str], None] | None = None
    ) -> list[ChatReply]:
        """Send the requests, `concurrency` at a time. Ctrl-C ends it with what is there (`interrupted`).

        Args:
            requests: Neighbours that differ by consecutive seeds alone are one request with `n`, where the server takes
                it.
            on_piece: on_piece(i, text) is called in this thread as text of request i arrives, and with an empty text
                five times a second while none does; a KeyboardInterrupt that it raises is a Ctrl-C. When a try fails
                after pieces came, the next begins anew, and only what goes beyond those is told.

        Returns:
            One reply each, in their order.

        Raises:
            ModelError: No model was named, and the server lists none.
        """
        run = _Run(self, requests, on_piece)
        self.interrupted = False
        client, whole = self._connected(), False
        try:
            self.model = self.model or self._first_model(client, run.backoff)
            run.all(client)
            whole = True
            self._idle.append(client)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            run.stop()
            out = [dataclasses.replace(r) for r in run.replies]  # threads that still end do not reach these
            if not whole:
                client.close()  # so that the server stops writing what nobody reads
        self.facts = run.facts(out)
        return out

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector a text, of the server's /embeddings, in their order. Tried again as answers are.

        Raises:
            ModelError: It finally failed, or gives something else.
        """
        client, backoff = self._connected(), self._backoff()
        self.model = self.model or self._first_model(client, backoff)
        model, headers = self.model, self.headers()
        rows = client.embeddings.with_streaming_response
        answer, trouble = self._fetch(
            backoff, lambda: rows.create(model=model, input=list(texts), encoding_format="float", extra_headers=headers)
        )
        self._idle.append(client)
        if trouble is not None:
            raise ModelError(f"{self.name} gives no embeddings: {trouble.says}.", "Check --embed-endpoint.")
        try:
            found = sorted(answer["data"], key=lambda row: row.get("index", 0))
            vectors = [[float(v) for v in row["embedding"]] for row in found]
        except (KeyError, TypeError, ValueError, AttributeError):
            vectors = []
        if len(vectors) != len(texts):
            raise ModelError(f"{self.name} gives no embeddings that can be read.", "Check --embed-endpoint.")
        return vectors

    def _first_model(self, client: openai.OpenAI, backoff: Backoff) -> str:
        headers = self.headers()
        answer, trouble = self._fetch(
            backoff, lambda: client.models.with_streaming_response.list(extra_headers=headers)
        )
        match answer.get("data"):
            case [{"id": name}, *_]:
                return str(name)
        raise ModelError(
            f"{urlsplit(self.base).netloc} lists no model: {trouble.says if trouble else 'there is none'}.",
            "Name one (--model), or check --endpoint.",
        )

    def _fetch(self, backoff: Backoff, ask: Callable[[], Any]) -> tuple[dict[str, Any], Trouble | None]:
        """One small request, tried again; its answer, or what finally went wrong."""
        answer: dict[str, Any] = {}

        def attempt() -> None:
            with explained(self._key is not None), ask() as response:
                answer.update(parse_json(b"".join(within(response.iter_bytes(), self.timeout, backoff.stop))))

        return answer, backoff.run(attempt)

    def _backoff(self) -> Backoff:
        return Backoff(self._tries, self._first, self._longest, pause=self._pause)

    def _connected(self) -> openai.OpenAI:
        """A pool of connections for all requests of a call: one that is idle, or a new one."""
        import openai

        try:
            return self._idle.pop()
        except IndexError:
            pass
        key = self._key or "none"  # it insists on one; `headers` says whether it is sent
        return openai.OpenAI(api_key=key, base_url=self.base, timeout=self.timeout, max_retries=0)

    def headers(self) -> dict[str, Any]:
        """What the environment holds for OpenAI (key, organisation, project, headers) goes to OpenAI alone."""
        from openai import omit

        headers: dict[str, Any] = {"Authorization": f"Bearer {self._key}" if self._key else omit}
        if not is_openai(self.base):
            headers |= {"OpenAI-Organization": omit, "OpenAI-Project": omit}
        return headers


class _Run:
    """One call of `complete`: groups of requests, the threads that send them, and what came of it."""

    def __init__(
        self, endpoint: Endpoint, requests: Sequence[ChatRequest], on_piece: Callable[[int, str], None] | None
    ) -> None:
        self.endpoint, self.requests, self.on_piece = endpoint, requests, on_piece
        self.backoff = endpoint._backoff()
        self.replies = [ChatReply() for _ in requests]
        self.usage, self.sent, self._lock = Usage(), 0, threading.Lock()
        self.threads = min(endpoint.concurrency, len(requests))
        self.todo: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()  # None: a thread may go
        self.news: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()  # None: the request has ended

    def all(self, client: openai.OpenAI) -> None:
        """Send them over daemon threads, which an interrupted program need not wait for; tell pieces from here."""
        for group in self._groups():
            self.todo.put(group)

        def work() -> None:
            while (group := self.todo.get()) is not None and not self.backoff.stop.is_set():
                self._serve(client, group)

        for _ in range(self.threads):
            threading.Thread(target=work, daemon=True).start()
        left, told = len(self.requests), [0] * len(self.requests)
        while left:
            try:
                i, text = self.news.get(timeout=0.2)  # not forever: Ctrl-C must come through on every system
            except queue.Empty:
                if self.on_piece is not None:
                    self.on_piece(0, "")
                continue
            if text is None:
                left -= 1
            elif self.on_piece is not None and len(text) > told[i]:
                self.on_piece(i, text[told[i] :])
                told[i] = len(text)

    def stop(self) -> None:
        """Let the threads go."""
        self.backoff.stop.set()
        for _ in range(self.threads):
            self.todo.put(None)

    def facts(self, replies: Sequence[ChatReply]) -> dict[str, Any]:
        """See `Endpoint.facts`."""
        endpoint, usage = self.endpoint, self.usage
        return {
            "requests": self.sent,
            "retries": self.backoff.retries,
            "waited_seconds": round(self.backoff.waited, 3),
            "troubles": dict(self.backoff.troubles),
            "failed": sum(r.error is not None for r in replies),
            "concurrency": min(endpoint.concurrency, len(self.requests)),
            **usage.facts(endpoint.prices),
            **endpoint.dialect.facts(replies),
        }

    def _groups(self) -> list[list[int]]:
        """Places of requests that may be one with `n`: alike but for seeds that follow each other."""
        groups: list[list[int]] = []
        for i, request in enumerate(self.requests):
            group = groups[-1] if groups else []
            if self.endpoint.dialect.takes_n and 0 < len(group) < MOST_N and request.follows(self.requests[group[-1]]):
                group.append(i)
            else:
                groups.append([i])
        return groups

    def _serve(self, client: openai.OpenAI, group: list[int]) -> None:
        """Fill the replies of a group, in as many tries as it takes; what a request of several left open, is asked for
        one by one."""
        replies = [self.replies[i] for i in group]
        best = [""] * len(group)  # of all tries that broke off, the longest

        def attempt() -> None:
            try:
                self._try(client, group)
            except Trouble as trouble:
                for at, reply in enumerate(replies):
                    best[at] = max(best[at], "" if reply.done else reply.text, key=len)
                if len(group) > 1 and (trouble.kind in _ALONE or any(r.done for r in replies)):
                    with self.backoff.lock:
                        self.backoff.troubles[trouble.kind] += 1
                    return
                raise

        trouble: Trouble | None = None
        error: str | None = None
        try:
            trouble = self.backoff.run(attempt)
        except Stopped:
            pass
        except Exception as bug:  # a bug must not leave the caller waiting
            error = f"{type(bug).__name__}: {bug}"
        stopped = self.backoff.stop.is_set()
        for i, reply, longest in zip(group, replies, best, strict=True):
            if not reply.done and trouble is None and error is None and not stopped and len(group) > 1:
                self.todo.put([i])
                continue
            if not reply.done:
                reply.finish = "cancelled"
                reply.error = error or (trouble.says if trouble else None)
                reply.text = longest if trouble else reply.text
            self.news.put((i, None))

    def _try(self, client: openai.OpenAI, group: list[int]) -> None:
        """One try: one request, and at once another where the server says which parameter it does not take.

        Raises:
            Trouble: It failed.
            Stopped: The caller wants no more.
        """
        import openai

        endpoint, dialect = self.endpoint, self.endpoint.dialect
        replies, request = [self.replies[i] for i in group], self.requests[group[0]]
        while True:
            body = dialect.body(request, len(group), endpoint.stream, endpoint.logprobs)
            for reply in replies:
                reply.begin()
            with self._lock:
                self.sent += 1
            _log.debug("request %d to %s: %d answers, seed %s", self.sent, endpoint.base, len(group), request.seed)
            try:
                with (
                    endpoint._slots,
                    explained(endpoint._key is not None),
                    client.chat.completions.with_streaming_response.create(
                        model=str(endpoint.model), extra_headers=endpoint.headers(), **body
                    ) as response,
                ):
                    chunks = within(response.iter_bytes(), endpoint.timeout, self.backoff.stop)
                    if "text/event-stream" in response.headers.get("content-type", ""):
                        usage = read_stream(chunks, replies, lambda at, text: self.news.put((group[at], text)))
                    else:
                        usage = read_body(b"".join(chunks), replies)
                        for i, reply in zip(group, replies, strict=True):
                            self.news.put((i, reply.text))
                with self._lock:
                    self.usage += usage
                dialect.answered(len(group), sum(r.done for r in replies))
                return
            except Trouble as trouble:
                refused = trouble.__cause__
                if not isinstance(refused, openai.APIStatusError):
                    raise
                if len(group) > 1 and refused.status_code in {400, 413, 422}:
                    _log.info("%s; asking one by one", trouble.says)
                    dialect.takes_n = False  # and whatever else it did not like, it says again
                    return
                if not dialect.adapt(body, refused):
                    raise
                _log.info("%s; asking without", trouble.says)
