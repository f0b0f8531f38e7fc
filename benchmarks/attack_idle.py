"""A server among connections that say nothing: does it still answer, does it let go of them, how much does it log.

    python benchmarks/attack_idle.py [--connections 1200] [--descriptors 1024] [--seconds 50] [--command "... {port}"]

Half of the connections send half a request's headers, half send its headers and a part of its body; then they wait.
Meanwhile /healthz is asked twice a second. A connection that the server closes is opened again with --again. --command
runs another server than `thoughtmix serve`; it must answer /healthz.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import resource
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HEADERS = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = HEADERS + b"Content-Length: 500\r\n\r\n" + b'{"messages": [{"role": "user", "content": "'
OURS = f"{shlex.quote(sys.executable)} -m thoughtmix serve --port {{port}}"


@contextlib.contextmanager
def served(command: str, descriptors: int) -> Iterator[tuple[int, Path]]:
    """A server in a process that may hold so many descriptors: its port, and the file of what it logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        words = shlex.split(command.format(port=port))
        process = subprocess.Popen(words, stdout=log, stderr=log, preexec_fn=limit)
        try:
            while healthy(port) is None:
                if process.poll() is not None:
                    raise SystemExit(Path(log.name).read_text(errors="replace")[-2000:])
                time.sleep(0.2)
            yield port, Path(log.name)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def healthy(port: int, timeout: float = 5.0) -> float | None:
    """Seconds that /healthz took; None: it was not answered."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return time.monotonic() - began if connection.getresponse().status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def half_sent(port: int, number: int) -> socket.socket | None:
    made = socket.socket()
    try:
        made.settimeout(0.3)  # a full backlog makes one wait
        made.connect(("127.0.0.1", port))
        made.sendall(BODY if number % 2 else HEADERS)
        made.setblocking(False)
    except OSError:
        made.close()
        return None
    return made


def closed(connection: socket.socket) -> bool:
    """By the server, after whatever it had to say."""
    try:
        return connection.recv(65536) == b"" or closed(connection)
    except BlockingIOError:
        return False
    except OSError:
        return True


def attack(port: int, log: Path, args: argparse.Namespace) -> dict[str, object]:
    quiet = log.stat().st_size
    held: list[socket.socket] = []
    opened = refused = let_go = 0
    times: list[float | None] = []
    end, ask = time.monotonic() + args.seconds, 0.0
    while time.monotonic() < end:
        wanted = args.connections if args.again or not opened else 0
        for number in range(max(0, wanted - len(held))):
            made = half_sent(port, number)
            opened, refused = opened + (made is not None), refused + (made is None)
            held += [made] if made is not None else []
            if made is None and args.again:
                break
        gone = [c for c in select_readable(held) if closed(c)]
        let_go += len(gone)
        for connection in gone:
            connection.close()
        held = [c for c in held if c.fileno() >= 0]
        if time.monotonic() >= ask:
            ask = time.monotonic() + 0.5
            times.append(healthy(port))
        time.sleep(0.05)
    for connection in held:
        connection.close()
    answered = sorted(t for t in times if t is not None)
    time.sleep(1)
    return {
        "opened": opened,
        "not_accepted": refused,
        "closed_by_server": let_go,
        "left_at_the_end": len(held),
        "health_asked": len(times),
        "health_answered": len(answered),
        "health_median_s": round(answered[len(answered) // 2], 4) if answered else None,
        "health_worst_s": round(answered[-1], 4) if answered else None,
        "healthy_afterwards": healthy(port) is not None,
        "logged_bytes": log.stat().st_size - quiet,
    }


def select_readable(connections: list[socket.socket]) -> list[socket.socket]:
    poll, by_number = select.poll(), {c.fileno(): c for c in connections}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1200)
    parser.add_argument("--descriptors", type=int, default=1024, help="that the server may hold")
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--again", action="store_true", help="open anew what the server closes")
    parser.add_argument("--command", default=OURS, help="with {port}")
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, args.connections + 100)), hard))
    with served(args.command, args.descriptors) as (port, log):
        print(json.dumps(attack(port, log, args), indent=1))


if __name__ == "__main__":
    main()
