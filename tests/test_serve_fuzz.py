"""Nothing that can be sent makes the server fail: Schemathesis over its own document, and bodies that nobody means."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Running, running

CALM: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running(tokens=64, default_tokens=2, thoughts=8, texts=8, seconds=20) as made:
        yield made


@pytest.fixture(scope="module")
def document(here: Running) -> Any:
    return schemathesis.openapi.from_url(f"{here.url}/openapi.json")


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_document_is_true(document: Any, mode: GenerationMode) -> None:
    """Every operation, with data that it takes and data that it does not."""
    seen = set()
    for found in document.get_all_operations():
        operation = found.ok()
        seen.add(operation.label)
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # takes nothing, or any text

        @settings(max_examples=12, **CALM)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        check()
    assert {"POST /v1/chat/completions", "POST /api/diffuse", "GET /healthz", "GET /metrics"} <= seen


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["w5 w6", "sampling"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "w5"}]},
            {"role": "user", "content": "w5", "name": "x"},
        ],
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
        "stream_options": {"include_usage": True},
        "n": 2,
        "max_tokens": 2,
        "seed": 1,
        "stream": False,
        "logprobs": True,
        "top_logprobs": 1,
        "options": {},
        "thinker": "sampling",
        "stop": ["w9"],
        "temperature": 1.0,
        "top_k": 0,
        "min_p": 0.1,
        "select": None,
        "measure": True,
    },
    "/v1/completions": {"prompt": ["w5", "w6"], "n": 2, "max_tokens": 2, "seed": 1, "logprobs": 2, "creativity": 1.0},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "w5"}]}],
        "instructions": "w6",
        "max_output_tokens": 2,
        "n": 2,
        "stream": True,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "text": {"format": {"type": "text"}},
        "previous_response_id": None,
    },
    "/v1/embeddings": {"input": ["w5", "w6"], "encoding_format": "float", "dimensions": 3, "model": "x"},
    "/api/map": {"texts": ["w5", "w6 w7"]},
    "/api/select": {"texts": ["w5", "w6", "w7"], "logprobs": [-1.0, -2.0, -1.5], "k": 2},
    "/api/diffuse": {"prompt": "RO", "branches": 1, "steps": 1, "length": 2, "seed": 1},
}


@settings(max_examples=80, **CALM)
@given(data=st.data())
def test_no_body_makes_it_fail(here: Running, data: st.DataObject) -> None:
    """A valid body with some fields, also of its messages and items, replaced by anything, or bytes that are no body."""
    path = data.draw(st.sampled_from(sorted(VALID)))
    body: Any = json.loads(json.dumps(VALID[path]))
    for _ in range(data.draw(st.integers(0, 3))):
        key = data.draw(st.sampled_from([*sorted(body), "metadata", "logit_bias", "extra"]))
        body[key] = data.draw(JSON)
    for _ in range(data.draw(st.integers(0, 2))):
        inside = body
        while isinstance(inside, (dict, list)) and inside:
            key = data.draw(st.sampled_from(list(inside) if isinstance(inside, dict) else list(range(len(inside)))))
            if not isinstance(inside[key], (dict, list)) or data.draw(st.booleans()):
                inside[key] = data.draw(JSON)
                break
            if isinstance(inside[key], dict) and data.draw(st.integers(0, 3)) == 0:
                inside[key][data.draw(st.sampled_from(["name", "tool_calls", "id", "x"]))] = data.draw(JSON)
            inside = inside[key]
    raw = json.dumps(body).encode()
    if data.draw(st.integers(0, 5)) == 0:
        at = data.draw(st.integers(0, len(raw)))
        raw = raw[:at] + data.draw(st.binary(max_size=6)) + raw[at + data.draw(st.integers(0, 4)) :]
    got = httpx.post(here.url + path, content=raw, headers={"content-type": "application/json"}, timeout=60)
    assert got.status_code in {200, 400, 413}, (raw, got.text)
    assert "internal_error" not in got.text, "a stream says it after its status"
    if got.status_code != 200:
        error = got.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize("path", sorted(VALID))
def test_half_a_surrogate_pair_is_refused(here: Running, path: str) -> None:
    """JSON can spell what no tokenizer reads: in any text of a body, also as a name."""
    body = VALID[path]
    for key in [name for name, value in body.items() if isinstance(value, (str, list))]:
        raw = json.dumps({**body, key: "\ud83d" if isinstance(body[key], str) else ["w5", "\ud83d"]})
        got = httpx.post(here.url + path, content=raw, headers={"content-type": "application/json"}, timeout=60)
        assert got.status_code == 400 and got.json()["error"]["message"], (raw, got.text)


def test_gauges_return_to_zero(here: Running) -> None:
    assert httpx.post(here.url + "/v1/completions", json={"prompt": "w5", "n": 2, "max_tokens": 3}).status_code == 200
    ends, rows = time.monotonic() + 20, ""
    while rows != "thoughtmix_rows 0.0" and time.monotonic() < ends:
        text = httpx.get(here.url + "/metrics").text
        rows = next(line for line in text.splitlines() if line.startswith("thoughtmix_rows "))
    assert rows == "thoughtmix_rows 0.0" and "thoughtmix_waiting 0.0" in text and "thoughtmix_accepted 0.0" in text


def test_it_still_works_afterwards(here: Running) -> None:
    assert httpx.post(here.url + "/v1/completions", json=VALID["/v1/completions"]).status_code == 200
    assert here.rows == 0 and not here.service._callers and here.service._held == 0
