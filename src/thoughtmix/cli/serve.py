"""`thoughtmix serve`: OpenAI's endpoints, and a page."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated

from thoughtmix.cli.app import app
from thoughtmix.cli.options import DeviceOptions, Model, option, with_options
from thoughtmix.core.errors import InputError
from thoughtmix.serve.limits import Limits

_DEFAULT = Limits()


@dataclass(frozen=True)
class LimitOptions:
    """The fields of `Limits`, with their help."""

    rows: Annotated[int, option("Most rows in a decoding step.")] = _DEFAULT.rows
    queue: Annotated[int, option("Most requests accepted and not yet answered; beyond it: 429.")] = _DEFAULT.queue
    memory: Annotated[int, option("MiB of keys and values of requests; without max_tokens they wait for room.")] = (
        _DEFAULT.memory
    )
    thoughts: Annotated[int, option("Most n of a request.")] = _DEFAULT.thoughts
    tokens: Annotated[int, option("Most n x max_tokens of a request.")] = _DEFAULT.tokens
    texts: Annotated[int, option("Most texts of a map.")] = _DEFAULT.texts
    body: Annotated[int, option("Most bytes of a request's body.")] = _DEFAULT.body
    seconds: Annotated[float, option("Longest request, waiting included.")] = _DEFAULT.seconds
    grace: Annotated[float, option("Seconds that accepted requests have after SIGTERM.")] = _DEFAULT.grace
    chunk: Annotated[int, option("Prompt tokens read between two steps.")] = _DEFAULT.chunk
    work: Annotated[int, option("Most tokens through the model for a request, drafts and scoring included.")] = (
        _DEFAULT.work
    )
    side_work: Annotated[int, option("The same through the mask predictor and the embedder, once a pass.")] = (
        _DEFAULT.side_work
    )
    default_tokens: Annotated[int, option("Most of a thought where a request names no max_tokens.")] = (
        _DEFAULT.default_tokens
    )
    connections: Annotated[int, option("Most connections; one more closes the one idle longest.")] = (
        _DEFAULT.connections
    )
    connections_per_address: Annotated[
        int, option("Most of one client's address; raise it behind a proxy, which has but one.")
    ] = _DEFAULT.connections_per_address
    header_seconds: Annotated[float, option("For a request's headers to come.")] = _DEFAULT.header_seconds
    body_seconds: Annotated[float, option("For a request's body to come.")] = _DEFAULT.body_seconds
    idle_seconds: Annotated[
        float, option("That a connection may wait for its next request, and a stream for its client to read on.")
    ] = _DEFAULT.idle_seconds


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
        option("A further name that clients may call this machine by (the Host header); repeatable; '*': any."),
    ] = None,
    model: Model = None,
    *,
    device: DeviceOptions,
    own: LimitOptions,
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

    limits = Limits(**dataclasses.asdict(own))
    token = os.environ.get(token_env)
    if token is not None and not token.strip():
        raise InputError(f"{token_env} is empty.", f"Unset it, or put a token in it: export {token_env}=...")
    listener = bind(host, port)
    try:
        from thoughtmix.cli.output import progress
        from thoughtmix.engine.threads import EphemeralThreadExecutor
        from thoughtmix.models import load_model
        from thoughtmix.serve.app import serve as run
        from thoughtmix.serve.service import Service

        loading = EphemeralThreadExecutor("thoughtmix-load").submit(
            load_model, model, dtype=device.dtype, device=device.device, on_progress=progress()
        )
        service = Service(loading.result(), limits, strict_model=strict_model)
        service.warm()
        run(service, listener, token.strip() if token else None, [host, *(allow_host or [])])
    finally:
        listener.close()
