"""Trials, the unit of work of a bench: one system, one setting, one prompt, one seed.

A trial's result depends on these four alone, so the trials of a run may be computed in any order, here, over processes
or over Ray, and each is on disk as soon as it is finished: the same command continues a run that was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, Interrupted, ModelError, ThoughtmixError
from thoughtmix.core.files import append_line, bounded_bytes, bounded_text, parse_json, write_whole

if TYPE_CHECKING:
    from thoughtmix.bench.tasks import Item

Setting = Mapping[str, Any]
"""Names and values of what a system is called with, such as `{"temperature": 0.7}`."""
Record = dict[str, Any]
"""The result of a trial, as JSON."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Which system, which of its settings (an index into its grid), which item (its id) and which seed."""

    system: str
    setting: int
    item: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.system}|{self.setting}|{self.item}|{self.seed}"


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What a trial asks of a system: n thoughts for an item, with n * max_new_tokens tokens at most in all.

    Thought i draws from `seed + i`.
    """

    item: Item
    n: int
    seed: int
    max_new_tokens: int


RunTrial = Callable[[Trial], Record]
LoadWorker = Callable[[], RunTrial]
"""Loads what runs trials. It is called once in each process, and must be picklable to be sent there."""


class TrialStore:
    """A folder with `run.json`, which says what is run, and `cells.jsonl`, one line for each finished trial.

    The file names and the lines are those of the first version, so that its runs continue. Opening a folder again
    continues it. `torn` says whether the last line was half written, which loses that trial alone.

    Args:
        folder: is made when it does not exist.
        about: what is run, as JSON.

    Raises:
        InputError: when the folder cannot be made, holds another run, or holds a damaged line.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._path = self.folder / "cells.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {folder}: {error.strerror}.", "Name another (--out).") from None
        self._check_same_run(json.loads(json.dumps(about)))
        self.torn = False
        self.records = self._load()

    def _check_same_run(self, about: Mapping[str, Any]) -> None:
        head = self.folder / "run.json"
        if not head.exists():
            write_whole(head, json.dumps(about, indent=1, ensure_ascii=False))
            return
        try:
            before = parse_json(bounded_text(head))
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read {head}: {error}.", "Name another folder (--out).") from None
        differs = sorted(k for k in {*about, *before} if before.get(k) != about.get(k))
        if differs:
            raise InputError(
                f"{self.folder} holds a run with other settings ({', '.join(differs)}).",
                "Name another folder (--out), or type the same command again to continue it.",
            )

    def _load(self) -> dict[str, Record]:
        out: dict[str, Record] = {}
        if not self._path.exists():
            return out
        body = bounded_bytes(self._path, 2**34)
        whole = body[: body.rfind(b"\n") + 1]
        if len(whole) < len(body):
            self.torn = True
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = parse_json(line.decode())
                out[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self._path}, line {number} is damaged.", "Delete that line; its trial is then run again."
                ) from None
        return out

    def add(self, trial: Trial, record: Mapping[str, Any]) -> None:
        """Keep a finished trial. When this returns, it is on disk."""
        kept = {"key": trial.key, **record}
        append_line(self._path, json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
        self.records[trial.key] = kept


class Stopped(ThoughtmixError):
    """Ctrl-C. Every finished trial is on disk."""

    exit_code = 130

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"Stopped: {done} of {total} trials are kept.", "Type the same command again to continue.")


@dataclass(frozen=True, slots=True)
class TrialProgress:
    """How far a run has come, after each trial."""

    done: int
    """Trials that are on disk, those of earlier runs too."""
    total: int
    """Of the whole run, development and held out."""
    seconds_left: float
    """At the pace of this run."""
    trial: Trial

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        togo = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
        return f"{self.done} of {self.total} trials · {togo} left · {self.trial.key}"


def run_trials(
    trials: Sequence[Trial],
    load_worker: LoadWorker,
    store: TrialStore,
    *,
    workers: int = 1,
    ray: bool = False,
    total: int | None = None,
    on_progress: Callable[[TrialProgress], None] | None = None,
) -> None:
    """Run every trial that `store` lacks, and keep each as it finishes.

    Args:
        workers: how many processes, or Ray actors with `ray`.
        total: trials of the whole run, of which `trials` are a part: what is told as left counts them all.

    Raises:
        Stopped: on Ctrl-C. What a trial raises is passed on.
    """
    if workers < 1:
        raise InputError(f"{workers} workers.", "Pass 1 or more (--workers 1).")
    todo = [trial for trial in trials if trial.key not in store.records]
    whole = len(trials) if total is None else total
    began, finished = time.monotonic(), 0
    spread = _over_ray if ray else _over_processes if workers > 1 else _here
    try:
        for trial, record in spread(todo, load_worker, workers) if todo else ():
            store.add(trial, record)
            finished += 1
            if on_progress is not None:
                done = min(len(store.records), whole)
                left = (time.monotonic() - began) / finished * (whole - done)
                on_progress(TrialProgress(done, whole, left, trial))
    except (KeyboardInterrupt, Interrupted):
        raise Stopped(min(len(store.records), whole), whole) from None


def _here(trials: Sequence[Trial], load_worker: LoadWorker, workers: int) -> Iterator[tuple[Trial, Record]]:
    run = load_worker()
    for trial in trials:
        yield trial, run(trial)


def _over_processes(trials: Sequence[Trial], load_worker: LoadWorker, workers: int) -> Iterator[tuple[Trial, Record]]:
    # spawn, not fork: a forked copy of a process with running threads (torch has some) may hang
    with multiprocessing.get_context("spawn").Pool(min(workers, len(trials)), _begin, (load_worker,)) as pool:
        yield from pool.imap_unordered(_run_one, trials)


_RUN: list[RunTrial] = []  # of this worker process


def _begin(load_worker: LoadWorker) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent stops the workers
    _RUN[:] = [load_worker()]


def _run_one(trial: Trial) -> tuple[Trial, Record]:
    return trial, _RUN[0](trial)


def _over_ray(trials: Sequence[Trial], load_worker: LoadWorker, workers: int) -> Iterator[tuple[Trial, Record]]:
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise ModelError("Ray is not installed.", "Type: pip install ray, or drop --ray.") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)  # joins a cluster when RAY_ADDRESS names one

    class Actor:
        def __init__(self) -> None:
            self.run = load_worker()

        def run_one(self, trial: Trial) -> tuple[Trial, Record]:
            return trial, self.run(trial)

    remote = ray.remote(Actor)
    pool = ActorPool([remote.remote() for _ in range(min(workers, len(trials)))])
    yield from pool.map_unordered(lambda actor, trial: actor.run_one.remote(trial), list(trials))
