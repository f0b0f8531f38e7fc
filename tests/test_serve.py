"""The server as its clients see it: OpenAI's own, plain HTTP, and rude ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import Running, running, service
from tiny import language_model
from tinyland import HashEmbedder

from thoughtmix.pipeline import Pipeline
from thoughtmix.serve.errors import Refused

HERE = Path(__file__).parent
SAID = [{"role": "user", "content": "w5 w9 w77"}]
PROMPT = "w5 w9 w77"  # what these messages are to a model without a chat template


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def alone() -> Pipeline:
    """The same model without a server."""
    return Pipeline(language_model("llama"), embedder=HashEmbedder(), weights="native")


@pytest.fixture(scope="module")
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(here: Running, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    return httpx.post(here.url + path, json=body, timeout=60)


def chat(here: Running, **body: Any) -> httpx.Response:
    return post(here, **{"messages": SAID, "seed": 3, **body})


def until(true: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


# --- OpenAI's client ---


def test_the_official_client(client: openai.OpenAI, alone: Pipeline) -> None:
    assert [m.id for m in client.models.list()] == ["tiny-llama"]
    assert client.models.retrieve("tiny-llama").id == "tiny-llama"
    got = client.chat.completions.create(
        model="tiny-llama",
        messages=SAID,
        n=4,
        seed=7,
        max_tokens=9,
        temperature=1.2,
        top_p=0.9,
        stop=["w9"],
        logprobs=True,
        top_logprobs=3,
        extra_body={"min_p": 0.05, "top_k": 50, "thinker": "sampling", "measure": True},
    )
    want = alone(PROMPT, 4, seed=7, max_new_tokens=9, temperature=1.2, top_p=0.9, top_k=50, min_p=0.05, stop="w9")
    assert [c.message.content for c in got.choices] == want.texts
    assert [c.finish_reason for c in got.choices] == [t.finish for t in want]
    assert got.usage is not None and got.usage.completion_tokens == sum(len(t.token_ids) for t in want)
    assert got.usage.prompt_tokens == 3
    for choice, thought in zip(got.choices, want, strict=True):
        assert choice.logprobs is not None and choice.logprobs.content is not None
        values = [t.logprob for t in choice.logprobs.content]
        assert values == pytest.approx(list(thought.token_logprobs)[: len(values)], abs=1e-4)
        assert len(values) >= len(thought.token_ids) - 1
        for token in choice.logprobs.content:
            best = [t.logprob for t in token.top_logprobs]
            assert len(best) == 3 and best == sorted(best, reverse=True) and token.logprob <= best[0] + 1e-4
        ours = choice.thoughtmix  # type: ignore[attr-defined]
        assert ours["seed"] == thought.seed and ours["origin"]["thinker"] == "sampling"
        assert ours["scores"] == pytest.approx(thought.scores, abs=1e-4)
    ours = got.thoughtmix  # type: ignore[attr-defined]
    assert ours["metrics"] == pytest.approx(want.metrics, abs=1e-4) and ours["thinker"] == "sampling"
    assert len(ours["distances"]) == 4 and ours["run"]["path"] == "fused"


def test_streaming_says_the_same(client: openai.OpenAI, alone: Pipeline) -> None:
    want = alone(PROMPT, 4, seed=11, max_new_tokens=12, measure=False)
    stream = client.chat.completions.create(
        model="tiny-llama",
        messages=SAID,
        n=4,
        seed=11,
        max_tokens=12,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
    )
    texts, ends, values, usage, pieces = [""] * 4, [""] * 4, [[] for _ in range(4)], None, 0
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert not ends[choice.index], "nothing comes after the end"
            texts[choice.index] += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            ends[choice.index] = choice.finish_reason or ""
            values[choice.index] += [t.logprob for t in (choice.logprobs.content if choice.logprobs else None) or []]
    assert texts == want.texts and ends == [t.finish for t in want]
    assert pieces > 16, "in pieces, as they come"
    assert usage is not None and usage.total_tokens == 3 + sum(len(t.token_ids) for t in want)
    for got, thought in zip(values, want, strict=True):
        assert got == pytest.approx(thought.token_logprobs[: len(got)], abs=1e-4) and got


def test_completions(client: openai.OpenAI, alone: Pipeline) -> None:
    got = client.completions.create(model="default", prompt=[PROMPT, "w8"], n=2, seed=5, max_tokens=6, logprobs=2)
    want = [*alone(PROMPT, 2, seed=5, max_new_tokens=6), *alone("w8", 2, seed=5, max_new_tokens=6)]
    assert [c.text for c in got.choices] == [t.text for t in want]
    assert [c.index for c in got.choices] == [0, 1, 2, 3]
    logprobs = got.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.text_offset
    assert len(logprobs.tokens) == len(logprobs.text_offset) == len(logprobs.top_logprobs or [])
    streamed = client.completions.create(model="default", prompt=PROMPT, seed=5, max_tokens=6, stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == want[0].text


def test_law_5_a_continued_thought_is_the_longer_one(here: Running, alone: Pipeline) -> None:
    """Cut at 7 tokens and gone on with, alone or beside others: what 16 tokens had made at once."""
    whole = alone(PROMPT, 3, "sampling", seed=5, max_new_tokens=16, measure=False, landing=0)
    first = chat(here, n=3, seed=5, max_tokens=7, thinker="sampling").json()["choices"]
    for choice, thought in zip(first, whole, strict=True):
        assert choice["thoughtmix"]["finish"] == "length" and choice["thoughtmix"]["tokens"] == 7
        said = choice["message"]["content"]
        assert choice["thoughtmix"]["characters"] == len(said) and thought.text.startswith(said)
        body = {"messages": [*SAID, {"role": "assistant", "content": said}], "max_tokens": 9, "thinker": "sampling"}
        for n in (1, 2):
            rest = chat(here, **body, n=n, seed=thought.seed, drawn=7).json()["choices"][0]
            assert (said + rest["message"]["content"]).split() == thought.text.split()
    refused = chat(here, drawn=7, thinker="list")
    assert refused.status_code == 400 and "list continues no text" in refused.json()["error"]["message"]


def test_select_answers_with_the_most_different(here: Running, alone: Pipeline) -> None:
    want = alone(PROMPT, 6, seed=20, max_new_tokens=8).select(2)
    got = chat(here, n=6, seed=20, max_tokens=8, select=2).json()
    assert [c["message"]["content"] for c in got["choices"]] == want.texts
    assert [c["thoughtmix"]["seed"] for c in got["choices"]] == [t.seed for t in want]
    assert len(got["thoughtmix"]["distances"]) == 2 and got["thoughtmix"]["metrics"]
    assert got["thoughtmix"]["run"]["selected"] == want.run["selected"]
    likeliest = chat(here, n=6, seed=20, max_tokens=8, select=2, quality_floor=1.0).json()
    assert likeliest["thoughtmix"]["run"]["selected"]["quality_floor"] == 1
    body = {"messages": SAID, "n": 6, "seed": 20, "max_tokens": 8, "select": 2, "stream": True}
    with httpx.stream("POST", f"{here.url}/v1/chat/completions", json=body) as stream:
        lines = list(stream.iter_lines())
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    done = [int(line.split()[2].split("/")[0]) for line in lines if line.startswith(": progress ")]
    assert done == sorted(done) and done, "progress until they stand"
    texts = ["", ""]
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == want.texts


def test_creativity_and_seeds(here: Running) -> None:
    cold = chat(here, n=3, creativity=0).json()["choices"]
    assert len({c["message"]["content"] for c in cold}) == 1
    free = [chat(here, n=1, seed=None).json()["choices"][0]["thoughtmix"]["seed"] for _ in range(3)]
    assert len(set(free)) == 3, "a seed that is not given is drawn"


# --- errors ---


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({"thinker": "samplin"}, 400, "thinker", "Did you mean 'sampling'"),
        ({"options": {"drawz": 1}}, 400, "options", "Did you mean 'draws'"),
        ({"options": {"draws": [1]}}, 400, None, "draws is"),
        ({"temprature": 1}, 400, "temprature", "Did you mean 'temperature'"),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function", "required"),
        ({"modalities": ["audio"]}, 400, "modalities", "text"),
        ({"tool_choice": "required"}, 400, None, "no tool for tool_choice"),
        ({"messages": [{"role": "tool", "content": "w5"}]}, 400, "messages.0", "tool_call_id"),
        (
            {"messages": [{"role": "assistant", "content": "w5", "tool_calls": [{}]}]},
            400,
            "messages.0.tool_calls.0.id",
            "",
        ),
        ({"messages": [{"role": "user", "content": "w5", "nmae": "x"}]}, 400, "messages.0.nmae", "Did you mean 'name'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages.0.content.0.type",
            "text",
        ),
        ({"messages": [{"role": "robot", "content": "w5"}]}, 400, "messages.0.role", "developer"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0", "content"),
        (
            {"stream_options": {"include_usge": True}},
            400,
            "stream_options.include_usge",
            "Did you mean 'include_usage'",
        ),
        ({"response_format": {"type": "json_object"}}, 400, None, "no bytes"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, None, "empty"),
        ({"n": 0}, 400, "n", "greater"),
        ({"n": 1000}, 400, "n", "up to 64"),
        ({"n": 60, "max_tokens": 60}, 400, "max_tokens", "limit is 1600"),
        ({"max_tokens": 400}, 400, None, "over the model's 256"),
        ({"temperature": -1}, 400, "temperature", "greater"),
        ({"top_p": -0.1}, 400, "top_p", "greater"),
        ({"select": 3}, 400, "select", "select 1 to 1"),
        ({"quality_floor": 1.5}, 400, "quality_floor", "less than or equal to 1"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs: true"),
        ({"temperature": 1, "creativity": 1}, 400, None, "both were given"),
        ({"thinker": "diffusion"}, 400, None, "mask predictor"),
        ({"thinker": "mixture"}, 400, None, "branches"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty", "0"),
        ({"stop": ""}, 400, "stop", "at least 1"),
    ],
)
def test_errors_are_openais(here: Running, body: dict[str, Any], status: int, param: str | None, says: str) -> None:
    for more in ({}, {"stream": True}):
        got = chat(here, **{**body, **more})
        assert got.status_code == status, got.text
        error = got.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
        assert says in error["message"]
        assert param is None or str(error["param"]).startswith(param)
        assert "/" not in error["message"].replace("application/json", "").replace("/api/info", "")


def test_the_official_client_knows_the_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="sampling"):
        client.chat.completions.create(model="default", messages=SAID, extra_body={"thinker": "samplin"})  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_any_name_means_the_served_model_unless_the_server_is_strict(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4o", messages=SAID).model == "tiny-llama"  # type: ignore[arg-type]
    made = service()
    made.strict_model = True
    for name in ("tiny-llama", "default", None):
        made.check_model(name)
    with pytest.raises(Refused, match="Did you mean 'tiny-llama'") as refused:
        made.check_model("tiny-lama")
    assert refused.value.status == 404 and refused.value.code == "model_not_found"


def test_a_length_that_is_not_named(client: openai.OpenAI) -> None:
    """Chat goes to the context's end, as far as the limits go; text completions by 16 tokens, as at OpenAI."""
    made = service(default_tokens=8192, tokens=8192, memory=64)
    per_text = 64 * 2**20 // 16 // made.bytes_per_token
    assert made._default_tokens(1) == min(8192, per_text) > 256 and made._default_tokens(64) == 8192 // 64
    assert service(default_tokens=8192, memory=1)._default_tokens(1) == 256, "a small share is no less than that"
    with running(default_tokens=8192) as roomy:
        chat_tokens = [chat(roomy, seed=seed).json()["usage"]["completion_tokens"] for seed in range(3)]
        text = post(roomy, "/v1/completions", prompt="w5 w9", seed=1).json()["usage"]["completion_tokens"]
    assert max(chat_tokens) > 200 and text == 16


def test_the_chat_template_gets_what_is_for_it(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    shown = "{{ 'w7 w8 ' if enable_thinking is defined and not enable_thinking else '' }}{{ reasoning_effort }}"
    monkeypatch.setattr(here.service.lm.tokenizer, "chat_template", messages + shown)

    def read(**more: Any) -> int:
        return int(chat(here, max_tokens=2, **more).json()["usage"]["prompt_tokens"])

    plain = read()
    assert read(chat_template_kwargs={"enable_thinking": False}) == plain + 2
    assert read(chat_template_kwargs={"enable_thinking": True, "unknown": "x"}) == plain
    assert read(reasoning_effort="w9") == read(chat_template_kwargs={"reasoning_effort": "w9"}) == plain + 1
    body = {"input": SAID, "max_output_tokens": 2, "chat_template_kwargs": {"enable_thinking": False}}
    assert post(here, "/v1/responses", **body).json()["usage"]["input_tokens"] == plain + 2
    for refused in ({"chat_template": "x"}, {"tokenize": True}, {"enable_thinking": []}):
        assert chat(here, chat_template_kwargs=refused).status_code == 400


def test_an_internal_error_tells_nothing(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.thinkers.sampling import SamplingThinker

    def broken(*_: Any) -> Any:
        raise RuntimeError("/home/someone/secret.py")

    monkeypatch.setattr(SamplingThinker, "think", broken)
    got = chat(here)
    assert got.status_code == 500 and got.json()["error"]["type"] == "server_error"
    assert "secret" not in got.text and "home" not in got.text
    from thoughtmix.serve.errors import without_paths

    assert (
        without_paths("Cannot load /home/a/b.bin: no\nfile. See ~/x/y or C:\\a\\b")
        == "Cannot load ...: no file. See ... or ..."
    )
    assert without_paths("application/json and org/name stay") == "application/json and org/name stay"


def test_other_paths_and_methods(here: Running) -> None:
    assert httpx.get(here.url + "/nowhere").json()["error"]["code"] == "not_found"
    assert httpx.get(here.url + "/v1/chat/completions").status_code == 405
    assert httpx.get(here.url + "/page/../app.py").status_code == 404
    for body in (b"{", b"[]", b"", b"\xff", b'"x"', b"[" * 5000):
        got = httpx.post(here.url + "/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert got.status_code == 400 and got.json()["error"]["message"], got.text


# --- many at once ---


def test_law_5_under_load(here: Running, alone: Pipeline) -> None:
    """Forty requests of different prompts, n and lengths, some streamed, some leaving in the middle: each gets the
    thoughts that its seeds give alone."""

    def one(number: int) -> None:
        dice = random.Random(number)
        prompt = " ".join(f"w{dice.randrange(3, 159)}" for _ in range(dice.choice([1, 5, 40])))
        n, seed, tokens = dice.choice([1, 4]), dice.randrange(2**31), dice.choice([3, 20])
        body = {"prompt": prompt, "n": n, "seed": seed, "max_tokens": tokens, "temperature": 1.1}
        if number % 5 == 0:
            with httpx.stream(
                "POST", f"{here.url}/v1/completions", json={**body, "max_tokens": 100, "stream": True}
            ) as s:
                next(s.iter_lines())
            return
        got = post(here, "/v1/completions", **body)
        assert got.status_code == 200, got.text
        want = alone(prompt, n, seed=seed, max_new_tokens=tokens, temperature=1.1, raw=True, measure=False)
        assert [c["text"] for c in got.json()["choices"]] == want.texts

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(one, range(40)))
    until(lambda: here.rows == 0)
    assert not here.service._callers and here.service._held == 0


def slow(service: Any, seconds: float = 0.02) -> Any:
    """Makes every step of a service take a while; returns what undoes it."""
    real = service.scheduler._batch.step

    def step() -> int:
        time.sleep(seconds)
        return real()  # type: ignore[no-any-return]

    service.scheduler._batch.step = step
    return lambda: setattr(service.scheduler._batch, "step", real)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_who_leaves_frees_its_rows(here: Running, streaming: bool) -> None:
    quick = slow(here.service)
    try:
        body = {"messages": SAID, "n": 4, "max_tokens": 200, "stream": streaming, "seed": 1}
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(
                f"{here.url}/v1/chat/completions",
                json=body,
                timeout=0.3 if not streaming else httpx.Timeout(0.3, read=0.01),
            )
        until(lambda: here.rows == 0 and not here.service._callers, 1.5)  # its 200 steps would take four seconds
    finally:
        quick()
    assert chat(here).status_code == 200


def test_a_full_server_says_when_to_come_back() -> None:
    with running(queue=2, rows=4) as here:
        quick = slow(here.service)
        with ThreadPoolExecutor(2) as pool:
            busy = [pool.submit(chat, here, n=4, max_tokens=100) for _ in range(2)]
            until(lambda: len(here.service._callers) == 2)
            got = chat(here)
            assert got.status_code == 429 and int(got.headers["retry-after"]) >= 1
            assert got.json()["error"]["type"] == "rate_limit_error"
            with (
                pytest.raises(openai.RateLimitError),
                openai.OpenAI(base_url=f"{here.url}/v1", api_key="x", max_retries=0) as client,
            ):
                client.chat.completions.create(model="default", messages=SAID)  # type: ignore[arg-type]
            quick()
            assert [b.result(30).status_code for b in busy] == [200, 200]
        assert chat(here).status_code == 200
    with running(memory=1, tokens=5000) as here:  # 1 MiB: 2,730 tokens of this model
        assert chat(here, n=60, max_tokens=60).json()["error"]["code"] == "too_large"
        quick = slow(here.service)
        with ThreadPoolExecutor(2) as pool:
            busy = [pool.submit(chat, here, n=30, max_tokens=60)]
            until(lambda: here.service._callers)
            assert chat(here, n=30, max_tokens=60).status_code == 429
            quick()
            assert busy[0].result(30).status_code == 200


def test_a_body_that_is_too_large() -> None:
    with running(body=2000) as here:
        many = [{"role": "user", "content": "w5 " * 100_000}]
        got = chat(here, messages=many)
        assert got.status_code == 413 and got.json()["error"]["code"] == "body_too_large"

        def pieces() -> Iterator[bytes]:
            yield b'{"messages": [{"role": "user", "content": "'
            for _ in range(30):
                yield b"w5 " * 100
            yield b'"}]}'

        got = httpx.post(
            f"{here.url}/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"}
        )
        assert got.status_code == 413
        assert chat(here).status_code == 200


def test_time_is_limited() -> None:
    with running(seconds=1.5, rows=4, queue=8) as here, ThreadPoolExecutor(1) as pool:
        quick = slow(here.service)
        busy = pool.submit(chat, here, n=4, max_tokens=200)
        until(lambda: here.rows == 4)
        here.service.limits = dataclasses.replace(here.service.limits, seconds=0.1)
        late = chat(here, n=4, max_tokens=200)  # waits for room until its time is up, and has nothing to give
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        got = busy.result(30).json()
        assert {c["finish_reason"] for c in got["choices"]} == {"length"}
        assert 4 <= got["usage"]["completion_tokens"] < 800, "it ends with what it has"
        quick()


def test_the_token() -> None:
    with running(token="geheim") as here:
        for header in (
            {},
            {"authorization": "Bearer falsch"},
            {"authorization": "Basic geheim"},
            {"authorization": "geheim"},
        ):
            for path in ("/v1/models", "/metrics", "/api/info", "/openapi.json"):
                got = httpx.get(here.url + path, headers=header)
                assert got.status_code == 401 and got.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(here.url + "/healthz").status_code == 200
        assert httpx.get(here.url + "/").status_code == 200
        with openai.OpenAI(base_url=f"{here.url}/v1", api_key="geheim") as client:
            assert client.models.list().data
        with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=f"{here.url}/v1", api_key="x") as client:
            client.models.list()


def test_auto_chooses_once(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.thinkers.auto import AutoThinker

    asked: list[int] = []
    real = AutoThinker.resolve

    def counted(self: AutoThinker, *given: Any) -> Any:
        asked.append(1)
        return real(self, *given)

    monkeypatch.setattr(AutoThinker, "resolve", counted)
    got = chat(here, thinker="auto", n=2, max_tokens=3).json()["thoughtmix"]
    assert len(asked) == 1 and got["thinker"] == "sampling" == got["run"]["chosen"]["thinker"]


# --- beside OpenAI ---


def test_health_metrics_info(here: Running) -> None:
    assert httpx.get(here.url + "/healthz").json() == {"status": "ok"}
    info = httpx.get(here.url + "/api/info").json()
    assert (info["thinker"], info["suggested"]) == ("sampling", "auto")
    assert {t["name"] for t in info["thinkers"]} == {
        "sampling",
        "auto",
        "explore",
        "list",
        "iterate",
        "pool",
        "plan",
        "noise",
        "search",
        "hybrid",
    }, "what this model can do"
    assert info["limits"]["rows"] == 16 and info["languages"] == ["en", "fr"]
    chat(here)
    text = httpx.get(here.url + "/metrics").text
    from prometheus_client.parser import text_string_to_metric_families as parsed

    found = {s.name: s.value for family in parsed(text) for s in family.samples}
    for name in (
        "requests_total",
        "tokens_total",
        "steps_total",
        "rows",
        "waiting",
        "accepted",
        "first_token_seconds_count",
        "step_seconds_count",
        "request_seconds_count",
    ):
        assert f"thoughtmix_{name}" in found
    assert found["thoughtmix_steps_total"] > 0 and found["process_resident_memory_bytes"] > 0


def test_map_and_select(here: Running) -> None:
    texts = ["w5 w6 w7", "w5 w6 w8", "w90 w91 w92", "w90 w91 w93"]
    got = post(here, "/api/map", texts=texts).json()
    assert len(got["points"]) == 4 and all(0 <= v <= 1 for p in got["points"] for v in p)

    def far(i: int, j: int) -> float:
        return sum((a - b) ** 2 for a, b in zip(got["points"][i], got["points"][j], strict=True)) ** 0.5

    assert far(0, 1) < far(0, 2) and far(2, 3) < far(1, 3)
    assert got["distances"][0][0] == 0 and got["distances"][0][1] < got["distances"][0][2]
    assert got["usage"]["total_tokens"] == sum(HashEmbedder().count_tokens(texts))
    alone = post(here, "/api/map", texts=["w5"]).json()
    assert (alone["points"], alone["distances"]) == ([[0.5, 0.5]], [[0.0]])
    figures = post(here, "/api/map", texts=texts, prompt="w5 w6", first=2).json()
    assert figures["relevance"][0] > figures["relevance"][2]
    assert figures["metrics"]["mean_distance"] == pytest.approx(got["distances"][0][1], abs=1e-5)
    assert figures["metrics"]["vendi"] < got["metrics"]["vendi"] and "relevance" not in got["metrics"]
    chosen = post(here, "/api/select", texts=texts, logprobs=[-1, -2, -3, -1], k=2).json()
    assert set(chosen["indices"]) == {0, 3}
    assert chosen["left_out"] == [{"index": 1, "why": "quality", "of": 0}, {"index": 2, "why": "quality", "of": 3}]
    assert chosen["facts"]["distance"] > chosen["facts"]["random_distance"]
    assert post(here, "/api/select", texts=texts, k=5).status_code == 400
    assert post(here, "/api/map", texts=["w5"] * 1000).status_code == 400


def test_diffuse(here: Running) -> None:
    body = {"prompt": "ROMEO:", "branches": 3, "steps": 6, "length": 16, "seed": 4}
    with httpx.stream("POST", here.url + "/api/diffuse", json=body, timeout=60) as stream:
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    frames = [json.loads(line) for line in lines[:-1]]
    assert [f["step"] for f in frames] == list(range(1, 7)) and {f["steps"] for f in frames} == {6}
    used = [f["usage"]["total_tokens"] for f in frames]
    assert used == sorted(set(used)) and used[0] == 3 * (6 + 16) and used[-1] <= 6 * used[0]
    for frame in frames:
        assert len(frame["branches"]) == 3
        for branch in frame["branches"]:
            assert len(branch["text"]) == len(branch["confidence"]) and branch["text"].startswith("ROMEO:")
            assert all(0 <= c <= 1 for c in branch["confidence"])
    undecided = [sum(c == 0 for b in f["branches"] for c in b["confidence"]) for f in frames]
    assert undecided == sorted(undecided, reverse=True) and undecided[-1] == 0
    assert any(b["parent"] is not None for b in frames[-1]["branches"]), "the half that went on was copied"
    until(lambda: not here.service._callers)


@pytest.mark.parametrize("family", ["bloom", "mixture", "gpt2"])
def test_other_models(family: str) -> None:
    """One that cannot join, one whose rows carry routes, one on the shared path: the same thoughts as alone."""
    own = Pipeline(language_model(family), embedder=HashEmbedder(), weights="native")
    with running(family) as here, ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda s: chat(here, n=2, seed=s, max_tokens=8), range(0, 12, 2)))
        plain = chat(here, n=2, seed=0, max_tokens=8, thinker="sampling")
    for seed, answer in zip(range(0, 12, 2), got, strict=True):
        assert answer.status_code == 200, answer.text
        want = own(PROMPT, 2, seed=seed, max_new_tokens=8, measure=False)
        assert [c["message"]["content"] for c in answer.json()["choices"]] == want.texts
    want = own(PROMPT, 2, "sampling", seed=0, max_new_tokens=8, measure=False)
    assert [c["message"]["content"] for c in plain.json()["choices"]] == want.texts


def test_a_model_that_denoises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is decoded from left to right; it takes turns all the same."""
    import serving

    from thoughtmix.models import load_model

    model = load_model("shakespeare-diffusion")
    monkeypatch.setattr(serving, "language_model", lambda family: model)
    own = Pipeline(model, embedder=HashEmbedder())
    want = own("ROMEO:", 2, seed=1, max_new_tokens=12, raw=True)
    body = {"messages": [{"role": "user", "content": "ROMEO:"}], "n": 2, "seed": 1, "max_tokens": 12, "measure": True}
    with running() as here:
        got = chat(here, **body).json()
        assert [c["message"]["content"] for c in got["choices"]] == want.texts and got["thoughtmix"][
            "thinker"
        ] == "diffusion"
        assert got["thoughtmix"]["metrics"] == pytest.approx(want.metrics, abs=1e-4)
        assert chat(here, **body, logprobs=True).status_code == 200
        assert chat(here, **body, thinker="sampling").status_code == 400


def test_what_is_not_asked_fits(here: Running) -> None:
    """A request without max_tokens gets what fits behind its prompt; files of the server are nobody's business."""
    long = [{"role": "user", "content": "w5 " * 253}]
    assert chat(here, messages=long).json()["usage"]["completion_tokens"] <= 3
    assert chat(here, messages=long, max_tokens=6).status_code == 400
    got = chat(here, thinker="experts", options={"profiles": "/etc/passwd.json"})
    assert got.status_code == 400 and "not for requests" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    ("thinker", "options", "told"),
    [
        ("noise", {"file": "/etc/passwd"}, "not for requests"),
        ("hybrid", {"judge": "gpt2"}, "not for requests"),
        ("hybrid", {"mask_model": "/tmp"}, "not for requests"),
        ("hybrid", {"drafts": 10**9}, "takes up to"),
        ("search", {"tokens": "1000000000"}, "takes up to"),
        ("search", {"tokens": "1e9"}, "whole number"),
        ("search", {"width": 10**6}, "takes up to"),
        ("search", {"rubric": "Is it good?"}, "not for requests"),
        ("experts", {"profiles": "x.json"}, "not for requests"),
        ("experts", {"profiles": ["noise", "../x.json"]}, "not for requests"),
        ("diffusion", {"branches": 10**9}, "takes up to"),
        ("hybrid", {"stages": ">".join(["sampling", *["noise"] * 100_000])}, "over 16 stages"),
        ("hybrid", {"stages": "x.json>noise"}, "not for requests"),
        ("sampling", {"draws": 1}, "draws is 1"),
        ("mixture", {"anything": 1}, "Unknown option"),
        ("search", {"nonsense": 1}, "Did you mean"),
    ],
)
def test_options_reach_no_file_no_model_and_no_further_than_the_limits(
    here: Running, thinker: str, options: dict[str, Any], told: str
) -> None:
    got = chat(here, thinker=thinker, options=options)
    message = got.json()["error"]["message"]
    assert got.status_code == 400 and told in message and "\n" not in message and len(message) <= 1000
    offered = {t["name"]: t["options"] for t in httpx.get(f"{here.url}/api/info").json()["thinkers"]}
    assert "judge" not in offered["hybrid"] and "file" not in offered["noise"] and "families" in offered["noise"]


def test_draining_finishes_who_is_in() -> None:
    with running(grace=1.0) as here:
        quick = slow(here.service)
        with ThreadPoolExecutor(2) as pool:
            short, long = pool.submit(chat, here, max_tokens=20), pool.submit(chat, here, max_tokens=200)
            until(lambda: here.rows == 2)
            here.service.drain()
            assert httpx.get(here.url + "/healthz").status_code == 503
            refused = chat(here)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
            assert short.result(30).json()["usage"]["completion_tokens"] <= 20
            ended = long.result(30)
            assert ended.status_code == 200 and ended.json()["usage"]["completion_tokens"] < 200
        quick()


# --- its process ---


def test_the_command_says_what_is_wrong_before_it_loads_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thoughtmix.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, says in (
            (["--port", str(taken.getsockname()[1])], "Cannot listen on 127.0.0.1"),
            (["--host", "no.such.host.invalid"], "Cannot listen"),
            (["--rows", "0"], "The limit rows is 0"),
            (["--seconds", "nan"], "The limit seconds is nan"),
        ):
            assert main(["serve", *arguments]) == 2
            assert says in capsys.readouterr().err
    monkeypatch.setenv("THOUGHTMIX_TOKEN", " ")
    assert main(["serve"]) == 2
    assert "THOUGHTMIX_TOKEN is empty" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "pip install 'thoughtmix[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "token", "warns"), [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", "x", False)]
)
def test_listening_to_everybody_without_a_token_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, token: str | None, warns: bool
) -> None:
    from thoughtmix.serve import app

    monkeypatch.setattr(app.Server, "run", lambda self, sockets: None)
    with app.bind(host, 0) as listener:
        app.serve(service(), listener, token)
    said = capsys.readouterr().err.splitlines()
    assert ("without a token" in said[0]) is warns and len(said) == 1 + warns


def test_nothing_of_it_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, thoughtmix, thoughtmix.cli; print([m for m in ('fastapi', 'uvicorn', 'prometheus_client', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def process(port: int, grace: float = 20.0) -> subprocess.Popen[bytes]:
    """A server of its own, once it answers."""
    made = subprocess.Popen([sys.executable, str(HERE / "serving.py"), str(port), str(grace)], stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert made.poll() is None, made.stderr.read() if made.stderr else ""
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                return made
        time.sleep(0.1)
    raise AssertionError("it never answered")


def test_killed_under_load_and_started_again() -> None:
    """kill -9: clients get clean errors, none hangs, and the next server answers as the last. SIGTERM: who was accepted
    is answered to the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    body = {"messages": SAID, "n": 4, "seed": 3, "max_tokens": 30}
    first = process(port)
    want = httpx.post(url, json=body).json()["choices"]
    answered = threading.Semaphore(0)

    def load(_: int) -> BaseException | None:
        try:
            while True:
                got = httpx.post(url, json=body, timeout=30)
                assert [c["message"] for c in got.json()["choices"]] == [c["message"] for c in want]
                answered.release()
        except Exception as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(load, i) for i in range(6)]
        for _ in range(12):
            assert answered.acquire(timeout=60)
        first.kill()
        errors = [c.result(40) for c in clients]
    first.wait(10)
    assert all(isinstance(e, httpx.TransportError) and not isinstance(e, httpx.TimeoutException) for e in errors), (
        errors
    )

    second = process(port)
    assert [c["message"] for c in httpx.post(url, json=body).json()["choices"]] == [c["message"] for c in want]
    with httpx.stream("POST", url, json={**body, "max_tokens": 240, "stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        second.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    ends = [c["finish_reason"] for line in rest if line.startswith("data: {") for c in json.loads(line[6:])["choices"]]
    assert rest[-1] == "data: [DONE]" and sum(e is not None for e in ends) == 4
    assert second.wait(30) in {0, -signal.SIGTERM}
    assert second.stderr is not None and b"Traceback" not in second.stderr.read()


def test_64_clients_that_name_no_length_are_answered() -> None:
    """Where twelve would fit with all that they may say: the others wait in line, and none is sent away."""
    with running(queue=64, rows=64, memory=1, default_tokens=200) as here:  # 1 MiB: 2,730 tokens of this model
        with ThreadPoolExecutor(64) as pool:
            got = list(pool.map(lambda seed: chat(here, seed=seed), range(64)))
        assert {answer.status_code for answer in got} == {200}
        assert sum(answer.json()["usage"]["completion_tokens"] for answer in got) > 2730
