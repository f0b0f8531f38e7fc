"""Who connects and says nothing, or never reads, is let go; everybody else is served meanwhile."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from serving import Running, running

from thoughtmix.serve.connections import RateLimited, _network, calm_logs

HERE = Path(__file__).parent
HEADERS = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = HEADERS + b'Content-Length: 500\r\n\r\n{"messages": ['
QUICK = {"header_seconds": 0.4, "body_seconds": 0.4, "idle_seconds": 1.0}


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@contextlib.contextmanager
def half_sent(port: int, said: bytes, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            with contextlib.suppress(OSError):  # it may be closed before it has said a word
                made[-1].sendall(said)
        yield made


def port_of(here: Running) -> int:
    return int(here.url.rpartition(":")[2])


def test_eighty_half_requests_do_not_stop_a_server_of_sixty_four_descriptors() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "serving.py"), str(port), "1", "header_seconds=2", "body_seconds=2"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )

    def healthy() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1.5).status_code == 200
        return False

    try:
        until(healthy, 120)
        with half_sent(port, HEADERS, 40) as some, half_sent(port, BODY, 40) as others:
            assert all(healthy() for _ in range(5)), "while they stay"
            got = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "w5", "max_tokens": 2})
            assert got.status_code == 200
            for each in (*some, *others):
                with contextlib.suppress(ConnectionError):
                    while each.recv(4096):
                        pass
        assert healthy()
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert len(said) < 5000, said[-2000:]


@pytest.mark.parametrize("said", [b"", b"GET / HT", HEADERS, BODY, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_every_way_of_saying_no_more_has_an_end(said: bytes) -> None:
    with running(**QUICK) as here, half_sent(port_of(here), said, 3) as made:
        for each in made:
            each.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while each.recv(4096):
                    pass
        until(lambda: not here.server.server_state.connections)


def test_a_byte_now_and_then_does_not_lengthen_it() -> None:
    with running(**QUICK) as here, half_sent(port_of(here), HEADERS, 1) as made:
        end = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                made[0].sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() < end


def test_who_does_not_read_is_let_go() -> None:
    """Answers that nobody reads fill the buffers: then nothing more can be said, and the connection's time runs."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400
    with running(**QUICK) as here, half_sent(port_of(here), asked, 1):
        until(lambda: here.server.server_state.total_requests > 1)
        until(lambda: not here.server.server_state.connections, 30)
        assert httpx.get(here.url + "/healthz").status_code == 200


def test_the_longest_idle_makes_room_and_who_is_answered_stays() -> None:
    limits = {"connections": 6, "connections_per_address": 4, "header_seconds": 30.0}
    with running(**limits) as here, half_sent(port_of(here), b"GET", 4) as first:
        until(lambda: len(here.server.server_state.connections) == 4)
        with httpx.stream(
            "POST", here.url + "/v1/completions", json={"prompt": "w5", "max_tokens": 200, "stream": True}
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert closed(first[0]), "the oldest of four"
            with half_sent(port_of(here), b"GET", 20):
                assert httpx.get(here.url + "/healthz").status_code == 200
                assert len(here.server.server_state.connections) <= 6
            assert list(lines)[-2] == "data: [DONE]"


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_no_room_is_said() -> None:
    """Where all are being answered nobody is closed for a new one."""
    with running(connections=2, connections_per_address=2) as here:
        for _ in range(2):
            here.server.config.http_protocol_class.held.by_address["127.0.0.1"] += 1  # type: ignore[union-attr]
        got = httpx.get(here.url + "/healthz")
        assert got.status_code == 503 and got.json()["error"]["code"] == "too_many_connections"
        assert got.headers["retry-after"] == "5"


def test_addresses_are_networks() -> None:
    assert _network("10.0.0.7") == _network("::ffff:10.0.0.7") == "10.0.0.7"
    assert _network("2001:db8::1") == _network("2001:db8::ffff:2") != _network("2001:db8:0:1::1")
    assert _network("") == ""


def test_logs_are_held_to_a_rate(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("thoughtmix.test")
    with calm_logs("thoughtmix.test"):
        for number in range(1000):
            log.warning("The same %d", number)
        log.warning("Another")
    assert len(caplog.records) == 11
    calm = RateLimited(2, 0.05)
    records = [logging.LogRecord("x", 30, "", 0, "again %d", (i,), None) for i in range(6)]
    assert [calm.filter(r) for r in records[:5]] == [True, True, False, False, False]
    time.sleep(0.06)
    assert calm.filter(records[5]) and records[5].getMessage() == "again 5 (3 more before)"
