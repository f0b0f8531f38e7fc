"""The Typer app that every module of commands adds to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from thoughtmix import __version__
from thoughtmix.cli.help import GroupedCommand, GroupedGroup


class App(typer.Typer):
    """A Typer whose commands show their options in groups."""

    def command(self, name: str | None = None, **how: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": GroupedCommand, **how})


def group(name: str | None = None, help: str = "", **how: Any) -> App:
    """A group of commands, which alone shows its help."""
    return App(
        name=name,
        help=help,
        cls=GroupedGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **how,
    )


app = group(
    "thoughtmix",
    "One prompt in, many genuinely different and still good answers out, from one language model.",
    add_completion=True,
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
    """Commands read `quiet` off the context: `with_options`."""
