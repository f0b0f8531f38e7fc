"""The application: routes, errors, guard, and the scheduler's life around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from thoughtmix import __version__
from thoughtmix.serve import errors, extras, files, openai, schemas
from thoughtmix.serve.guard import Guard
from thoughtmix.serve.service import Service


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """An ASGI application over a loaded model. token: what clients must send; None: nothing."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.open()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="thoughtmix", version=__version__, lifespan=life, docs_url=None, redoc_url=None,
        description="OpenAI's endpoints for many different thoughts from one language model.",
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(Guard, token=token, body=service.limits.body, meters=service.meters)
    errors.install(app)
    app.include_router(openai.router(service))
    app.include_router(extras.router(service))

    @app.get("/healthz", responses={503: {"model": schemas.Health}})
    async def healthz() -> Response:
        """ok, or draining with status 503: a load balancer then sends nothing more."""
        state: Literal["ok", "draining"] = "draining" if service.draining else "ok"
        return Response(
            schemas.Health(status=state).model_dump_json(), 503 if service.draining else 200, None, "application/json"
        )  # fmt: skip

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return files.index()

    app.mount("/page", files.PageFiles(directory=files.PAGE), name="page")
    _true(app)
    return app


def _true(app: FastAPI) -> None:
    """The OpenAPI document without FastAPI's own 422, which is never answered."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
