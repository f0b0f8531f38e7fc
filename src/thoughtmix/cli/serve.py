"""`thoughtmix serve`: OpenAI's endpoints, and a page."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    model: Annotated[
        str | None, typer.Option(help="A folder or a Hugging Face id. Default: SmolLM2-135M-Instruct.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    token_env: Annotated[
        str, typer.Option(help="The environment variable that holds the token which clients must send; unset: none.")
    ] = "THOUGHTMIX_TOKEN",
    rows: Annotated[int, typer.Option(help="Most rows in a decoding step.")] = 64,
    queue: Annotated[int, typer.Option(help="Most requests accepted and not yet answered; beyond it: 429.")] = 64,
    memory: Annotated[int, typer.Option(help="MiB of keys and values that accepted requests may need.")] = 2048,
    thoughts: Annotated[int, typer.Option(help="Most n of a request.")] = 64,
    tokens: Annotated[int, typer.Option(help="Most n x max_tokens of a request.")] = 8192,
    texts: Annotated[int, typer.Option(help="Most texts of a map.")] = 256,
    body: Annotated[int, typer.Option(help="Most bytes of a request's body.")] = 1 << 20,
    seconds: Annotated[float, typer.Option(help="Longest request, waiting included.")] = 300.0,
    grace: Annotated[float, typer.Option(help="Seconds that accepted requests have after SIGTERM.")] = 30.0,
    chunk: Annotated[int, typer.Option(help="Prompt tokens read between two steps.")] = 128,
    default_tokens: Annotated[int, typer.Option(help="Where a request names no max_tokens.")] = 256,
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
    from thoughtmix.serve.limits import Limits

    limits = Limits(body, thoughts, tokens, texts, rows, memory, queue, seconds, grace, chunk, default_tokens)
    token = os.environ.get(token_env)
    if token is not None and not token.strip():
        raise InputError(f"{token_env} is empty.", f"Unset it, or put a token in it: export {token_env}=...")
    listener = bind(host, port)
    try:
        from thoughtmix.cli.output import progress
        from thoughtmix.models import load_model
        from thoughtmix.serve.app import serve as run
        from thoughtmix.serve.service import Service
        from thoughtmix.serve.threads import EphemeralThreadExecutor

        loading = EphemeralThreadExecutor("thoughtmix-load").submit(
            load_model, model, dtype=dtype, device=device, on_progress=progress()
        )
        service = Service(loading.result(), limits)
        service.warm()
        run(service, listener, token.strip() if token else None)
    finally:
        listener.close()
