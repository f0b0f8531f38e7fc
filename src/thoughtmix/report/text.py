"""A thought set as words and digits, for a pipe or a log; in colour, for a terminal; and live while it grows."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.selection import repeats
from thoughtmix.core.types import Thought, ThoughtSet

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from thoughtmix.core.request import StepEvent

FINISH = {
    "stop": "complete",
    "sentence": "ended with its sentence",
    "length": "cut at the token budget",
    "cancelled": "interrupted",
}

# Near to far, dark to light: readable with any kind of colour sight, and the digit says it too.
_HEAT = ("#1d2f6f", "#27408b", "#33539e", "#4668ab", "#5f7fb6", "#7d97c1", "#9cb0cd", "#bccadb", "#dce4ea", "#f4f6f5")
_HUES = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")


_SHOWN, _CHARACTERS = 12, 160


def screenful(thoughts: ThoughtSet) -> str:
    """What `print(thoughts)` shows: the beginning of each thought, and what the set comes to."""
    lines = [f"{i:>2}  {_beginning(t.text)}" for i, t in enumerate(thoughts, 1) if i <= _SHOWN]
    more = len(thoughts) - _SHOWN
    lines += [f"    ... and {more} more: thoughts.texts"] if more > 0 else []
    return "\n".join([*lines, in_words(thoughts)])


def _beginning(text: str) -> str:
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= _CHARACTERS else f"{flat[: _CHARACTERS - 1].rstrip()}…"


def facts(thought: Thought) -> str:
    """One line about a thought: its specification, routing profile or direction if it had one, how many agreed with it,
    how likely, how relevant, how far from the others, whether it repeats itself, how it ended."""
    parts = [
        printable(str(thought.origin[name]))
        for name in ("specification", "profile", "direction")
        if thought.origin.get(name)
    ]
    if thought.origin.get("agreement"):
        parts.append(f"{thought.origin['agreement']} agreed")
    if thought.mean_logprob is not None and (thought.token_ids or thought.token_logprobs):
        parts.append(f"{thought.mean_logprob:.2f} nats/token")
    parts += [
        f"{label} {thought.scores[name]:.2f}"
        for name, label in (
            ("relevance", "relevance"),
            ("distance", "distance"),
            ("judge_nll", "judge NLL"),
            ("judge_yes", "judge"),
        )
        if name in thought.scores
    ]
    if repeats(thought.text):
        parts.append("repeats itself")
    return " · ".join([*parts, FINISH[thought.finish]])


def summary(thoughts: ThoughtSet) -> str:
    """One line about the set."""
    m, run = thoughts.metrics, thoughts.run
    chosen = run.get("chosen")
    why = f" (chosen: {printable(str(chosen.get('why')))})" if isinstance(chosen, dict) else ""
    parts = [f"{len(thoughts)} thoughts by {thoughts.thinker}{why}"]
    if "vendi" in m:
        parts.append(f"worth {m['vendi']:.1f} different ones (Vendi)")
    parts += [
        f"{label} {m[name]:.2f}"
        for name, label in (
            ("mean_distance", "mean distance"),
            ("distinct_2", "distinct-2"),
            ("self_bleu", "self-BLEU"),
            ("judge_nll", "judge NLL"),
            ("judge_yes", "judge says yes"),
        )
        if name in m
    ]
    sent = {name.removeprefix("transmission_"): value for name, value in m.items() if name.startswith("transmission_")}
    parts += [f"{source} to text {value:.2f}" for source, value in sent.items()]
    tokens, seconds, speed = (run.get(name) for name in ("tokens", "seconds", "tokens_per_second"))
    numbers = isinstance(seconds, (int, float)) and isinstance(speed, (int, float))
    if numbers and tokens:  # a set may come from elsewhere
        path = f", {printable(str(run['path']))} path" if "path" in run else ""
        parts.append(f"{printable(str(tokens))} tokens in {seconds:.1f} s, {speed:.0f}/s{path}")
    return " · ".join(parts)


def in_words(thoughts: ThoughtSet) -> str:
    """What the set comes to, for somebody who knows no measure: a sentence or two."""
    n, metrics = len(thoughts), thoughts.metrics
    parts = [f"{n} {'answer' if n == 1 else 'answers'} by {printable(thoughts.thinker)}"]
    selected = thoughts.run.get("selected")
    if selected:
        parts[0] += f", the most different good ones of {selected['of']}"
    elif n > 1 and "vendi" in metrics:
        parts[0] += f", as varied as {metrics['vendi']:.1f} that have nothing in common"
    pair = _extremes(thoughts.distances)
    if pair:
        (a, b), (c, d) = pair
        parts.append(f"Nearest to each other: {a} and {b}; furthest apart: {c} and {d}")
    cut = sum(t.finish == "length" for t in thoughts)
    if cut:
        parts.append(
            f"{cut} {'was' if cut == 1 else 'were'} cut at {thoughts.settings.get('max_new_tokens', 'the')} tokens"
        )
    chosen = thoughts.run.get("chosen")
    one = one_answer_line(thoughts)
    if one:
        parts.append(one)
    elif isinstance(chosen, dict):
        parts.append(f"Chosen since {printable(str(chosen.get('why')))}")
    return f"{'. '.join(parts)}."


def one_answer_line(thoughts: ThoughtSet) -> str:
    """Of a question that seems to have one right answer: what most say. Empty of others."""
    one = thoughts.run.get("one_answer")
    if not isinstance(one, dict):
        return ""
    said = f": {one.get('count')} of {one.get('of')} say “{printable(str(one.get('answer')))}”"
    none = ", and most of these do not agree on one"
    return f"This question seems to have one answer{said if one.get('answer') else none}"


def _extremes(distances: Sequence[Sequence[float]]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The numbers of the two nearest and of the two furthest thoughts; None of fewer than three, or all alike."""
    pairs = [(d, (i + 1, j + 1)) for i, row in enumerate(distances) for j, d in enumerate(row) if j > i]
    if len(pairs) < 3 or min(pairs)[0] == max(pairs)[0]:
        return None
    return min(pairs)[1], max(pairs)[1]


def next_steps(thoughts: ThoughtSet) -> str:
    """A line of what may be typed next."""
    n = len(thoughts)
    seed = int(thoughts.settings.get("seed", 0)) + int(thoughts.settings.get("n", n))
    steps = [f"--seed {seed} for others"] if thoughts.thinker != "texts" else []
    if thoughts.distances and n > 3 and "selected" not in thoughts.run:
        steps.append("--select 3 for the most different")
    return f"Next: {' · '.join([*steps, '--html page.html for a map'])}"


def selection_line(thoughts: ThoughtSet) -> str:
    """What `select` gained over as many thoughts at random, and the quality that it kept; empty without a selection."""
    said = thoughts.run.get("selected")
    if not said:
        return ""
    parts = [
        f"{said['k']} of {said['of']} selected",
        f"mean distance {said['distance']:.2f} ({said['k']} at random: {said['random_distance']:.2f})",
        f"by their words {said['wording']:.2f} ({said['random_wording']:.2f})",
    ]
    if said.get("kept_quality") is not None:  # texts from elsewhere have no likelihood
        unit = "nats/token" if said["quality"] == "mean_logprob" else said["quality"]
        parts.append(f"{said['kept_quality']:.2f} {unit} (all: {said['mean_quality']:.2f})")
    return printable(" · ".join(parts))


def stage_rows(thoughts: ThoughtSet) -> list[list[str]]:
    """`run["stages"]` of a hybrid as rows of words, the head first: each value, with what it gained over the stage
    before. None where the set comes from elsewhere and its stages are no stages."""
    try:
        return _stage_rows(thoughts.run.get("stages") or [])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return []


def _stage_rows(stages: Any) -> list[list[str]]:
    names = [(kind, name) for kind in ("quality", "diversity") for name in (stages[0].get(kind, {}) if stages else {})]
    out = [["stage", "texts", "tokens", *(name for _, name in names)]] if stages else []
    for i, stage in enumerate(stages):
        cells = [printable(str(stage["stage"])), str(stage["texts"]), str(stage["tokens"])]
        for kind, name in names:
            gain = f" ({stage[kind][name] - stages[i - 1][kind][name]:+.2f})" if i else ""
            cells.append(f"{stage[kind][name]:.2f}{gain}")
        out.append(cells)
    return out


def digit(distance: float, largest: float) -> str:
    """0 (alike) to 9 (as far apart as any two here)."""
    return str(min(9, int(10 * distance / largest))) if largest > 0 else "0"


def heat_rows(distances: Sequence[Sequence[float]]) -> list[list[str]]:
    """Digits of a distance matrix, with a dot on the diagonal."""
    largest = max((max(row) for row in distances), default=0.0)
    return [
        ["·" if i == j else digit(value, largest) for j, value in enumerate(row)] for i, row in enumerate(distances)
    ]


def plain(thoughts: ThoughtSet, width: int = 100, details: bool = True) -> str:
    """The set as text without colour or boxes: the thoughts, what each stage of a hybrid added, what it comes to.
    details: also what is known of each thought, who differs from whom, and the metrics."""
    lines = []
    for i, thought in enumerate(thoughts, 1):
        lines.append(f"thought {i} (seed {thought.seed}){_said(thought, details)}")
        for paragraph in printable(thought.text).splitlines() or [""]:
            lines += textwrap.wrap(paragraph, width, initial_indent="  ", subsequent_indent="  ") or [""]
        lines.append("")
    if details and len(thoughts.distances) > 1:
        lines.append("who differs from whom (0 alike, 9 as far apart as any two here)")
        size = len(str(len(thoughts)))
        lines.append(" " * (size + 2) + " ".join(str(i).rjust(size) for i in range(1, len(thoughts) + 1)))
        for i, row in enumerate(heat_rows(thoughts.distances), 1):
            lines.append(f"{str(i).rjust(size)}  " + " ".join(cell.rjust(size) for cell in row))
        lines.append("")
    rows = stage_rows(thoughts)
    if rows:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += [
            "what each stage added",
            *("  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in rows),
        ]
        lines.append("")
    return "\n".join([*lines, *_closing(thoughts, details)])


def _said(thought: Thought, details: bool) -> str:
    """What stands behind a thought's number: everything, or what names it and what is wrong with it."""
    if details:
        return f": {facts(thought)}"
    names = ("specification", "profile", "direction")
    parts = [printable(str(thought.origin[name])) for name in names if thought.origin.get(name)]
    parts += ["repeats itself"] * repeats(thought.text)
    parts += [FINISH[thought.finish]] * (thought.finish in {"length", "cancelled"})
    return f": {' · '.join(parts)}" if parts else ""


def _closing(thoughts: ThoughtSet, details: bool) -> list[str]:
    """The lines below the thoughts."""
    if not details:
        return [in_words(thoughts)]
    return [*(line for line in (selection_line(thoughts), one_answer_line(thoughts)) if line), summary(thoughts)]


def printable(text: str) -> str:
    """Text without control characters: a model must not be able to drive the terminal."""
    return "".join(c if c in "\n\t" or (c.isprintable()) else "\N{REPLACEMENT CHARACTER}" for c in text.strip())


def render(thoughts: ThoughtSet, details: bool = True) -> RenderableType:
    """The same in a terminal: a panel a thought, what it comes to; with details a heat-map and figures, too."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for i, thought in enumerate(thoughts):
        parts.append(
            Panel(
                Text(printable(thought.text) or "(empty)"),
                title=f"[b]{i + 1}[/b] · seed {thought.seed}",
                title_align="left",
                subtitle=Text(_said(thought, details).removeprefix(": ")) if _said(thought, details) else None,
                subtitle_align="right",
                border_style=_HUES[i % len(_HUES)],
            )
        )
    if details and len(thoughts.distances) > 1:
        parts.append(heat_map(thoughts))
    if rows := stage_rows(thoughts):
        table = Table(*rows[0], title="what each stage added", title_style="dim", title_justify="left", box=None)
        for row in rows[1:]:
            table.add_row(*row)
        parts.append(table)
    parts += [Text(line, style="bold") for line in _closing(thoughts, details)]
    return Group(*parts)


def heat_map(thoughts: ThoughtSet) -> Table:
    """Who differs from whom: a digit and a shade a pair."""
    from rich.table import Table
    from rich.text import Text

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
        """Show what a step added."""
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
        from rich.console import Group
        from rich.text import Text

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
