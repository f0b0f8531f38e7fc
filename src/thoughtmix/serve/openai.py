"""/v1: what OpenAI's clients speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import Prompt
from thoughtmix.models import LanguageModel
from thoughtmix.models.tools import plain_messages
from thoughtmix.serve import schemas
from thoughtmix.serve.answers import (
    DONE,
    ChatFormat,
    CompletionFormat,
    ToolFormat,
    progress_comment,
    server_sent_event,
    set_facts,
    usage,
)
from thoughtmix.serve.checked import Answer, CheckedRequest
from thoughtmix.serve.errors import Refused, error_body
from thoughtmix.serve.forms import Function, NamedTool, form_of
from thoughtmix.serve.service import Service, random_seed
from thoughtmix.serve.streaming import Event, Events, SentText, StreamStep, answer_in_chunks, answer_whole
from thoughtmix.serve.tools import ToolPlan, described

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
        asked = await asyncio.to_thread(_asked, lm, body)
        if asked.plan is not None and top is not None:
            raise Refused(400, "Log-probabilities are not given beside tools. Leave one of them out.", param="logprobs")
        prompt = conversation(lm, asked.messages, body.chat_template_kwargs, body.reasoning_effort, asked.tools)
        checked = service.check(
            body,
            prompt,
            random_seed() if body.seed is None else body.seed,
            top_logprobs=top or 0,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            grammar=asked.grammar,
        )
        form = ChatFormat(service, top) if asked.plan is None else ToolFormat(service, top, asked.plan)
        return await _respond(service, http, body, [checked], form)

    @api.post("/completions", response_model=schemas.CompletionAnswer, responses=schemas.STREAM_RESPONSES)
    async def completions(body: schemas.CompletionRequest, http: Request) -> Response:
        """n thoughts that continue a text as it stands, by max_tokens (16) at most; of several texts n each."""
        service.check_model(body.model)
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        prompts = [Prompt(text, raw=True) for text in texts]
        if body.stream and len(prompts) > 1:
            raise Refused(400, "Streaming takes one prompt. Send one, or stream: false.", param="prompt")
        seed = random_seed() if body.seed is None else body.seed
        how: dict[str, Any] = {"top_logprobs": body.logprobs or 0, "max_tokens": body.max_tokens}
        how["grammar"] = await asyncio.to_thread(form_of, None, body.structured_outputs)
        checked = [service.check(body, prompt, seed, default=_COMPLETION_TOKENS, **how) for prompt in prompts]
        return await _respond(service, http, body, checked, CompletionFormat(service, body.logprobs))

    return api


@dataclass(frozen=True)
class Asked:
    """What a request says of the form of its answers. tools: that the template is told of."""

    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Mapping[str, Any], ...]
    plan: ToolPlan | None
    grammar: Grammar | None

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        messages: Sequence[Mapping[str, Any]],
        functions: Sequence[Function],
        choice: str | None,
        parallel: bool | None,
        form: Grammar | None,
    ) -> Asked:
        """Takes a moment: not for the server's own thread. Raises `InputError`."""
        plan = ToolPlan.of(lm.tool_form, functions, choice, parallel)
        tools = described(functions) if functions and choice != "none" else ()
        if not lm.tool_form.native or not lm.codec.chat_template:
            messages, tools = plain_messages(messages, tools, lm.tool_form), ()
        return cls(messages, tools, plan, form if plan is None else plan.grammar(form))


def _asked(lm: LanguageModel, body: schemas.ChatRequest) -> Asked:
    """Raises `InputError`."""
    choice = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else body.tool_choice
    functions = [tool.function for tool in body.tools or ()]
    form = form_of(body.response_format, body.structured_outputs)
    messages = [message.message() for message in body.messages]
    return Asked.of(lm, messages, functions, choice, body.parallel_tool_calls, form)


def conversation(
    lm: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    template_kwargs: Mapping[str, Any],
    effort: str | None,
    tools: tuple[Mapping[str, Any], ...] = (),
) -> Prompt:
    """A prompt of messages; of their texts alone where there is no chat template.

    Args:
        lm: Whose template it is for.
        messages: As templates take them.
        template_kwargs: What the template gets beside them.
        effort: The `reasoning_effort`, which templates of models that have it know by this name.
        tools: That the template is told of.
    """
    if not lm.codec.chat_template:
        begun = messages[-1]["content"] if len(messages) > 1 and messages[-1]["role"] == "assistant" else ""
        said = "\n\n".join(message["content"] for message in (messages[:-1] if begun else messages))
        between = " " if said[-1:].isalnum() and begun[:1].isalnum() else ""  # tokenizers that drop spaces have none
        return Prompt(said + between + begun)
    more = {**({} if effort is None else {"reasoning_effort": effort}), **template_kwargs}
    return Prompt(tuple(messages), template_kwargs=more, tools=tools)


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
            new = [(i, form.shown(i, text), tokens) for i, text, tokens in sent.step(event)]
            out = b"".join(chunk([form.piece(i, text, tokens)]) for i, text, tokens in new if text or tokens)
            yield out or progress_comment(event.done, event.total)
            event = await events.next()
        assert event is not None, "the answer is the last event"
        facts = set_facts([event])
        last = len(event.thoughts) - 1
        for i, thought in enumerate(event.thoughts):
            choice = form.last_piece(i, *sent.rest(i, thought, form.draws(thought, event)), thought)
            yield chunk([choice], **({"thoughtmix": facts} if i == last and not counts else {}))
        if counts:
            yield chunk([], usage=usage([event]), thoughtmix=facts)
    except Refused as error:  # too late for a status: the stream says it
        yield server_sent_event(error_body(error))
    yield DONE
