"""/v1/embeddings: the embedder that measures thoughts, for whoever has texts of their own."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StrictInt

from thoughtmix.engine.scheduler import Caller
from thoughtmix.serve import schemas
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.forms import Strict
from thoughtmix.serve.service import Service
from thoughtmix.thinkers.base import Work, embedding_work
from thoughtmix.thinkers.noise import most_tokens

MOST_TEXTS = 2048
"""Of a request, as at OpenAI."""
_BATCH = 32
"""Texts between two looks at whether the client is still there."""

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

    @api.post("/embeddings")
    async def embeddings(body: EmbeddingRequest, http: Request) -> Embeddings:
        """Unit vectors of texts, from the sentence embedder that the server has for `measure` and `select`."""
        texts = _texts(body)
        slot = service.admit(work=sum((embedding_work(1, most_tokens(text)) for text in texts), Work()))
        try:
            work = asyncio.get_running_loop().run_in_executor(
                service.threads, _embed, service, slot.caller, texts, body.dimensions
            )
            vectors, tokens = await slot.unless_disconnected(http, work)
        finally:
            slot.release()
        return Embeddings(
            data=[Embedding(index=i, embedding=_written(v, body.encoding_format)) for i, v in enumerate(vectors)],
            model=service.embedder.name,
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )

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


def _embed(
    service: Service, caller: Caller, texts: list[str], dimensions: int | None
) -> tuple[NDArray[np.float32], int]:
    """(texts, d) and the tokens of all texts; in a thread."""
    embedder = service.embedder
    counts = embedder.count_tokens(texts)
    most = embedder.loaded.max_tokens
    for i, count in enumerate(counts):
        if most is not None and count > most:
            message = f"Text {i} has {count} tokens, {embedder.name} reads up to {most}. Send it in parts."
            raise Refused(400, message, param="input", code="too_many_tokens")
    parts = []
    for start in range(0, len(texts), _BATCH):
        caller.check()
        parts.append(embedder.encode(texts[start : start + _BATCH], _BATCH))
    vectors = np.concatenate(parts)
    width = vectors.shape[1]
    if dimensions is not None and dimensions > width:
        message = f"dimensions is {dimensions}, {embedder.name} has {width}. Ask for up to {width}."
        raise Refused(400, message, param="dimensions")
    if dimensions is not None and dimensions < width:
        vectors = vectors[:, :dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1)
    return vectors, sum(counts)


def _written(vector: NDArray[np.float32], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
