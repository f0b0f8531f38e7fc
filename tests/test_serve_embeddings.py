"""/v1/embeddings as OpenAI's client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import serving
from openai.types import CreateEmbeddingResponse
from serving import Running
from tinyland import HashEmbedder

TEXTS = ["w5 w6", "w7", "w5 w6 w8"]


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with serving.running() as made:
        yield made


@pytest.fixture(scope="module")
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="x", max_retries=0) as made:
        yield made


def test_vectors_are_the_embedders(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself, and decodes it."""
    want = HashEmbedder().encode(TEXTS)
    for form in ({}, {"encoding_format": "float"}):
        got = client.embeddings.create(model="text-embedding-3-small", input=TEXTS, **form)  # type: ignore[arg-type]
        assert [item.index for item in got.data] == [0, 1, 2] and got.model == "hash"
        assert np.allclose([item.embedding for item in got.data], want, atol=1e-6)
        assert got.usage.prompt_tokens == got.usage.total_tokens == 6
    one = client.embeddings.create(model="x", input=TEXTS[1])
    assert np.allclose(one.data[0].embedding, want[1], atol=1e-6)


def test_the_answer_is_what_the_types_say(here: Running) -> None:
    raw = httpx.post(f"{here.url}/v1/embeddings", json={"input": "w5", "model": None, "user": "x"}).json()
    CreateEmbeddingResponse.model_validate(raw, strict=True)
    assert set(raw) == {"object", "data", "model", "usage"} and set(raw["data"][0]) == {"object", "index", "embedding"}


def test_fewer_dimensions_are_unit_vectors_again(client: openai.OpenAI) -> None:
    whole = np.array(client.embeddings.create(model="x", input=TEXTS).data[0].embedding)
    part = np.array(client.embeddings.create(model="x", input=TEXTS, dimensions=8).data[0].embedding)
    assert part.shape == (8,) and np.linalg.norm(part) == pytest.approx(1, abs=1e-6)
    assert np.allclose(part, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    assert len(client.embeddings.create(model="x", input="w5", dimensions=64).data[0].embedding) == 64


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": [1, 2, 3]}, "input", "token ids"),
        ({"input": [[1, 2], [3]]}, "input", "token ids"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": ["w5", ""]}, "input.1", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["w5"] * 2049}, "input", "at most 2048"),
        ({"input": {"text": "w5"}}, "input", "valid string"),
        ({"input": ["w5", "w6 " * 65]}, "input", "Text 1 has 65 tokens, hash reads up to 64"),
        ({"input": "w5", "dimensions": 65}, "dimensions", "up to 64"),
        ({"input": "w5", "dimensions": 0}, "dimensions", "greater"),
        ({"input": "w5", "encoding_format": "int8"}, "encoding_format", "base64"),
        ({"input": "w5", "inptu": "w5"}, "inptu", "Did you mean 'input'"),
    ],
)
def test_what_is_refused(here: Running, body: dict[str, Any], param: str, says: str) -> None:
    got = httpx.post(f"{here.url}/v1/embeddings", json=body)
    error = got.json()["error"]
    assert got.status_code == 400 and error["param"] == param and says in error["message"], error
    assert here.service._callers == set()


@pytest.mark.model
def test_the_packaged_embedder_counts_and_embeds() -> None:
    from thoughtmix.models import load_embedder

    embedder: Any = load_embedder()
    assert embedder.max_tokens == 256
    assert embedder.count_tokens(["a brick", "a", "brick " * 400]) == [4, 3, 402]
