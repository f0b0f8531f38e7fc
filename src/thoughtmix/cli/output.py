"""Where things are printed: results to stdout, progress to stderr, colour only to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.files import check_writable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.training.trainer import TrainingProgress, TrainingResult


def print_either(rich: Callable[[], RenderableType], plain: Callable[[], str]) -> None:
    """Panels and colour on a terminal, plain text into a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich())
    else:
        print(plain())


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False, indent=2))


def show_set(thoughts: ThoughtSet) -> None:
    from thoughtmix.report.text import plain, render

    print_either(lambda: render(thoughts), lambda: plain(thoughts))


def check_folder(*files: Path | None) -> None:
    """Refuse a file that could not be written, before a model works for it. Raises `InputError`."""
    for file in files:
        if file is not None:
            check_writable(file)


def write_page(file: Path, thoughts: ThoughtSet) -> None:
    from thoughtmix.core.files import write_whole
    from thoughtmix.report.html import page

    write_whole(file, page(thoughts))


_quiet = ContextVar("_quiet", default=False)


def be_quiet(quiet: bool = True) -> None:
    """Leave out what `note` and `progress` would say."""
    _quiet.set(quiet)


def note(line: str) -> None:
    """A line on stderr that is no error."""
    if not _quiet.get():
        print(line, file=sys.stderr, flush=True)


def is_quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _quiet.get()


def progress() -> Callable[[str], None]:
    """For long steps: a line each on stderr."""
    return lambda line: note(f"{line} ...")


def stopped(result: TrainingResult) -> str:
    """What to say of a training that Ctrl-C ended."""
    if result.kept is None:
        return "Stopped before a step was kept. Type the same again to start."
    where = "" if result.kept == result.steps else f" from step {result.kept}"
    return f"Stopped at step {result.steps}. Type the same with --resume to go on{where}."


@contextmanager
def training_progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on a terminal; elsewhere a line an evaluation. On stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    words = TextColumn(
        "{task.completed}/{task.total}  loss {task.fields[loss]:.3f}  {task.fields[found]}"
        "{task.fields[speed]:.0f} tokens/s  {task.fields[left]:.0f} s left"
    )
    with Progress(BarColumn(), words, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"), found="", speed=0.0, left=0.0)

        def update(p: TrainingProgress) -> None:
            found = f"validation {p.last_evaluation['val_loss']:.3f}  " if "val_loss" in p.last_evaluation else ""
            fields: dict[str, Any] = {
                "loss": p.loss,
                "found": found,
                "speed": p.tokens_per_second,
                "left": p.seconds_left,
            }
            bar.update(task, completed=p.step, total=p.steps or None, **fields)

        yield update


def _lines() -> Callable[[TrainingProgress], None]:
    """Prints each evaluation once."""
    last: dict[str, float] = {}

    def line(p: TrainingProgress) -> None:
        nonlocal last
        if p.last_evaluation and p.last_evaluation != last:
            last = p.last_evaluation
            found = ", ".join(f"{name} {value:.4f}" for name, value in last.items())
            print(f"step {p.step}/{p.steps}: {found}, {p.tokens_per_second:.0f} tokens/s", file=sys.stderr)

    return line
