"""A real server under load beside the engine alone: speed, first tokens, memory, every thought against its solo text.

    python benchmarks/serve.py [--minutes 3] [--clients 16] [-n 4] [--tokens 48] [--thinker sampling] [--out FILE]
    python benchmarks/serve.py --rude --minutes 30

Clients are threads that send a request as soon as the last is answered; every fourth is streamed. A client has
requests of its own (prompts and seeds that nobody else has), which it repeats, so that a thought that came to the wrong
one shows; with --fresh no prompt comes twice, of which the server would remember what it read. The engine's own speed
is `decode` with as many rows (a prompt for each client, in one of the two forms, n rows each, none ending early),
before and after the load: by the clock, and by processor seconds, which say more where others use the machine. First
tokens are told of all requests and of those after each client's first, when all come at once. Afterwards each thought
is made once more, alone (n=1, no server), from its seed. With --rude, clients that leave, send nonsense, hardly read or
say nothing are mixed in, and the server is stopped (SIGTERM) and started twice: nobody else may lose a thought by it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rude import Rude, Server

THINGS = (
    "a brick",
    "a paper clip",
    "an old newspaper",
    "a blanket",
    "a spoon",
    "a broken umbrella",
    "a shoe box",
    "a candle",
    "a bucket",
    "a long rope",
    "a mirror",
    "a glass jar",
    "a bicycle wheel",
    "a wooden door",
    "a sock",
    "a tin can",
)
FORMS = (
    "Name an unusual use for {}.",
    "I have {} at home and do not need it any more. Give me one idea for it, in two sentences, and say why it is good.",
)


@dataclass
class Load:
    """What clients saw. texts: (client, form, seed) -> every text that came for it."""

    texts: dict[tuple[int, int, int], list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    turned_away: int = 0  # 429, 503, or nobody at the port while it restarts: to be sent again
    tokens: int = 0
    answers: int = 0
    first: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)  # those of `first` after a client's first request
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def prompt(client: int, form: int) -> str:
    """form: which of `FORMS`, and, from its count on, of a prompt that comes once."""
    again, form = divmod(form, len(FORMS))
    said = FORMS[form].format(THINGS[client % len(THINGS)]) + " Please." * (client // len(THINGS))
    return f"{said} ({again})" if again else said


def seed_of(client: int, form: int) -> int:
    return 100_000 * client + 100 * form


class Status(Exception):
    """An answer that is an error."""


def ask(
    url: str, client: int, form: int, n: int, tokens: int, stream: bool, thinker: str = "sampling"
) -> tuple[list[str], list[int], int, float]:
    """Texts, seeds, tokens, and seconds to the first token (0 where it is not streamed). By `http.client`, since the
    load runs on the server's cores: a request by httpx takes 8 ms of them, and 22 more where it makes a client."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt(client, form)}],
        "n": n,
        "seed": seed_of(client, form),
        "max_tokens": tokens,
        "stream": stream,
        "thinker": thinker,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    began, first = time.perf_counter(), 0.0
    http = HTTPConnection(urlsplit(url).netloc, timeout=300)
    with contextlib.closing(http):
        http.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        got = http.getresponse()
        if got.status != 200:
            raise Status(got.status, got.read()[:200])
        if not stream:
            answer = json.loads(got.read())
            texts = [c["message"]["content"] for c in answer["choices"]]
            seeds = [c["thoughtmix"]["seed"] for c in answer["choices"]]
            return texts, seeds, answer["usage"]["completion_tokens"], 0.0
        texts, seeds, used = [""] * n, [-1] * n, 0
        for line in got:
            if not line.startswith(b"data: {"):
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
        form, stream = turn if args.fresh else turn % len(FORMS), turn % 4 == number % 4
        began = time.perf_counter()
        try:
            texts, seeds, tokens, first = ask(url, number, form, args.n, args.tokens, stream, args.thinker)
        except Exception as error:
            status = error.args[0] if isinstance(error, Status) else 0
            if status in {429, 503} or isinstance(error, ConnectionRefusedError):
                with load.lock:
                    load.turned_away += 1
                time.sleep(0.5)
                continue
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
            load.tokens += tokens
            load.answers += 1
            load.seconds.append(time.perf_counter() - began)
            if stream:
                load.first.append(first)
                load.settled += [first] * (turn > 0)
        turn += 1


def engine(clients: int, n: int, tokens: int) -> list[float]:
    """Tokens a second, and a processor second, of one generation with as many rows, prompts read included."""
    from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
    from thoughtmix.models import load_model

    lm, sampling = load_model(), SamplingParams(min_p=0.1)
    local, prompts = LocalEngine(lm), [tuple(lm.encode(prompt(c, c % len(FORMS)))) for c in range(clients)]

    def rows(tokens: int) -> list[SequenceRequest]:
        places = [(c, i) for c in range(clients) for i in range(n)]
        return [
            SequenceRequest(prompts[c], seed_of(c, 0) + i, sampling, tokens, end_ids=frozenset()) for c, i in places
        ]

    local.generate(rows(2))  # packs the weights
    began, used = time.perf_counter(), time.process_time()
    for _ in range(2):
        local.generate(rows(tokens))
    made = 2 * clients * n * tokens
    return [made / (time.perf_counter() - began), made / (time.process_time() - used)]


def engine_apart(args: argparse.Namespace) -> list[float]:
    shape = ["--clients", str(args.clients), "-n", str(args.n), "--tokens", str(args.tokens)]
    command = [sys.executable, __file__, "--engine", *shape]
    speeds: list[float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return speeds


def processor(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def checked(load: Load, tokens: int, thinker: str) -> dict[str, Any]:
    """Every thought against its solo text. A difference is rounding if the thought begins as its solo text does and is
    nobody else's; anything else is a mix-up."""
    from thoughtmix import Pipeline

    pipeline = Pipeline()

    def alone(number: int, form: int, seed: int) -> str:
        said = [{"role": "user", "content": prompt(number, form)}]
        settings: dict[str, Any] = {"seed": seed, "max_new_tokens": tokens, "landing": 0.0}  # the server's default
        return pipeline(said, 1, thinker, measure=False, **settings)[0].text

    solo = {key: alone(*key) for key in sorted(load.texts)}
    owner = {text: key for key, text in solo.items()}
    partings, same, mixed = [], 0, 0
    for key, texts in load.texts.items():
        for text in texts:
            if text == solo[key]:
                same += 1
            elif owner.get(text, key) != key or text[:1] != solo[key][:1]:
                mixed += 1
            else:
                partings.append(next(i for i in range(len(text) + 1) if text[: i + 1] != solo[key][: i + 1]))
    return {
        "thoughts": same + mixed + len(partings),
        "distinct": len(solo),
        "same": same,
        "mixed_up": mixed,
        "parted_by_rounding": len(partings),
        "parted_at_character": sorted(partings)[:20],
    }


def quantiles(seconds: list[float]) -> list[float]:
    """The median and the 95th percentile."""
    return statistics.quantiles(seconds if len(seconds) > 1 else [0.0, 0.0], n=20)[9::9]


DRAWN = 'thoughtmix_tokens_total{kind="drawn"}'


def counters(url: str) -> dict[str, float]:
    """The server's own, of steps and tokens."""
    names = ("thoughtmix_step_seconds_", "thoughtmix_read_seconds_", "thoughtmix_tokens_total")
    lines = [line.split() for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(names)]
    return {name: float(value) for name, value in lines if "bucket" not in name and "created" not in name}


def loaded(args: argparse.Namespace) -> tuple[Load, dict[str, Any]]:
    """The load itself: what clients saw, and what was seen of the server."""
    server = Server()
    url, load, memory = server.url, Load(), list[tuple[float, float]]()
    rude = Rude(url) if args.rude else None
    lives: list[list[tuple[float, float]]] = []  # memory of each process that served
    restarts = [60 * args.minutes * share for share in (0.5, 0.9)] if args.rude else []
    try:
        idle = [ask(url, 0, 0, args.n, 4, True, args.thinker)[3] for _ in range(11)][1:]
        drawn = counters(url)
        since = began = time.monotonic()
        used = processor(server.process.pid)
        until = began + 60 * args.minutes
        with ThreadPoolExecutor(args.clients) as pool, rude or contextlib.nullcontext():
            clients = [pool.submit(client, url, i, load, until, args) for i in range(args.clients)]
            while time.monotonic() < until:
                memory.append((time.monotonic() - began, resident(server.process.pid)))
                if restarts and memory[-1][0] > restarts[0]:
                    lives.append(memory)
                    restarts, memory = restarts[1:], []
                    server.restart()
                    drawn, since, used = {}, time.monotonic(), processor(server.process.pid)
                time.sleep(1)
            made = counters(url).get(DRAWN, 0.0) - drawn.get(DRAWN, 0.0)
            rate, by_processor = made / (time.monotonic() - since), made / (processor(server.process.pid) - used)
            for running in clients:
                running.result()
        ended = counters(url)
    finally:
        server.stop()
    lives.append(memory)
    memory = max(lives, key=len)  # the longest that one process lived
    settled = min(300.0, memory[0][0] + (memory[-1][0] - memory[0][0]) / 2)  # after five minutes, or half of it
    half = [m for t, m in memory if t >= settled]
    slope = statistics.linear_regression(range(len(half)), half).slope * 60 if len(half) > 2 else 0.0
    unwanted = {"restarts": server.restarts, **rude.counts, "wrong": rude.wrong[:5]} if rude is not None else {}
    return load, {
        "rude": unwanted,
        "turned_away": load.turned_away,
        "tokens_per_second": round(rate, 1),
        "tokens_per_processor_second": round(by_processor, 1),
        "first_token_idle_s": round(statistics.median(idle), 3),
        "first_token_load_s": [round(q, 3) for q in quantiles(load.first)],
        "first_token_settled_s": [round(q, 3) for q in quantiles(load.settled)],
        "request_s": round(statistics.median(load.seconds or [0.0]), 2),
        "rss_mib": {
            "quarter": round(memory[len(memory) // 4][1]),
            "most": round(max(m for _, m in memory)),
            "end": round(memory[-1][1]),
            "slope_a_minute_settled": round(slope, 2),
            "settled_after_s": round(settled),
            "by_minute": [[round(m) for _, m in life[::60]] for life in lives],  # of each process that served
        },
        "server": {name: round(ended[name] - drawn.get(name, 0.0), 3) for name in ended},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--thinker", default="sampling", help="mixture: the shipped graft's thoughts")
    parser.add_argument("--fresh", action="store_true", help="no prompt comes twice")
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    parser.add_argument("--skip-check", action="store_true", help="do not make the thoughts again")
    parser.add_argument("--rude", action="store_true", help="with clients of rude.py, and two restarts")
    parser.add_argument("--engine", action="store_true", help="only the engine's own speed, as JSON")
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(engine(args.clients, args.n, args.tokens)))
        return
    about = f"{platform.machine()}, {platform.platform()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
    print(about, flush=True)
    before = engine_apart(args)
    load, seen = loaded(args)
    after = engine_apart(args)
    figures: dict[str, Any] = {
        "about": about,
        "clients": args.clients,
        "n": args.n,
        "tokens": args.tokens,
        "minutes": args.minutes,
        "answers": load.answers,
        "tokens_answered": load.tokens,
        "errors": len(load.errors),
        "first_errors": load.errors[:5],
        "engine_before": [round(speed, 1) for speed in before],
        "engine_after": [round(speed, 1) for speed in after],
        "share_of_engine": round(2 * seen["tokens_per_second"] / (before[0] + after[0]), 3),
        "share_by_processor": round(2 * seen["tokens_per_processor_second"] / (before[1] + after[1]), 3),
        **seen,
    }
    print(json.dumps(figures, indent=1), flush=True)
    if not args.skip_check:
        figures |= (found := checked(load, args.tokens, args.thinker))
        print(json.dumps(found, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
