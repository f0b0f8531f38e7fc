"""A request's way from admission to its last byte, whichever endpoint it came by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from thoughtmix.core.request import StepEvent
from thoughtmix.core.types import Thought
from thoughtmix.engine.caller import Caller
from thoughtmix.serve.checked import Answer, CheckedRequest
from thoughtmix.serve.logprobs import HALF, Draw, PlacedToken, TokenPlacer, Vocabulary
from thoughtmix.serve.service import AdmissionSlot, Service
from thoughtmix.serve.threads import EventStream
from thoughtmix.thinkers.base import Work, embedding_work
from thoughtmix.thinkers.noise import most_tokens


@dataclass(frozen=True)
class StreamStep:
    """New text and new draws of each thought ([] where they do not stream), who has ended, and how far all are."""

    pieces: Sequence[str]
    draws: Sequence[Sequence[Draw]]
    ended: Sequence[bool]
    done: int
    total: int


Events: TypeAlias = EventStream[StreamStep | Answer]
"""Steps, if they are asked for, then the answer."""
Event: TypeAlias = StreamStep | Answer | None


async def answer_whole(
    service: Service,
    http: Request,
    requests: Sequence[CheckedRequest],
    top: int | None,
    body: Callable[[Sequence[Answer]], Mapping[str, Any]],
) -> Response:
    """One JSON body when all is said. top: alternatives a token; None: no log-probabilities. body: makes it."""
    slot = service.admit(requests)
    try:
        running = [_start(service, request, slot, top, steps=False) for request in requests]
        answers = [await slot.unless_disconnected(http, _answer(events)) for events in running]
    finally:
        slot.release()
    return JSONResponse(body(answers))


async def answer_beside(
    service: Service, http: Request, texts: Sequence[str], make: Callable[[Caller], BaseModel]
) -> Response:
    """What is made of texts that are embedded, in a thread, and written as JSON there: thousands of numbers in the loop
    would keep everybody's next word waiting."""
    slot = service.admit(work=sum((embedding_work(1, most_tokens(text)) for text in texts), Work()))
    try:
        work = asyncio.get_running_loop().run_in_executor(
            service.threads, lambda: make(slot.caller).model_dump_json().encode()
        )
        return Response(await slot.unless_disconnected(http, work), media_type="application/json")
    finally:
        slot.release()


async def answer_in_chunks(
    service: Service,
    http: Request,
    request: CheckedRequest,
    top: int | None,
    chunks: Callable[[Events, Event], AsyncGenerator[bytes, None]],
) -> Response:
    """Server-sent events. The status is decided by the first event, which `chunks` gets with those to come."""
    slot = service.admit([request])
    streams = False
    try:
        events = _start(service, request, slot, top, steps=True)
        first = await slot.unless_disconnected(http, events.next())
        streams = True
        return StreamingResponse(_until_read(slot, chunks(events, first)), media_type="text/event-stream")
    finally:
        if not streams:
            slot.release()


async def _until_read(slot: AdmissionSlot, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The chunks. The room is given back when the client has all of it, or leaves."""
    whole = False
    limits = slot.service.limits  # who never reads keeps no room
    timer = asyncio.get_running_loop().call_later(limits.seconds + limits.grace, slot.release)
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        whole = True
    finally:
        if not whole:
            slot.service.metrics.cancelled.inc()
        timer.cancel()
        slot.release()


def _start(service: Service, request: CheckedRequest, slot: AdmissionSlot, top: int | None, steps: bool) -> Events:
    read = _StepReader(request, top)

    def think(emit: Callable[[StreamStep | Answer], None]) -> None:
        def on_step(event: StepEvent) -> None:
            emit(read(event))

        emit(service.think(request, slot.caller, on_step if steps else None))

    return EventStream(service.threads, think, slot.caller)


async def _answer(events: Events) -> Answer:
    answer = await events.next()
    assert isinstance(answer, Answer), "no steps were asked for"
    return answer


class _StepReader:
    """What is new in each step of a generation, copied: its outputs go on growing while the loop reads."""

    def __init__(self, request: CheckedRequest, top: int | None) -> None:
        self._streams, self._top = request.streams, top
        self._seen = [0] * request.request.n

    def __call__(self, event: StepEvent) -> StreamStep:
        if not self._streams:
            return StreamStep((), (), (), event.done, event.total)
        draws: list[list[Draw]] = [[] for _ in event.pieces]
        if self._top is not None:
            for i, output in enumerate(event.outputs):
                for at in range(self._seen[i], len(output.token_ids)):
                    top = list(zip(*output.top[at], strict=True))[: self._top] if output.top else []
                    draws[i].append(Draw(output.token_ids[at], output.logprobs[at], top))
                self._seen[i] = len(output.token_ids)
        return StreamStep(tuple(event.pieces), draws, tuple(event.finished), event.done, event.total)


class SentText:
    """What a stream has said of each thought, and what is new to say.

    Args:
        vocabulary: Of the model.
        size: How many thoughts.
    """

    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        self._texts = [""] * size
        self._placers = [TokenPlacer(vocabulary) for _ in range(size)]

    def step(self, event: StreamStep) -> Iterator[tuple[int, str, list[PlacedToken]]]:
        """Each thought that has new text, the text, and the tokens that lie in what is said by now."""
        for i, piece in enumerate(event.pieces):
            placer = self._placers[i]
            placer.add(event.draws[i])
            shown = piece.rstrip(HALF) if event.ended[i] else piece  # the answer says whether that was a character
            if shown:
                self._texts[i] += shown
                over = event.ended[i] and shown == piece
                yield i, shown, placer.finish(self._texts[i]) if over else placer.take(len(self._texts[i]))

    def rest(self, i: int, thought: Thought, draws: Sequence[Draw]) -> tuple[str, list[PlacedToken]]:
        """What remains of a whole thought. draws: all of it."""
        sent, placer = self._texts[i], self._placers[i]
        placer.add(draws[placer.seen :])
        text = thought.text[len(sent) :] if thought.text.startswith(sent) else ""
        return text, placer.finish(thought.text)
