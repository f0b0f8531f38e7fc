"""The application and its process: routes, the page's files, and the socket."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from thoughtmix import __version__
from thoughtmix.core.errors import InputError
from thoughtmix.report.html import THEME
from thoughtmix.serve import embeddings, openai, page_api, responses, schemas
from thoughtmix.serve.connections import Connections, calm_logs, protocol
from thoughtmix.serve.errors import install_handlers
from thoughtmix.serve.guard import GuardMiddleware, Hosts
from thoughtmix.serve.service import Service

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked about each time: modules of two versions must never meet
}
_IN_LINE = 1024
"""Connections that the system keeps until they are accepted."""


def create_app(service: Service, token: str | None = None, hosts: Sequence[str] = ()) -> FastAPI:
    """An ASGI application over a loaded model.

    Args:
        service: Opened and closed with the application.
        token: What clients must send; None: nothing.
        hosts: Names and addresses that it is called by, beside the machine's own (see `guard.Hosts`).
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.open()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="thoughtmix",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="OpenAI's endpoints for many different thoughts from one language model.",
    )
    app.state.service = service
    limits, metrics = service.limits, service.metrics
    app.add_middleware(GuardMiddleware, token=token, hosts=Hosts(hosts), body=limits.body, metrics=metrics)
    install_handlers(app)
    app.include_router(openai.router(service))
    app.include_router(responses.router(service))
    app.include_router(embeddings.router(service))
    app.include_router(page_api.router(service))

    @app.get("/healthz", responses={503: {"model": schemas.Health}})
    async def healthz() -> Response:
        """ok, or draining with status 503: a load balancer then sends nothing more."""
        state: Literal["ok", "draining"] = "draining" if service.draining else "ok"
        status = 503 if service.draining else 200
        return Response(schemas.Health(status=state).model_dump_json(), status, None, "application/json")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @app.get("/page/theme.css", include_in_schema=False)
    async def theme() -> Response:
        return FileResponse(THEME, headers=PAGE_HEADERS)

    app.mount("/page", PageFiles(directory=PAGE), name="page")
    _drop_unused_errors(app)
    return app


def _drop_unused_errors(app: FastAPI) -> None:
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


class PageFiles(StaticFiles):
    """Everything at /page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


# --- the process ---


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C: nothing new is taken, and everybody who was accepted has the grace time to be answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.drain()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's `backlog` is also how many connections asyncio accepts before any can be refused: that is few, and
        those that the system keeps in line are many."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_IN_LINE)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with calm_logs("asyncio", "uvicorn.error", "thoughtmix.serve"):
            await super().serve(sockets)


def create_server(
    service: Service, host: str, port: int, token: str | None = None, hosts: Sequence[str] = ()
) -> Server:
    """A server that is not running yet; `run()` it. host and hosts are what it may be called."""
    limits = service.limits
    connections = Connections.of(limits)
    config = uvicorn.Config(
        create_app(service, token, [host, *hosts]),
        host=host,
        port=port,
        http=protocol(connections),
        ws="none",
        backlog=connections.accept,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.grace) + 10,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
    )
    return Server(config, service)


def bind(host: str, port: int) -> socket.socket:
    """The socket, so that a port that is taken is one clear line, before a model is loaded. Raises `InputError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InputError(f"Cannot listen on {host}:{port}: {reason}.", "Pass another --host or --port.") from None
    return listener


def serve(service: Service, listener: socket.socket, token: str | None, hosts: Sequence[str] = ()) -> None:
    """Until SIGTERM or Ctrl-C. hosts: what it may be called, beside the address that it listens at."""
    gc.collect()
    gc.freeze()  # half a million objects that stay: looking through them holds up everybody's next word
    host, port = listener.getsockname()[:2]
    loopback = host in {"localhost", "::1"} or host.startswith("127.")
    if not loopback and token is None:
        print(
            f"thoughtmix: listening on {host} without a token: whoever reaches this port can use it. "
            "Set THOUGHTMIX_TOKEN.",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"{service.lm.name} at http://{shown}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)
    create_server(service, host, port, token, hosts).run(sockets=[listener])
