"""`thoughtmix cost`: what training, tuning, calibrating or just using a model takes, before you pay."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Annotated, Any, get_type_hints

import typer

from thoughtmix.cli import app
from thoughtmix.cost import CostRequest, estimate, load_machines


def cost(
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, a config.json or a Hugging Face id. Default: the model that comes along."),
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    list_gpus: Annotated[bool, typer.Option("--list-gpus", help="List the kinds, with dated prices.")] = False,
    **settings: Any,
) -> None:
    """Price pretraining, fine-tuning, graft tuning, calibration and no training, from a model's config alone."""
    from thoughtmix.report.cost import machines_plain, plain, render

    if list_gpus:
        print(_machines_json() if json else machines_plain(load_machines()))
        return
    request = CostRequest(**settings)
    request.check()
    request.machine()  # before torch is imported: a typing mistake is answered at once
    found = estimate(model, request=request)
    if json:
        print(found.to_json())
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(render(found))
    else:
        print(plain(found))


def _with_settings(command: Any) -> Any:
    """Give the command an option for each field of `CostRequest` in place of **settings."""
    types = get_type_hints(CostRequest)
    options = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=Annotated[types[f.name], typer.Option(*f.metadata["flags"], help=f.metadata["help"])],
        )
        for f in dataclasses.fields(CostRequest)
    ]
    model, json, list_gpus, _ = inspect.signature(command, eval_str=True).parameters.values()
    command.__signature__ = inspect.Signature([model, *options, json, list_gpus])
    return command


app.command()(_with_settings(cost))


def _machines_json() -> str:
    import json

    return json.dumps([machine.to_dict() for machine in load_machines().values()], indent=2)
