"""Whom the server answers to: names that point here from elsewhere, and pages of other origins, are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from browser import find_chromium
from serving import Running, running

ASKED = {"prompt": "w5 w9", "max_tokens": 2, "seed": 1}


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running(hosts=["Thoughts.Example", "10.9.8.7"]) as made:
        yield made


def port(here: Running) -> str:
    return here.url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("localhost:PORT", True),
        ("LocalHost.", True),
        ("my.localhost:1", True),
        ("127.0.0.1:PORT", True),
        ("127.9.9.9", True),
        ("[::1]:PORT", True),
        ("thoughts.example", True),
        ("THOUGHTS.example:443", True),
        ("10.9.8.7:80", True),
        ("evil.example", False),
        ("evil.example:PORT", False),
        ("localhost.evil.example", False),
        ("evillocalhost", False),
        ("127.0.0.1.evil.example", False),
        ("x@localhost", False),
        ("0.0.0.0:PORT", False),
        ("10.9.8.6", False),
        ("[::2]", False),
        ("localhost:x", False),
        ("[", False),
    ],
)
def test_hosts(here: Running, host: str, known: bool) -> None:
    headers = {"host": host.replace("PORT", port(here))}
    for path in ("/", "/healthz", "/v1/models", "/page/page.js"):
        got = httpx.get(here.url + path, headers=headers)
        assert (got.status_code != 403) is known, got.text
    if not known:
        error = got.json()["error"]
        assert error["code"] == "unknown_host" and "--allow-host" in error["message"]


@pytest.mark.parametrize(
    ("host", "origin", "known"),
    [
        ("localhost:1", "http://localhost:1", True),
        ("localhost", "http://localhost", True),
        ("thoughts.example", "https://thoughts.example", True),
        ("thoughts.example", "https://thoughts.example:443", True),
        ("thoughts.example", "https://thoughts.example:444", False),
        ("localhost:1", "http://localhost:2", False),
        ("localhost:1", "http://localhost", False),
        ("localhost:1", "http://127.0.0.1:1", False),
        ("localhost:1", "http://evil.example", False),
        ("localhost:1", "null", False),
        ("localhost:1", "x", False),
    ],
)
def test_origins(here: Running, host: str, origin: str, known: bool) -> None:
    got = httpx.post(here.url + "/v1/completions", json=ASKED, headers={"host": host, "origin": origin})
    assert got.status_code == (200 if known else 403), got.text
    assert known or got.json()["error"]["code"] == "other_origin"


def test_any_host_where_the_operator_says_so() -> None:
    with running(hosts=["*"]) as here:
        assert httpx.get(here.url + "/healthz", headers={"host": "evil.example"}).status_code == 200


class _Elsewhere(BaseHTTPRequestHandler):
    """A page of another origin, without a policy that would stop it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_: object) -> None: ...


def drawn(here: Running) -> float:
    return here.service.metrics.registry.get_sample_value("thoughtmix_tokens_total", {"kind": "drawn"}) or 0.0


def test_in_chromium(here: Running, browser: Any) -> None:
    """A foreign page can neither read nor make the server work: by its own name that points here, or across origins."""
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    rules = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP *.example 127.0.0.1"]
    other = browser.browser_type.launch(executable_path=find_chromium(), args=rules)
    ask = """async ([url, how]) => {
        const body = JSON.stringify({prompt: "w5 w9", max_tokens: 2, seed: 1});
        try {
            const got = await fetch(url + "/v1/completions", {method: "POST", body, ...how});
            return [got.status, got.type];
        } catch (error) { return [0, "failed"]; }
    }"""
    as_json = {"headers": {"Content-Type": "application/json"}}
    simple = {"mode": "no-cors", "headers": {"Content-Type": "text/plain"}}
    try:
        page = other.new_page()
        before = drawn(here)
        assert (
            page.goto(f"http://evil.example:{port(here)}/healthz").status == 403
        )  # rebound: its own name, our address
        assert page.evaluate(ask, [f"http://evil.example:{port(here)}", as_json]) == [403, "basic"]
        for name in ("evil.example", "127.0.0.1"):
            page.goto(f"http://{name}:{elsewhere.server_address[1]}/")
            assert page.evaluate(ask, [here.url, as_json]) == [0, "failed"]
            assert page.evaluate(ask, [here.url, simple]) == [0, "opaque"]
        refused = here.service.metrics.registry.get_sample_value(
            "thoughtmix_requests_total", {"path": "other", "status": "403"}
        )
        assert refused is not None and refused >= 4 and drawn(here) == before
        for url in (here.url, f"http://localhost:{port(here)}", f"http://thoughts.example:{port(here)}"):
            page.goto(url + "/healthz")
            assert page.evaluate(ask, [url, as_json]) == [200, "basic"]
        assert drawn(here) > before
    finally:
        other.close()
        elsewhere.shutdown()
        elsewhere.server_close()
