"""How --help looks: what a command does, two examples, the options that most people want, and the others in groups."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from thoughtmix.cli.guide import GUIDES, Guide
from thoughtmix.cli.renamed import RENAMED, respelled
from thoughtmix.cli.reporting import Reporter

COMMON = (
    "n",
    "select",
    "thinker",
    "creativity",
    "seed",
    "max_new_tokens",
    "model",
    "endpoint",
    "out",
    "html",
    "json",
    "details",
    "quiet",
)
"""The order of those that most commands have."""
LAST = (
    "What an answer must look like",
    "How tokens are drawn",
    "How the model runs",
    "Models elsewhere",
    "Judging and measuring",
    "What is shown",
    "Many prompts",
)
"""Heads that stand after a command's own, in this order."""


class GroupedCommand(TyperCommand):
    """A command with examples and groups of options in its help, that takes old names of options, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        old = self.old_names(ctx, args)
        report = Reporter(quiet=bool({"-q", "--quiet"} & set(args)))
        return super().parse_args(ctx, respelled(args, old, lambda line: report.note(f"thoughtmix: {line}")))

    def old_names(self, ctx: Any, args: Sequence[str]) -> dict[str, str]:
        """Names that options once had -> those that they have."""
        return dict(RENAMED.get(_path(ctx), {}))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        super().format_help_text(ctx, formatter)
        _write_examples(GUIDES.get(_path(ctx)), formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class GroupedGroup(TyperGroup):
    """The same for commands that have commands."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        super().format_help_text(ctx, formatter)
        _write_examples(GUIDES.get(_path(ctx)), formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands first: most people look for one."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        path = _path(ctx)
        groups: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            guide = GUIDES.get((*path, name)) or Guide("Commands", command.get_short_help_str(200))
            groups.setdefault(guide.group, []).append((f"{_bold(name)}{'':{width - len(name)}}", guide.says))
        for title, rows in groups.items():
            with formatter.section(_bold(title)):
                formatter.write_dl(rows)


def _path(ctx: Any) -> tuple[str, ...]:
    """The words that lead to a command, without the program's name."""
    return tuple(ctx.command_path.split()[1:])


def _write_examples(guide: Guide | None, formatter: Any) -> None:
    if guide is None or not guide.examples:
        return
    with formatter.section(_bold("Examples")):
        for i, (words, says) in enumerate(guide.examples):
            formatter.write("\n" if i else "")
            formatter.write(f"{'':>{formatter.current_indent}}{words}\n")
            formatter.indent()
            formatter.write_text(says)
            formatter.dedent()


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Arguments, the options that are in no group, then each group in the order in which it begins."""
    arguments: list[tuple[str, str]] = []
    groups: dict[str, list[tuple[int, tuple[str, str]]]] = {}
    for at, parameter in enumerate(command.get_params(ctx)):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        names, says = record
        if parameter.param_type_name == "argument":
            arguments.append((_bold(parameter.name), _defaults_plainly(says)))
            continue
        common = COMMON.index(parameter.name) if parameter.name in COMMON else len(COMMON) + at
        common += 10**6 * (parameter.name == "help")
        head = getattr(parameter, "rich_help_panel", None)
        title = "Options" if head is None or parameter.name in COMMON else head
        groups.setdefault(title, []).append((common, (_bold(names), _defaults_plainly(says))))
    if arguments:
        with formatter.section(_bold("Arguments")):
            formatter.write_dl(arguments)
    for title in sorted(groups, key=lambda t: (t != "Options", LAST.index(t) if t in LAST else -1)):
        with formatter.section(_bold(title)):
            formatter.write_dl([row for _, row in sorted(groups[title], key=lambda each: each[0])])


def _defaults_plainly(says: str) -> str:
    """Without the parentheses that a default in words gets."""
    return re.sub(r"\[default: \((.*)\)\]$", r"[default: \1]", says)


def _bold(text: str) -> str:
    """On a terminal that wants it."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return typer.style(text, bold=True)
