"""The application and its process: routes, the page's files, what stands before every endpoint, and the socket."""

from __future__ import annotations

import hmac
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thoughtmix import __version__
from thoughtmix.core.errors import InputError
from thoughtmix.serve import embeddings, openai, page_api, responses, schemas
from thoughtmix.serve.errors import Refused, error_response, install_handlers
from thoughtmix.serve.metrics import Metrics
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
_DRAIN = 8
"""A body that is too large is read to its end (and thrown away) up to so many times the limit, so that the client,
which is still sending, gets to see the answer."""


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """An ASGI application over a loaded model.

    Args:
        service: Opened and closed with the application.
        token: What clients must send; None: nothing.
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
    app.add_middleware(GuardMiddleware, token=token, body=service.limits.body, metrics=service.metrics)
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
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

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


class GuardMiddleware:
    """The token, the size of the body, and a count of every answer. Plain ASGI, so that endpoints still hear when a
    client leaves.

    Args:
        app: What stands behind it.
        token: What `Authorization: Bearer ...` must say at /v1, /api and /metrics; None: nothing.
        body: Most bytes of a request.
        metrics: Counts the answers.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, body: int, metrics: Metrics) -> None:
        self.app, self.body, self.metrics = app, body, metrics
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is None:
                await self.app(scope, self._bounded(receive), note_status)
            else:
                if refused.status == 413:
                    await self._drain(receive)
                await error_response(refused)(scope, receive, note_status)
        finally:
            route = scope.get("route")
            self.metrics.requests.labels(getattr(route, "path", "other"), str(status or 499)).inc()

    def _refused(self, scope: Scope) -> Refused | None:
        headers, path = dict(scope["headers"]), scope["path"]
        if self.token is not None and (path.startswith(("/v1", "/api")) or path in {"/metrics", "/openapi.json"}):
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                wrong = "The token is missing or wrong. Send Authorization: Bearer TOKEN."
                return Refused(401, wrong, code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self.body else None

    def _too_large(self) -> Refused:
        return Refused(413, f"The body is over {self.body} bytes. Send less.", code="body_too_large")

    def _bounded(self, receive: Receive) -> Receive:
        """The body, until it is too large: not every client says its length."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.body:
                    raise HTTPException(413, self._too_large().message)
            return message

        return bounded

    async def _drain(self, receive: Receive) -> None:
        seen, more = 0, True
        while more and seen < _DRAIN * self.body:
            message = await receive()
            seen += len(message.get("body", b""))
            more = message["type"] == "http.request" and bool(message.get("more_body"))


# --- the process ---


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C: nothing new is taken, and everybody who was accepted has the grace time to be answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.drain()
        super().handle_exit(sig, frame)


def create_server(service: Service, host: str, port: int, token: str | None = None) -> Server:
    """A server that is not running yet; `run()` it."""
    config = uvicorn.Config(
        create_app(service, token),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(service.limits.grace) + 10,
        timeout_keep_alive=30,
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
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot listen on {host}:{port}: {reason}.", "Pass another --host or --port.") from None
    return listener


def serve(service: Service, listener: socket.socket, token: str | None) -> None:
    """Until SIGTERM or Ctrl-C."""
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
    create_server(service, host, port, token).run(sockets=[listener])
