"""The process: a socket, uvicorn, and what SIGTERM means."""

from __future__ import annotations

import socket
import sys
from types import FrameType

import uvicorn

from thoughtmix.core.errors import InputError
from thoughtmix.serve.app import create_app
from thoughtmix.serve.service import Service


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C: nothing new is taken, and everybody who was accepted has the grace time to be answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.drain()
        super().handle_exit(sig, frame)


def server(service: Service, host: str, port: int, token: str | None = None) -> Server:
    """A server that is not running yet; `run()` it."""
    config = uvicorn.Config(
        create_app(service, token), host=host, port=port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=round(service.limits.grace) + 10, timeout_keep_alive=30,
    )  # fmt: skip
    return Server(config, service)


def bound(host: str, port: int) -> socket.socket:
    """The socket, so that a port that is taken is one clear line, before a model is loaded. Raises `InputError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot listen on {host}:{port}: {reason}.", "Pass another --host or --port.") from None
    return made


def loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def serve(service: Service, listener: socket.socket, token: str | None) -> None:
    """Until SIGTERM or Ctrl-C."""
    host, port = listener.getsockname()[:2]
    if not loopback(host) and token is None:
        print(
            f"thoughtmix: listening on {host} without a token: whoever reaches this port can use it. "
            "Set THOUGHTMIX_TOKEN.",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"{service.lm.name} at http://{shown}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)
    server(service, host, port, token).run(sockets=[listener])
