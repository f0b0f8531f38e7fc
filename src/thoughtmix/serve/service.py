"""Who is let in, and how a request becomes thoughts: a thread of its own thinks, the scheduler decodes for all."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request as HttpRequest

from thoughtmix.core.errors import Interrupted, UnknownName
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.options import ThinkerOptions
from thoughtmix.core.request import OnStep, Prompt
from thoughtmix.engine.backends.probe import Weights
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.memory import kv_bytes_per_token
from thoughtmix.engine.scheduler import EXPECTED, Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.engine.threads import EphemeralThreadExecutor
from thoughtmix.models import LanguageModel
from thoughtmix.models.embed import CountingEmbedder
from thoughtmix.pipeline import Pipeline
from thoughtmix.serve.checked import Answer, CheckedRequest, check_counts, most_prompt_tokens, settings_of
from thoughtmix.serve.embedder import ExclusiveEmbedder
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.limits import HELD, Limits, check_work, served_options, within
from thoughtmix.serve.logprobs import Vocabulary, without_half_character
from thoughtmix.serve.metrics import Metrics
from thoughtmix.serve.schemas import ThoughtRequest
from thoughtmix.thinkers.base import Thinker, Work, embedding_work

T = TypeVar("T")
_NAMES = ("default", "thoughtmix")
"""What the served model may be called besides its name."""
_SHARES = 16
"""Of the memory, for requests that name no length; they get `EXPECTED` tokens a text at least, if --request-tokens
allows them."""
_FEWEST = 16
"""Tokens of a thought where a request names no number and its thinker does much."""


class Service:
    """A loaded model, its scheduler and its limits. Raises `Refused` for whatever it does not take."""

    def __init__(
        self,
        lm: LanguageModel,
        limits: Limits | None = None,
        embedder: Callable[[], CountingEmbedder] | None = None,
        weights: Weights = "auto",
        strict_model: bool = False,
    ) -> None:
        self.lm, self.limits, self.strict_model = lm, limits or Limits(), strict_model
        self.vocabulary = Vocabulary(lm)
        self.metrics = Metrics()
        self.created = int(time.time())
        self.bytes_per_token = kv_bytes_per_token(lm)
        most = max(1, self.limits.memory * 2**20 // self.bytes_per_token)
        self.scheduler = Scheduler(
            lm,
            self.limits.rows,
            most,
            self.limits.chunk,
            self.metrics.record_step,
            weights,
            observe_beside=self.metrics.beside.observe,
        )
        self.embedder = ExclusiveEmbedder(embedder, self.scheduler)
        self.pipeline = Pipeline(lm, embedder=self.embedder, weights=weights)
        self.draining = False
        self.threads = EphemeralThreadExecutor("thoughtmix-request")
        self._callers: set[Caller] = set()
        self._held = 0  # bytes
        self._work = Work()  # of all accepted
        self._typical = 1.0  # seconds of a request, lately

    def open(self) -> None:
        """Start the scheduler."""
        self.scheduler.__enter__()

    def close(self) -> None:
        """Cancel what is still there."""
        for caller in list(self._callers):
            self.scheduler.cancel(caller)
        self.scheduler.__exit__()

    def warm(self) -> None:
        """Pack the weights and try the paths before anybody waits for it; import what threads would import later.

        Two threads that first import parts of transformers at the same moment (thinkers of two requests) can fail,
        since it puts another object in its module's place meanwhile. PEFT brings all of it.
        """
        importlib.import_module("peft")

        def decode() -> None:
            first = min(self.lm.eos_ids or {0})
            engine = LocalEngine(self.lm, weights=self.scheduler.weights)
            engine.generate([SequenceRequest((first,), seed=0, max_new_tokens=2)])

        if self.lm.causal:
            self.threads.submit(decode).result()

    # --- what is asked ---

    def check_model(self, name: str | None) -> None:
        """Raises `Refused` (404) where this is not the served model and the server is strict about it."""
        if self.strict_model and name is not None:
            self.find_model(name)

    def find_model(self, name: str) -> None:
        """Raises `Refused` (404) unless this is a name of the served model."""
        if name not in {self.lm.name, *_NAMES}:
            error = UnknownName("model", name[:80], [self.lm.name, *_NAMES])
            raise Refused(404, str(error), param="model", code="model_not_found")

    def check(
        self,
        body: ThoughtRequest,
        prompt: Prompt,
        seed: int,
        *,
        top_logprobs: int,
        max_tokens: int | None,
        default: int | None = None,
        grammar: Grammar | None = None,
    ) -> CheckedRequest:
        """A request of one prompt, against the limits. default: most tokens where it names none, if that is less than
        the server's own. grammar: what every answer is held to.

        Raises:
            Refused: 400 for what this server does not take.
            InputError: What no thinker takes.
        """
        check_counts(body, self.limits)
        thinker = self.pipeline.thinker(body.thinker)
        options = served_options(thinker, body.options, self.limits)
        if body.drawn and not thinker.continues:
            raise Refused(400, f"{thinker.name} continues no text. Name another thinker, sampling say.", param="drawn")
        measure = body.measure or body.select is not None
        asked = (thinker, body.n, prompt, options, measure)
        tokens, cost, work = self._priced(*asked, max_tokens, default or self.limits.tokens)
        request = dataclasses.replace(settings_of(body), seed=seed, max_new_tokens=tokens, grammar=grammar)
        request = dataclasses.replace(request, options=options, embedder=lambda: self.embedder)
        chosen, request, choice = thinker.resolve(SharedEngine(self.scheduler), prompt, request)
        return CheckedRequest(
            prompt=prompt,
            thinker=chosen,
            choice=choice,
            request=request,
            select=body.select,
            quality_floor=body.quality_floor,
            measure=measure,
            top_logprobs=top_logprobs,
            streams=chosen.streams and body.select is None,
            fit=max_tokens is None,
            cost=0 if max_tokens is None else cost,
            work=work,
        )

    def _priced(
        self,
        thinker: Thinker,
        n: int,
        prompt: Prompt,
        options: ThinkerOptions,
        measure: bool,
        max_tokens: int | None,
        default: int,
    ) -> tuple[int, int, Work]:
        """What a request may take at most.

        Args:
            thinker, n, prompt, options, measure: What is asked.
            max_tokens: Of a text; None: as many as the server gives to who does not say.
            default: Of those no more than so many.

        Returns:
            Tokens of a text, bytes of keys and values, and the work.

        Raises:
            Refused: 400 for more than the limits.
        """
        limits, texts = self.limits, max(n, thinker.texts(n, options))
        tokens = max_tokens or min(self._default_tokens(texts), default)
        if texts * tokens > limits.tokens:
            drafts = "" if texts == n else f" ({thinker.name} writes {texts} texts for n = {n})"
            message = f"n x max_tokens is {texts * tokens}{drafts}, the limit is {limits.tokens}. Ask for less."
            raise Refused(400, message, param="max_tokens", code="too_many_tokens")
        read = min(most_prompt_tokens(prompt), self.lm.context_length or 2**20)
        cost = (read + texts * tokens) * self.bytes_per_token
        if cost > limits.memory * 2**20:
            message = "The request would need more memory than this server has. Ask for less."
            raise Refused(400, message, code="too_large")

        def declared(length: int) -> Work:
            done = thinker.work(SharedEngine(self.scheduler), n, read, length, options)
            return done + embedding_work((n + 1) * measure, max(read, length))

        while max_tokens is None and tokens > _FEWEST and not within(declared(tokens), limits):
            tokens = max(_FEWEST, tokens // 2)  # nobody asked for so many
        work = declared(tokens)
        check_work(work, limits)
        return tokens, cost, work

    def _default_tokens(self, texts: int) -> int:
        """Of each text where a request names no length: all that --request-tokens and a share of --memory hold, so that
        a few such requests do not fill the server."""
        limits = self.limits
        share = limits.memory * 2**20 // _SHARES // self.bytes_per_token
        return max(1, min(limits.default_tokens, limits.tokens // texts, max(share // texts, EXPECTED)))

    # --- who is let in ---

    def admit(self, requests: Sequence[CheckedRequest] = (), work: Work | None = None) -> AdmissionSlot:
        """Room for these, until `AdmissionSlot.release`. work: of a request that is no generation.

        Raises:
            Refused: 400 for what costs more than one request may, 429 when there is no room, 503 when the server stops.
        """
        work = sum((request.work for request in requests), Work()) if work is None else work
        check_work(work, self.limits)
        if self.draining:
            raise Refused(503, "The server is stopping. Send it to another, or again later.", code="draining", retry=5)
        cost = sum(request.cost for request in requests)
        limits, both = self.limits, self._work + work
        full = self._held + cost > limits.memory * 2**20
        full = full or both.tokens > HELD * limits.work or both.side > HELD * limits.side_work
        if len(self._callers) >= self.limits.queue or (full and self._callers):
            wait = min(60, max(1, math.ceil(self._typical)))
            raise Refused(429, f"The server is full. Try again in {wait} s.", code="queue_full", retry=wait)
        open_ended = bool(requests) and all(request.fit for request in requests)
        caller = Caller(time.monotonic() + self.limits.seconds, open_ended=open_ended)
        self._held += cost
        self._work = both
        self._callers.add(caller)
        self.metrics.accepted.set(len(self._callers))
        return AdmissionSlot(self, caller, cost, work)

    def release(self, slot: AdmissionSlot) -> None:
        """Take a slot back. Slots call it, once each."""
        self._held -= slot.cost
        self._work += Work(-slot.work.tokens, -slot.work.side)
        self._callers.discard(slot.caller)
        self.metrics.accepted.set(len(self._callers))
        took = time.monotonic() - slot.began
        self._typical += 0.2 * (took - self._typical)
        self.metrics.seconds.observe(took)
        if slot.caller.first_token is not None:
            self.metrics.first.observe(slot.caller.first_token - slot.began)

    def drain(self) -> None:
        """Take nothing new; who is in has the grace time to end."""
        self.draining = True
        for caller in list(self._callers):
            caller.deadline = min(caller.deadline, time.monotonic() + self.limits.grace)

    # --- thinking ---

    def think(self, checked: CheckedRequest, caller: Caller, on_step: OnStep | None = None) -> Answer:
        """In the caller's thread. Raises whatever goes wrong."""
        request = dataclasses.replace(checked.request, on_step=on_step)
        engine = SharedEngine(self.scheduler, caller, checked.top_logprobs)
        read = len(engine.encode(checked.prompt))
        if checked.fit and self.lm.context_length is not None:
            fits = min(request.max_new_tokens, max(1, self.lm.context_length - read))
            request = dataclasses.replace(request, max_new_tokens=fits)
        try:
            made = self.pipeline.run(checked.thinker, checked.prompt, request, measure=checked.measure, engine=engine)
        except Interrupted as stopped:
            caller.check_cancelled()
            made = stopped.thoughts
        drawn = max(sum(len(t.token_ids) for t in made), sum(len(o.token_ids) for o in engine.outputs))
        made = dataclasses.replace(made, run={"computed": engine.computed, **checked.choice, **made.run})
        if checked.select is not None and made.distances:
            metrics = made.metrics
            made = made.select(min(checked.select, len(made)), quality_floor=checked.quality_floor)
            made = dataclasses.replace(made, metrics=metrics)  # of all n, which a choice among them does not change
        whole = tuple(without_half_character(thought, self.vocabulary) for thought in made)
        made = dataclasses.replace(made, thoughts=whole)
        top = {tuple(output.token_ids): output.top for output in engine.outputs} if checked.top_logprobs else {}
        return Answer(made, read, drawn, top)


@dataclass
class AdmissionSlot:
    """One accepted request's place: counted by the service until it is released."""

    service: Service
    caller: Caller
    cost: int
    work: Work = field(default_factory=Work)
    began: float = field(default_factory=time.monotonic)
    _released: bool = False

    def cancel(self) -> None:
        """Its rows leave before the next step; what is over does not mind."""
        self.service.scheduler.cancel(self.caller)

    def release(self) -> None:
        """Cancel what still runs and give the room back; once."""
        self.cancel()
        if not self._released:
            self._released = True
            self.service.release(self)

    async def unless_disconnected(self, http: HttpRequest, work: Awaitable[T]) -> T:
        """`work`, unless the client leaves before: then its rows are freed at once, and `Refused` raised."""

        async def disconnected() -> None:
            while (await http.receive())["type"] != "http.disconnect":
                pass

        tasks = (asyncio.ensure_future(work), asyncio.create_task(disconnected()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()
            self.cancel()
            self.service.metrics.cancelled.inc()
            raise Refused(499, "The client left.", code="cancelled")  # nobody reads it
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()


def random_seed() -> int:
    """For a request that names none."""
    return secrets.randbits(31)
