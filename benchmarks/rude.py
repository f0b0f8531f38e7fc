"""Clients that nobody wants, for `benchmarks/serve.py --rude`: who leave, who send nonsense, who hardly read, who say
nothing; and a server that is stopped and started again under all of them."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

CHAT = {"messages": [{"role": "user", "content": "Name a use for a brick."}], "seed": 5}
NONSENSE: list[bytes] = [
    b"",
    b"{",
    b"[" * 5000,
    b"\xff\xfe",
    b'{"messages": []}',
    b'{"messages": [{"role": "user", "content": "x"}], "n": 0}',
    b'{"messages": [{"role": "user", "content": "x"}], "thinker": "no such"}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}',
    json.dumps({**CHAT, "max_tokens": 4000, "n": 64}).encode(),
    json.dumps({**CHAT, "messages": [{"role": "user", "content": "x " * 400_000}]}).encode(),
]


class Server:
    """`thoughtmix serve` on a port of its own, which may be stopped and started."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.restarts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", "from thoughtmix.cli import run; run()", "serve", "--port", str(self.port)]
        made = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while True:
            if made.poll() is not None:
                raise SystemExit("the server died; type: thoughtmix serve")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return made
            time.sleep(0.2)

    def restart(self) -> None:
        """As an operator would: SIGTERM, wait until everybody is answered, start."""
        self.stop()
        self.restarts += 1
        self.process = self._start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)


class Rude:
    """Threads that misbehave until told to stop. counts: what each did, and what must not have happened."""

    def __init__(self, url: str) -> None:
        self.url, self.counts, self.wrong = url, Counter[str](), list[str]()
        self._stop = threading.Event()
        kinds = (self._leave, self._leave, self._nonsense, self._hardly_read, self._say_nothing)
        self._threads = [threading.Thread(target=self._again, args=(kind, i)) for i, kind in enumerate(kinds)]

    def __enter__(self) -> Rude:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _again(self, kind: Callable[[random.Random], None], number: int) -> None:
        dice = random.Random(number)
        while not self._stop.is_set():
            try:
                kind(dice)
                self.counts[kind.__name__.strip("_")] += 1
            except (httpx.TransportError, OSError):  # the server restarts, or has had enough
                self.counts["turned away"] += 1
            self._stop.wait(dice.random())

    def _leave(self, dice: random.Random) -> None:
        """In the middle of a stream."""
        body = {**CHAT, "n": dice.choice([1, 4]), "max_tokens": 200, "stream": True, "seed": dice.randrange(10**6)}
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=120) as stream:
            for number, _ in enumerate(stream.iter_lines()):
                if number > dice.randrange(40):
                    return

    def _nonsense(self, dice: random.Random) -> None:
        headers = {"content-type": "application/json"}
        got = httpx.post(f"{self.url}/v1/chat/completions", content=dice.choice(NONSENSE), headers=headers, timeout=120)
        if not 400 <= got.status_code < 500 and got.status_code != 503:
            self.wrong.append(f"nonsense was answered with {got.status_code}: {got.text[:100]}")

    def _hardly_read(self, dice: random.Random) -> None:
        """A line now and then; the stream must be whole all the same."""
        body: dict[str, Any] = {**CHAT, "max_tokens": 24, "stream": True, "seed": 77, "n": 2}
        ends = 0
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=120) as stream:
            if stream.status_code != 200:
                return
            for line in stream.iter_lines():
                ends += line.count('"finish_reason":"')
                self._stop.wait(dice.random() / 5)
        if ends != 2:
            self.wrong.append(f"a slow reader got {ends} ends of 2")

    def _say_nothing(self, dice: random.Random) -> None:
        """Forty connections with half a request each, for a few seconds."""
        at = urlsplit(self.url)
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                made = stack.enter_context(socket.create_connection((at.hostname, at.port), 5))
                made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
            self._stop.wait(5 * dice.random())
