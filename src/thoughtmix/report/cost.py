"""The five ways side by side, for a terminal or a pipe, and what was assumed below."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from thoughtmix.cost.pricing import CALIBRATION_TOKENS, PER_PARAMETER, TEACHER_ROWS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from thoughtmix.cost import CostEstimate, Machine, Way


def headline(cost: CostEstimate) -> str:
    """One line about the model and its graft."""
    size = cost.size
    active = "" if size.active == size.total else f", {count(size.active)} active"
    graft = f"{count(cost.graft_parameters)} parameters ({cost.graft_parameters / size.total:.1%})"
    return (
        f"{cost.model}: {count(size.total)} parameters{active}, {len(size.blocks)} layers, "
        f"{count(size.forward(cost.sequence))} FLOPs a token forward. A graft of {cost.graft.branches} branches of "
        f"rank {cost.graft.rank} adds {graft}."
    )


def table(cost: CostEstimate) -> list[list[str]]:
    """Rows of cells; the first row and the first column are titles."""
    ways = cost.ways
    rows = [["", *(way.name for way in ways)]]

    def row(title: str, cells: list[str]) -> None:
        if any(cell not in {"", "0"} for cell in cells):
            rows.append([title, *cells])

    row("trained parameters", [_or_dash(way, count(way.trainable)) for way in ways])
    row("tokens", [_or_dash(way, count(way.tokens)) for way in ways])
    row("FLOPs", [_or_dash(way, science(way.flops)) for way in ways])
    row("  and for teacher's answers", [science(way.teacher_flops) if way.teacher_flops else "" for way in ways])
    row("memory, GB", [_or_dash(way, gigabytes(way.memory.total)) for way in ways])
    for name in ("weights", "gradients", "optimizer", "activations", "cache"):
        values = [float(getattr(way.memory, name)) for way in ways]
        row(f"  {name}", [gigabytes(value) if value else "" for value in values])
    unit = "machines" if cost.machine.is_cpu else "GPUs"
    row(f"{unit}", [_or_dash(way, _machines(way)) for way in ways])
    row(
        f"{unit[:-1]}-hours" if not cost.machine.is_cpu else "hours of one machine",
        [_or_dash(way, duration(way.gpu_hours)) for way in ways],
    )
    row("  of it teacher's answers", [duration(way.teacher_hours) if way.teacher_hours else "" for way in ways])
    row("time by the clock", [_or_dash(way, duration(way.hours)) for way in ways])
    row("money", [_or_dash(way, money(way.money)) for way in ways])
    return rows


def assumptions(cost: CostEstimate) -> list[str]:
    """What the figures rest on, a line each."""
    machine, asked, again = cost.machine, cost.request, any(way.checkpointing for way in cost.ways)
    tokens = "" if asked.tokens else f"{PER_PARAMETER} an active parameter in pretraining (Hoffmann et al. 2022), "
    lines = [
        f"Machine: {machine.title}, {machine.tflops:g} TFLOP/s, {machine.memory:g} GB, {machine.bandwidth:g} GB/s; "
        f"{machine.utilisation:.0%} of the peak is reached; {_price(cost)}.",
        f"Tokens: {tokens}{count(asked.tune_tokens)} in tuning, {count(CALIBRATION_TOKENS)} to calibrate; sequences of "
        f"{cost.sequence} and of {cost.tune_sequence} in tuning, {asked.batch * cost.sequence} tokens at once on one "
        f"machine. The teacher of a graft is the model itself, {TEACHER_ROWS} answers at once.",
        "FLOPs: backward is twice forward; frozen weights get no gradients; attention is charged for whole sequences "
        "or windows; of experts those that run.",
        "Memory: AdamW with float32 moments; state spread evenly over machines, activations each one's own, scores "
        f"not kept, {'' if again else 'nothing '}recomputed; in use {asked.thoughts} thoughts of {cost.sequence // 2} "
        "tokens after a shared prompt as long.",
    ]
    if cost.size.encoder_decoder:
        lines.append("Encoder-decoder: a token is one of the source and one of the target.")
    for way in cost.ways:
        if way.refused:
            lines.append(f"{way.name.capitalize()} is not possible: {way.refused}.")
        elif way.machines_needed is None:
            lines.append(
                f"{way.name.capitalize()} fits on no number of machines: its activations are too large for one. "
                "Pass a smaller --batch-size or --context, or another --gpu."
            )
        elif not way.fits:
            lines.append(f"{way.name.capitalize()} needs {way.machines_needed} of these to fit.")
    return lines


def plain(cost: CostEstimate) -> str:
    """Text for a pipe."""
    rows = table(cost)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [*textwrap.wrap(headline(cost), 100), ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    for line in assumptions(cost):
        lines += textwrap.wrap(line, 100, subsequent_indent="  ")
    return "\n".join(lines)


def render(cost: CostEstimate) -> RenderableType:
    """The same in a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = table(cost)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(rows[0]):
        grid.add_column(title, justify="right" if i else "left", style="cyan" if title == "graft tuning" else "")
    for row in rows[1:]:
        part = row[0].startswith("  ")
        grid.add_row(*(Text(cell) for cell in row), style="dim" if part else "bold" if row[0] == "money" else "")
    return Group(Text(headline(cost), style="bold"), grid, *(Text(line, style="dim") for line in assumptions(cost)))


def machines_plain(machines: dict[str, Machine]) -> str:
    """The machines, a line each."""
    lines = [
        f"{'name':12} {'TFLOP/s':>8} {'GB':>5} {'GB/s':>6} {'MFU':>5} {'$/h':>7}  what, and where that price is from"
    ]
    for name, machine in machines.items():
        lines.append(
            f"{name:12} {machine.tflops:>8g} {machine.memory:>5g} {machine.bandwidth:>6g} {machine.utilisation:>5.0%} "
            f"{machine.price:>7.2f}  {machine.title}; {machine.place}, {machine.dated.isoformat()}"
        )
    return "\n".join(lines)


def count(value: float) -> str:
    """Three digits and a letter: 134.5 M, 6.74 B."""
    for unit, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            scaled = value / unit
            return f"{scaled:.{0 if scaled >= 1000 else 1 if scaled >= 100 else 2}f}{letter}"
    return f"{value:.0f}"


def science(value: float) -> str:
    """8.4e22."""
    return "0" if value == 0 else f"{value:.2e}".replace("e+", "e")


def gigabytes(value: float) -> str:
    scaled = value / 1e9
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.1f}" if scaled >= 1 else f"{scaled:.2g}"


def duration(hours: float) -> str:
    """0, 12 s, 34 min, 5.6 h, 1,234 h."""
    if hours == 0:
        return "0"
    if hours < 1 / 60:
        return f"{max(hours * 3600, 0.1):.{0 if hours * 3600 >= 10 else 1}f} s"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.1f} h"


def money(dollars: float) -> str:
    if dollars == 0:
        return "0"
    return "< $0.01" if dollars < 0.01 else f"${dollars:,.2f}" if dollars < 1000 else f"${dollars:,.0f}"


def _or_dash(way: Way, cell: str) -> str:
    return "-" if way.refused else cell


def _machines(way: Way) -> str:
    if way.machines_needed is None:
        return "too large"
    return f"{way.machines}" if way.fits else f"{way.machines} (needs {way.machines_needed})"


def _price(cost: CostEstimate) -> str:
    machine = cost.machine
    if cost.request.price is not None:
        return f"${machine.price:g} an hour, as given"
    return f"${machine.price:g} an hour ({machine.place}, {machine.dated.isoformat()})"
