"""A real server under load, beside the engine alone: speed, first tokens, memory, and every thought against its solo text.

    python benchmarks/serve.py [--minutes 3] [--clients 16] [-n 4] [--tokens 48] [--out FILE]

Clients are threads that send a request as soon as the last is answered; every fourth is streamed. A client has requests
of its own (prompts and seeds that nobody else has), which it repeats, so that a thought that came to the wrong one shows.
The engine's own speed is `decode` with as many rows (a prompt for each client, n rows each, none ending early), before and
after the load. Afterwards each thought is made once more, alone (n=1, no server), from its seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

THINGS = (
    "a brick", "a paper clip", "an old newspaper", "a blanket", "a spoon", "a broken umbrella", "a shoe box", "a candle",
    "a bucket", "a long rope", "a mirror", "a glass jar", "a bicycle wheel", "a wooden door", "a sock", "a tin can",
)  # fmt: skip
FORMS = (
    "Name an unusual use for {}.",
    "I have {} at home and do not need it any more. Give me one idea for it, in two sentences, and say why it is good.",
)


@dataclass
class Load:
    """What clients saw. texts: (client, form, seed) -> every text that came for it."""

    texts: dict[tuple[int, int, int], list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    tokens: int = 0
    answers: int = 0
    first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def prompt(client: int, form: int) -> str:
    return FORMS[form].format(THINGS[client % len(THINGS)]) + " Please." * (client // len(THINGS))


def seed_of(client: int, form: int) -> int:
    return 1000 * client + 100 * form


def ask(url: str, client: int, form: int, n: int, tokens: int, stream: bool) -> tuple[list[str], list[int], int, float]:
    """Texts, seeds, tokens, and seconds to the first token (0 where it is not streamed)."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt(client, form)}], "n": n, "seed": seed_of(client, form),
        "max_tokens": tokens, "stream": stream,
    }  # fmt: skip
    began, first = time.perf_counter(), 0.0
    if not stream:
        got = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
        got.raise_for_status()
        answer = got.json()
        texts = [c["message"]["content"] for c in answer["choices"]]
        seeds = [c["thoughtmix"]["seed"] for c in answer["choices"]]
        return texts, seeds, answer["usage"]["completion_tokens"], 0.0
    texts, seeds, used = [""] * n, [-1] * n, 0
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300) as got:
        got.raise_for_status()
        for line in got.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - began if piece else 0.0)
                texts[choice["index"]] += piece
                if choice["finish_reason"]:
                    seeds[choice["index"]] = choice["thoughtmix"]["seed"]
            used = (chunk.get("usage") or {}).get("completion_tokens", used)
    return texts, seeds, used, first


def client(url: str, number: int, load: Load, until: float, args: argparse.Namespace) -> None:
    turn = 0
    while time.monotonic() < until:
        form, stream = turn % len(FORMS), turn % 4 == number % 4
        began = time.perf_counter()
        try:
            texts, seeds, tokens, first = ask(url, number, form, args.n, args.tokens, stream)
        except Exception as error:
            with load.lock:
                load.errors.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(0.5)
            continue
        with load.lock:
            wanted = [seed_of(number, form) + i for i in range(args.n)]
            if seeds != wanted:
                load.errors.append(f"seeds {seeds} for {wanted}")
            for i, text in enumerate(texts):
                load.texts.setdefault((number, form, wanted[i]), []).append(text)
            if time.monotonic() < until:
                load.tokens += tokens
            load.answers += 1
            load.seconds.append(time.perf_counter() - began)
            if stream:
                load.first.append(first)
        turn += 1


def engine(clients: int, n: int, tokens: int) -> float:
    """Tokens a second of one `decode` with as many rows, prompts read included."""
    from thoughtmix.decoding import Row, Sampler, decode
    from thoughtmix.models import load_model

    lm = load_model()
    prompts = [lm.encode(prompt(c, 0)) for c in range(clients)]
    rows = [Row(seed_of(c, 0) + i, Sampler(min_p=0.1), prompt=c) for c in range(clients) for i in range(n)]
    speeds = []
    for _ in range(3):  # the first packs the weights
        began = time.perf_counter()
        decode(lm, prompts, rows, max_new_tokens=tokens, end_ids=frozenset())
        speeds.append(len(rows) * tokens / (time.perf_counter() - began))
    return statistics.mean(speeds[1:])


def engine_apart(args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--engine", "--clients", str(args.clients), "-n", str(args.n), "--tokens", str(args.tokens)]  # fmt: skip
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def started() -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from thoughtmix.cli import run; run()"
    server = subprocess.Popen([sys.executable, "-c", code, "serve", "--port", str(port)], stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    while True:
        if server.poll() is not None:
            raise SystemExit(server.stderr.read().decode() if server.stderr else "the server died")
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return server, url
        except httpx.TransportError:
            time.sleep(0.2)


def checked(load: Load, tokens: int) -> dict[str, Any]:
    """Every thought against its solo text. A difference is rounding if the thought begins as its solo text does and is
    nobody else's; anything else is a mix-up."""
    from thoughtmix import Pipeline

    pipeline = Pipeline()
    solo = {
        (c, form, seed): pipeline(
            [{"role": "user", "content": prompt(c, form)}], 1, "sampling", seed=seed, max_new_tokens=tokens, measure=False
        )[0].text
        for c, form, seed in sorted(load.texts)
    }  # fmt: skip
    everything = {text: key for key, text in solo.items()}
    same = apart = mixed = 0
    partings = []
    for key, texts in load.texts.items():
        for text in texts:
            if text == solo[key]:
                same += 1
            elif everything.get(text, key) != key or text[:1] != solo[key][:1]:
                mixed += 1
            else:
                apart += 1
                partings.append(len(os.path.commonprefix([text, solo[key]])))
    return {"thoughts": same + apart + mixed, "distinct": len(solo), "same": same, "rounding": apart, "mixed": mixed, "parted_at_character": sorted(partings)[:20]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    parser.add_argument("--skip-check", action="store_true")
    parser.add_argument("--engine", action="store_true", help="only the engine's own speed, as JSON")
    args = parser.parse_args()
    if args.engine:
        print(engine(args.clients, args.n, args.tokens))
        return
    print(
        f"{platform.processor() or platform.machine()}, {platform.platform()}, {os.environ.get('OMP_NUM_THREADS')} threads"
    )
    before = engine_apart(args)
    server, url = started()
    load, memory = Load(), list[tuple[float, float]]()
    try:
        idle = [ask(url, 0, 0, args.n, 4, True)[3] for _ in range(11)][1:]
        began = time.monotonic()
        until = began + 60 * args.minutes
        with ThreadPoolExecutor(args.clients) as pool:
            clients = [pool.submit(client, url, i, load, until, args) for i in range(args.clients)]
            while time.monotonic() < until:
                memory.append((time.monotonic() - began, resident(server.pid)))
                time.sleep(1)
            for c in clients:
                c.result()
        metrics = httpx.get(f"{url}/metrics").text
    finally:
        server.terminate()
        server.wait(60)
    after = engine_apart(args)
    own = (before + after) / 2
    speed = load.tokens / (60 * args.minutes)
    half = [m for t, m in memory if t >= 30 * args.minutes]
    slope = statistics.linear_regression(range(len(half)), half).slope * 60 if len(half) > 2 else 0.0
    figures: dict[str, Any] = {
        "clients": args.clients, "n": args.n, "tokens": args.tokens, "minutes": args.minutes,
        "answers": load.answers, "errors": len(load.errors), "first_errors": load.errors[:5],
        "tokens_per_second": round(speed, 1), "engine_before": round(before, 1), "engine_after": round(after, 1),
        "share_of_engine": round(speed / own, 3),
        "first_token_idle_s": round(statistics.median(idle), 3),
        "first_token_load_s": [round(q, 3) for q in statistics.quantiles(load.first, n=20)[9::9]] if len(load.first) > 1 else [],
        "request_s": round(statistics.median(load.seconds), 2),
        "rss_mib": [round(memory[len(memory) // 4][1]), round(max(m for _, m in memory)), round(memory[-1][1])],
        "rss_slope_mib_per_minute_second_half": round(slope, 2),
        "steps": {k: float(v) for k, v in (line.split() for line in metrics.splitlines() if line.startswith(("thoughtmix_step_seconds_", "thoughtmix_read_seconds_", "thoughtmix_tokens_total")) and "bucket" not in line)},
    }  # fmt: skip
    if not args.skip_check:
        figures |= checked(load, args.tokens)
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
