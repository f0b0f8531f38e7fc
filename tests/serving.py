"""A real server over a tiny model: in a thread, or, run as a script, in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tiny import language_model
from tinyland import HashEmbedder

from thoughtmix.serve.app import Server, bind, create_server
from thoughtmix.serve.app import serve as serve_until_told
from thoughtmix.serve.limits import Limits
from thoughtmix.serve.service import Service

SMALL: dict[str, Any] = {"tokens": 1600, "default_tokens": 6, "queue": 24, "rows": 16, "chunk": 16, "grace": 2.0}


@dataclass
class Running:
    service: Service
    server: Server
    url: str

    @property
    def rows(self) -> int:
        return self.service.scheduler.rows


def service(family: Any = "llama", **limits: Any) -> Service:
    """family: of a tiny model, or a `LanguageModel`."""
    return Service(
        language_model(family) if isinstance(family, str) else family,
        Limits(**{**SMALL, **limits}),
        HashEmbedder,
        weights="native",
    )


@contextlib.contextmanager
def running(
    family: Any = "llama", token: str | None = None, hosts: Sequence[str] = (), **limits: Any
) -> Iterator[Running]:
    with running_service(service(family, **limits), token, hosts) as here:
        yield here


@contextlib.contextmanager
def running_service(made: Service, token: str | None = None, hosts: Sequence[str] = ()) -> Iterator[Running]:
    listener: socket.socket = bind("127.0.0.1", 0)
    app = create_server(made, "127.0.0.1", 0, token, hosts)
    thread = threading.Thread(target=app.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not app.started:
            time.sleep(0.01)
        yield Running(made, app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        made.drain()
        app.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


if __name__ == "__main__":
    made = service(
        grace=float(sys.argv[2]), **{name: float(value) for name, value in (a.split("=") for a in sys.argv[3:])}
    )
    made.warm()
    serve_until_told(made, bind("127.0.0.1", int(sys.argv[1])), None)
