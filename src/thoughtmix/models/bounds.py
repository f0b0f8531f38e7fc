"""What comes with a model and could keep a machine busy for ever: its configuration's sizes, its template's loops."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from thoughtmix.core.files import bounded_text, parse_json

LAYERS = 4096
EXPERTS = 200_000
"""Most layers, and experts in all of them together, that are built: every one costs time, even on the meta device."""
CONFIG_LIMIT = 2**24
"""Most bytes of a configuration."""
TEMPLATE_LINES = 2_000_000
TEMPLATE_SECONDS = 10.0
"""Most lines that a chat template runs, and most seconds: a usual one runs some hundreds in a millisecond."""


def require_buildable(source: str) -> None:
    """Look at the sizes in the configuration of a folder, or in that file, before a list is as long as one of them.
    What is no readable file is left to the loader. Raises ValueError."""
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if path.suffix != ".json" or not path.is_file():
        return
    config = parse_json(bounded_text(path, CONFIG_LIMIT))
    sizes = [(name, value) for name, value in _integers(config) if value > 0]
    layers = max((value for name, value in sizes if name.endswith(("layers", "layer", "depth"))), default=1)
    experts = max((value for name, value in sizes if name.endswith("experts")), default=1)
    if layers > LAYERS or layers * experts > EXPERTS:
        raise ValueError(f"{layers:,} layers of {experts:,} experts are more than can be laid out")


def _integers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in a configuration, by name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _integers(item, str(key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, float) and value == value and abs(value) < 1e300:
        yield name, int(value)


@contextmanager
def bounded_rendering() -> Iterator[None]:
    """Chat templates that are rendered inside, in this thread, run a bounded number of lines. Raises RuntimeError.

    Templates come with models and are run in Jinja's sandbox, which bounds a range and not a loop in a loop.
    """
    lines, ends = 0, time.monotonic() + TEMPLATE_SECONDS

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines > TEMPLATE_LINES or (lines % 4096 == 0 and time.monotonic() > ends):
            raise RuntimeError("it runs for too long")
        return count

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return count if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    if before is not None:  # a debugger's: its steps are slow enough to be seen
        yield
        return
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
