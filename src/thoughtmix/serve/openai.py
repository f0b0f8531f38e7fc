"""/v1: what OpenAI's clients speak."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from thoughtmix.core.request import Prompt
from thoughtmix.models import LanguageModel
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
from thoughtmix.serve.service import Answer, CheckedRequest, Service, random_seed
from thoughtmix.serve.streaming import Event, Events, SentText, StreamStep, answer_in_chunks, answer_whole

_COMPLETION_TOKENS = 16
"""Where a text completion names no max_tokens, as at OpenAI: texts that go on have no end of their own."""


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
        service.find_model(name)
        return schemas.Model(id=lm.name, created=service.created)

    @api.post("/chat/completions", response_model=schemas.ChatAnswer, responses=schemas.STREAM_RESPONSES)
    async def chat(body: schemas.ChatRequest, http: Request) -> Response:
        """n thoughts on a conversation, of max_completion_tokens at most; left out: up to the context's end, as far as
        the server's limits go. A model without a chat template continues the messages' text."""
        service.check_model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        top = (body.top_logprobs or 0) if body.logprobs else None
        said = [(message.role, message.text) for message in body.messages]
        prompt = conversation(lm, said, body.chat_template_kwargs, body.reasoning_effort)
        checked = service.check(
            body,
            prompt,
            random_seed() if body.seed is None else body.seed,
            top_logprobs=top or 0,
            max_tokens=body.max_completion_tokens or body.max_tokens,
        )
        return await _respond(service, http, body, [checked], ChatFormat(service, top))

    @api.post("/completions", response_model=schemas.CompletionAnswer, responses=schemas.STREAM_RESPONSES)
    async def completions(body: schemas.CompletionRequest, http: Request) -> Response:
        """n thoughts that continue a text as it stands, by max_tokens (16) at most; of several texts n each."""
        service.check_model(body.model)
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        prompts = [Prompt(text, raw=True) for text in texts]
        if body.stream and len(prompts) > 1:
            raise Refused(400, "Streaming takes one prompt. Send one, or stream: false.", param="prompt")
        seed = random_seed() if body.seed is None else body.seed
        top, length = body.logprobs or 0, body.max_tokens
        checked = [
            service.check(body, prompt, seed, top_logprobs=top, max_tokens=length, default=_COMPLETION_TOKENS)
            for prompt in prompts
        ]
        return await _respond(service, http, body, checked, CompletionFormat(service, body.logprobs))

    return api


def conversation(
    lm: LanguageModel, said: Sequence[tuple[str, str]], template_kwargs: Mapping[str, Any], effort: str | None
) -> Prompt:
    """A prompt of roles and texts; of the texts alone where there is no chat template.

    Args:
        lm: Whose template it is for.
        said: Roles and texts.
        template_kwargs: What the template gets beside them.
        effort: The `reasoning_effort`, which templates of models that have it know by this name.
    """
    if not lm.tokenizer.chat_template:
        return Prompt("\n\n".join(text for _, text in said))
    more = {**({} if effort is None else {"reasoning_effort": effort}), **template_kwargs}
    return Prompt(tuple({"role": role, "content": text} for role, text in said), template_kwargs=more)


async def _respond(
    service: Service,
    http: Request,
    body: schemas.GenerationRequest,
    requests: Sequence[CheckedRequest],
    form: ChatFormat,
) -> Response:
    if body.stream:

        def chunks(events: Events, first: Event) -> AsyncGenerator[bytes, None]:
            return _chunks(events, first, body, form)

        return await answer_in_chunks(service, http, requests[0], form.top, chunks)

    def whole(answers: Sequence[Answer]) -> dict[str, Any]:
        thoughts = [(thought, answer) for answer in answers for thought in answer.thoughts]
        return {
            **form.envelope(form.object),
            "choices": [form.choice(i, thought, answer) for i, (thought, answer) in enumerate(thoughts)],
            "usage": usage(answers),
            "thoughtmix": set_facts(answers),
        }

    return await answer_whole(service, http, requests, form.top, whole)


async def _chunks(
    events: Events, event: Event, body: schemas.GenerationRequest, form: ChatFormat
) -> AsyncGenerator[bytes, None]:
    """A thought is a choice. event: the first. Only the chunk with the usage, which clients must ask for, has none."""
    counts = body.stream_options is not None and body.stream_options.include_usage
    envelope = {**form.envelope(form.chunk_object), **({"usage": None} if counts else {})}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return server_sent_event({**envelope, "choices": choices, **more})

    size = body.select or body.n
    sent = SentText(form.vocabulary, size)
    if form.greets:
        yield b"".join(chunk([form.first_piece(i)]) for i in range(size))
    try:
        while isinstance(event, StreamStep):
            out = b"".join(chunk([form.piece(i, text, tokens)]) for i, text, tokens in sent.step(event))
            yield out or progress_comment(event.done, event.total)
            event = await events.next()
        assert event is not None, "the answer is the last event"
        facts = set_facts([event])
        last = len(event.thoughts) - 1
        for i, thought in enumerate(event.thoughts):
            choice = {**form.piece(i, *sent.rest(i, thought, form.draws(thought, event))), **form.ending(thought)}
            yield chunk([choice], **({"thoughtmix": facts} if i == last and not counts else {}))
        if counts:
            yield chunk([], usage=usage([event]), thoughtmix=facts)
    except Refused as error:  # too late for a status: the stream says it
        yield server_sent_event(error_body(error))
    yield DONE
