"""Branches of a text out of noise, as a page that plays, as plain text, and live in a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from thoughtmix.report.html import hue, render_template
from thoughtmix.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from thoughtmix.diffusion.branching import BranchedResult, Frame
    from thoughtmix.diffusion.load import DiffusionModel

SCHEMA, SCHEMA_VERSION = "thoughtmix/branches", 1
_FADE = 10  # frames for which a branch that was given up is still shown
MOST = 160
"""Frames that a page shows; of more, so many spread evenly."""


class Film:
    """Give it to `on_frame`."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.frames: list[Frame] = []

    def __call__(self, frame: Frame) -> None:
        self.frames.append(frame)

    def to_dict(self, most: int = MOST) -> dict[str, Any]:
        """pieces: texts of tokens; frames: step (number), round, filled (share), cut (the last look before branches are
        given up), and rows: [lane, indices of pieces, marks]. A mark is a letter a token: 0-9 undecided, a-j decided,
        both by confidence in tenths; z given."""
        pieces: dict[str, int] = {}
        frames = []
        for at, cut in self._chosen(most):
            frame = self.frames[at]
            rows = [[lane, *self._row(frame, i, pieces)] for i, lane in enumerate(frame.lanes)]
            filled = float(frame.state.filled.mean())
            frames.append({"step": at + 1, "round": frame.round, "filled": round(filled, 3), "cut": cut, "rows": rows})
        return {"pieces": list(pieces), "frames": frames, "steps": len(self.frames)}

    def _chosen(self, most: int) -> list[tuple[int, bool]]:
        """Which frames, in order; the last of a round twice, the second time as a cut."""
        n = len(self.frames)
        ends = {i for i in range(n - 1) if self.frames[i].round != self.frames[i + 1].round}
        step = max(1.0, n / most)
        picked = {int(i * step) for i in range(int(n / step))} | ends | ({n - 1} if n else set())
        out = []
        for i in sorted(picked):
            out.append((i, False))
            if i in ends:
                out.append((i, True))
        return out

    def _row(self, frame: Frame, row: int, pieces: dict[str, int]) -> tuple[list[int], str]:
        real = frame.state.real[row]
        ids = [pieces.setdefault(p, len(pieces)) for p in self.model.pieces(frame.stats.guess[row][real])]
        marks = [
            "z" if given else "abcdefghij"[tenth] if decided else str(tenth)
            for given, decided, tenth in zip(
                frame.state.locked[row][real].tolist(),
                (~frame.state.masked[row][real]).tolist(),
                (frame.stats.certainty[row][real] * 10).long().clamp(0, 9).tolist(),
                strict=True,
            )
        ]
        return ids, "".join(marks)


def drawing(nodes: Sequence[Sequence[dict[str, Any]]], levels: Sequence[float]) -> dict[str, Any]:
    """Where nodes and lines of an ancestry stand: a column a moment, a line a lane. nodes: of `Ancestry.to_dict`."""
    lanes = 1 + max(n["lane"] for row in nodes for n in row)
    width, line, left = 720, 26, 40
    xs = [left + round(x * (width - 2 * left)) for x in [*levels, 1.0]]

    def y(lane: int) -> int:
        return 42 + lane * line

    dots, lines = [], []
    for at, row in enumerate(nodes):
        for n in row:
            dots.append({**n, "x": xs[at], "y": y(n["lane"])})
            begin, came = (xs[at - 1], nodes[at - 1][n["parent"]]["lane"]) if at else (10, n["lane"])
            ends = {"x1": begin, "y1": y(came), "x2": xs[at], "y2": y(n["lane"])}
            lines.append({**ends, "round": at, "lane": n["lane"]})
    ticks = [{"x": x, "text": "end" if i == len(levels) else f"{levels[i]:.0%}"} for i, x in enumerate(xs)]
    return {"dots": dots, "lines": lines, "ticks": ticks, "width": width, "height": y(lanes - 1) + 20}


def to_dict(made: BranchedResult, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, as JSON."""
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "prompt": made.prompt,
        "settings": settings,
        "branches": [
            {**asdict(b), "origin": b.origin + 1, "confidence": [round(c, 4) for c in b.confidence]} for b in made
        ],
        "merged": made.merged,
        "agreed": made.agreed,
        "ancestry": made.ancestry.to_dict(),
        "row_passes": made.cost.row_passes,
        "calls": made.cost.calls,
    }


def summary(made: BranchedResult, model: str) -> str:
    """One line."""
    rounds = len(made.ancestry.rounds)
    from_ = len({t.origin for t in made})
    parts = [f"{len(made.ancestry.seeds)} branches by {model}"]
    if rounds:
        parts.append(f"judged at {', '.join(f'{r.level:.0%}' for r in made.ancestry.rounds)}")
        parts.append(f"{len(made)} at the end from {from_} of them")
    parts.append(f"{made.cost.row_passes} row-passes in {made.cost.calls} calls")
    return " · ".join(parts)


def plain(made: BranchedResult, model: str, width: int = 100) -> str:
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


def page(made: BranchedResult, film: Film, model: str, settings: dict[str, Any]) -> str:
    """One self-contained page: the film with play, pause and scrub, the ancestry, the texts."""
    nodes = made.ancestry.to_dict()["nodes"]
    n = len(made.ancestry.seeds)
    names = [[{key: x[key] for key in ("lane", "name", "ended")} for x in row] for row in nodes]
    data = {**film.to_dict(), "names": names, "seeds": list(made.ancestry.seeds)}
    return render_template(
        "branches.html",
        made=made,
        model=model,
        summary=summary(made, model),
        settings=settings,
        hues=[hue(i) for i in range(n)],
        drawing=drawing(nodes, [r.level for r in made.ancestry.rounds]),
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        seeds=made.ancestry.seeds,
    )


class LiveBranches:
    """The branches side by side while they are denoised: brightness is confidence, what is undecided is blue, branches
    that were given up fade. Give `show` to `on_frame`."""

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

    def show(self, frame: Frame) -> None:
        self.done += 1
        self.fading = {lane: (name, t, n - 1) for lane, (name, t, n) in self.fading.items() if n > 1}
        now = dict(zip(frame.lanes, frame.names, strict=True))
        for lane, name in self.names.items():
            if now.get(lane) != name and name not in now.values():
                self.fading[lane] = (name, self.texts[lane], _FADE if lane in now else 2**31)
        self.names = now
        for row, lane in enumerate(frame.lanes):
            self.texts[lane] = self._text(frame, row)
        self.live.update(self.render(f"step {self.done} · {float(frame.state.filled.mean()):.0%} decided"))

    def render(self, status: str) -> RenderableType:
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

        state, stats = frame.state, frame.stats
        real = state.real[row]
        out = Text()
        for piece, sure, masked, given in zip(
            self.model.pieces(stats.guess[row][real]),
            stats.certainty[row][real].tolist(),
            state.masked[row][real].tolist(),
            state.locked[row][real].tolist(),
            strict=True,
        ):
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
