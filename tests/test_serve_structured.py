"""Response formats and tools, as OpenAI's clients send them and read them, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import badserver
import httpx
import jsonschema
import openai
import pytest
from lettered import TEMPLATE, lettered_model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel
from serving import Running, running_service
from tinyland import HashEmbedder

from thoughtmix import ModelError, Pipeline
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.serve.limits import Limits
from thoughtmix.serve.service import Service

SAID: list[Any] = [{"role": "user", "content": "ab"}]


class Address(BaseModel):
    zip: int


class Person(BaseModel):
    kind: Literal["red", "green"]
    on: bool
    home: Address | None


SCHEMA = Person.model_json_schema()
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop"}},
]


def service(template: str = TEMPLATE) -> Service:
    limits = Limits(tokens=8000, default_tokens=200, queue=24, rows=16, chunk=64, grace=2.0)
    return Service(lettered_model(template=template), limits, HashEmbedder, weights="native")


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running_service(service()) as made:
        yield made


@pytest.fixture(scope="module")
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="x", max_retries=0) as made:
        yield made


def post(here: Running, path: str = "chat/completions", **body: Any) -> httpx.Response:
    given = {"seed": 1, **({"input": "ab"} if path == "responses" else {"messages": SAID})}
    return httpx.post(f"{here.url}/v1/{path}", json={**given, **body}, timeout=60)


def events(got: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in got.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# --- formats ---


def test_response_format(here: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA, "strict": True}}
    got = post(here, n=4, response_format=form).json()
    texts = [choice["message"]["content"] for choice in got["choices"]]
    assert [choice["finish_reason"] for choice in got["choices"]] == ["stop"] * 4
    assert all(Person.model_validate_json(text) for text in texts) and len(set(texts)) > 1
    streamed = events(post(here, response_format=form, stream=True))
    assert "".join(c["delta"].get("content", "") for e in streamed for c in e["choices"]) == texts[0]
    response = post(here, "responses", text={"format": {"type": "json_schema", "name": "p", "schema": SCHEMA}}).json()
    assert response["output"][0]["content"][0]["text"] == texts[0]
    assert response["text"]["format"]["schema"] == SCHEMA
    guided = post(here, structured_outputs={"json": SCHEMA}).json()
    assert guided["choices"][0]["message"]["content"] == texts[0]


def test_any_object_and_expressions(here: Running) -> None:
    choice = post(here, response_format={"type": "json_object"}, n=3, temperature=0.5, max_tokens=300).json()["choices"]
    for one in choice:
        assert one["message"]["content"].startswith("{")
        assert one["finish_reason"] == "length" or isinstance(json.loads(one["message"]["content"]), dict)
    number = {"regex": "[0-9]{4}"}
    assert len(post(here, structured_outputs=number).json()["choices"][0]["message"]["content"]) == 4
    text = httpx.post(f"{here.url}/v1/completions", json={"prompt": "ab", "structured_outputs": number}, timeout=60)
    assert text.json()["choices"][0]["text"].isdigit()


def test_select_sees_objects(here: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
    got = post(here, n=6, select=2, response_format=form).json()
    assert all(Person.model_validate_json(choice["message"]["content"]) for choice in got["choices"])
    assert got["thoughtmix"]["run"]["selected"]["of"] == 6


# --- tools ---


def test_tools_that_must_be_called(here: Running) -> None:
    got = post(here, n=4, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    whole = ChatCompletion.model_validate_json(got.text, strict=True)
    for choice in whole.choices:
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function" and call.id
        given = json.loads(call.function.arguments)
        jsonschema.validate(given, SCHEMA if call.function.name == "paint" else {"type": "object"})
    named = post(here, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "paint"}}).json()
    assert named["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "paint"


def test_a_stream_gives_the_same_calls(here: Running) -> None:
    how: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "n": 2, "parallel_tool_calls": False}
    whole = post(here, **how).json()["choices"]
    chunks = events(post(here, stream=True, **how))
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    for choice in whole:
        mine = [c for e in chunks for c in e["choices"] if c["index"] == choice["index"]]
        calls = [call["function"] for c in mine for call in c["delta"].get("tool_calls", ())]
        assert calls == [call["function"] for call in choice["message"]["tool_calls"]]
        assert mine[-1]["finish_reason"] == "tool_calls"
        assert not any(c["delta"].get("content") for c in mine)


def test_tools_that_may_be_called(here: Running) -> None:
    """The tiny model never writes the trigger by chance: it answers in text, which streams."""
    how: dict[str, Any] = {"tools": TOOLS, "max_tokens": 12}
    whole = post(here, **how).json()["choices"][0]
    assert whole["message"]["content"] and not whole["message"]["tool_calls"]
    chunks = events(post(here, stream=True, **how))
    pieces = [c["delta"].get("content", "") for e in chunks for c in e["choices"]]
    assert "".join(pieces) == whole["message"]["content"] and sum(map(bool, pieces)) > 1
    none = post(here, tools=TOOLS, tool_choice="none", max_tokens=12).json()["choices"][0]["message"]
    assert none["content"] and "tool_calls" not in none
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
    either = post(here, tools=TOOLS, response_format=form).json()["choices"][0]["message"]
    assert either["tool_calls"] or Person.model_validate_json(either["content"])


def test_a_cut_call_says_so(here: Running) -> None:
    how: dict[str, Any] = {"tools": TOOLS[:1], "tool_choice": "required", "max_tokens": 50}
    choice = post(here, **how).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "paint" and call["function"]["arguments"].startswith("{")


def test_a_conversation_goes_on_after_its_calls(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "x", "seed": 1, "tools": TOOLS[:1]}
    first = client.chat.completions.create(messages=SAID, tool_choice="required", parallel_tool_calls=False, **how)
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls or ()]
    then = client.chat.completions.create(
        model="x", messages=[*SAID, message, *results], seed=1, max_tokens=8, tools=TOOLS
    )
    assert then.choices[0].message.content
    parsed = client.chat.completions.parse(model="x", messages=SAID, seed=1, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)


# --- responses ---


def test_responses_call_tools(here: Running, client: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "name": "paint", "parameters": SCHEMA, "strict": True}]
    how: dict[str, Any] = {
        "model": "x",
        "input": "ab",
        "tools": tools,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    made = client.responses.create(**how, extra_body={"seed": 1, "n": 2})
    assert [item.type for item in made.output] == ["function_call"] * 2 and made.status == "completed"
    for item in made.output:
        assert item.type == "function_call" and Person.model_validate_json(item.arguments)
    with client.responses.stream(**how, extra_body={"seed": 1}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output[0].type == "function_call" and final.output[0].arguments == made.output[0].arguments
    raw = post(here, "responses", tools=tools).text
    assert Response.model_validate_json(raw).output[0].type == "message"
    given = [item.model_dump(exclude_unset=True) for item in made.output[:1]]
    result = {"type": "function_call_output", "call_id": made.output[0].call_id, "output": "done"}  # type: ignore[union-attr]
    then = client.responses.create(model="x", input=[*SAID, *given, result], tools=tools, max_output_tokens=8)  # type: ignore[list-item]
    assert then.output_text
    assert client.responses.parse(model="x", input="ab", text_format=Person).output_parsed is not None


# --- an endpoint: our own server, and one that heeds nothing ---


def test_an_endpoint_is_told_the_form(here: Running) -> None:
    there = Pipeline(endpoint=f"{here.url}/v1")
    local = Pipeline(here.service.lm, weights="native")
    for form in ({"json_schema": Person}, {"regex": "[0-9]{4}"}):
        made = there("ab", 3, seed=1, max_new_tokens=99, measure=False, **form)  # type: ignore[arg-type]
        own = local("ab", 3, seed=1, max_new_tokens=99, measure=False, **form)  # type: ignore[arg-type]
        assert made.texts == own.texts and len(set(made.texts)) > 1
    refused = there.engine.generate([SequenceRequest(Prompt("ab"), 0, grammar=_unchecked())]).outputs[0]
    assert "unclosed" in str(refused.error)


def _unchecked() -> Grammar:
    """That the other side refuses."""
    made = object.__new__(Grammar)
    object.__setattr__(made, "kind", "regex")
    object.__setattr__(made, "text", "(a")
    return made


def test_an_endpoint_that_heeds_no_form_is_told_of() -> None:
    with badserver.serving(lambda number, body: "ok") as server:
        for form, field in (
            ({"json_schema": Person}, "response_format"),
            ({"regex": "[0-9]{4}"}, "structured_outputs"),
        ):
            with pytest.raises(ModelError, match=field):
                Pipeline(endpoint=server.url)("A question?", 1, measure=False, **form)  # type: ignore[arg-type]
        assert server.seen[0]["response_format"]["json_schema"]["schema"]["title"] == "Person"
        assert server.seen[-1]["structured_outputs"] == {"regex": "[0-9]{4}"}


# --- what is refused ---


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {"not": {}}}}}, "not"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"structured_outputs": {"regex": "(a"}}, "unclosed"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "one of the two"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"uniqueItems": True}}}]}, "Tool f"),
        ({"tools": TOOLS[:1] * 2}, "same name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "fly"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": TOOLS, "logprobs": True}, "beside tools"),
        ({"tools": TOOLS, "structured_outputs": {"regex": "a"}}, "beside tools"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "tool_call_id"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]}, "assistant"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}]}, "JSON"),
        ({"response_format": {"type": "json_object"}, "thinker": "search"}, "grammar"),
    ],
)  # fmt: skip
def test_law_8_refusals(here: Running, more: dict[str, Any], said: str) -> None:
    got = post(here, **more)
    error = got.json()["error"]
    assert got.status_code == 400 and said in error["message"], error
