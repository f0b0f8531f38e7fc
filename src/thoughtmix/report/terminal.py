"""A thought set in a terminal, with Rich: a panel a thought, a heat-map, a summary line, and the live view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from thoughtmix.report.text import facts, heat_rows, printable, stage_rows, summary

if TYPE_CHECKING:
    from thoughtmix.core.thinker import StepEvent
    from thoughtmix.core.types import ThoughtSet

# Near to far, dark to light: readable with any kind of colour sight, and the digit says it too.
_HEAT = ("#1d2f6f", "#27408b", "#33539e", "#4668ab", "#5f7fb6", "#7d97c1", "#9cb0cd", "#bccadb", "#dce4ea", "#f4f6f5")
_HUES = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")


def render(thoughts: ThoughtSet) -> RenderableType:
    """Everything about a set, top to bottom."""
    parts: list[RenderableType] = []
    for i, thought in enumerate(thoughts):
        parts.append(
            Panel(
                Text(printable(thought.text) or "(empty)"),
                title=f"[b]{i + 1}[/b] · seed {thought.seed}",
                title_align="left",
                subtitle=facts(thought),
                subtitle_align="right",
                border_style=_HUES[i % len(_HUES)],
            )
        )
    if len(thoughts.distances) > 1:
        parts.append(heat_map(thoughts))
    if rows := stage_rows(thoughts):
        table = Table(*rows[0], title="what each stage added", title_style="dim", title_justify="left", box=None)
        for row in rows[1:]:
            table.add_row(*row)
        parts.append(table)
    parts.append(Text(summary(thoughts), style="bold"))
    return Group(*parts)


def heat_map(thoughts: ThoughtSet) -> Table:
    """Who differs from whom: a digit and a shade a pair."""
    table = Table(
        title="who differs from whom (0 alike, 9 as far apart as any two here)",
        title_style="dim",
        title_justify="left",
        box=None,
        padding=0,
        pad_edge=False,
    )
    table.add_column("", justify="right")
    for i in range(len(thoughts)):
        table.add_column(f"{i + 1:>3}", justify="right")
    for i, row in enumerate(heat_rows(thoughts.distances)):
        cells = [Text(f"{i + 1:>3} ")]
        for cell in row:
            if cell == "·":
                cells.append(Text("  · ", style="dim"))
            else:
                dark = int(cell) < 5
                cells.append(Text(f" {cell:>2} ", style=f"{'white' if dark else 'black'} on {_HEAT[int(cell)]}"))
        table.add_row(*cells)
    return table


class LiveView:
    """A line a thought while they grow, with the progress below. Give `update` to `on_step`."""

    def __init__(self, console: Console, n: int) -> None:
        from rich.live import Live

        self.texts = [""] * n
        self.finished = [False] * n
        self.status = "reading the prompt"
        self.console = console
        self.began: float | None = None
        self.live = Live(self._frame(), console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> LiveView:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(None, None, None)

    def update(self, event: StepEvent) -> None:
        now = time.monotonic()
        self.began = self.began or now
        for i, piece in enumerate(event.pieces):
            self.texts[i] += piece
        self.finished = list(event.finished)
        speed = event.done / (now - self.began) if now > self.began else 0.0
        left = (event.total - event.done) / speed if speed else 0.0
        self.status = f"{event.done} tokens · {speed:.0f}/s · {sum(event.finished)} of {len(self.texts)} done"
        if speed and not all(event.finished):
            self.status += f" · at most {left:.0f} s left"
        self.live.update(self._frame())

    def _frame(self) -> RenderableType:
        """Only as many lines as the terminal has; of each thought the newest words that fit one line."""
        room = max(1, self.console.height - 3)
        width = max(10, self.console.width - 6)
        lines = []
        for i, (text, done) in enumerate(zip(self.texts, self.finished, strict=True)):
            if i >= room:
                break
            flat = " ".join(printable(text).split())
            shown = flat if len(flat) <= width else "…" + flat[-(width - 1) :]
            line = Text(f"{i + 1:>3} ", style=_HUES[i % len(_HUES)])
            line.append(shown, style="dim" if done else "")
            line.no_wrap = True
            line.overflow = "crop"
            lines.append(line)
        return Group(*lines, Text(self.status, style="bold"))
