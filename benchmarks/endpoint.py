"""What a request to an endpoint costs here: short answers a second from a stub server that computes nothing.

    python benchmarks/endpoint.py [--answers 4000] [--concurrency 16] [--rounds 5]

The stub runs in a process of its own and answers at once. `single` and `streamed` are one request an answer, `n` is 16
answers a request, `bare` is the transport alone, the same requests by threads without retries or anything else, as the
ceiling. Kinds take turns, the median is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TEXT = "A short reply of a few words."


class Stub(asyncio.Protocol):
    """HTTP/1.1 with kept connections; as many choices as are asked for, streamed where that is asked for."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.read = transport, b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        while True:
            head, found, rest = self.read.partition(b"\r\n\r\n")
            if not found:
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            size = int(fields.get(b"content-length", 0))
            if len(rest) < size:
                return
            self.read = rest[size:]
            self.transport.write(self.answer(json.loads(rest[:size])))

    def answer(self, body: dict[str, Any]) -> bytes:
        n, usage = body.get("n", 1), {"prompt_tokens": 9, "completion_tokens": 8 * body.get("n", 1)}
        if body["stream"]:
            parts = [{"index": 0, "delta": {"content": part}, "finish_reason": None} for part in (TEXT[:9], TEXT[9:])]
            events: list[dict[str, Any]] = [{"choices": [part]} for part in parts]
            events += [
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": usage},
            ]
            out = b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n"
            return _response(out, b"text/event-stream")
        message = {"role": "assistant", "content": TEXT}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(n)]
        return _response(json.dumps({"choices": choices, "usage": usage}).encode(), b"application/json")


def _response(body: bytes, kind: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def bare(url: str, answers: int, concurrency: int) -> Callable[[], None]:
    """The transport of the `openai` client that is installed."""
    import openai

    transport = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
    client = transport.Client()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi 1."}], "stream": False, "seed": 1}

    def run() -> None:
        left = iter(range(answers))

        def work() -> None:
            for _ in left:
                client.post(f"{url}/v1/chat/completions", json=body).json()

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def asked(url: str, answers: int, concurrency: int, *, stream: bool = False, alike: int = 1) -> Callable[[], None]:
    """By `Endpoint.complete`; `alike` requests in a row have the same messages."""
    from thoughtmix.models.chat import ChatRequest
    from thoughtmix.models.endpoint import Endpoint

    endpoint = Endpoint(url, "m", concurrency=concurrency, stream=stream)
    requests = [
        ChatRequest([{"role": "user", "content": f"Hi {i // alike}."}], seed=i, max_tokens=9, temperature=0.7)
        for i in range(answers)
    ]

    def run() -> None:
        replies = endpoint.complete(requests)
        assert all(reply.text == TEXT for reply in replies)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
        return
    stub = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert stub.stdout is not None
        url = f"http://127.0.0.1:{int(stub.stdout.readline())}"
        kinds = {
            "bare": bare(url, args.answers, args.concurrency),
            "single": asked(url, args.answers, args.concurrency),
            "streamed": asked(url, args.answers, args.concurrency, stream=True),
            "n": asked(url, args.answers, args.concurrency, alike=16),
        }
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        cpu: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(args.rounds):
            for name, run in kinds.items():
                began, used = time.perf_counter(), time.process_time()
                run()
                seconds[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - used)
        print(f"{args.answers} answers, {args.concurrency} in flight, median of {args.rounds} rounds (least to most)")
        for name, values in seconds.items():
            rates = sorted(args.answers / value for value in values)
            each = statistics.median(cpu[name]) / args.answers * 1e3
            span = f"({rates[0]:.0f} to {rates[-1]:.0f})"
            print(f"{name:9} {statistics.median(rates):7.0f} answers/s {span}, {each:.2f} ms of CPU each")
    finally:
        stub.terminate()
        stub.wait()


if __name__ == "__main__":
    main()
