"""Branches of a text out of noise, as a page that plays, as plain text, and live in a terminal."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from thoughtmix.report.film import Film, drawing
from thoughtmix.report.html import hue, render_template
from thoughtmix.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from thoughtmix.diffusion.branching import Frame, Threads
    from thoughtmix.diffusion.load import DiffusionModel

SCHEMA, SCHEMA_VERSION = "thoughtmix/branches", 1
_FADE = 10  # frames for which a branch that was given up is still shown


def to_dict(made: Threads, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, as JSON."""
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "prompt": made.prompt,
        "settings": settings,
        "branches": [
            {"text": t.text, "score": t.score, "weight": t.weight, "seed": t.seed, "origin": t.origin + 1,
             "tokens": list(t.tokens), "confidence": [round(c, 4) for c in t.confidence]}
            for t in made
        ],
        "merged": made.merged,
        "agreed": made.agreed,
        "ancestry": made.ancestry.to_dict(),
        "row_passes": made.meter.row_passes,
        "calls": made.meter.calls,
    }  # fmt: skip


def summary(made: Threads, model: str) -> str:
    """One line."""
    rounds = len(made.ancestry.rounds)
    from_ = len({t.origin for t in made})
    parts = [f"{len(made.ancestry.seeds)} branches by {model}"]
    if rounds:
        parts.append(f"judged at {', '.join(f'{r.level:.0%}' for r in made.ancestry.rounds)}")
        parts.append(f"{len(made)} at the end from {from_} of them")
    parts.append(f"{made.meter.row_passes} row-passes in {made.meter.calls} calls")
    return " · ".join(parts)


def plain(made: Threads, model: str, width: int = 100) -> str:
    """The branches, best first, the merged text and the ancestry."""
    lines = []
    for i, t in enumerate(made, 1):
        weight = f", weight {t.weight:.2f}" if made.ancestry.rounds and made.ancestry.rounds[0].weights else ""
        lines += [f"{i} (branch {t.origin + 1}, seed {t.seed}, score {t.score:.3f}{weight})", *_body(t.text, width), ""]
    if made.merged is not None:
        lines += [f"merged ({made.agreed:.0%} agreed on, the rest denoised again)", *_body(made.merged, width), ""]
    if made.ancestry.rounds:
        lines += ["who came from whom, and the score at each moment", made.ancestry.tree(), ""]
    return "\n".join([*lines, summary(made, model)])


def _body(text: str, width: int) -> list[str]:
    return [
        line
        for paragraph in printable(text).splitlines() or [""]
        for line in textwrap.wrap(paragraph, width, initial_indent="  ", subsequent_indent="  ") or [""]
    ]


def page(made: Threads, film: Film, model: str, settings: dict[str, Any]) -> str:
    """One self-contained page: the film with play, pause and scrub, the ancestry, the texts."""
    nodes = made.ancestry.to_dict()["nodes"]
    n = len(made.ancestry.seeds)
    names = [[{key: x[key] for key in ("lane", "name", "ended")} for x in row] for row in nodes]
    data = {**film.to_dict(), "names": names, "seeds": list(made.ancestry.seeds)}
    return render_template(
        "branches.html",
        made=made, model=model, summary=summary(made, model), settings=settings,
        hues=[hue(i) for i in range(n)], drawing=drawing(nodes, [r.level for r in made.ancestry.rounds]),
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        seeds=made.ancestry.seeds,
    )  # fmt: skip


class LiveBranches:
    """The branches side by side while they are denoised: brightness is confidence, what is undecided is blue, branches
    that were given up fade. Give `see` to `on_frame`."""

    def __init__(self, console: Console, model: DiffusionModel) -> None:
        from rich.live import Live

        self.console, self.model, self.done = console, model, 0
        self.texts: dict[int, Text] = {}
        self.names: dict[int, str] = {}
        self.fading: dict[int, tuple[str, Text, int]] = {}  # lane -> name and last look, frames left
        self.live = Live(console=console, refresh_per_second=12, transient=True)

    def __enter__(self) -> LiveBranches:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(None, None, None)

    def see(self, frame: Frame) -> None:
        self.done += 1
        self.fading = {lane: (name, t, n - 1) for lane, (name, t, n) in self.fading.items() if n > 1}
        now = dict(zip(frame.lanes, frame.names, strict=True))
        for lane, name in self.names.items():
            if now.get(lane) != name and name not in now.values():
                self.fading[lane] = (name, self.texts[lane], _FADE if lane in now else 2**31)
        self.names = now
        for row, lane in enumerate(frame.lanes):
            self.texts[lane] = self._text(frame, row)
        left = frame.canvas.left.double() / (~frame.canvas.locked & frame.canvas.real).sum(1).clamp(min=1)
        self.live.update(self.frame(f"step {self.done} · {1 - float(left.mean()):.0%} decided"))

    def frame(self, status: str) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        across = max(1, min(len(self.texts), self.console.width // 28))
        grid = Table.grid(expand=True)
        for _ in range(across):
            grid.add_column(ratio=1)
        cells = []
        for lane, text in sorted(self.texts.items()):
            name, border, shown = self.names.get(lane, ""), "cyan", text
            if lane in self.fading:
                old, last, frames = self.fading[lane]
                grey = 38 + 60 * min(frames, _FADE) // _FADE if lane in self.names else 58
                border = f"#{grey:02x}{grey:02x}{grey:02x}"
                name, shown = f"{old} · given up", Text(last.plain, style=border)
            cells.append(Panel(shown, title=name, title_align="left", border_style=border))
        for at in range(0, len(cells), across):
            grid.add_row(*cells[at : at + across], *[""] * (across - len(cells[at : at + across])))
        return Group(grid, Text(status, style="bold"))

    def _text(self, frame: Frame, row: int) -> Text:
        from rich.text import Text

        canvas, watch = frame.canvas, frame.watch
        real = canvas.real[row]
        out = Text()
        for piece, sure, masked, given in zip(
            self.model.pieces(watch.guess[row][real]), watch.certainty[row][real].tolist(),
            canvas.masked[row][real].tolist(), canvas.locked[row][real].tolist(), strict=True,
        ):  # fmt: skip
            out.append(_shown(piece), style=_style(sure, masked, given))
        return out


def _shown(piece: str) -> str:
    """A space or a newline as it is; nothing that could drive the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in piece)


def _style(sure: float, masked: bool, given: bool) -> str:
    if given:
        return "bold"
    share = min(max(sure, 0.0), 1.0)
    if masked:
        low, high = (30, 42, 74), (96, 150, 255)
    else:
        low, high = (110, 110, 110), (255, 255, 255)
    r, g, b = (round(x + share * (y - x)) for x, y in zip(low, high, strict=True))
    return f"#{r:02x}{g:02x}{b:02x}"
