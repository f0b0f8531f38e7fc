"""A thought set as words and digits: what a pipe, a log or a terminal without colour gets."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from thoughtmix.core.types import Thought, ThoughtSet

FINISH = {"stop": "complete", "length": "cut at the token budget", "cancelled": "interrupted"}


def facts(thought: Thought) -> str:
    """One line about a thought: its routing profile or direction if it had one, how likely, how relevant, how far
    from the others, how it ended."""
    parts = [printable(str(thought.origin[name])) for name in ("profile", "direction") if thought.origin.get(name)]
    if thought.token_ids:  # texts from elsewhere come without tokens and likelihood
        parts.append(f"{thought.mean_logprob:.2f} nats/token")
    parts += [
        f"{label} {thought.scores[name]:.2f}"
        for name, label in (("relevance", "relevance"), ("distance", "distance"), ("judge_nll", "judge NLL"))
        if name in thought.scores
    ]
    return " · ".join([*parts, FINISH[thought.finish]])


def summary(thoughts: ThoughtSet) -> str:
    """One line about the set."""
    m, run = thoughts.metrics, thoughts.run
    parts = [f"{len(thoughts)} thoughts by {thoughts.thinker}"]
    if "vendi" in m:
        parts.append(f"worth {m['vendi']:.1f} different ones (Vendi)")
    parts += [
        f"{label} {m[name]:.2f}"
        for name, label in (
            ("mean_distance", "mean distance"),
            ("distinct_2", "distinct-2"),
            ("self_bleu", "self-BLEU"),
            ("judge_nll", "judge NLL"),
        )
        if name in m
    ]
    if run.get("tokens_per_second"):
        parts.append(
            f"{run['tokens']} tokens in {run['seconds']:.1f} s, {run['tokens_per_second']:.0f}/s, {run['path']} path"
        )
    return " · ".join(parts)


def stage_rows(thoughts: ThoughtSet) -> list[list[str]]:
    """`run["stages"]` of a hybrid as rows of words, the head first: each value, with what it gained over the stage
    before."""
    stages = thoughts.run.get("stages") or []
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


def plain(thoughts: ThoughtSet, width: int = 100) -> str:
    """The whole set as text without colour or boxes."""
    lines = []
    for i, thought in enumerate(thoughts, 1):
        lines.append(f"thought {i} (seed {thought.seed}): {facts(thought)}")
        for paragraph in printable(thought.text).splitlines() or [""]:
            lines += textwrap.wrap(paragraph, width, initial_indent="  ", subsequent_indent="  ") or [""]
        lines.append("")
    if len(thoughts.distances) > 1:
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
    lines.append(summary(thoughts))
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text without control characters: a model must not be able to drive the terminal."""
    return "".join(c if c in "\n\t" or (c.isprintable()) else "\N{REPLACEMENT CHARACTER}" for c in text.strip())
