"""Where thinkers are found. Nothing here imports torch, so `--help` and `thinkers` stay quick.

A thinker is a module of `thoughtmix.thinkers` that defines `THINKER`: dropping the file in registers it; so does a file
in a folder that the environment variable THOUGHTMIX_THINKERS names. Other packages add theirs through the entry-point
group `thoughtmix.thinkers` (name = "package.module:object"). A name of this package is never shadowed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from thoughtmix.core.errors import ThoughtmixError, UnknownName
from thoughtmix.engine.engine import Engine
from thoughtmix.thinkers.base import Thinker

GROUP = "thoughtmix.thinkers"
FOLDERS = "THOUGHTMIX_THINKERS"
_NOT_THINKERS = frozenset({"base", "call", "registry"})


@functools.cache
def _builtin() -> frozenset[str]:
    """Names of the modules of this package that are thinkers."""
    return frozenset(file.stem for file in Path(__file__).parent.glob("[a-z]*.py")) - _NOT_THINKERS


def _dropped() -> dict[str, Path]:
    """Name -> file, of the folders that the user named."""
    folders = [Path(part) for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("[a-z]*.py"))}


def _external() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def thinker_names() -> list[str]:
    """Every name `get_thinker` accepts, sorted."""
    return sorted({*_builtin(), *_dropped(), *_external()})


def get_thinker(name: str) -> Thinker:
    """The thinker registered under `name`.

    Raises:
        UnknownName: There is none; with the nearest name that exists.
        ThoughtmixError: It does not load, or is no `Thinker`.
    """
    if name in _builtin():
        found: object = importlib.import_module(f"thoughtmix.thinkers.{name}").THINKER
    elif name in _dropped():
        found = _from_file(name, _dropped()[name])
    elif name in _external():
        found = _from_entry_point(_external()[name])
    else:
        raise UnknownName("thinker", name, thinker_names())
    return as_thinker(found, name)


def auto_thinker(engine: Engine) -> Thinker:
    """The thinker of this package that the engine's model is made for; plain sampling where none says so."""
    made = (get_thinker(name) for name in sorted(_builtin()))
    return next((thinker for thinker in made if thinker.made_for(engine)), get_thinker("sampling"))


def as_thinker(found: object, name: str = "") -> Thinker:
    """`found`, if it is a thinker. Raises `ThoughtmixError`."""
    if isinstance(found, Thinker):
        return found
    raise ThoughtmixError(
        f"The thinker {name or type(found).__name__!r} is no thoughtmix.Thinker.",
        "Derive its class from thoughtmix.Thinker, and give think() the arguments (engine, prompt, request).",
    )


@functools.lru_cache(maxsize=64)
def _loaded(name: str, file: Path, changed: int) -> object:
    spec = importlib.util.spec_from_file_location(f"thoughtmix_thinker_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.THINKER


def _from_file(name: str, file: Path) -> object:
    try:
        return _loaded(name, file, file.stat().st_mtime_ns)
    except Exception as error:
        raise ThoughtmixError(
            f"The thinker {name!r} does not load: {type(error).__name__} {error}.", f"Mend {file}, or unset {FOLDERS}."
        ) from error


def _from_entry_point(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else "?"
        raise ThoughtmixError(
            f"The thinker {point.name!r} of package {package} does not load: {error}.",
            f"Type: pip install --upgrade {package if point.dist else point.name}",
        ) from error
