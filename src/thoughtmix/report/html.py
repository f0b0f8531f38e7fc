"""A thought set as one self-contained HTML page, or as a fragment for notebooks. No script or asset from elsewhere."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.report.text import facts, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from thoughtmix.core.types import ThoughtSet

WIDTH, HEIGHT, MARGIN = 520, 340, 34
THEME = Path(__file__).parent / "templates" / "theme.css"
"""The one stylesheet of page, exports and reports."""
CROWD = 16
"""Of more thoughts the heat-map's cells are small and say their number when pointed at."""


def page(thoughts: ThoughtSet) -> str:
    """A whole document: prompt, summary, map, heat-map, a card a thought, settings, and the JSON to download."""
    return render_template("page.html", **_view(thoughts))


def page_of_sets(sets: Sequence[ThoughtSet]) -> str:
    """A whole document of several sets, one below the other."""
    from markupsafe import Markup

    shown = [render_template("set.html", prefix=f"{i}-", **_view(one)) for i, one in enumerate(sets, 1)]
    return render_template("sets.html", fragments=[Markup(each) for each in shown])


def fragment(thoughts: ThoughtSet) -> str:
    """The same without the document around it, styles scoped to it: what a notebook shows."""
    return render_template("thoughts.html", **_view(thoughts))


def render_template(name: str, package: str = "thoughtmix.report", **values: Any) -> str:
    """One of a package's templates/, filled in; whole documents extend base.html, which has the style that they share:
    theme.css, the page's own."""
    return _environment(package).get_template(name).render(**values)


@functools.cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("thoughtmix.report")])
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    made.filters["words"] = in_words
    return made


def in_words(value: Any) -> str:
    """A setting as people read it: yes and no, numbers without a tail of digits, names and values of a mapping."""
    if value is None or value == "" or (isinstance(value, (Mapping, list, tuple)) and not value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(each) for each in value)
    return str(value)


def _view(thoughts: ThoughtSet) -> dict[str, Any]:
    points = layout(thoughts.distances) if len(thoughts.distances) > 1 else []
    largest = max((max(row) for row in thoughts.distances), default=0.0) or 1.0
    return {
        "set": thoughts,
        "summary": summary(thoughts),
        "cards": [{"number": i + 1, "hue": hue(i), "thought": t, "facts": facts(t)} for i, t in enumerate(thoughts)],
        "points": [{"number": i + 1, "hue": hue(i), "x": x, "y": y} for i, (x, y) in enumerate(points)],
        "crowd": len(thoughts) > CROWD,
        "width": WIDTH,
        "height": HEIGHT,
        "heat": [[{"value": f"{v:.2f}", "share": round(v / largest, 3)} for v in row] for row in thoughts.distances],
    }


def hue(i: int) -> int:
    """The hue of number i, in degrees. Neighbouring numbers look clearly different: steps of the golden angle."""
    return round(200 + 137.508 * i) % 360


def layout(distances: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Positions in the map, near thoughts near: classical multidimensional scaling (Torgerson 1952) to two dimensions,
    fitted into the frame. One scale for both axes, so that distances on the page compare."""
    d = np.asarray(distances, dtype=np.float64)
    n = len(d)
    center = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * center @ d**2 @ center)
    top = np.argsort(values)[::-1][:2]
    xy = vectors[:, top] * np.sqrt(np.maximum(values[top], 0))  # (n, 2)
    if xy.shape[1] == 1:
        xy = np.hstack([xy, np.zeros((n, 1))])
    # Eigenvectors come with either sign: fix it, so that a set always draws the same map.
    xy *= np.where(xy[np.abs(xy).argmax(0), range(2)] < 0, -1, 1)
    low, high = xy.min(0), xy.max(0)
    frame = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    span = high - low
    scale = min((f / s for f, s in zip(frame, span, strict=True) if s > 1e-9), default=1.0)
    at = (xy - (low + high) / 2) * scale + np.array([WIDTH, HEIGHT]) / 2
    return [(round(float(x), 1), round(float(y), 1)) for x, y in at]
