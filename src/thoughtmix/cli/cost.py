"""`thoughtmix cost`: what training, tuning, calibrating or just using a model takes, before you pay."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import Json, option
from thoughtmix.cli.output import print_either, print_json
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cost import CostRequest, estimate, load_machines


@app.command()
@with_options
def cost(
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, a config.json or a Hugging Face id.", show_default="the model that comes along"),
    ] = None,
    json: Json = False,
    list_: Annotated[bool, option("List the kinds, with dated prices, and stop.", "--list")] = False,
    *,
    request: CostRequest,
    report: Reporter,
) -> None:
    """Price pretraining, fine-tuning, graft tuning, calibration and no training, from a model's config alone."""
    from thoughtmix.report.cost import machines_plain, plain, render

    if list_ and json:
        print_json([machine.to_dict() for machine in load_machines().values()])
        return
    if list_:
        print(machines_plain(load_machines()))
        return
    request.check()
    request.machine()  # before torch is imported: a typing mistake is answered at once
    with report.work("Counting the model's parameters"):
        found = estimate(model, request=request)
    if json:
        print(found.to_json())
    else:
        print_either(lambda: render(found), lambda: plain(found))
