"""What a request leaves behind: nothing that waits for the garbage collector, and nothing that stays.

Objects are counted, not bytes: what an allocator keeps is its own affair (docs/LOG.md has figures).
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from serving import Running, running

from thoughtmix.engine.job import Job
from thoughtmix.engine.kv_bucket import Bucket
from thoughtmix.engine.prompt_kv import PromptKV

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "w5 w9 w77"}], "seed": 3, "n": 2, "max_tokens": 6}
OWN = (Job, Bucket, PromptKV)


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running() as made:
        yield made


def chat(here: Running, **body: Any) -> None:
    httpx.post(here.url + "/v1/chat/completions", json={**CHAT, **body}, timeout=60)


def leave(here: Running) -> None:
    body = {**CHAT, "max_tokens": 200, "stream": True}
    with httpx.stream("POST", here.url + "/v1/chat/completions", json=body, timeout=60) as stream:
        for number, _ in enumerate(stream.iter_lines()):
            if number > 3:
                return


def stream(here: Running, path: str = "/v1/chat/completions", **body: Any) -> None:
    with httpx.stream("POST", here.url + path, json=body or {**CHAT, "stream": True}, timeout=60) as lines:
        for _ in lines.iter_lines():
            pass


def late(here: Running) -> None:
    """Its time is up while its rows run, or before."""
    limits = here.service.limits
    object.__setattr__(limits, "seconds", 0.01)
    try:
        chat(here, max_tokens=200)
    finally:
        object.__setattr__(limits, "seconds", 300.0)


def post(path: str, **body: Any) -> Callable[[Running], None]:
    return lambda here: httpx.post(here.url + path, json=body, timeout=60) and None


KINDS: dict[str, Callable[[Running], None]] = {
    "chat": chat,
    "measured": lambda here: chat(here, measure=True),
    "stream": stream,
    "leave": leave,
    "late": late,
    "nonsense": lambda here: chat(here, messages=[]),
    "too long": lambda here: chat(here, messages=[{"role": "user", "content": "w5 " * 3000}]),
    "unserved": lambda here: chat(here, thinker="mixture"),
    "hybrid": lambda here: chat(here, thinker="hybrid"),
    "search": lambda here: chat(here, thinker="search"),
    "map": post("/api/map", texts=["w5 w6", "w7"]),
    "embeddings": post("/v1/embeddings", input=["w5 w6", "w7"]),
    "diffuse": lambda here: stream(here, "/api/diffuse", branches=2, steps=3, length=6),
}


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive() -> Counter[str]:
    """Of our own, and of tensors; also what only the garbage collector would still find."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in (*OWN, torch.Tensor))


def settled(here: Running, at_most: Counter[str]) -> Counter[str]:
    """What is alive beyond that, once the last request has ended for the server, too."""
    until = time.monotonic() + 20
    while True:
        more = alive() - at_most
        if not more or time.monotonic() > until:
            return more
        time.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_leaves_no_tensors_and_no_jobs(here: Running, kind: str) -> None:
    """However it ends, and without the garbage collector: it comes rarely in a process of many objects."""
    for _ in range(2):  # models and whatever else is loaded once; the latest prompt is kept (`PrefixCache`)
        chat(here)
        KINDS[kind](here)
    chat(here)
    time.sleep(0.2)
    with uncollected():
        before = alive()
        for _ in range(4):
            KINDS[kind](here)
        chat(here)
        assert settled(here, before) == Counter()


def test_hundreds_of_requests_leave_as_many_objects_as_few(here: Running) -> None:
    def some(times: int) -> int:
        for _ in range(times):
            for kind in ("chat", "stream", "leave", "nonsense", "map"):
                KINDS[kind](here)
        time.sleep(0.3)
        gc.collect()
        return len(gc.get_objects())

    some(6)
    few = some(2)
    assert some(14) - few < 60, "70 requests, and not an object for each of them"
