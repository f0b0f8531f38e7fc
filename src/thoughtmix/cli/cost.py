"""`thoughtmix cost`: what training, tuning, calibrating or just using a model takes, before you pay."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from thoughtmix.cli import app
from thoughtmix.cost.graft import BRANCHES, RANK
from thoughtmix.cost.hardware import DEFAULT
from thoughtmix.cost.plan import THOUGHTS, TUNE_TOKENS


@app.command()
def cost(
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, a config.json or a Hugging Face id. Default: the model that comes along."),
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Of pretraining, such as 2e12. Default: 20 an active parameter.")
    ] = None,
    tune_tokens: Annotated[float, typer.Option(help="Of full fine-tuning and of graft tuning.")] = TUNE_TOKENS,
    gpu: Annotated[str, typer.Option(help="A kind of GPU, or a CPU: --list-gpus names them.")] = DEFAULT,
    gpus: Annotated[
        int | None, typer.Option(help="Spread over so many. Default: as few as hold it.", show_default=False)
    ] = None,
    mfu: Annotated[float | None, typer.Option(help="Part of the peak that is reached. Default: of the kind.")] = None,
    price: Annotated[float | None, typer.Option(help="US dollars an hour for one. Default: of the kind.")] = None,
    tflops: Annotated[float | None, typer.Option(help="Peak of one, 10^12 FLOP/s. Default: of the kind.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Memory of one. Default: of the kind.")] = None,
    sequence: Annotated[
        int | None, typer.Option(help="Tokens a sequence. Default: 2048, or the model's most if that is less.")
    ] = None,
    tune_sequence: Annotated[
        int | None, typer.Option(help="Tokens a text of tuning and calibration. Default: 256, or the same limit.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences at once on one machine.")] = 1,
    branches: Annotated[int, typer.Option(help="Thought branches a layer.")] = BRANCHES,
    rank: Annotated[int, typer.Option(help="Of a branch.")] = RANK,
    thoughts: Annotated[
        int, typer.Option("--thoughts", "-n", help="Decoded at once when the model is used.")
    ] = THOUGHTS,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations. Default: if they do not fit."),
    ] = None,
    master_weights: Annotated[
        bool, typer.Option("--master-weights/--no-master-weights", help="Float32 copies beside 16-bit weights.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    list_gpus: Annotated[bool, typer.Option("--list-gpus", help="List the kinds, with dated prices.")] = False,
) -> None:
    """Price pretraining, fine-tuning, graft tuning, calibration and no training, from a model's config alone."""
    from thoughtmix.cost import Request, estimate, kinds
    from thoughtmix.report.cost import kinds_plain, plain, render

    if list_gpus:
        print(kinds_plain(kinds()) if not json else _kinds_json())
        return
    request = Request(
        gpu=gpu,
        tokens=tokens,
        tune_tokens=tune_tokens,
        sequence=sequence,
        tune_sequence=tune_sequence,
        batch=batch,
        gpus=gpus,
        mfu=mfu,
        price=price,
        tflops=tflops,
        memory_gb=memory_gb,
        branches=branches,
        rank=rank,
        thoughts=thoughts,
        checkpointing=checkpointing,
        master=master_weights,
    )
    request.check(None)
    request.machine()  # before torch is imported: a typing mistake is answered at once
    found = estimate(model, request=request)
    if json:
        print(found.to_json())
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(render(found))
    else:
        print(plain(found))


def _kinds_json() -> str:
    import dataclasses
    import json as codec

    from thoughtmix.cost import kinds

    rows = [{**dataclasses.asdict(kind), "dated": kind.dated.isoformat()} for kind in kinds().values()]
    return codec.dumps(rows, indent=2)
