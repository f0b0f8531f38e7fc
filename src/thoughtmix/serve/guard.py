"""Before any endpoint: the token, the size of the body, and a count of every answer. Plain ASGI, so that endpoints
still hear when a client leaves."""

from __future__ import annotations

import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thoughtmix.serve.errors import Refused, answer
from thoughtmix.serve.meters import Meters

_DRAIN = 8
"""A body that is too large is read to its end (and thrown away) up to so many times the limit, so that the client,
which is still sending, gets to see the answer."""


class Guard:
    """token: what `Authorization: Bearer ...` must say at /v1, /api and /metrics; None: nothing."""

    def __init__(self, app: ASGIApp, *, token: str | None, body: int, meters: Meters) -> None:
        self.app, self.body, self.meters = app, body, meters
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is None:
                await self.app(scope, self._bounded(receive), noting)
            else:
                if refused.status == 413:
                    await self._drain(receive)
                await answer(refused)(scope, receive, noting)
        finally:
            route = scope.get("route")
            self.meters.requests.labels(getattr(route, "path", "other"), str(status or 499)).inc()

    def _refused(self, scope: Scope) -> Refused | None:
        headers = dict(scope["headers"])
        path = scope["path"]
        if self.token is not None and (path.startswith(("/v1", "/api")) or path in {"/metrics", "/openapi.json"}):
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                return Refused(
                    401, "The token is missing or wrong. Send Authorization: Bearer TOKEN.", code="invalid_api_key"
                )
        length = headers.get(b"content-length", b"0")
        return self._large() if length.isdigit() and int(length) > self.body else None

    def _large(self) -> Refused:
        return Refused(413, f"The body is over {self.body} bytes. Send less.", code="body_too_large")

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.body:
                    raise HTTPException(413, self._large().message)
            return message

        return bounded

    async def _drain(self, receive: Receive) -> None:
        seen, more = 0, True
        while more and seen < _DRAIN * self.body:
            message = await receive()
            seen += len(message.get("body", b""))
            more = message["type"] == "http.request" and bool(message.get("more_body"))
