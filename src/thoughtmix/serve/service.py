"""Who is let in, and how a request becomes thoughts: a thread of its own thinks, the scheduler decodes for all."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoughtmix.api import AUTO, Pipeline
from thoughtmix.core.errors import Interrupted, UnknownName
from thoughtmix.core.request import OnStep, Prompt, PromptLike, Request, StepEvent
from thoughtmix.core.types import ThoughtSet
from thoughtmix.engine.backends.probe import Weights
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.scheduler import Caller, Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.models import Embedder, LanguageModel
from thoughtmix.serve.errors import Refused, refusal
from thoughtmix.serve.limits import Limits
from thoughtmix.serve.meters import Meters
from thoughtmix.serve.options import served_options
from thoughtmix.serve.schemas import Asked
from thoughtmix.serve.threads import Passing
from thoughtmix.thinkers.base import Thinker

_NAMES = ("default", "thoughtmix")


@dataclass(frozen=True)
class Call:
    """One prompt's request, checked against the limits. streams: its pieces may be shown as they come; else its
    progress is told, and its thoughts when they stand. fit: it named no length, and may be made to fit
    behind its prompt. cost: bytes that it may come to hold."""

    prompt: Prompt
    thinker: Thinker
    request: Request
    select: int | None
    measure: bool
    top: int
    streams: bool
    fit: bool
    cost: int


@dataclass(frozen=True)
class Step:
    """Something happened: pieces[i] is new text of thought i."""

    pieces: Sequence[str]
    done: int
    total: int


@dataclass(frozen=True)
class Answer:
    """The thoughts, in the order they are answered; tokens: of the prompt, and of all thoughts that were made."""

    thoughts: ThoughtSet
    prompt_tokens: int
    completion_tokens: int
    top: Mapping[tuple[int, ...], list[tuple[list[int], list[float]]]]


class Service:
    """A loaded model, its scheduler and its limits. Raises `Refused` for whatever it does not take."""

    def __init__(
        self,
        lm: LanguageModel,
        limits: Limits | None = None,
        embedder: Callable[[], Embedder] | None = None,
        weights: Weights = "auto",
    ) -> None:
        self.lm, self.limits = lm, limits or Limits()
        self.meters = Meters()
        self.created = int(time.time())
        self.per_token = token_bytes(lm)
        room = max(1, self.limits.memory * 2**20 // self.per_token)
        self.scheduler = Scheduler(lm, self.limits.rows, room, self.limits.chunk, self.meters.tick, weights)
        self.embedder = InTurn(embedder, self.scheduler)
        self.pipeline = Pipeline(lm, embedder=self.embedder, weights=weights)
        self.draining = False
        self.threads = Passing("thoughtmix-request")
        self._callers: set[Caller] = set()
        self._held = 0  # bytes
        self._typical = 1.0  # seconds of a request, lately

    def open(self) -> None:
        self.scheduler.__enter__()

    def close(self) -> None:
        for caller in list(self._callers):
            self.scheduler.cancel(caller)
        self.scheduler.__exit__()

    def warm(self) -> None:
        """Pack the weights and try the paths before anybody waits for it."""
        self.threads.submit(self._warm).result()

    def _warm(self) -> None:
        if self.lm.causal:
            first = min(self.lm.eos_ids or {0})
            LocalEngine(self.lm, weights=self.scheduler.weights).generate(
                [SequenceRequest((first,), seed=0, max_new_tokens=2)]
            )

    # --- what is asked ---

    def model_named(self, name: str | None) -> None:
        """Raises `Refused` (404) unless this is the served model."""
        if name is not None and name not in {self.lm.name, *_NAMES}:
            error = UnknownName("model", name[:80], [self.lm.name, *_NAMES])
            raise Refused(404, str(error), param="model", code="model_not_found")

    def call(self, asked: Asked, prompt: PromptLike, seed: int, *, raw: bool, top: int, most: int | None) -> Call:
        """A request of one prompt, checked. most: its max_tokens by either name. Raises `Refused`, `InputError`."""
        limits, n = self.limits, asked.n
        if n > limits.thoughts:
            raise Refused(400, f"n is {n}, this server makes up to {limits.thoughts}. Ask for fewer.", param="n")
        if asked.select is not None and asked.select > n:
            raise Refused(400, f"Cannot select {asked.select} of {n} thoughts. Pass select 1 to {n}.", param="select")
        thinker = self.pipeline.thinker(AUTO if asked.thinker is None else asked.thinker)
        options = served_options(thinker, asked.options, limits)
        texts = max(n, thinker.texts(n, options))
        tokens = most or max(1, min(limits.default_tokens, limits.tokens // texts))
        if texts * tokens > limits.tokens:
            drafts = "" if texts == n else f" ({thinker.name} writes {texts} texts for n = {n})"
            raise Refused(
                400, f"n x max_tokens is {texts * tokens}{drafts}, the limit is {limits.tokens}. Ask for less.",
                param="max_tokens", code="too_many_tokens",
            )  # fmt: skip
        request = Request(
            n=n,
            seed=seed,
            max_new_tokens=tokens,
            creativity=asked.creativity,
            temperature=asked.temperature,
            top_k=asked.top_k or 0,
            min_p=asked.min_p,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            stop=asked.stops,
            options=options,
            embedder=lambda: self.embedder,
        )
        read = min(_length(prompt), self.lm.context_length or 2**20)
        cost = (read + texts * tokens) * self.per_token
        if cost > limits.memory * 2**20:
            raise Refused(
                400, "The request would need more memory than this server has. Ask for less.", code="too_large"
            )
        measure = asked.measure or asked.select is not None
        streams = thinker.streams and asked.select is None
        asks = Prompt.from_user(prompt, raw)
        return Call(asks, thinker, request, asked.select, measure, top, streams, most is None, cost)

    # --- who is let in ---

    def admit(self, calls: Sequence[Call]) -> Ticket:
        """Room for these, until `Ticket.leave`. Raises `Refused`: 429 when there is none, 503 when the server stops."""
        if self.draining:
            raise Refused(503, "The server is stopping. Send it to another, or again later.", code="draining", retry=5)
        cost = sum(call.cost for call in calls)
        full = self._held + cost > self.limits.memory * 2**20
        if len(self._callers) >= self.limits.queue or (full and self._callers):
            wait = min(60, max(1, math.ceil(self._typical)))
            raise Refused(429, f"The server is full. Try again in {wait} s.", code="queue_full", retry=wait)
        caller = Caller(time.monotonic() + self.limits.seconds)
        self._held += cost
        self._callers.add(caller)
        self.meters.accepted.set(len(self._callers))
        return Ticket(self, caller, cost)

    def left(self, ticket: Ticket) -> None:
        self._held -= ticket.cost
        self._callers.discard(ticket.caller)
        self.meters.accepted.set(len(self._callers))
        took = time.monotonic() - ticket.began
        self._typical += 0.2 * (took - self._typical)
        self.meters.seconds.observe(took)
        if ticket.caller.first_token is not None:
            self.meters.first.observe(ticket.caller.first_token - ticket.began)

    def drain(self) -> None:
        """Take nothing new; who is in has the grace time to end."""
        self.draining = True
        for caller in list(self._callers):
            caller.deadline = min(caller.deadline, time.monotonic() + self.limits.grace)

    # --- thinking ---

    def run(self, call: Call, caller: Caller, streaming: bool = False) -> Run:
        return Run(self, call, caller, streaming)

    def think(self, call: Call, caller: Caller, on_step: OnStep | None) -> Answer:
        """In the caller's thread. Raises whatever goes wrong."""
        request = dataclasses.replace(call.request, on_step=on_step)
        engine = SharedEngine(self.scheduler, caller, call.top)
        read = len(engine.encode(call.prompt))
        if call.fit and self.lm.context_length is not None:
            fits = min(request.max_new_tokens, max(1, self.lm.context_length - read))
            request = dataclasses.replace(request, max_new_tokens=fits)
        try:
            made = self.pipeline.run(call.thinker, call.prompt, request, measure=call.measure, engine=engine)
        except Interrupted as stopped:
            caller.check_cancelled()
            made = stopped.thoughts
        drawn = sum(len(t.token_ids) for t in made)
        if call.select is not None and made.distances:
            metrics = made.metrics
            made = made.select(min(call.select, len(made)))
            made = dataclasses.replace(made, metrics=metrics)  # of all n, which a choice among them does not change
        top = {tuple(output.token_ids): output.top for output in engine.outputs} if call.top else {}
        return Answer(made, read, drawn, top)


@dataclass
class Ticket:
    service: Service
    caller: Caller
    cost: int
    began: float = field(default_factory=time.monotonic)
    _left: bool = False

    def cancel(self) -> None:
        """Its rows leave before the next step; what is over does not mind."""
        self.service.scheduler.cancel(self.caller)

    def leave(self) -> None:
        """Give the room back; once."""
        if not self._left:
            self._left = True
            self.service.left(self)


class Run:
    """A call on its way, seen from the event loop: `Step`s while it thinks, then its `Answer`, or what went wrong."""

    def __init__(self, service: Service, call: Call, caller: Caller, streaming: bool) -> None:
        self.call = call
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Step | Answer | Refused] = asyncio.Queue()
        self._service, self._caller = service, caller
        self.thread = service.threads.submit(self._work, self._seen if streaming else None)

    def _tell(self, news: Step | Answer | Refused) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop is closed: nobody listens
            self._caller.cancelled = True

    def _seen(self, event: StepEvent) -> None:
        self._tell(Step(tuple(event.pieces) if self.call.streams else (), event.done, event.total))

    def _work(self, on_step: Callable[[StepEvent], None] | None) -> None:
        try:
            self._tell(self._service.think(self.call, self._caller, on_step))
        except BaseException as error:
            self._tell(refusal(error))

    async def news(self) -> Step | Answer:
        """What happens next. Raises `Refused`."""
        news = await self._news.get()
        if isinstance(news, Refused):
            raise news
        return news

    async def answer(self) -> Answer:
        while not isinstance(news := await self.news(), Answer):
            pass
        return news


class InTurn:
    """An embedder that takes turns with the decoding steps (two at once on the same cores are slower than one after the
    other), in threads that end at once: the request may go on to decode, and its own would keep a team (threads.py)."""

    def __init__(self, load: Callable[[], Embedder] | None, scheduler: Scheduler) -> None:
        self._load, self._scheduler = load, scheduler
        self._loaded: Embedder | None = None
        self.name = ""  # once it is loaded
        self._lock = threading.Lock()
        self._threads = Passing("thoughtmix-embedder")

    @property
    def loaded(self) -> Embedder:
        with self._lock:
            if self._loaded is None:
                from thoughtmix.models import load_embedder

                self._loaded = (self._load or load_embedder)()
                self.name = self._loaded.name
            return self._loaded

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        import numpy as np

        embedder = self.loaded

        def part(some: Sequence[str]) -> Any:
            with self._scheduler.turns:
                return embedder.encode(some, batch_size)

        parts = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
        return np.concatenate([self._threads.submit(part, some).result() for some in parts])


def token_bytes(lm: LanguageModel) -> int:
    """Of the keys and values of a token, by the config; a guess where it does not say."""
    config: Any = lm.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "hidden_size", None) or 1024
    kept = getattr(config, "num_key_value_heads", None) or heads
    each = getattr(config, "head_dim", None) or width // heads
    layers = getattr(config, "num_hidden_layers", None) or 1
    return int(2 * layers * kept * each * 4)


def _length(prompt: PromptLike) -> int:
    """Tokens of a prompt at most, or nearly: two bytes each."""
    texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
    return sum(len(t) for t in texts) // 2 + 16 * len(texts) + 8


def drawn_seed() -> int:
    return secrets.randbits(31)
