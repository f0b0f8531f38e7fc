"""Run the cells that are not there yet: here, over processes, or over Ray. The results are the same: a cell depends on
its thinker, setting, item and seed alone."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thoughtmix.bench.cells import Cell, Store
from thoughtmix.core.errors import InputError, Interrupted, ModelError, ThoughtmixError

Work = Callable[[Cell], dict[str, Any]]
Factory = Callable[[], Work]
"""Makes what runs a cell. Called once in each process, and must be picklable to be sent there."""


class Stopped(ThoughtmixError):
    """Ctrl-C. Every finished cell is on disk."""

    exit_code = 130

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"Stopped: {done} of {total} cells are kept.", "Type the same command again to continue.")


@dataclass(frozen=True, slots=True)
class Progress:
    """done: cells there, those of earlier runs too. left: seconds to go at the pace of this run."""

    done: int
    total: int
    left: float
    cell: Cell

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.left), 60)
        hours, minutes = divmod(minutes, 60)
        togo = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
        return f"{self.done} of {self.total} cells · {togo} left · {self.cell.key}"


def run_cells(
    cells: Sequence[Cell],
    factory: Factory,
    store: Store,
    *,
    workers: int = 1,
    ray: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Run every cell that `store` lacks and keep each as it finishes.

    workers: processes, or Ray actors with `ray`. Raises `Stopped` on Ctrl-C, and whatever a cell raises.
    """
    if workers < 1:
        raise InputError(f"{workers} workers.", "Pass 1 or more (--workers 1).")
    todo = [cell for cell in cells if cell.key not in store.records]
    began, finished = time.monotonic(), 0
    spread = _over_ray if ray else _over_processes if workers > 1 else _here
    try:
        for cell, record in spread(todo, factory, workers) if todo else ():
            store.add(cell, record)
            finished += 1
            if on_progress is not None:
                left = (time.monotonic() - began) / finished * (len(todo) - finished)
                on_progress(Progress(len(cells) - len(todo) + finished, len(cells), left, cell))
    except (KeyboardInterrupt, Interrupted):
        raise Stopped(len(cells) - len(todo) + finished, len(cells)) from None


def _here(cells: Sequence[Cell], factory: Factory, workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    work = factory()
    for cell in cells:
        yield cell, work(cell)


def _over_processes(cells: Sequence[Cell], factory: Factory, workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    # spawn, not fork: a forked copy of a process with running threads (torch has some) may hang
    with multiprocessing.get_context("spawn").Pool(min(workers, len(cells)), _begin, (factory,)) as pool:
        yield from pool.imap_unordered(_do, cells)


_WORK: list[Work] = []  # of this worker process


def _begin(factory: Factory) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent stops the workers
    _WORK[:] = [factory()]


def _do(cell: Cell) -> tuple[Cell, dict[str, Any]]:
    return cell, _WORK[0](cell)


def _over_ray(cells: Sequence[Cell], factory: Factory, workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise ModelError("Ray is not installed.", "Type: pip install ray, or drop --ray.") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)  # joins a cluster when RAY_ADDRESS names one

    class Actor:
        def __init__(self) -> None:
            self.work = factory()

        def do(self, cell: Cell) -> tuple[Cell, dict[str, Any]]:
            return cell, self.work(cell)

    remote = ray.remote(Actor)
    pool = ActorPool([remote.remote() for _ in range(min(workers, len(cells)))])
    yield from pool.map_unordered(lambda actor, cell: actor.do.remote(cell), list(cells))
