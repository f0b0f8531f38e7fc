"""Where thinkers are found. Nothing here imports torch, so `--help` and `thinkers` stay quick.

A thinker is a module of `thoughtmix.thinkers` that defines `THINKER`: dropping the file in registers it. Other packages
add theirs through the entry-point group `thoughtmix.thinkers` (name = "package.module:object"); theirs never shadow a
built-in one.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from thoughtmix.core.errors import ThoughtmixError, UnknownName

if TYPE_CHECKING:
    from thoughtmix.core.thinker import Thinker

GROUP = "thoughtmix.thinkers"


@functools.cache
def _builtin() -> dict[str, str]:
    """Name -> module of every thinker of this package."""
    here = Path(__file__).parents[1] / "thinkers"
    return {p.stem: f"thoughtmix.thinkers.{p.stem}" for p in sorted(here.glob("[a-z]*.py"))}


def _external() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def thinker_names() -> list[str]:
    """Every name `get_thinker` accepts, sorted."""
    return sorted({*_builtin(), *_external()})


def get_thinker(name: str) -> Thinker:
    """The thinker registered under `name`. Raises `UnknownName` with the nearest name that exists."""
    if name in _builtin():
        return cast("Thinker", importlib.import_module(_builtin()[name]).THINKER)
    points = _external()
    if name not in points:
        raise UnknownName("thinker", name, thinker_names())
    try:
        return cast("Thinker", points[name].load())
    except Exception as error:
        dist = points[name].dist
        raise ThoughtmixError(
            f"The thinker {name!r} of package {dist.name if dist else '?'} does not load: {error}.",
            f"Type: pip install --upgrade {dist.name if dist else name}",
        ) from error
