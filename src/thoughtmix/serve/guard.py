"""What stands before every endpoint: whom this server answers to, the token, and the size of the body."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thoughtmix.serve.errors import Refused, error_response
from thoughtmix.serve.metrics import Metrics

_DRAIN = 8
"""A body that is too large is read to its end (and thrown away) up to so many times the limit, so that the client,
which is still sending, gets to see the answer."""
_DEFAULT_PORTS = (80, 443)


class Hosts:
    """The names and addresses by which this server may be called.

    A page anywhere on the web can have its own name point to this machine's address (DNS rebinding); the browser then
    takes the server for a part of that page, which may read and send whatever it likes. But it says the page's name in
    `Host`. So only these are answered: loopback (localhost, 127.0.0.0/8, ::1), the address that the connection came to
    (an address cannot be made to point elsewhere), and what the operator names.

    Args:
        names: Further hosts; "*": any.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = {_plain(name) for name in names} - {"0.0.0.0", "::"}  # where it listens, and nobody's name

    def knows(self, host: str, local: str | None) -> bool:
        """host: without a port; local: the connection's address on this machine."""
        name = _plain(host)
        if "*" in self.names or name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return not address.is_unspecified and (address.is_loopback or (local is not None and name == _plain(local)))


def _plain(host: str) -> str:
    name = host.strip().strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = getattr(address, "ipv4_mapped", None)  # a socket of both families calls 10.0.0.1 ::ffff:10.0.0.1
    return str(mapped or address)


def _authority(text: str) -> tuple[str, int | None] | None:
    """Host and port of what a Host header or an origin says; None: nothing that can be understood."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        if not parts.hostname or "@" in parts.netloc:
            return None
        return _plain(parts.hostname), None if parts.port in _DEFAULT_PORTS else parts.port
    except ValueError:
        return None


class GuardMiddleware:
    """The host, the origin, the token, the size of the body, and a count of every answer. Plain ASGI, so that endpoints
    still hear when a client leaves.

    Args:
        app: What stands behind it.
        token: What `Authorization: Bearer ...` must say at /v1, /api and /metrics; None: nothing.
        hosts: What this server may be called.
        body: Most bytes of a request.
        metrics: Counts the answers.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Hosts, body: int, metrics: Metrics) -> None:
        self.app, self.hosts, self.body, self.metrics = app, hosts, body, metrics
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
        stranger = self._stranger(headers, scope)
        if stranger is not None:
            return stranger
        if self.token is not None and (path.startswith(("/v1", "/api")) or path in {"/metrics", "/openapi.json"}):
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                wrong = "The token is missing or wrong. Send Authorization: Bearer TOKEN."
                return Refused(401, wrong, code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self.body else None

    def _stranger(self, headers: dict[bytes, bytes], scope: Scope) -> Refused | None:
        """Who calls by another's name, or from another's page. A client that says neither is no browser."""
        said, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
        local = (scope.get("server") or (None, None))[0]
        host = _authority(said)
        if said and (host is None or not self.hosts.knows(host[0], local)):
            name = (host[0] if host else said)[:80]
            hint = f"If it is called that, start it with: thoughtmix serve --allow-host {name}"
            return Refused(403, f"This server does not go by the name {name!r}. {hint}", code="unknown_host")
        if origin and (host is None or _authority(origin) != host):  # TLS may end before this server: no schemes
            why = "Pages of other origins may not use this server. Send it from its own page, or without Origin."
            return Refused(403, why, code="other_origin")
        return None

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
