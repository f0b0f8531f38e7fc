"""A real chat-completions server in a thread that misbehaves on demand."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """`script(number, body)` says what request `number` (from 0, all conversations together) gets: "ok", or the name of
    a fault. `seen` holds the bodies, `when` the arrival times, `most` how many were in flight at once."""

    def __init__(self, script: Callable[[int, dict[str, Any]], str]) -> None:
        self.script, self.lock = script, threading.Lock()
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: list[str] = []
        self.ports: set[int] = set()
        self.when: list[float] = []
        self.flying = self.most = 0
        self.retry_after = "0.3"
        self.url = ""


REASONING = "Hm, let me see."


def answer(body: dict[str, Any]) -> str:
    """What the server says: the last message backwards, so that an answer shows which conversation it belongs to."""
    return str(body["messages"][-1]["content"])[::-1]


@contextmanager
def serving(script: Callable[[int, dict[str, Any]], str]) -> Iterator[Server]:
    state = Server(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._json(200, {"data": [{"id": "tiny-1"}, {"id": "tiny-2"}]})

        def do_POST(self) -> Any:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path.endswith("/embeddings"):
                with state.lock:
                    state.keys.append(self.headers.get("authorization"))
                rows = [[len(text), text.count("e"), 1] for text in body["input"]]
                data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
                return self._json(200, {"data": data[::-1]})  # by index, not by place
            with state.lock:
                number = len(state.seen)
                state.seen.append(body)
                state.keys.append(self.headers.get("authorization"))
                state.headers.append(str(self.headers))
                state.ports.add(self.client_address[1])
                state.when.append(time.monotonic())
                state.flying += 1
                self.flying = 1
                state.most = max(state.most, state.flying)
            try:
                self._play(state.script(number, body), body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client had enough
            finally:
                self._landed()

        def _landed(self) -> None:
            """Not in flight any more. Before the answer is written: a client that has it may send the next at once."""
            with state.lock:
                state.flying -= self.flying
                self.flying = 0

        def _play(self, fault: str, body: dict[str, Any]) -> None:
            text = answer(body)
            if fault == "ok":
                time.sleep(0.02)
                self._landed()
                return self._stream(text) if body["stream"] else self._json(200, _whole(text))
            if fault == "n":
                return self._several(body)
            if fault == "words":
                return self._words(body)
            if fault == "n cut":  # the first is whole, the second is not
                return self._stream_two(text)
            if fault == "surrogate":
                return self._json(200, _whole("half \ud83d of it"))
            if fault.startswith("says "):
                return self._json(200, _judged(fault.removeprefix("says "), "logprobs" in body))
            if fault.startswith("no ") and fault[3:] in {"n", "seed", "logprobs"}:
                status = 403 if fault == "no logprobs" else 400
                return self._json(status, {"error": {"message": f"This takes {fault}, sorry.", "param": fault[3:]}})
            if fault == "think":
                text = f"<think>\n{REASONING}\n</think>\n\n{text}"
                return self._stream(text) if body["stream"] else self._json(200, _whole(text))
            if fault == "reasoning":
                return (
                    self._stream(text, REASONING)
                    if body["stream"]
                    else self._json(200, _whole(text, reasoning=REASONING))
                )
            if fault == "ran out":
                if body["stream"]:
                    return self._stream("", REASONING, finish="length")
                return self._json(200, _whole(None, "length", REASONING))
            if fault == "declines":
                return self._json(200, {"choices": [{"message": {"refusal": "No."}, "finish_reason": "stop"}]})
            if fault in {"blank", "filtered"}:
                return self._json(200, _whole("", "stop" if fault == "blank" else "content_filter"))
            if fault == "parts":
                return self._json(200, _whole([{"type": "text", "text": part} for part in (text[:3], text[3:])]))
            if fault == "byte order mark":
                return self._bytes(200, "application/json", b"\xef\xbb\xbf" + json.dumps(_whole(text)).encode())
            if fault == "no max_tokens":
                said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
                return self._json(
                    400, {"error": {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}}
                )
            if fault == "no temperature":
                return self._json(
                    400, {"error": {"message": "Only 1.", "param": "temperature", "code": "unsupported_value"}}
                )
            if fault == "slow":
                time.sleep(1.6)
                return self._json(200, _whole(text))
            if fault == "drip":
                return self._drip()
            if fault == "hangup":
                self.close_connection = True
                return self.connection.close()
            if fault == "cut":
                return self._stream(text, upto=2)
            if fault == "short":  # promises more bytes than come
                self._head(200, "application/json", 10_000)
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return None
            if fault == "html":
                return self._bytes(200, "text/html", b"<html>Welcome</html>")
            if fault == "empty":
                return self._json(200, {"choices": []})
            if fault == "null":
                return self._json(200, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
            if fault == "badstream":
                return self._bytes(
                    200, "text/event-stream", b'data: {"choices": [{"delta": {"content": "Hm"}}]}\n\ndata: {"cho\n\n'
                )
            if fault == "errorstream":
                return self._bytes(200, "text/event-stream", b'data: {"error": {"message": "out of\\nmemory"}}\n\n')
            if fault == "429":
                return self._json(429, {"error": {"message": "slow down"}}, {"Retry-After": state.retry_after})
            if fault.isdigit():
                return self._json(int(fault), {"error": {"message": f"this is {fault}"}})
            raise AssertionError(fault)

        def _stream(self, text: str, reasoning: str = "", upto: int | None = None, finish: str = "stop") -> None:
            """Server-sent events, three characters each; `upto`: break off after so many."""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            self.wfile.write(b": hello\n\n")
            if reasoning:
                event = {"choices": [{"delta": {"content": None, "reasoning_content": reasoning}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            parts = [text[i : i + 3] for i in range(0, len(text), 3)]
            for part in parts if upto is None else parts[:upto]:
                event = {"choices": [{"delta": {"content": part}, "finish_reason": None}]}
                self.wfile.write(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n".encode())
                self.wfile.flush()
            if upto is None:
                end = {"choices": [{"delta": {}, "finish_reason": finish}]}
                usage = {"choices": [], "usage": {"completion_tokens": len(parts)}}
                self.wfile.write(f"data: {json.dumps(end)}\n\ndata: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())

        def _several(self, body: dict[str, Any]) -> None:
            """As our server does it: answer i is of seed + i, and says so; log-probabilities where asked for."""
            n, seed = body.get("n", 1), body.get("seed", 0)
            values = [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -1.5}]
            choices = [
                {
                    "index": i,
                    "message": {"role": "assistant", "content": f"{answer(body)} {seed + i}"},
                    "finish_reason": "stop",
                    "logprobs": {"content": values} if body.get("logprobs") else None,
                    "thoughtmix": {"seed": seed + i},
                }
                for i in range(n)
            ]
            usage = {"prompt_tokens": 7, "completion_tokens": 2 * n}
            self._json(200, {"choices": choices[::-1], "usage": usage})

        def _words(self, body: dict[str, Any]) -> None:
            """Words by the seed and what was said, as many as are wanted, and in a fifth of the answers an end."""
            draw = random.Random(f"{body['seed']} {body['messages']}")
            ends = draw.random() < 0.2
            said = " ".join(f"w{draw.randrange(99)}" for _ in range(body["max_tokens"] - ends))
            self._json(200, _whole(said, "stop" if ends else "length"))

        def _stream_two(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for i, part, finish in ((0, text, "stop"), (1, text[:2], None)):
                event = {"choices": [{"index": i, "delta": {"content": part}, "finish_reason": finish}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

        def _drip(self) -> None:
            """A byte now and then, for ever: no single read is slow."""
            self._head(200, "application/json", 10_000)
            for _ in range(40):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
            self.close_connection = True

        def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            self._bytes(status, "application/json", json.dumps(body).encode(), headers)

        def _bytes(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
            self._head(status, kind, len(body), headers)
            self.wfile.write(body)

        def _head(self, status: int, kind: str, size: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _judged(word: str, logprobs: bool) -> dict[str, Any]:
    """A judge's answer, which is as sure as 3 to 1."""
    other = {"Yes": "no", "No": "yes"}.get(word, "maybe")
    top = [{"token": word, "logprob": math.log(0.75)}, {"token": other, "logprob": math.log(0.25)}]
    out = _whole(word)
    if logprobs:
        out["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return out


def _whole(content: Any, finish: str = "stop", reasoning: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **({"reasoning_content": reasoning} if reasoning else {})}
    return {
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": {"completion_tokens": len(str(content).split())},
    }
