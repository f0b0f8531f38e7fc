"""A bench on a tiny model, and a worker that needs none: importable by other processes."""

from __future__ import annotations

import os
from typing import Any

from thoughtmix.bench.config import BenchConfig
from thoughtmix.bench.tasks import Item
from thoughtmix.bench.trials import Trial

WORDS = [f"w{i}" for i in range(3, 160)]
OPEN = tuple(Item(f"open/{i}", "open", f"{WORDS[i]} w9 w77", (f"w8 {WORDS[i]}", f"{WORDS[i]} w6 w5")) for i in range(8))


def bench_config(systems: tuple[str, ...] = ("temperature", "top-p"), **more: Any) -> BenchConfig:
    from thoughtmix.bench.systems import get_system

    grids = more.pop("grids", None) or {name: get_system(name).grid(3) for name in systems}
    usual = {"development": OPEN[:3], "held_out": OPEN[3:], "n": 3, "max_new_tokens": 5, "seeds": 2, "keep": 2}
    return BenchConfig(systems, grids, **{**usual, **more})


class Counting:
    """Makes work that needs no model: the record is a function of the trial."""

    def __call__(self) -> Any:
        return lambda trial: {"made": f"{trial.key}!", "pid": os.getpid()}


class Failing:
    def __call__(self) -> Any:
        def work(trial: Trial) -> dict[str, Any]:
            if trial.seed == 1:
                raise KeyboardInterrupt
            return {"made": trial.key}

        return work
