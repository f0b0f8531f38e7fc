"""What docs/clients.md says of clients: each is driven as its own documentation has it, over a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
import serving
from lettered import TEMPLATE, lettered_model
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from serving import Running, running_service
from tinyland import HashEmbedder

from thoughtmix.serve.limits import Limits
from thoughtmix.serve.service import Service

SAID = "w5 w9 w77"
MESSAGES: list[Any] = [{"role": "user", "content": SAID}]
OLDER = Path(sys.prefix, "older", "Scripts" if os.name == "nt" else "bin", "python")
INSPECT = OLDER.parents[2] / "inspect" / OLDER.parent.name / "python"
WHY_NOT_INSPECT = "no Inspect beside this environment: type make .venv/.inspect"
WHY_NOT_OLDER = "no older clients beside this environment: type make .venv/.older"


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with serving.running() as made:
        yield made


@pytest.fixture(scope="module")
def guided() -> Iterator[Running]:
    """A server whose tokens grammars can tell."""
    limits = Limits(tokens=8000, default_tokens=200, rows=16, chunk=64, grace=2.0)
    with running_service(Service(lettered_model(template=TEMPLATE), limits, HashEmbedder, weights="native")) as made:
        yield made


class Answer(BaseModel):
    """How it is."""

    value: bool
    size: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def said(here: Running) -> str:
    """What the seed 1 makes of the prompt."""
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="x") as client:
        made = client.chat.completions.create(model="x", messages=MESSAGES, seed=1, max_tokens=8)
    return str(made.choices[0].message.content)


# --- openai, its own types taken strictly ---


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 3, "select": 2}])
def test_chat_is_what_the_types_say(here: Running, more: dict[str, Any]) -> None:
    body = {"messages": MESSAGES, "seed": 1, "max_tokens": 6, **more}
    raw = httpx.post(f"{here.url}/v1/chat/completions", json=body, timeout=60).text
    ChatCompletion.model_validate_json(raw, strict=True)
    for kind in ({}, {"stream_options": {"include_usage": True}}):
        chunks = _events(here, "chat/completions", {**body, **kind})
        for chunk in chunks:
            ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
        assert [bool(chunk["choices"]) for chunk in chunks[:-1]] == [True] * (len(chunks) - 1)
        assert bool(chunks[-1]["choices"]) != bool(kind)


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}])
def test_completions_are_what_the_types_say(here: Running, more: dict[str, Any]) -> None:
    body = {"prompt": SAID, "seed": 1, "max_tokens": 6, **more}
    raw = httpx.post(f"{here.url}/v1/completions", json=body, timeout=60).text
    whole = Completion.model_validate_json(raw, strict=True)
    chunks = _events(here, "completions", body)
    for chunk in chunks:
        _completion_chunk(chunk)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole.choices[0].text


def _completion_chunk(chunk: dict[str, Any]) -> None:
    """The client has one type for completions and their chunks, and takes null for a finish reason that is yet to come
    without saying so in it."""
    for choice in chunk["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    Completion.model_validate_json(json.dumps(chunk), strict=True)


def _events(here: Running, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    got = httpx.post(f"{here.url}/v1/{path}", json={**body, "stream": True}, timeout=60)
    lines = [line.removeprefix("data: ") for line in got.text.split("\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def _asynchronous(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        stream = await client.chat.completions.create(
            model="x", messages=MESSAGES, seed=1, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def test_openai_asynchronous(here: Running, said: str) -> None:
    import asyncio

    assert asyncio.run(_asynchronous(here.url)) == said


# --- LangChain ---


@pytest.fixture
def chain(here: Running) -> dict[str, Any]:
    return {"model": "gpt-4o", "base_url": f"{here.url}/v1", "api_key": "x", "max_retries": 0}


def test_langchain_chat(chain: dict[str, Any], said: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(**chain, seed=1, max_tokens=8)
    got = model.invoke(SAID)
    assert got.content == said and got.usage_metadata is not None and got.usage_metadata["output_tokens"] == 8
    assert got.response_metadata["finish_reason"] == "length"
    chunks = list(model.stream([("human", SAID)], stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == said
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 8
    talk = [("system", "w4"), ("human", SAID), ("ai", said), ("human", "w6")]
    assert all(answer.content for answer in model.batch([talk, talk]))
    with_logprobs = model.bind(logprobs=True, top_logprobs=2).invoke(SAID)
    assert len(with_logprobs.response_metadata["logprobs"]["content"]) == 8
    assert ChatOpenAI(**chain, reasoning_effort="low", max_tokens=8).invoke(SAID).content
    several = ChatOpenAI(**chain, n=3, seed=1, max_tokens=8).generate([got_messages()])
    assert len({choice.text for choice in several.generations[0]}) == 3 and several.generations[0][0].text == said


def got_messages() -> Any:
    from langchain_core.messages import HumanMessage

    return [HumanMessage(SAID)]


def test_langchain_responses(chain: dict[str, Any], said: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(**chain, use_responses_api=True, max_tokens=8, extra_body={"seed": 1})
    got = model.invoke(SAID)
    assert got.text == said and got.usage_metadata is not None and got.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.text for chunk in model.stream(SAID)) == said


def test_langchain_completions_and_embeddings(chain: dict[str, Any]) -> None:
    from langchain_openai import OpenAI, OpenAIEmbeddings

    text = OpenAI(**chain, seed=1, max_tokens=8)
    assert text.invoke(SAID) == "".join(text.stream(SAID))
    embedder = OpenAIEmbeddings(**{**chain, "check_embedding_ctx_length": False})
    assert len(embedder.embed_query("w5")) == 64 and len(embedder.embed_documents(["w5", "w6"])) == 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_langchain_structured_output(guided: Running, method: Any) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="x", base_url=f"{guided.url}/v1", api_key="x", max_retries=0, seed=1)  # type: ignore[arg-type]
    if method == "json_mode":  # any object
        assert isinstance(model.with_structured_output(None, method=method, include_raw=True).invoke("ab"), dict)
        return
    assert isinstance(model.with_structured_output(Answer, method=method).invoke("ab"), Answer)
    chunks = list(model.with_structured_output(Answer, method=method).stream("ab"))
    assert isinstance(chunks[-1], Answer)


def test_langchain_tools(guided: Running) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="x", base_url=f"{guided.url}/v1", api_key="x", max_retries=0, seed=1)  # type: ignore[arg-type]
    bound = model.bind_tools([Answer], tool_choice="required", parallel_tool_calls=False)
    called = bound.invoke("ab")
    (call,) = called.tool_calls
    assert call["name"] == "Answer" and Answer(**call["args"])
    talk = [HumanMessage("ab"), called, ToolMessage("done", tool_call_id=call["id"])]
    assert model.bind(max_tokens=8).bind_tools([Answer]).invoke(talk).content
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        model.bind(
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}
        ).invoke("ab")


# --- LiteLLM ---


@pytest.fixture
def lite(here: Running) -> dict[str, Any]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network at import
    return {"model": "openai/anything", "api_base": f"{here.url}/v1", "api_key": "x", "num_retries": 0}


def test_litellm_chat(lite: dict[str, Any], said: str) -> None:
    import litellm

    how: dict[str, Any] = {**lite, "messages": MESSAGES, "seed": 1, "max_tokens": 8}
    got = litellm.completion(n=2, **how)
    assert got.choices[0].message.content == said and len(got.choices) == 2 and got.usage.completion_tokens == 16
    assert "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **how)) == said
    assert litellm.completion(logprobs=True, top_logprobs=2, **how).choices[0].logprobs.content


def test_litellm_structured_output(guided: Running) -> None:
    import litellm

    how: dict[str, Any] = {"model": "openai/x", "api_base": f"{guided.url}/v1", "api_key": "x", "num_retries": 0}
    how |= {"messages": [{"role": "user", "content": "ab"}], "seed": 1}
    assert Answer.model_validate_json(litellm.completion(response_format=Answer, **how).choices[0].message.content)
    tool = {"type": "function", "function": {"name": "f", "parameters": Answer.model_json_schema()}}
    made = litellm.completion(tools=[tool], tool_choice="required", parallel_tool_calls=False, **how)
    (call,) = made.choices[0].message.tool_calls
    assert call.function.name == "f" and Answer.model_validate_json(call.function.arguments)


def test_litellm_elsewhere(lite: dict[str, Any]) -> None:
    import litellm

    assert len(litellm.embedding(input=["w5", "w6"], **lite).data[1]["embedding"]) == 64
    how = {**lite, "input": SAID, "max_output_tokens": 16, "extra_body": {"seed": 1}}
    whole = litellm.responses(**how)
    said = whole.output[0].content[0].text
    events = list(litellm.responses(stream=True, **how))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == said
    text = {**lite, "model": "text-completion-openai/x"}
    assert litellm.text_completion(prompt=SAID, max_tokens=8, **text).choices[0].text


# --- llm, by its extra-openai-models.yaml ---


@pytest.fixture
def run_llm(here: Running, guided: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from click.testing import CliRunner

    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    served = {"model_name": "thoughtmix", "api_base": f"{here.url}/v1"}
    models = [{"model_id": "tm", **served}, {"model_id": "tm-text", **served, "completion": True}]
    knows = {"supports_schema": True, "supports_tools": True}
    models.append({"model_id": "tm-form", "model_name": "thoughtmix", "api_base": f"{guided.url}/v1", **knows})
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")  # JSON is YAML

    def run(*words: str) -> str:
        from llm.cli import cli

        made = CliRunner().invoke(cli, [*words, "--key", "x", "-o", "max_tokens", "80" if "tm-form" in words else "8"])
        assert made.exit_code == 0, made.output
        return made.output.strip()

    return run


def test_llm(run_llm: Any, said: str) -> None:
    seed = ("-o", "seed", "1")
    assert run_llm("-m", "tm", SAID, *seed) == run_llm("-m", "tm", SAID, "--no-stream", *seed) == said.strip()
    assert run_llm("-c", "w6"), "the conversation goes on"
    assert run_llm("-m", "tm", SAID, "-s", "w4") and run_llm("-m", "tm-text", SAID)


def test_llm_schema(run_llm: Any) -> None:
    schema = json.dumps(Answer.model_json_schema())
    assert Answer.model_validate_json(run_llm("-m", "tm-form", "ab", "--schema", schema, "-o", "seed", "1"))


# --- an environment of its own: openai 2, instructor ---


@pytest.mark.skipif(not OLDER.exists(), reason=WHY_NOT_OLDER)
def test_openai_2_and_instructor(here: Running, guided: Running, said: str) -> None:
    script = Path(__file__).parent / "clients" / "older.py"
    made = subprocess.run(
        [str(OLDER), str(script), here.url, said, guided.url], capture_output=True, text=True, timeout=300, check=False
    )
    assert made.returncode == 0, made.stderr


# --- Inspect: docs/bench.md ---


@pytest.mark.skipif(not INSPECT.exists(), reason=WHY_NOT_INSPECT)
def test_inspect_runs_novelty_bench(here: Running, tmp_path: Path) -> None:
    """Four answers to each prompt, which differ, and the task's own two metrics."""
    script, prompts = Path(__file__).parent / "clients" / "inspect_novelty.py", tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"id": i, "prompt": f"{SAID} w{i + 20}"}) for i in range(2)))
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [str(INSPECT), str(script), here.url, str(prompts), str(tmp_path / "logs")],
        capture_output=True, text=True, timeout=300, check=False, env=alone,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    got = json.loads(made.stdout)
    assert [len(texts) for texts in got["texts"]] == [4, 4]
    assert all(len(set(texts)) > 1 for texts in got["texts"]), "requests without a seed differ"
    firsts = [len({" ".join(text.split()[:1]) for text in texts}) for texts in got["texts"]]
    assert got["scores"]["distinct_k"] == sum(firsts) / 2 and 0 < got["scores"]["utility_k"] <= 5
