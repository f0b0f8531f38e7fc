"""/v1: what OpenAI's clients speak."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from thoughtmix.core.request import StepEvent
from thoughtmix.serve import schemas
from thoughtmix.serve.answers import (
    DONE,
    ChatFormat,
    CompletionFormat,
    server_sent_event,
    set_facts,
    usage,
)
from thoughtmix.serve.errors import Refused, error_body
from thoughtmix.serve.service import AdmissionSlot, Answer, CheckedRequest, Service, random_seed
from thoughtmix.serve.threads import EventStream

Events = EventStream[StepEvent | Answer]
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
        raw = not lm.tokenizer.chat_template
        if raw:
            prompt: Any = "\n\n".join(m.text for m in body.messages)
        else:
            prompt = [{"role": m.role, "content": m.text} for m in body.messages]
        checked = service.check(
            body,
            prompt,
            random_seed() if body.seed is None else body.seed,
            raw=raw,
            top_logprobs=top or 0,
            max_tokens=body.max_completion_tokens or body.max_tokens,
        )
        return await _respond(service, http, body, [checked], ChatFormat(lm, top))

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
        return await _respond(service, http, body, checked, CompletionFormat(lm, body.logprobs))

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
        running = [_start(service, request, slot, steps=body.stream) for request in requests]
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


def _start(service: Service, request: CheckedRequest, slot: AdmissionSlot, steps: bool) -> Events:
    def think(emit: Callable[[StepEvent | Answer], None]) -> None:
        def on_step(event: StepEvent) -> None:
            emit(event if request.streams else dataclasses.replace(event, pieces=()))

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
    events: Events, event: StepEvent | Answer | None, body: schemas.GenerationRequest, form: ChatFormat
) -> AsyncGenerator[bytes, None]:
    """A thought is a choice. event: the first."""
    envelope = {**form.envelope(form.chunk_object), "usage": None}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return server_sent_event({**envelope, "choices": choices, **more})

    sent: list[str] = []  # of each thought, so far
    if form.greets:
        yield b"".join(chunk([form.first_piece(i)]) for i in range(body.select or body.n))
    try:
        while isinstance(event, StepEvent):
            pieces = event.pieces
            sent = sent or [""] * len(pieces)
            out = [chunk([form.piece(i, piece)]) for i, piece in enumerate(pieces) if piece]
            sent = [old + new for old, new in zip(sent, pieces, strict=True)]
            yield b"".join(out) or chunk([], thoughtmix={"progress": {"done": event.done, "total": event.total}})
            event = await events.next()
        assert event is not None, "the answer is the last event"
        for i, thought in enumerate(event.thoughts):
            text = sent[i] if sent else ""
            rest = thought.text[len(text) :] if thought.text.startswith(text) else ""
            yield chunk([form.last_piece(i, rest, thought, event)])
        tail: dict[str, Any] = {"thoughtmix": set_facts([event])}
        if body.stream_options is None or body.stream_options.include_usage:
            tail["usage"] = usage([event])
        yield chunk([], **tail)
    except Refused as error:  # too late for a status: the stream says it
        yield server_sent_event(error_body(error))
    yield DONE
