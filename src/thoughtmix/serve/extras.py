"""/api: what the page needs beside OpenAI's endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from thoughtmix import __version__
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.options import served_schema
from thoughtmix.core.selection import select_diverse
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.metrics import pairwise_distances
from thoughtmix.report.html import HEIGHT, WIDTH, layout
from thoughtmix.serve import schemas
from thoughtmix.serve.diffuse import Film, frames
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.openai import FAILURES, STREAMS, while_there
from thoughtmix.serve.service import Service, Ticket
from thoughtmix.thinkers.registry import get_thinker, thinker_names

LANGUAGES = ["en", "fr"]


def router(service: Service) -> APIRouter:
    api = APIRouter(prefix="/api", responses=FAILURES)

    @api.get("/info")
    async def info() -> schemas.Info:
        """The model, the thinkers that work with it, and the limits."""
        return schemas.Info(
            version=__version__, model=service.lm.name, thinkers=_thinkers(service), limits=_limits(service),
            diffusion=True, languages=LANGUAGES,
        )  # fmt: skip

    @api.post("/map")
    async def map_(asked: schemas.MapRequest, request: Request) -> schemas.Map:
        """Texts as points of a plane, near ones near (classical scaling of their embeddings' distances)."""
        d = await _distances(service, request, asked.texts)
        return schemas.Map(points=_points(d), distances=[[round(float(v), 6) for v in row] for row in d])

    @api.post("/select")
    async def select(asked: schemas.SelectRequest, request: Request) -> schemas.Selection:
        """The k texts that are most different from each other and still likely, best first."""
        n = len(asked.texts)
        if asked.k > n:
            raise Refused(400, f"Cannot select {asked.k} of {n} texts. Pass k 1 to {n}.", param="k")
        if asked.logprobs and len(asked.logprobs) != n:
            raise Refused(400, f"{len(asked.logprobs)} logprobs for {n} texts. Pass one a text.", param="logprobs")
        d = await _distances(service, request, asked.texts)
        values = np.clip(asked.logprobs or [0.0] * n, -1e6, 1e6).tolist()
        return schemas.Selection(indices=select_diverse(d.tolist(), values, asked.k))

    @api.post(
        "/diffuse",
        responses=STREAMS,
        response_class=Response,
    )
    async def diffuse(asked: schemas.DiffuseRequest, request: Request) -> Response:
        """Text out of noise along branches that compete, frame by frame."""
        many = asked.branches * asked.length
        if many > service.limits.tokens:
            raise Refused(400, f"branches x length is {many}, the limit is {service.limits.tokens}.", param="length")
        ticket = service.admit([])
        began = False
        try:
            film = Film(service, asked, ticket.caller, asyncio.get_running_loop())
            first = await while_there(request, ticket, film.next())
            began = True
            return StreamingResponse(frames(film, first, ticket), media_type="text/event-stream")
        finally:
            if not began:
                ticket.cancel()
                ticket.leave()

    return api


def _thinkers(service: Service) -> list[schemas.ThinkerInfo]:
    rows, engine = [], SharedEngine(service.scheduler)
    for name in thinker_names():
        try:
            kind = get_thinker(name)
        except ThoughtmixError:  # a broken plug-in does not hide the others
            continue
        if kind.suits(engine):
            schema = served_schema(kind.Options)
            help = {option: told for option, told in kind.options.items() if option in schema["properties"]}
            rows.append(schemas.ThinkerInfo(name=name, summary=kind.summary, options=help, option_schema=schema))
    return rows


def _limits(service: Service) -> dict[str, float]:
    from dataclasses import asdict

    return asdict(service.limits)


async def _distances(service: Service, request: Request, texts: Sequence[str]) -> Any:
    """(n, n)."""
    if len(texts) > service.limits.texts:
        raise Refused(400, f"{len(texts)} texts; this server maps up to {service.limits.texts}.", param="texts")
    ticket: Ticket = service.admit([])
    try:
        loop = asyncio.get_running_loop()
        vectors = await while_there(
            request, ticket, loop.run_in_executor(service.threads, service.embedder.encode, list(texts))
        )
    finally:
        ticket.leave()
    return pairwise_distances(vectors)


def _points(distances: Any) -> list[list[float]]:
    """In [0, 1] both ways, one scale, so that distances compare."""
    if len(distances) == 1:
        return [[0.5, 0.5]]
    size = max(WIDTH, HEIGHT)
    return [
        [round((x - WIDTH / 2) / size + 0.5, 4), round((y - HEIGHT / 2) / size + 0.5, 4)]
        for x, y in layout(distances)
    ]  # fmt: skip
