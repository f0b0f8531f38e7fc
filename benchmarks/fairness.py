"""Seconds that a small chat takes alone, and beside the largest request of each route that the server admits.

    python benchmarks/fairness.py [--times 5] [--only map]

The chat: two tokens, a prompt of one sentence that nobody has sent before (one that was read is known). A refused
request is made smaller by halves until it is admitted, and is left as soon as the chat has been measured. What a
machine without other load gives is what counts; tests count turns.
turns: how many the request had beside the batch, their mean, and how many were longer than a tenth of a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from typing import Any

import httpx
from rude import Server

USES = itertools.count(1)
LONG = "An old brick lies in the garden behind the house, and nobody knows what it might be good for. " * 12
MESSAGES = {"messages": [{"role": "user", "content": "Name a use for a brick."}]}
STAGES = ">".join(["sampling", *["noise"] * 15])
HEAVY: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "sampling": ("/v1/chat/completions", {**MESSAGES, "n": 64, "max_tokens": 128}, ("n",)),
    "a long prompt": ("/v1/completions", {"prompt": LONG * 24, "n": 8, "max_tokens": 64}, ("n",)),
    "noise": ("/v1/chat/completions", {**MESSAGES, "thinker": "noise", "n": 63, "max_tokens": 128}, ("n",)),
    "search": ("/v1/chat/completions", {**MESSAGES, "thinker": "search", "n": 32, "max_tokens": 64}, ("n",)),
    "hybrid": (
        "/v1/chat/completions",
        {**MESSAGES, "thinker": "hybrid", "options": {"stages": STAGES}, "max_tokens": 64},
        ("max_tokens",),
    ),
    "diffuse": ("/api/diffuse", {"branches": 16, "length": 512, "steps": 256}, ("steps",)),
    "map": ("/api/map", {"texts": [LONG] * 256}, ()),
    "embeddings": ("/v1/embeddings", {"input": [LONG[:900]] * 512}, ()),
}


def chat(url: str) -> float:
    said = [{"role": "user", "content": f"Name use {next(USES)} of a brick."}]
    body = {"messages": said, "max_tokens": 2, "seed": 1}
    began = time.perf_counter()
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()
    return time.perf_counter() - began


def admitted(url: str, path: str, body: dict[str, Any], halve: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """The request as the server takes it, and what it said to larger ones."""
    said: list[str] = []
    while True:
        try:
            got = httpx.post(url + path, json=body, timeout=1.0)
        except httpx.ReadTimeout:
            return body, said
        if got.status_code == 200 or not halve:
            return body, said
        said.append(got.json()["error"]["message"])
        body = {**body, **{name: max(1, body[name] // 2) for name in halve}}


def beside(url: str, path: str, body: dict[str, Any], times: int) -> list[float]:
    """Chats while the request runs, over and over."""
    stop = threading.Event()

    def heavy() -> None:
        while not stop.is_set():
            with httpx.stream("POST", url + path, json={**body, **STREAM.get(path, {})}, timeout=300) as stream:
                for _ in stream.iter_raw():
                    if stop.is_set():
                        break

    thread = threading.Thread(target=heavy)
    thread.start()
    try:
        time.sleep(1.0)
        return [chat(url) for _ in range(times)]
    finally:
        stop.set()
        thread.join()


def turns(url: str) -> dict[float, float]:
    """Of work beside the batch, by the server's own count: how many of up to so many seconds each, and in all (-1: the
    sum of seconds)."""
    found: dict[float, float] = {}
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("thoughtmix_beside_seconds_bucket"):
            found[float(line.split('"')[1].replace("+Inf", "inf"))] = float(line.split()[-1])
        elif line.startswith("thoughtmix_beside_seconds_sum"):
            found[-1.0] = float(line.split()[-1])
    return found


def between(before: dict[float, float], after: dict[float, float]) -> dict[str, float]:
    got = {name: value - before.get(name, 0.0) for name, value in after.items()}
    count = got.get(float("inf"), 0.0)
    mean = round(got.get(-1.0, 0.0) / count, 4) if count else 0.0
    return {"count": count, "mean_s": mean, "over_0.1_s": count - got.get(0.1, 0.0)}


STREAM: dict[str, dict[str, Any]] = {"/v1/chat/completions": {"stream": True}, "/v1/completions": {"stream": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", choices=list(HEAVY), action="append")
    args = parser.parse_args()
    server = Server()
    try:
        chat(server.url)
        alone = statistics.median(chat(server.url) for _ in range(args.times))
        print(json.dumps({"alone_s": round(alone, 3)}), flush=True)
        for name in args.only or HEAVY:
            path, body, halve = HEAVY[name]
            body, said = admitted(server.url, path, body, halve)
            before = turns(server.url)
            took = beside(server.url, path, body, args.times)
            held = between(before, turns(server.url))
            figures = {"median_s": round(statistics.median(took), 3), "seconds": [round(s, 3) for s in took]}
            times = round(statistics.median(took) / alone, 1)
            figures = {"beside": name, **figures, "times_alone": times, "turns": held, "refused": said[:1]}
            print(json.dumps(figures), flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
