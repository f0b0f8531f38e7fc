"""The Typer app that every module of commands adds to."""

from __future__ import annotations

import typer

from thoughtmix import __version__
from thoughtmix.cli.output import be_quiet

app = typer.Typer(
    name="thoughtmix",
    help="One prompt in, many genuinely different and still good answers out, from one language model.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        print(f"thoughtmix {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="Say nothing beside results, but what went wrong."),
) -> None:
    if quiet:
        be_quiet()
