"""A bench on a tiny model, and a worker that needs none: importable by other processes."""

from __future__ import annotations

import os
from typing import Any

from thoughtmix.bench.cells import Cell
from thoughtmix.bench.plan import Plan
from thoughtmix.bench.tasks import Item

WORDS = [f"w{i}" for i in range(3, 160)]
OPEN = tuple(Item(f"open/{i}", "open", f"{WORDS[i]} w9 w77", (f"w8 {WORDS[i]}", f"{WORDS[i]} w6 w5")) for i in range(8))


def plan(thinkers: tuple[str, ...] = ("temperature", "top-p"), **more: Any) -> Plan:
    from thoughtmix.bench.contestants import contestant

    ladders = {name: contestant(name).ladder(3) for name in thinkers}
    usual = {"development": OPEN[:3], "held_out": OPEN[3:], "n": 3, "max_new_tokens": 5, "seeds": 2, "keep": 2}
    return Plan(thinkers, ladders, **{**usual, **more})


class Counting:
    """Makes work that needs no model: the record is a function of the cell."""

    def __call__(self) -> Any:
        return lambda cell: {"made": f"{cell.key}!", "pid": os.getpid()}


class Failing:
    def __call__(self) -> Any:
        def work(cell: Cell) -> dict[str, Any]:
            if cell.seed == 1:
                raise KeyboardInterrupt
            return {"made": cell.key}

        return work
