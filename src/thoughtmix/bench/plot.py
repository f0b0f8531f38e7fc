"""A frontier plot as numbers for inline SVG: scales, ticks, bands, points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 50
# Okabe & Ito (2008), told apart with any kind of colour sight; then again with dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8a6d00")
DASHES = ("", "7 4", "2 4")


def style(index: int) -> dict[str, str]:
    """Colour and dash of the thinker at `index`: 24 different ones."""
    return {"colour": COLOURS[index % len(COLOURS)], "dash": DASHES[index // len(COLOURS) % len(DASHES)]}


def frontier(result: Mapping[str, Any], thinkers: Sequence[str]) -> dict[str, Any]:
    """What the template draws for one kind of item of a record: axes, and per thinker its band, line and points."""
    bands, points = result["bands"], result["held_out"]
    xs = [p["quality"] for t in thinkers for p in points[t]]
    ys = [p["diversity"] for t in thinkers for p in points[t]]
    ys += [v for t in thinkers for name in ("low", "high") for v in bands[t][name] if v is not None]
    x, y = _Scale(xs, LEFT, WIDTH - RIGHT), _Scale(ys, HEIGHT - BOTTOM, TOP)
    lines = [_line(name, index, bands[name], points[name], x, y) for index, name in enumerate(thinkers)]
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM,
        "x_ticks": [{"at": x(v), "says": f"{v:g}"} for v in x.ticks],
        "y_ticks": [{"at": y(v), "says": f"{v:g}"} for v in y.ticks],
        "lines": lines,
        "levels": [x(v) for v in result["levels"] if x.low <= v <= x.high],
    }  # fmt: skip


def _line(
    name: str, index: int, band: Mapping[str, Any], points: Sequence[Mapping[str, Any]], x: _Scale, y: _Scale
) -> dict[str, Any]:
    rows = zip(*(band[key] for key in ("quality", "middle", "low", "high")), strict=True)
    kept = [row for row in rows if None not in row]
    edge = [(x(q), y(low)) for q, _, low, _ in kept] + [(x(q), y(high)) for q, _, _, high in reversed(kept)]
    return {
        "name": name,
        **style(index),
        "line": _path([(x(q), y(middle)) for q, middle, _, _ in kept]),
        "area": _path(edge),
        "points": [
            {
                "x": x(p["quality"]),
                "y": y(p["diversity"]),
                "says": f"{name}, setting {p['setting'] + 1}: {p['quality']:.3g}, {p['diversity']:.3g}",
            }
            for p in points
        ],
    }


class _Scale:
    """Values to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5 * abs(low) or 0.5
        self.low, self.high = low - room, high + room
        self.start, self.end = start, end
        step = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step)
        self.ticks = [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
