"""/v1: what OpenAI's clients speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from thoughtmix.serve import answers, schemas
from thoughtmix.serve.errors import Refused, body_of
from thoughtmix.serve.service import Answer, Call, Run, Service, Ticket, drawn_seed

T = TypeVar("T")
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error, "description": said}
    for status, said in {
        400: "The request cannot be served as written.", 401: "The token is missing or wrong.",
        404: "There is no such model.", 413: "The body is too large.",
        429: "The server is full; Retry-After says when to try again.", 500: "Something went wrong inside.",
        503: "The server is stopping, or the request was cancelled.", 504: "The time was up before anything was whole.",
    }.items()
}  # fmt: skip
EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAMED: dict[str, Any] = {"text/event-stream": {"schema": {**EVENT, "description": "Chunks, then [DONE]."}}}
STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": STREAMED, "description": "The thoughts."}}


def router(service: Service) -> APIRouter:
    api = APIRouter(prefix="/v1", responses=FAILURES)
    lm = service.lm

    @api.get("/models")
    async def models() -> schemas.Models:
        """The model that is served."""
        return schemas.Models(data=[schemas.Model(id=lm.name, created=service.created)])

    @api.get("/models/{name:path}")
    async def model(name: str) -> schemas.Model:
        service.model_named(name)
        return schemas.Model(id=lm.name, created=service.created)

    @api.post("/chat/completions", response_model=schemas.ChatAnswer, responses=STREAMS)
    async def chat(asked: schemas.ChatRequest, request: Request) -> Response:
        """n thoughts on a conversation. A model without a chat template continues the messages' text."""
        service.model_named(asked.model)
        if asked.top_logprobs and not asked.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        said: Any = [m.said() for m in asked.messages]
        raw = not lm.tokenizer.chat_template
        if raw:
            said = "\n\n".join(m["content"] for m in said)
        seed = drawn_seed() if asked.seed is None else asked.seed
        most = asked.max_completion_tokens or asked.max_tokens
        calls = [service.call(asked, said, seed, raw=raw, top=top or 0, most=most)]
        return await _respond(service, request, asked, calls, _Chat(service, asked, top))

    @api.post("/completions", response_model=schemas.CompletionAnswer, responses=STREAMS)
    async def completions(asked: schemas.CompletionRequest, request: Request) -> Response:
        """n thoughts that continue a text as it stands; of several texts n each."""
        service.model_named(asked.model)
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        if asked.stream and len(prompts) > 1:
            raise Refused(400, "Streaming takes one prompt. Send one, or stream: false.", param="prompt")
        seed = drawn_seed() if asked.seed is None else asked.seed
        calls = [
            service.call(asked, p, seed, raw=True, top=asked.logprobs or 0, most=asked.max_tokens) for p in prompts
        ]
        return await _respond(service, request, asked, calls, _Text(service, asked, asked.logprobs))

    return api


class _Chat:
    """How chat answers look. top: alternatives a token; None: no log-probabilities."""

    kind, chunk = "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, asked: Any, top: int | None) -> None:
        self.service, self.asked, self.top = service, asked, top

    def choice(self, index: int, thought: Any, answer: Answer) -> dict[str, Any]:
        return answers.chat_choice(index, thought, answer, self.service.lm, self.top)

    def piece(self, index: int, text: str | None, first: bool = False) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant", "content": text or ""} if first else {}
        if text and not first:
            delta = {"content": text}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def last(self, index: int, text: str, thought: Any, answer: Answer) -> dict[str, Any]:
        whole = self.choice(index, thought, answer)
        del whole["message"]
        return {**self.piece(index, text), **whole}


class _Text(_Chat):
    kind = chunk = "text_completion"

    def choice(self, index: int, thought: Any, answer: Answer) -> dict[str, Any]:
        return answers.text_choice(index, thought, answer, self.service.lm, self.top)

    def piece(self, index: int, text: str | None, first: bool = False) -> dict[str, Any]:
        return {"index": index, "text": text or "", "logprobs": None, "finish_reason": None}

    def last(self, index: int, text: str, thought: Any, answer: Answer) -> dict[str, Any]:
        return {**self.choice(index, thought, answer), "text": text}


async def _respond(
    service: Service, request: Request, asked: schemas.Asked, calls: Sequence[Call], form: _Chat
) -> Response:
    ticket = service.admit(calls)
    streams = False
    try:
        runs = [service.run(call, ticket.caller, asked.stream) for call in calls]
        if asked.stream:
            first = await while_there(request, ticket, runs[0].news())
            streams = True
            return StreamingResponse(_stream(ticket, runs[0], first, asked, form), media_type="text/event-stream")
        made = [await while_there(request, ticket, run.answer()) for run in runs]
    finally:
        if not streams:
            ticket.cancel()  # what is over does not mind
            ticket.leave()
    choices = [
        form.choice(i, thought, answer)
        for i, (thought, answer) in enumerate((t, a) for a in made for t in a.thoughts)
    ]  # fmt: skip
    return JSONResponse(
        {
            **answers.head(form.kind, service.lm), "choices": choices, "usage": answers.usage(made),
            "thoughtmix": answers.of_set(made),
        }
    )  # fmt: skip


async def while_there(request: Request, ticket: Ticket, work: Awaitable[T]) -> T:
    """`work`, unless the client leaves before: then its rows are freed at once."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        ticket.cancel()
        ticket.service.meters.cancelled.inc()
        raise Refused(499, "The client left.", code="cancelled")  # nobody reads it
    finally:
        for task in (doing, gone):
            if not task.done():
                task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(ticket: Ticket, run: Run, first: Any, asked: schemas.Asked, form: _Chat) -> AsyncIterator[bytes]:
    """Chunks: a thought is a choice. The room is given back when the client has all of it, or leaves."""
    over = False
    limits = ticket.service.limits  # who never reads keeps no room
    last = asyncio.get_running_loop().call_later(limits.seconds + limits.grace, ticket.leave)
    try:
        async with aclosing(_chunks(run, first, asked, form)) as chunks:
            async for chunk in chunks:
                yield chunk
        over = True
    finally:
        if not over:
            ticket.service.meters.cancelled.inc()
        last.cancel()
        ticket.cancel()
        ticket.leave()


async def _chunks(run: Run, first: Any, asked: schemas.Asked, form: _Chat) -> AsyncGenerator[bytes, None]:
    begin = answers.head(form.chunk, form.service.lm)
    begin["usage"] = None

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return answers.sse({**begin, "choices": choices, **more})

    said: list[str] = []  # of each thought, so far
    if form.kind == "chat.completion":
        count = asked.select or asked.n
        yield b"".join(chunk([form.piece(i, "", first=True)]) for i in range(count))
    news = first
    try:
        while not isinstance(news, Answer):
            said = said or [""] * len(news.pieces)
            out = [chunk([form.piece(i, piece)]) for i, piece in enumerate(news.pieces) if piece]
            said = [old + new for old, new in zip(said, news.pieces, strict=True)]
            yield b"".join(out) or chunk([], thoughtmix={"progress": {"done": news.done, "total": news.total}})
            news = await run.news()
        for i, thought in enumerate(news.thoughts):
            had = said[i] if said else ""
            rest = thought.text[len(had) :] if thought.text.startswith(had) else ""
            yield chunk([form.last(i, rest, thought, news)])
        tail: dict[str, Any] = {"thoughtmix": answers.of_set([news])}
        if asked.stream_options is None or asked.stream_options.include_usage:
            tail["usage"] = answers.usage([news])
        yield chunk([], **tail)
    except Refused as error:  # too late for a status: the stream says it
        yield answers.sse(body_of(error))
    yield answers.DONE
