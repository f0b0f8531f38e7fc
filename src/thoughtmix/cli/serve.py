"""`thoughtmix serve`: OpenAI's endpoints, and a page."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import DeviceOptions, Model, option
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError
from thoughtmix.serve.limits import Limits

_DEFAULT = Limits()
_ALL, _CONNECTIONS = "What all requests together may take", "Connections"
_NAMES = {
    "request_thoughts": "thoughts",
    "request_tokens": "tokens",
    "request_seconds": "seconds",
    "map_texts": "texts",
}
"""Of limits that have a longer name on the command line."""


@dataclass(frozen=True)
class LimitOptions:
    """The fields of `Limits`, with their help."""

    GROUP: ClassVar[str] = "What one request may ask"
    request_thoughts: Annotated[int, option("Most n of a request.")] = _DEFAULT.thoughts
    request_tokens: Annotated[int, option("Most n x max_tokens of a request.")] = _DEFAULT.tokens
    default_tokens: Annotated[int, option("Most of a thought where a request names no max_tokens.")] = (
        _DEFAULT.default_tokens
    )
    request_seconds: Annotated[float, option("Longest request, waiting included.")] = _DEFAULT.seconds
    work: Annotated[int, option("Most tokens through the model for a request, drafts and scoring included.")] = (
        _DEFAULT.work
    )
    side_work: Annotated[int, option("The same through the mask predictor and the embedder, once a pass.")] = (
        _DEFAULT.side_work
    )
    map_texts: Annotated[int, option("Most texts of a map.")] = _DEFAULT.texts
    body: Annotated[int, option("Most bytes of a request's body.")] = _DEFAULT.body
    rows: Annotated[int, option("Most rows in a decoding step.", group=_ALL)] = _DEFAULT.rows
    queue: Annotated[int, option("Most requests accepted and not yet answered; beyond it: 429.", group=_ALL)] = (
        _DEFAULT.queue
    )
    memory: Annotated[
        int, option("MiB of keys and values of requests; without max_tokens they wait for room.", group=_ALL)
    ] = _DEFAULT.memory
    chunk: Annotated[int, option("Prompt tokens read between two steps.", group=_ALL)] = _DEFAULT.chunk
    grace: Annotated[float, option("Seconds that accepted requests have after SIGTERM.", group=_ALL)] = _DEFAULT.grace
    connections: Annotated[
        int, option("Most connections; one more closes the one idle longest.", group=_CONNECTIONS)
    ] = _DEFAULT.connections
    connections_per_address: Annotated[
        int,
        option("Most of one client's address; raise it behind a proxy, which has but one.", group=_CONNECTIONS),
    ] = _DEFAULT.connections_per_address
    header_seconds: Annotated[float, option("For a request's headers to come.", group=_CONNECTIONS)] = (
        _DEFAULT.header_seconds
    )
    body_seconds: Annotated[float, option("For a request's body to come.", group=_CONNECTIONS)] = _DEFAULT.body_seconds
    idle_seconds: Annotated[
        float,
        option(
            "That a connection may wait for its next request, and a stream for its client to read on.",
            group=_CONNECTIONS,
        ),
    ] = _DEFAULT.idle_seconds

    def limits(self) -> Limits:
        """By the names that they have there."""
        return Limits(**{_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()})


@app.command()
@with_options
def serve(
    host: Annotated[str, option("Where to listen; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, option("0: any that is free.")] = 8000,
    token_env: Annotated[
        str, option("The environment variable that holds the token which clients must send; unset: none.")
    ] = "THOUGHTMIX_TOKEN",
    strict_model: Annotated[
        bool, option("Refuse requests for a model of another name; without it any name means the served one.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        option(
            "A further name that clients may call this machine by (the Host header); repeatable; '*': any.",
            default="none",
            metavar="NAME",
        ),
    ] = None,
    model: Model = None,
    *,
    device: DeviceOptions,
    own: LimitOptions,
    report: Reporter,
) -> None:
    """Serve a model: OpenAI's API with n thoughts a request, and a page to look at them."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise InputError(
            "The server needs packages that are not installed.", "Type: pip install 'thoughtmix[serve]'"
        ) from None
    from thoughtmix.serve.app import bind

    limits = own.limits()
    token = os.environ.get(token_env)
    if token is not None and not token.strip():
        raise InputError(f"{token_env} is empty.", f"Unset it, or put a token in it: export {token_env}=...")
    listener = bind(host, port)
    try:
        from thoughtmix.engine.threads import EphemeralThreadExecutor
        from thoughtmix.models import load_model
        from thoughtmix.serve.app import serve as run
        from thoughtmix.serve.service import Service

        loading = EphemeralThreadExecutor("thoughtmix-load").submit(
            load_model, model, dtype=device.dtype, device=device.device, on_progress=report.step
        )
        with report.work("Loading the model"):
            service = Service(loading.result(), limits, strict_model=strict_model)
            service.warm()
        run(service, listener, token.strip() if token else None, [host, *(allow_host or [])])
    finally:
        listener.close()
