"""/v1: what OpenAI's clients speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from thoughtmix.core.request import StepEvent
from thoughtmix.serve import schemas
from thoughtmix.serve.answers import (
    DONE,
    ChatFormat,
    CompletionFormat,
    progress_comment,
    server_sent_event,
    set_facts,
    usage,
)
from thoughtmix.serve.errors import Refused, error_body
from thoughtmix.serve.logprobs import HALF, Draw, TokenPlacer
from thoughtmix.serve.service import AdmissionSlot, Answer, CheckedRequest, Service, random_seed
from thoughtmix.serve.threads import EventStream

Events: TypeAlias = "EventStream[StreamStep | Answer]"
"""Steps, if they are asked for, then the answer."""


def router(service: Service) -> APIRouter:
    """The routes under /v1."""
    api = APIRouter(prefix="/v1", responses=schemas.ERROR_RESPONSES)
    lm = service.lm

    @api.get("/models")
    async def models() -> schemas.Models:
        """The model that is served."""
        return schemas.Models(data=[schemas.Model(id=lm.name, created=service.created)])

    @api.get("/models/{name:path}")
    async def model(name: str) -> schemas.Model:
        service.check_model(name)
        return schemas.Model(id=lm.name, created=service.created)

    @api.post("/chat/completions", response_model=schemas.ChatAnswer, responses=schemas.STREAM_RESPONSES)
    async def chat(body: schemas.ChatRequest, http: Request) -> Response:
        """n thoughts on a conversation. A model without a chat template continues the messages' text."""
        service.check_model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        top = (body.top_logprobs or 0) if body.logprobs else None
        if not lm.tokenizer.chat_template:
            prompt: Any = "\n\n".join(m.text for m in body.messages)
        else:
            prompt = [{"role": m.role, "content": m.text} for m in body.messages]
        checked = service.check(
            body,
            prompt,
            random_seed() if body.seed is None else body.seed,
            raw=False,
            top_logprobs=top or 0,
            max_tokens=body.max_completion_tokens or body.max_tokens,
        )
        return await _respond(service, http, body, [checked], ChatFormat(service, top))

    @api.post("/completions", response_model=schemas.CompletionAnswer, responses=schemas.STREAM_RESPONSES)
    async def completions(body: schemas.CompletionRequest, http: Request) -> Response:
        """n thoughts that continue a text as it stands; of several texts n each."""
        service.check_model(body.model)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if body.stream and len(prompts) > 1:
            raise Refused(400, "Streaming takes one prompt. Send one, or stream: false.", param="prompt")
        seed = random_seed() if body.seed is None else body.seed
        checked = [
            service.check(body, p, seed, raw=True, top_logprobs=body.logprobs or 0, max_tokens=body.max_tokens)
            for p in prompts
        ]
        return await _respond(service, http, body, checked, CompletionFormat(service, body.logprobs))

    return api


async def _respond(
    service: Service,
    http: Request,
    body: schemas.GenerationRequest,
    requests: Sequence[CheckedRequest],
    form: ChatFormat,
) -> Response:
    slot = service.admit(requests)
    streams = False
    try:
        running = [_start(service, request, slot, form, steps=body.stream) for request in requests]
        if body.stream:
            first = await slot.unless_disconnected(http, running[0].next())
            streams = True
            return StreamingResponse(_stream(slot, running[0], first, body, form), media_type="text/event-stream")
        answers = [await slot.unless_disconnected(http, _answer(events)) for events in running]
    finally:
        if not streams:
            slot.release()
    thoughts = [(thought, answer) for answer in answers for thought in answer.thoughts]
    return JSONResponse(
        {
            **form.envelope(form.object),
            "choices": [form.choice(i, thought, answer) for i, (thought, answer) in enumerate(thoughts)],
            "usage": usage(answers),
            "thoughtmix": set_facts(answers),
        }
    )


@dataclass(frozen=True)
class StreamStep:
    """New text and new draws of each thought ([] where they do not stream), who has ended, and how far all are."""

    pieces: Sequence[str]
    draws: Sequence[Sequence[Draw]]
    ended: Sequence[bool]
    done: int
    total: int


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


def _start(service: Service, request: CheckedRequest, slot: AdmissionSlot, form: ChatFormat, steps: bool) -> Events:
    read = _StepReader(request, form.top)

    def think(emit: Callable[[StreamStep | Answer], None]) -> None:
        def on_step(event: StepEvent) -> None:
            emit(read(event))

        emit(service.think(request, slot.caller, on_step if steps else None))

    return EventStream(service.threads, think, slot.caller)


async def _answer(events: Events) -> Answer:
    answer = await events.next()
    assert isinstance(answer, Answer), "no steps were asked for"
    return answer


async def _stream(
    slot: AdmissionSlot, events: Events, first: Any, body: schemas.GenerationRequest, form: ChatFormat
) -> AsyncIterator[bytes]:
    """The chunks. The room is given back when the client has all of it, or leaves."""
    whole = False
    limits = slot.service.limits  # who never reads keeps no room
    timer = asyncio.get_running_loop().call_later(limits.seconds + limits.grace, slot.release)
    try:
        async with aclosing(_chunks(events, first, body, form)) as chunks:
            async for chunk in chunks:
                yield chunk
        whole = True
    finally:
        if not whole:
            slot.service.metrics.cancelled.inc()
        timer.cancel()
        slot.release()


async def _chunks(
    events: Events, event: StreamStep | Answer | None, body: schemas.GenerationRequest, form: ChatFormat
) -> AsyncGenerator[bytes, None]:
    """A thought is a choice. event: the first. Only the chunk with the usage, which clients must ask for, has none."""
    counts = body.stream_options is not None and body.stream_options.include_usage
    envelope = {**form.envelope(form.chunk_object), **({"usage": None} if counts else {})}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return server_sent_event({**envelope, "choices": choices, **more})

    size = body.select or body.n
    sent = [""] * size  # of each thought, so far
    placers = [TokenPlacer(form.vocabulary) for _ in range(size)]
    if form.greets:
        yield b"".join(chunk([form.first_piece(i)]) for i in range(size))
    try:
        while isinstance(event, StreamStep):
            out = b""
            for i, piece in enumerate(event.pieces):
                placer = placers[i]
                placer.add(event.draws[i])
                shown = piece.rstrip(HALF) if event.ended[i] else piece  # the answer says whether that was a character
                if shown:
                    sent[i] += shown
                    over = event.ended[i] and shown == piece
                    tokens = placer.finish(sent[i]) if over else placer.take(len(sent[i]))
                    out += chunk([form.piece(i, shown, tokens)])
            yield out or progress_comment(event.done, event.total)
            event = await events.next()
        assert event is not None, "the answer is the last event"
        facts = set_facts([event])
        last = len(event.thoughts) - 1
        for i, thought in enumerate(event.thoughts):
            rest = thought.text[len(sent[i]) :] if thought.text.startswith(sent[i]) else ""
            placers[i].add(form.draws(thought, event)[placers[i].seen :])
            choice = {**form.piece(i, rest, placers[i].finish(thought.text)), **form.ending(thought)}
            yield chunk([choice], **({"thoughtmix": facts} if i == last and not counts else {}))
        if counts:
            yield chunk([], usage=usage([event]), thoughtmix=facts)
    except Refused as error:  # too late for a status: the stream says it
        yield server_sent_event(error_body(error))
    yield DONE
