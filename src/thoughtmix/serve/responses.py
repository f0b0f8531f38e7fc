"""/v1/responses: OpenAI's newer form of a conversation, text in and text out. Nothing is stored."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from thoughtmix.core.types import Thought
from thoughtmix.models import LanguageModel
from thoughtmix.serve import schemas
from thoughtmix.serve.answers import ChatFormat, progress_comment, server_sent_event, set_facts, thought_facts
from thoughtmix.serve.checked import Answer
from thoughtmix.serve.errors import Refused, error_body
from thoughtmix.serve.forms import NamedResponseTool, form_of
from thoughtmix.serve.logprobs import PlacedToken, TokenPlacer
from thoughtmix.serve.openai import Asked, conversation
from thoughtmix.serve.response_schemas import ResponseAnswer, ResponseRequest, messages_of
from thoughtmix.serve.service import Service, random_seed
from thoughtmix.serve.streaming import Event, Events, SentText, StreamStep, answer_in_chunks, answer_whole
from thoughtmix.serve.tools import ToolPlan


def router(service: Service) -> APIRouter:
    """The route."""
    api = APIRouter(prefix="/v1", responses=schemas.ERROR_RESPONSES)

    @api.post("/responses", response_model=ResponseAnswer, responses=schemas.STREAM_RESPONSES)
    async def responses(body: ResponseRequest, http: Request) -> Response:
        """n thoughts on an input, each a message of the output."""
        service.check_model(body.model)
        wanted = "message.output_text.logprobs" in (body.include or [])
        if body.top_logprobs and not wanted:
            hint = 'top_logprobs needs include: ["message.output_text.logprobs"].'
            raise Refused(400, hint, param="top_logprobs")
        asked = await asyncio.to_thread(_asked, service.lm, body)
        if asked.plan is not None and wanted:
            raise Refused(400, "Log-probabilities are not given beside tools. Leave one of them out.", param="include")
        effort = body.reasoning.effort if body.reasoning else None
        prompt = conversation(service.lm, asked.messages, body.chat_template_kwargs, effort, asked.tools)
        checked = service.check(
            body,
            prompt,
            random_seed() if body.seed is None else body.seed,
            top_logprobs=body.top_logprobs or 0,
            max_tokens=body.max_output_tokens,
            grammar=asked.grammar,
        )
        form = ResponseFormat(service, body, (body.top_logprobs or 0) if wanted else None, asked.plan)
        if body.stream:
            return await answer_in_chunks(
                service, http, checked, form.top, lambda events, at: _chunks(events, at, form)
            )
        return await answer_whole(service, http, [checked], form.top, lambda answers: form.whole(answers[0]))

    return api


def _asked(lm: LanguageModel, body: ResponseRequest) -> Asked:
    """Raises `InputError`."""
    choice = body.tool_choice.name if isinstance(body.tool_choice, NamedResponseTool) else body.tool_choice
    form = form_of(body.text.format if body.text else None, body.structured_outputs)
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else messages_of(body.input)
    told = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return Asked.of(lm, [*told, *given], body.tools or [], choice, body.parallel_tool_calls, form)


class ResponseFormat(ChatFormat):
    """How one response looks, from `response.created` to its end.

    Args:
        service: Whose answer.
        body: What was asked, which it says again.
        top: Alternatives a token; None: no log-probabilities.
        plan: How thoughts may call tools.
    """

    def __init__(self, service: Service, body: ResponseRequest, top: int | None, plan: ToolPlan | None = None) -> None:
        super().__init__(service, top)
        self.plan = plan
        self.size = body.select or body.n
        self.items = [f"msg_{secrets.token_hex(16)}" for _ in range(self.size)]
        self._envelope = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": self.model,
        }
        self._asked: dict[str, Any] = {
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "parallel_tool_calls": True if body.parallel_tool_calls is None else body.parallel_tool_calls,
            "tool_choice": _plain(body.tool_choice) or "auto",
            "tools": [_plain(tool) for tool in body.tools or ()],
            "text": {"format": _plain(body.text.format if body.text else None) or {"type": "text"}},
            "reasoning": {"effort": None, "summary": None},
            "truncation": "disabled",
            "previous_response_id": None,
            "background": False,
            "store": False,
            "user": body.user,
        }

    def response(self, status: str, output: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
        """The response at a moment. status: `in_progress`, `completed`, `incomplete` or `failed`."""
        ends = {"error": None, "incomplete_details": None, "usage": None, **more}
        return {**self._envelope, "status": status, **ends, "output": list(output), **self._asked}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The response at its end. One thought that ran out of tokens, or time, makes it incomplete."""
        cut = any(thought.finish != "stop" for thought in answer.thoughts)
        return self.response(
            "incomplete" if cut else "completed",
            [item for i, thought in enumerate(answer.thoughts) for item in self.all_items(i, thought, answer)],
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": answer.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": answer.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            },
            thoughtmix=set_facts([answer]),
        )

    def all_items(self, index: int, thought: Thought, answer: Answer) -> list[dict[str, Any]]:
        """A whole thought: its message, and the calls in it."""
        if self.plan is None:
            return [self.item(index, thought, answer)]
        said, calls = self.plan.read(thought.text)
        message = self.item(index, dataclasses.replace(thought, text=said), answer)
        of_call = {"type": "function_call", "status": message["status"], "thoughtmix": message["thoughtmix"]}
        made = [
            {**of_call, "id": f"fc_{call.id}", "call_id": call.id, "name": call.name, "arguments": call.arguments}
            for call in calls
        ]
        return [message, *made] if said.strip() or not made else made

    def item(self, index: int, thought: Thought, answer: Answer) -> dict[str, Any]:
        """A whole thought."""
        placer = TokenPlacer(self.vocabulary)
        placer.add(self.draws(thought, answer))
        status = "completed" if thought.finish == "stop" else "incomplete"
        part = self.part(thought.text, self.token_entries(placer.finish(thought.text)))
        return {**self.begun(index), "status": status, "content": [part], "thoughtmix": thought_facts(thought)}

    def begun(self, index: int) -> dict[str, Any]:
        """A thought before there is text."""
        return {
            "id": self.items[index],
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }

    def part(self, text: str = "", logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """A message's only part."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}

    def token_entries(self, tokens: Sequence[PlacedToken]) -> list[dict[str, Any]]:
        """Log-probabilities of tokens; [] unless wanted."""
        made = self.logprobs(tokens)
        return [] if made is None else list(made["content"])


def _plain(given: Any) -> Any:
    """A part of the request, to say it again."""
    return given.model_dump(by_alias=True) if isinstance(given, BaseModel) else given


class _EventWriter:
    """Numbers the events, and announces each item before its first text."""

    def __init__(self, form: ResponseFormat) -> None:
        self.form = form
        self._number = 0
        self._begun: set[int] = set()

    def event(self, kind: str, **fields: Any) -> bytes:
        """`event: kind`, and its data."""
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n".encode() + server_sent_event(body)

    def _of_part(self, kind: str, index: int, **fields: Any) -> bytes:
        place = {"item_id": self.form.items[index], "output_index": index, "content_index": 0}
        return self.event(kind, **place, **fields)

    def text(self, index: int, text: str, tokens: Sequence[PlacedToken]) -> bytes:
        """New text of a thought."""
        out = b""
        if index not in self._begun:
            self._begun.add(index)
            out += self.event("response.output_item.added", output_index=index, item=self.form.begun(index))
            out += self._of_part("response.content_part.added", index, part=self.form.part())
        if text or tokens:
            entries = self.form.token_entries(tokens)
            out += self._of_part("response.output_text.delta", index, delta=text, logprobs=entries)
        return out

    def end(self, index: int, item: dict[str, Any]) -> bytes:
        """Of a thought: its text, its part and its item as they stand."""
        part = item["content"][0]
        out = self._of_part("response.output_text.done", index, text=part["text"], logprobs=part["logprobs"])
        out += self._of_part("response.content_part.done", index, part=part)
        return out + self.event("response.output_item.done", output_index=index, item=item)

    def whole(self, index: int, item: dict[str, Any]) -> bytes:
        """An item at once, from its beginning to its end."""
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part = item["content"][0]
            begun = {**item, "status": "in_progress", "content": []}
            out = self.event("response.output_item.added", output_index=index, item=begun)
            place = {**place, "content_index": 0}
            empty = {**part, "text": "", "logprobs": []}
            out += self.event("response.content_part.added", **place, part=empty)
            out += self.event("response.output_text.delta", **place, delta=part["text"], logprobs=[])
            out += self.event("response.output_text.done", **place, text=part["text"], logprobs=[])
            out += self.event("response.content_part.done", **place, part=part)
        else:
            begun = {**item, "status": "in_progress", "arguments": ""}
            out = self.event("response.output_item.added", output_index=index, item=begun)
            out += self.event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            told = {"name": item["name"], "arguments": item["arguments"]}
            out += self.event("response.function_call_arguments.done", **place, **told)
        return out + self.event("response.output_item.done", output_index=index, item=item)


async def _chunks(events: Events, event: Event, form: ResponseFormat) -> AsyncGenerator[bytes, None]:
    """OpenAI's sequence of events, thoughts among each other. event: the first."""
    write, sent = _EventWriter(form), SentText(form.vocabulary, form.size)
    yield write.event("response.created", response=form.response("in_progress"))
    yield write.event("response.in_progress", response=form.response("in_progress"))
    try:
        while isinstance(event, StreamStep):
            new = [] if form.plan else sent.step(event)  # with tools, items stand or fall as a whole
            out = b"".join(write.text(i, text, tokens) for i, text, tokens in new)
            yield out or progress_comment(event.done, event.total)
            event = await events.next()
        assert event is not None, "the answer is the last event"
        whole = form.whole(event)
        for i, item in enumerate(whole["output"] if form.plan else ()):
            yield write.whole(i, item)
        for i, (thought, item) in enumerate(zip(event.thoughts, whole["output"], strict=True) if not form.plan else ()):
            yield write.text(i, *sent.rest(i, thought, form.draws(thought, event))) + write.end(i, item)
        yield write.event(f"response.{whole['status']}", response=whole)
    except Refused as error:  # too late for a status: the stream says it
        told = {"code": "server_error", "message": error_body(error)["error"]["message"]}  # of OpenAI's codes
        failed = form.response("failed", error=told)
        yield write.event("response.failed", response=failed)
