"""/v1/embeddings: the embedder that measures thoughts, for whoever has texts of their own."""

from __future__ import annotations

import base64
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StrictInt

from thoughtmix.engine.caller import Caller
from thoughtmix.serve import schemas
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.forms import Strict
from thoughtmix.serve.service import Service
from thoughtmix.serve.streaming import answer_beside

MOST_TEXTS = 2048
"""Of a request, as at OpenAI."""

TokenIds = Annotated[list[StrictInt], Field(min_length=1)]


class EmbeddingRequest(Strict):
    input: (
        schemas.Text
        | Annotated[list[schemas.Text], Field(min_length=1, max_length=MOST_TEXTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    ) = Field(description="A text or texts. Token ids are refused: clients make them with a tokenizer of OpenAI's.")
    model: str | None = Field(None, description="Any name: there is one embedder.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of float32, little-endian.")
    dimensions: int | None = Field(None, ge=1, description="The first so many, at length 1 again.")
    user: str | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def router(service: Service) -> APIRouter:
    """The route."""
    api = APIRouter(prefix="/v1", responses=schemas.ERROR_RESPONSES)

    @api.post("/embeddings", response_model=Embeddings)
    async def embeddings(body: EmbeddingRequest, http: Request) -> Response:
        """Unit vectors of texts, from the sentence embedder that the server has for `measure` and `select`."""
        texts = _texts(body)
        return await answer_beside(service, http, texts, partial(_embedded, service, body, texts))

    return api


def _texts(body: EmbeddingRequest) -> list[str]:
    given: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if not all(isinstance(text, str) for text in given):
        raise Refused(
            400,
            "input has token ids, which are another tokenizer's. Send texts (LangChain: check_embedding_ctx_length="
            "False).",
            param="input",
            code="token_ids",
        )
    return given


def _embedded(service: Service, body: EmbeddingRequest, texts: list[str], caller: Caller) -> Embeddings:
    """In a thread."""
    embedder, dimensions = service.embedder, body.dimensions
    counts = embedder.count_tokens(texts)
    most = embedder.loaded.max_tokens
    for i, count in enumerate(counts):
        if most is not None and count > most:
            message = f"Text {i} has {count} tokens, {embedder.name} reads up to {most}. Send it in parts."
            raise Refused(400, message, param="input", code="too_many_tokens")
    vectors = embedder.encode(texts, check=caller.check)
    width = vectors.shape[1]
    if dimensions is not None and dimensions > width:
        message = f"dimensions is {dimensions}, {embedder.name} has {width}. Ask for up to {width}."
        raise Refused(400, message, param="dimensions")
    if dimensions is not None and dimensions < width:
        vectors = vectors[:, :dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1)
    tokens = sum(counts)
    return Embeddings(
        data=[Embedding(index=i, embedding=_written(v, body.encoding_format)) for i, v in enumerate(vectors)],
        model=embedder.name,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _written(vector: NDArray[np.float32], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
