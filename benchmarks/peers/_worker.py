"""What every peer worker shares: the request, the clock, the memory reading and the JSON protocol.

Workers may run under another virtual environment's interpreter, so this file needs only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

NOT_INSTALLED = 3  # the exit status by which a driver tells "this peer is absent" from "this peer broke"


@dataclass(frozen=True)
class Request:
    """One decoding job: `n` sampled continuations, `new_tokens` long each, of one prompt."""

    model: str
    prompt_ids: list[int]
    n: int = 32
    new_tokens: int = 48
    min_p: float = 0.1
    temperature: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    weights: str = "auto"  # ours only: how they are packed
    threads: int = 2
    repeats: int = 3
    ignore_eos: bool = True
    interactive: bool = False
    eager: bool = False  # vLLM only: skip its compilation, a minute or two at each new shape


class Peer(Protocol):
    """A loaded model that answers a request's shape with `n` rows of token ids, never ending a row early."""

    version: str
    dtype: str
    # Optional: `kv_reserved_bytes: int`, a key/value pool that is resident from loading on, and
    # `release()`, which drops what `generate` keeps for its next call.

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]: ...


def _status(field: str) -> int:
    """A size in bytes from /proc/self/status, such as VmRSS (resident now) or VmHWM (resident at most)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _memory_baseline() -> int:
    """Resident bytes now, with the high-water mark brought down to the same level."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # Pages freed by loading but still held by malloc would hide what generation takes.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def main(name: str, load: Callable[[Request], Peer]) -> None:
    """Serve one request (argv[1]) with the peer that `load` brings up."""
    request = Request(**json.loads(sys.argv[1]))
    if not request.ignore_eos:
        raise SystemExit("ignore_eos must be true: peers are compared on equal work")
    # Libraries log to stdout as they please: keep the real one for JSON and send the rest to stderr.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**body: Any) -> None:
        print(json.dumps(body), file=out, flush=True)

    os.environ["OMP_NUM_THREADS"] = str(request.threads)  # before any library that reads it is imported
    start = time.perf_counter()
    try:
        peer = load(request)
    except ImportError as error:
        say(peer=name, unavailable=" ".join(str(error).split()))
        raise SystemExit(NOT_INSTALLED) from error
    load_seconds = time.perf_counter() - start

    # Tiny, so that lazily mapped weights are resident before the baseline; then the true shape, cut short.
    peer.generate(request.prompt_ids[:2], n=1, new_tokens=2, seed=request.seed)
    getattr(peer, "release", lambda: None)()
    baseline = _memory_baseline()
    peer.generate(request.prompt_ids, request.n, min(2, request.new_tokens), seed=request.seed)

    def repeat(index: int) -> tuple[float, list[list[int]]]:
        begin = time.perf_counter()
        rows = peer.generate(request.prompt_ids, request.n, request.new_tokens, seed=request.seed + index)
        seconds = time.perf_counter() - begin
        if [len(row) for row in rows] != [request.new_tokens] * request.n:
            raise RuntimeError(f"uneven work: rows of {sorted({len(row) for row in rows})} tokens")
        return seconds, rows

    tokens = request.n * request.new_tokens
    about: dict[str, Any] = {"peer": name, "version": peer.version, "dtype": peer.dtype}
    about |= {"load_seconds": load_seconds, "kv_reserved_bytes": getattr(peer, "kv_reserved_bytes", 0)}
    if request.interactive:
        say(ready=True, **about)
        for index, _ in enumerate(sys.stdin):
            seconds, _rows = repeat(index)
            say(seconds=seconds, tokens=tokens, peak_rss_beyond_load_bytes=_status("VmHWM") - baseline)
        return
    runs = [repeat(index) for index in range(request.repeats)]
    peak = _status("VmHWM") - baseline
    timings = [seconds for seconds, _ in runs]
    sample = runs[0][1][0][:10] if runs else []
    say(**about, seconds=timings, tokens=tokens, peak_rss_beyond_load_bytes=peak, sample=sample)
