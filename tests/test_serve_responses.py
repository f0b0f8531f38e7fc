"""/v1/responses as OpenAI's client sees it, and as its types say, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import serving
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from serving import Running

SAID: list[Any] = [{"role": "user", "content": "w5 w9 w77"}]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
OF_A_THOUGHT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with serving.running() as made:
        yield made


@pytest.fixture(scope="module")
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="x", max_retries=0) as made:
        yield made


def respond(here: Running, **body: Any) -> httpx.Response:
    return httpx.post(f"{here.url}/v1/responses", json={"input": SAID, "seed": 3, **body}, timeout=60)


def test_a_response_is_the_chats_answer(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="default", messages=[{"role": "system", "content": "w4"}, *SAID], seed=3, max_tokens=8
    )
    for given in ("w5 w9 w77", SAID, [{"role": "user", "content": [{"type": "input_text", "text": "w5 w9 w77"}]}]):
        got = client.responses.create(
            model="gpt-5", instructions="w4", input=given, max_output_tokens=8, extra_body={"seed": 3}
        )
        assert got.output_text == chat.choices[0].message.content
        assert got.status == "incomplete" and got.incomplete_details is not None
        assert got.incomplete_details.reason == "max_output_tokens"
        assert got.usage is not None and chat.usage is not None
        assert got.usage.input_tokens == chat.usage.prompt_tokens and got.usage.output_tokens == 8
        assert got.usage.total_tokens == chat.usage.total_tokens
        assert got.instructions == "w4" and got.max_output_tokens == 8 and got.model == "tiny-llama"


def test_each_thought_is_a_message(here: Running) -> None:
    got = respond(here, n=4, select=2, max_output_tokens=5, temperature=1.0, metadata={"a": "b"}).json()
    assert len(got["output"]) == 2 and got["metadata"] == {"a": "b"} and got["temperature"] == 1.0
    seeds = [item["thoughtmix"]["seed"] for item in got["output"]]
    assert set(seeds) < {3, 4, 5, 6} and got["thoughtmix"]["distances"]
    again = respond(here, seed=seeds[1], max_output_tokens=5, temperature=1.0).json()
    assert again["output"][0]["content"][0]["text"] == got["output"][1]["content"][0]["text"]


def test_an_answer_may_be_sent_back(client: openai.OpenAI) -> None:
    first = client.responses.create(model="x", input=SAID, max_output_tokens=5)
    for item in (first.output[0], first.output[0].model_dump(), first.output[0].model_dump(exclude_none=True)):
        talk: list[Any] = [*SAID, item, {"role": "user", "content": "w6"}]
        assert client.responses.create(model="x", input=talk, max_output_tokens=5).output_text


@pytest.mark.parametrize("more", [{}, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}])
def test_the_answer_is_what_the_types_say(here: Running, more: dict[str, Any]) -> None:
    raw = respond(here, n=2, max_output_tokens=6, **more).json()
    Response.model_validate_json(json.dumps(raw), strict=True)
    for item in raw["output"]:
        part = item["content"][0]
        joined = b"".join(bytes(token["bytes"]) for token in part["logprobs"]).decode()
        assert joined == (part["text"] if more else "")
        assert all(len(token["top_logprobs"]) == 2 for token in part["logprobs"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3},
        {"n": 3, "select": 2},
        {"thinker": "noise", "n": 2},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "n": 2},
        {"max_output_tokens": 40, "n": 2, "stop": ["w1"]},
    ],
)
def test_the_official_sequence_of_events(here: Running, more: dict[str, Any]) -> None:
    body = {"input": SAID, "seed": 3, "max_output_tokens": 6, "stream": True, **more}
    with httpx.stream("POST", f"{here.url}/v1/responses", json=body, timeout=60) as stream:
        blocks = "".join(stream.iter_text()).split("\n\n")
    events = []
    for block in blocks:
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
            assert type(EVENT.validate_json(json.dumps(events[-1]), strict=True)).__name__.startswith("Response")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    whole = events[-1]["response"]
    assert kinds[-1] == f"response.{whole['status']}"
    size = more.get("select") or more.get("n") or 1
    assert len(whole["output"]) == size
    for i, item in enumerate(whole["output"]):
        own = [event for event in events if event.get("output_index") == i]
        order = [kind for kind in OF_A_THOUGHT if item["content"][0]["text"] or not kind.endswith("delta")]
        assert list(dict.fromkeys(event["type"] for event in own)) == order
        part, deltas = item["content"][0], [event for event in own if event["type"] == OF_A_THOUGHT[2]]
        assert "".join(event["delta"] for event in deltas) == own[-3]["text"] == part["text"]
        assert [token for event in deltas for token in event["logprobs"]] == part["logprobs"]
        assert bool(part["logprobs"]) == ("include" in more)
        assert own[-1]["item"] == item and {event.get("item_id", item["id"]) for event in own} == {item["id"]}
    alone = respond(here, **{**body, "stream": False}).json()
    assert [item["content"] for item in alone["output"]] == [item["content"] for item in whole["output"]]
    assert alone["usage"] == whole["usage"] and alone["status"] == whole["status"]


def test_the_clients_own_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="x", input="w5 w9 w77", max_output_tokens=6, extra_body={"seed": 3}) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    want = client.responses.create(model="x", input="w5 w9 w77", max_output_tokens=6, extra_body={"seed": 3})
    assert said == want.output_text


def test_a_stream_that_fails_says_so(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.core.errors import ModelError

    def broken(request: Any, caller: Any, on_step: Any = None) -> Any:
        from thoughtmix.core.request import StepEvent

        on_step(StepEvent(["w1 "], 1, 2, [False]))
        raise ModelError("It broke.", "Try again.")

    monkeypatch.setattr(here.service, "think", broken)
    events = [json.loads(line[6:]) for line in respond(here, stream=True).text.split("\n") if line.startswith("data:")]
    assert events[-1]["type"] == "response.failed" and events[-1]["response"]["error"]["message"].startswith("It broke")
    EVENT.validate_json(json.dumps(events[-1]), strict=True)
    assert here.service._callers == set()


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"conversation": "conv_1"}, "conversation", "nothing is stored"),
        ({"background": True}, "background", "False"),
        ({"truncation": "auto"}, "truncation", "disabled"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "required"),
        ({"tool_choice": "required"}, None, "no tool for tool_choice"),
        ({"text": {"format": {"type": "json_object"}}}, None, "no bytes"),
        ({"input": ""}, "input", "at least 1"),
        ({"input": []}, "input", "at least 1"),
        (
            {"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "["}]},
            None,
            "no JSON",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "message"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type", "input_text"),
        ({"input": [{"role": "user", "content": "w5", "nmae": 1}]}, "input.0.nmae", "Did you mean 'name'"),
        ({"top_logprobs": 2}, "top_logprobs", "needs include"),
        ({"include": ["file_search_call.results"]}, "include.0", "logprobs"),
        ({"max_tokens": 5}, "max_tokens", "Unknown field"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
    ],
)
def test_what_is_refused(here: Running, body: dict[str, Any], param: str | None, says: str) -> None:
    for more in ({}, {"stream": True}):
        got = respond(here, **body, **more)
        error = got.json()["error"]
        assert got.status_code == 400 and error["param"] == param and says in error["message"], error


NOTHING: list[dict[str, Any]] = [
    {"previous_response_id": None, "conversation": None, "background": False, "truncation": "disabled"},
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "max_tool_calls": 3},
    {"text": {"format": {"type": "text"}, "verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}},
    {"include": ["reasoning.encrypted_content"], "store": True, "service_tier": "auto", "user": "x"},
    {"prompt_cache_key": "x", "prompt_cache_retention": "24h", "safety_identifier": "x", "metadata": None},
    {"stream_options": {"include_obfuscation": False}, "instructions": None, "top_logprobs": None},
]


@pytest.mark.parametrize("more", NOTHING, ids=lambda more: ",".join(more))
def test_what_asks_for_nothing_changes_nothing(here: Running, more: dict[str, Any]) -> None:
    want, got = respond(here, max_output_tokens=5).json(), respond(here, max_output_tokens=5, **more).json()
    assert got["output"][0]["content"] == want["output"][0]["content"]
