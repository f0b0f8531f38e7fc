"""Connections that are held to time and number: uvicorn bounds neither a request that never ends nor who never reads.

A connection waits for a request, reads it, or is answered. While it waits or reads it costs a descriptor and gives
nothing, so it has a deadline, and where there are too many connections (of all, or of one address) the one that has
waited longest makes room for the newest: whoever sends a request in one piece is served among any number that do not.
Connections that are being answered are never closed for others; what bounds those is the queue of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from thoughtmix.serve.limits import Limits

ACCEPT = 32
"""Connections that are accepted at one go, before any of them can be refused."""
_OWN_FILES = 32
"""Descriptors kept back for files that the server itself opens (models, the page)."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b'\r\n{"error": {"message": "Too many connections. Try again in 5 s.", "type": "server_error", "param": null, '
    b'"code": "too_many_connections"}}'
)


@dataclass
class Connections:
    """All open connections of a server, and what they may do. most: open at once, at `accept` new ones a go."""

    limits: Limits
    most: int
    accept: int = ACCEPT
    by_address: Counter[str] = field(default_factory=Counter)
    waiting: dict[TimedProtocol, None] = field(default_factory=dict)
    """Those that nobody is being answered on, the longest waiting first."""
    turned_away: set[TimedProtocol] = field(default_factory=set)

    @classmethod
    def of(cls, limits: Limits) -> Connections:
        """As many as the limits say and as this process has descriptors for."""
        free = free_descriptors()
        if free is None:
            return cls(limits, limits.connections)
        accept = max(1, min(ACCEPT, free // 8))
        return cls(limits, max(1, min(limits.connections, free - 3 * accept - min(_OWN_FILES, free // 4))), accept)

    def enter(self, new: TimedProtocol) -> bool:
        """Count a new connection; False: there is no room that could be made."""
        total, address = self.by_address.total(), new.address
        if total >= self.most and not self._make_room(None):
            return False
        if self.by_address[address] >= self.limits.connections_per_address and not self._make_room(address):
            return False
        self.by_address[address] += 1
        return True

    def _make_room(self, address: str | None) -> bool:
        for old in self.waiting:
            if address is None or old.address == address:
                self.leave(old)
                old.transport.abort()
                return True
        return False

    def turn_away(self, new: TimedProtocol) -> bool:
        """Whether it may stay until it has been told why; of those there are few, too."""
        if len(self.turned_away) < self.accept:
            self.turned_away.add(new)
        return new in self.turned_away

    def leave(self, gone: TimedProtocol) -> None:
        """It does not count any more."""
        self.turned_away.discard(gone)
        self.waiting.pop(gone, None)
        if gone.counted:
            gone.counted = False
            self.by_address[gone.address] -= 1
            self.by_address += Counter()  # no zeros: addresses would pile up


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines.

    header_seconds: for a request's headers, from the connection's or the request's first byte. body_seconds: for the
    rest of it. idle_seconds: between two requests (uvicorn's keep-alive), and for a client to read on where what it
    does not read has filled the buffers.
    """

    held: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address, self.counted = "", False
        self._timer: asyncio.TimerHandle | None = None
        self._phase: Any = None  # what is waited for, and since when its deadline runs

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = _network(self.client[0] if self.client else "")
        self.counted = self.held.enter(self)
        if self.counted:
            self._follow()
        elif self.held.turn_away(self):
            self._limit(1.0)
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.counted:
            super().data_received(data)
            self._follow()
        elif not self.transport.is_closing():  # its request is read first: else the reset would overtake the answer
            self.transport.write(_FULL)
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit(None)
        self.held.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._phase = "unread"
        self._limit(self.held.limits.idle_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._phase = None
        self._limit(None)
        self._follow()

    def _follow(self) -> None:
        """The deadline of what the connection is at now; the one that runs goes on while it is at the same."""
        limits, cycle, state = self.held.limits, self.cycle, self.conn.their_state
        answering = cycle is not None and not cycle.response_complete
        if self.transport.is_closing():
            phase, seconds = "closing", limits.idle_seconds  # for what is written already
        elif self._phase == "unread":
            return
        elif state is h11.SEND_BODY:
            phase, seconds = "body", limits.body_seconds
        elif answering:
            phase, seconds = "answer", None
        elif self.timeout_keep_alive_task is not None:
            phase, seconds = "idle", limits.idle_seconds + 1  # uvicorn ends it before
        else:
            phase, seconds = "header", limits.header_seconds
        if phase == self._phase:
            return
        self._phase = phase
        if phase in {"idle", "header", "body"}:
            if phase != "body" or self not in self.held.waiting:
                self.held.waiting.pop(self, None)
                self.held.waiting[self] = None
        else:
            self.held.waiting.pop(self, None)
        self._limit(seconds)

    def _limit(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def protocol(connections: Connections) -> type[TimedProtocol]:
    """The class that uvicorn makes its connections of."""
    return type("HeldProtocol", (TimedProtocol,), {"held": connections})


def free_descriptors() -> int | None:
    """Files and sockets that this process may still open; None: unknown or without bound."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return None
    try:
        taken = len(os.listdir("/dev/fd"))  # noqa: PTH208 - of this very process, on Linux and macOS
    except OSError:
        taken = 32
    return max(8, most - taken)


def _network(address: str) -> str:
    """Whom an address belongs to: of IPv6 the /64, of which one customer has all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return address


class RateLimited(logging.Filter):
    """At most `most` records a minute of each kind (its unformatted message); then, when it is over, how many more."""

    def __init__(self, most: int = 10, seconds: float = 60.0) -> None:
        super().__init__()
        self.most, self.seconds = most, seconds
        self._since: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = f"{record.name}:{str(record.msg)[:80]}", time.monotonic()
        began, seen = self._since.get(kind, (now, 0))
        if now - began > self.seconds:
            if seen > self.most:
                record.msg, record.args = f"{record.getMessage()} ({seen - self.most} more before)", ()
            began, seen = now, 0
        if len(self._since) > 1000:
            self._since.clear()
        self._since[kind] = (began, seen + 1)
        return seen < self.most


@contextlib.contextmanager
def calm_logs(*names: str) -> Iterator[None]:
    """These loggers held to a rate."""
    limit = RateLimited()
    for name in names:
        logging.getLogger(name).addFilter(limit)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(limit)
