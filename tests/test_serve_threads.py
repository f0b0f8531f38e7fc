"""Threads of the server end with their work, and take torch's teams of workers along (serve/threads.py says why)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from serving import running

from thoughtmix.engine.threads import EphemeralThreadExecutor


def test_results_and_errors_come_back() -> None:
    executor = EphemeralThreadExecutor("some-work")
    assert executor.submit(lambda a, b: a + b, 1, b=2).result(10) == 3
    with pytest.raises(ZeroDivisionError):
        executor.submit(lambda: 1 // 0).result(10)
    assert executor.submit(lambda: threading.current_thread().name).result(10) == "some-work"
    assert executor.submit(threading.get_ident).result(10) != threading.get_ident()


def test_no_thread_is_left_after_requests() -> None:
    def left() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("thoughtmix-") and "scheduler" not in t.name]

    with running() as server:
        server.service.warm()
        body = {"messages": [{"role": "user", "content": "ab"}], "n": 2, "max_tokens": 4, "measure": True}
        for _ in range(3):
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code == 200
        assert httpx.post(f"{server.url}/api/map", json={"texts": ["a", "b"]}, timeout=60).status_code == 200
        until = time.monotonic() + 10
        while left() and time.monotonic() < until:
            time.sleep(0.01)
        assert left() == []


def test_what_threads_would_import_later_is_there_before_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.serve import service

    seen: list[str] = []
    with running() as server, monkeypatch.context() as patch:
        submit = lambda work: seen.append("work") or SimpleNamespace(result=lambda: None)  # noqa: E731
        patch.setattr(server.service.threads, "submit", submit)
        patch.setattr(service, "importlib", SimpleNamespace(import_module=seen.append))
        server.service.warm()
    assert seen == ["peft", "work"]


TEAMS = """
import os, time, torch
from thoughtmix.engine.threads import EphemeralThreadExecutor

def compute():
    torch.set_num_threads(2)  # this process is the test's own
    for _ in range(20):
        torch.ones(400, 400).cumsum(0).exp().sum()
    return len(os.listdir("/proc/self/task"))

EphemeralThreadExecutor("first").submit(compute).result()  # libraries start threads of their own at first use
time.sleep(1)
here = len(os.listdir("/proc/self/task"))
inside = EphemeralThreadExecutor("work").submit(compute).result()
until = time.monotonic() + 10
while len(os.listdir("/proc/self/task")) > here and time.monotonic() < until:
    time.sleep(0.01)
print(inside - here, len(os.listdir("/proc/self/task")) - here)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_torchs_workers_end_too() -> None:
    done = subprocess.run([sys.executable, "-c", TEAMS], capture_output=True, text=True, check=True)
    inside, after = map(int, done.stdout.split())
    assert inside >= 2 and after == 0  # the thread and a worker of its own; neither is left
