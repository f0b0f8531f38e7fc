"""A small server for the page's tests: it speaks the page's part of the HTTP interface, and fails when told to.

What it says depends on prompt and seed alone. `python tests/pageland.py` serves it, to look at the page by hand.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from thoughtmix.core.selection import select, selection_facts
from thoughtmix.report.html import THEME, layout
from thoughtmix.serve.limits import Limits, offered_schema
from thoughtmix.thinkers.registry import get_thinker

PAGE = Path(__file__).parents[1] / "src" / "thoughtmix" / "serve" / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
WORDS = [
    "a",
    "brick",
    "can",
    "hold",
    "a",
    "door",
    "open",
    "warm",
    "your",
    "hands",
    "by",
    "the",
    "fire",
    "become",
    "a",
    "small",
    "stage",
    "for",
    "ants",
    "press",
    "flowers",
    "flat",
    "carry",
    "one",
    "letter",
    "of",
    "a",
    "poem",
    "keep",
    "time",
    "as",
    "a",
    "slow",
    "drum",
    "mark",
    "where",
    "the",
    "garden",
    "ends",
    "and",
    "sleep",
]


def _described(name: str, summary: str) -> dict[str, Any]:
    """A thinker as the server describes it: its options are the real ones."""
    thinker = get_thinker(name)
    schema = offered_schema(thinker, Limits())
    return {
        "name": name,
        "summary": summary,
        "options": {option: text for option, text in thinker.options.items() if option in schema["properties"]},
        "option_schema": schema,
        "streams": thinker.streams,
        "continues": thinker.continues,
        "creativity_is_temperature": thinker.creativity_is_temperature,
    }


THINKERS = [
    _described("sampling", "Plain sampling."),
    _described("mixture", "Routes through branches."),
    _described("noise", "Disturbs an idea."),
    _described("hybrid", "Drafts, selects, refines."),
    _described("plan", "Specifications first."),
]


def words_of(prompt: str, seed: int, many: int) -> list[str]:
    """As `many` words, whose choice follows from prompt and seed."""
    at = hashlib.sha256(f"{prompt}|{seed}".encode()).digest()
    return [WORDS[(at[i % 32] + i * 7) % len(WORDS)] for i in range(many)]


def distances_of(texts: list[str]) -> list[list[float]]:
    """1 - Jaccard of their words."""
    sets = [set(text.lower().split()) for text in texts]
    return [[0.0 if a is b else 1 - len(a & b) / max(1, len(a | b)) for b in sets] for a in sets]


class Land:
    """A running server and how it behaves. `with Land() as land: land.url`."""

    def __init__(self, port: int = 0) -> None:
        self.pace = 0.0
        """Seconds between two chunks."""
        self.token = ""
        self.busy = 0
        """How many of the next completions get 429."""
        self.cut_after: int | None = None
        """End a stream without a word after so many chunks."""
        self.broken = 0
        """How many of the next completions get 500 with a trace that no one should read."""
        self.cut_back = 0
        """Characters that the third thought is shorter in the end than it was shown."""
        self.says: dict[int, str] = {}
        """What thought i says, instead of words."""
        self.diffusion = True
        self.gate: threading.Event | None = None
        """When set: a stream stops half way until the event is."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.dropped = 0
        """Streams whose reader went away."""
        land = self

        class Handler(_Handler):
            pass

        Handler.land = land
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Land:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for p, body in self.asked if p == path]

    # --- what is answered ---------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        return {
            "version": "0",
            "model": "pageland",
            "thinker": "mixture",
            "suggested": "auto",
            "thinkers": THINKERS,
            "limits": {"thoughts": 64, "tokens": 8192},
            "diffusion": self.diffusion,
            "diffusion_model": "filmland",
            "languages": ["en", "fr"],
        }

    def map(self, texts: list[str], prompt: str | None = None, first: int | None = None) -> dict[str, Any]:
        d = distances_of(texts)
        xy = np.array(layout(d))
        low, span = xy.min(0), max(float((xy.max(0) - xy.min(0)).max()), 1e-9)
        points = ((xy - low) / span).round(4).tolist()
        near = None if prompt is None else [1 - distances_of([prompt, text])[0][1] for text in texts]
        few = np.array(d)[:first, :first]
        metrics = {"vendi": 1 + (len(few) - 1) * float(few.mean())}
        return {"points": points, "distances": d, "relevance": near, "metrics": metrics}

    def completion(self, body: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
        n, many, prompt = body["n"], min(body["max_tokens"], 14), body["messages"][0]["content"]
        drawn = body.get("drawn", 0)
        idea = body.get("options", {}).get("idea")
        rows = []
        for i in range(n):
            seed = body["seed"] + i
            words = words_of(prompt, seed, drawn + many)[drawn:]
            if idea:
                old = idea.split()
                words = [*old[: len(old) // 2], *words[: max(1, len(old) // 2)]]
            rows.append([self.says[i]] if i in self.says and not idea else [w + " " for w in words])
        total = sum(map(len, rows))
        done = 0

        def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
            return {"id": "x", "object": "chat.completion.chunk", "model": "pageland", "choices": choices, **more}

        for step in range(max(map(len, rows))):
            for i, row in enumerate(rows):
                if step < len(row):
                    done += 1
                    yield chunk([{"index": i, "delta": {"content": row[step]}, "finish_reason": None}])
                if step == len(row) - 1:
                    facts = {
                        "seed": body["seed"] + i,
                        "logprob": -1.5 * len(row) - i,
                        "origin": {"thinker": body.get("thinker", "sampling")},
                        "scores": {"relevance": 0.5},
                        "finish": ("length", "stop", "sentence")[(body["seed"] + i) % 3 if not drawn else 1],
                        "tokens": len(row),
                        "characters": len("".join(row)) - (self.cut_back if i == 2 else 0),
                    }
                    yield chunk(
                        [
                            {
                                "index": i,
                                "delta": {},
                                "finish_reason": "stop" if facts["finish"] == "stop" else "length",
                                "thoughtmix": facts,
                                "logprobs": {"content": [{"token": w, "logprob": -1.5 - i / 10} for w in row]},
                            }
                        ]
                    )
            yield f": progress {done}/{total}"
            if self.gate is not None and step == len(rows[0]) // 2:
                self.gate.wait(20)
        d = distances_of(["".join(row) for row in rows])
        spread = 1 + (n - 1) * float(np.mean(d)) if n > 1 else 1.0
        yield chunk(
            [],
            usage={"completion_tokens": total},
            thoughtmix={
                "metrics": {"vendi": spread},
                "distances": d,
                "thinker": body.get("thinker", "sampling"),
                "run": {"tokens_per_second": 123.0},
            },
        )

    def diffuse(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        steps, length, branches = body["steps"], body["length"], body["branches"]
        texts = [
            " ".join(words_of(body["prompt"], body["seed"] + b, length))[:length].ljust(length) for b in range(branches)
        ]
        order = [np.random.default_rng(b).permutation(length) for b in range(branches)]
        for step in range(1, steps + 1):
            rows = []
            for b in range(branches):
                turn = np.empty(length)
                turn[order[b]] = np.arange(length)
                open_ = turn < length * step / steps
                sure = np.where(open_, np.clip(0.35 + step / steps - turn / length * 0.5, 0.1, 1), 0)
                copies = b == 1 and step > steps / 2  # given up, and in its place a copy of branch 0
                alive = b < branches - 1 or step < steps / 2
                rows.append(
                    {
                        "text": texts[0 if copies else b],
                        "confidence": sure.round(3).tolist(),
                        "alive": alive,
                        "name": "1b" if copies else str(b + 1),
                        "parent": 0 if copies else None,
                    }
                )
            yield {"step": step, "steps": steps, "branches": rows}


class _Handler(BaseHTTPRequestHandler):
    land: Land  # HTTP/1.0: a connection an answer, so that a closed server is gone at once

    def log_message(self, *_: object) -> None: ...

    def _reply(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, body: Any, status: int = 200, **headers: str) -> None:
        self._reply(status, "application/json", json.dumps(body).encode(), **headers)

    def _error(self, status: int, message: str, **headers: str) -> None:
        self._json({"error": {"message": message, "type": "x", "code": None}}, status, **headers)

    def _known(self) -> bool:
        if self.land.token and self.headers.get("Authorization") != f"Bearer {self.land.token}":
            self._error(401, "A token is needed.")
            return False
        return True

    def do_GET(self) -> None:
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        file = THEME if name == THEME.name else PAGE / name
        if self.path == "/api/info":
            if self._known():
                self._json(self.land.info())
        elif "/" in name or not file.is_file():
            self._error(404, "There is nothing here.")
        else:
            self._reply(200, f"{KINDS[file.suffix]}; charset=utf-8", file.read_bytes())

    def do_POST(self) -> None:
        land = self.land
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        land.asked.append((self.path, body))
        if not self._known():
            pass
        elif self.path == "/api/map":
            self._json(land.map(**body))
        elif self.path == "/api/select":
            told = (body["texts"], distances_of(body["texts"]), body["logprobs"] or [0.0] * len(body["texts"]))
            chosen = select(*told, body["k"], body["quality_floor"])
            picked, left = chosen.picked, [asdict(each) for each in chosen.left_out]
            self._json({"indices": picked, "left_out": left, "facts": selection_facts(*told, picked)})
        elif self.path == "/api/diffuse":
            self._stream(land.diffuse(body))
        elif land.busy:
            land.busy -= 1
            self._error(429, "Full.", Retry_After="2")
        elif land.broken:
            land.broken -= 1
            self._error(500, "")
        elif body["max_tokens"] > 512:
            self._error(400, "max_tokens is above 512. Pass 512 or fewer.")
        else:
            self._stream(land.completion(body))

    def _stream(self, events: Iterator[dict[str, Any] | str] | Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for i, event in enumerate(events):
                if i == self.land.cut_after:
                    return
                line = event if isinstance(event, str) else f"data: {json.dumps(event)}"  # a comment, or a chunk
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()
                time.sleep(self.land.pace)
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.land.dropped += 1


if __name__ == "__main__":
    with Land(8765) as land:
        land.pace = 0.03
        print(land.url)
        threading.Event().wait()
