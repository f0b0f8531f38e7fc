"""The whole bench: development cells, choice of settings, held-out cells, comparisons, and the record of it all."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from thoughtmix.bench import frontier, record
from thoughtmix.bench.cells import Cell, Store
from thoughtmix.bench.novelty import THRESHOLDS
from thoughtmix.bench.plan import Plan, Worker
from thoughtmix.bench.runner import Progress, run_cells
from thoughtmix.bench.scoring import AXES, SECONDARY, score
from thoughtmix.bench.tasks import Item, Kind

SCHEMA, SCHEMA_VERSION = "thoughtmix/bench", 1
RATES = ("tokens", "mean_words", "missing", "empty", "duplicate_rate", "unread", "valid")
EXAMPLES = 4


def run(
    plan: Plan,
    store: Store,
    *,
    workers: int = 1,
    ray: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    resamples: int = 9999,
) -> dict[str, Any]:
    """Run what is missing and return the record, as JSON. Raises `Stopped` on Ctrl-C; run it again to continue."""
    began = time.monotonic()
    how: dict[str, Any] = {"workers": workers, "ray": ray, "on_progress": on_progress}
    run_cells(plan.development_cells(), Worker(plan), store, **how)
    scores = _Scores(plan, store)
    choices = {kind: _choose(plan, scores, kind) for kind in plan.kinds}
    chosen = {kind: choice["chosen"] for kind, choice in choices.items()}
    run_cells(plan.held_out_cells(chosen), Worker(plan), store, **how)
    rng = np.random.default_rng([plan.seed, 31])
    kinds = {kind: _report(plan, scores, kind, choices[kind], rng, resamples) for kind in plan.kinds}
    return _json(
        {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "plan": plan.about(),
            "environment": record.environment(),
            "model": next(iter(store.records.values()))["set"]["model"],
            "judge": scores.judge(),
            "cells": len(store.records),
            "seconds": {
                "generating": sum(r["seconds"] for r in store.records.values()),
                "this run": round(time.monotonic() - began, 1),
            },
            "kinds": kinds,
            "examples": _examples(plan, store, choices, rng),
        }
    )


class _Scores:
    """Numbers of cells, computed once each."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store, self.items = plan, store, plan.items
        self._kept: dict[str, dict[str, float]] = {}

    def of(self, cell: Cell) -> dict[str, float]:
        if cell.key not in self._kept:
            self._kept[cell.key] = score(
                self.store.records[cell.key], self.items[cell.item], self.plan.n, self.plan.threshold
            )
        return self._kept[cell.key]

    def __call__(self, thinker: str, setting: int, item: str, seed: int, name: str) -> float:
        return self.of(Cell(thinker, setting, item, seed))[name]

    def judge(self) -> str | None:
        """Who judged the open prompts."""
        named = {r["set"]["run"].get("judge") for r in self.store.records.values()} - {None}
        return next(iter(named), None)


def _ids(items: Sequence[Item], kind: Kind) -> list[str]:
    return [item.id for item in items if item.kind == kind]


def _choose(plan: Plan, scores: _Scores, kind: Kind) -> dict[str, Any]:
    """What is fixed on development prompts: each thinker's settings and best setting, and the levels of quality."""
    items, seeds, axes = _ids(plan.development, kind), range(plan.seeds), AXES[kind]
    curves = {t: frontier.curve(scores, t, range(len(plan.ladders[t])), items, seeds, axes) for t in plan.thinkers}
    base = curves[plan.thinkers[0]]
    floor = float(np.median(base.quality.mean(0)))
    chosen = {t: frontier.choose(c, plan.keep, axes.reference) for t, c in curves.items()}
    return {
        "chosen": chosen,
        "best": {t: frontier.best_setting(c, chosen[t], floor) for t, c in curves.items()},
        "levels": frontier.levels(list(curves.values())),
        "floor": floor,
        "development": {t: _points(c, range(len(plan.ladders[t]))) for t, c in curves.items()},
    }


def _report(
    plan: Plan, scores: _Scores, kind: Kind, choice: Mapping[str, Any], rng: np.random.Generator, resamples: int
) -> dict[str, Any]:
    """Everything about one kind of item, from held-out prompts."""
    items, seeds, axes = _ids(plan.held_out, kind), range(plan.seeds), AXES[kind]
    chosen, best = choice["chosen"], choice["best"]
    curves = {t: frontier.curve(scores, t, chosen[t], items, seeds, axes) for t in plan.thinkers}

    def at_best(thinker: str, name: str) -> Any:
        return frontier.table(scores, thinker, [best[thinker]], items, seeds, name)[:, 0]

    wanted = (axes.diversity, *SECONDARY[kind])
    held = {t: {name: at_best(t, name) for name in wanted} for t in plan.thinkers}
    compared = frontier.compare(curves, held, plan.thinkers[0], choice["levels"], axes, kind, rng, resamples)
    return {
        "axes": dataclasses.asdict(axes),
        "prompts": {"development": len(_ids(plan.development, kind)), "held out": len(items)},
        **choice,
        "held_out": {t: _points(c, chosen[t]) for t, c in curves.items()},
        "bands": {t: dataclasses.asdict(frontier.band(c, rng)) for t, c in curves.items()},
        "comparisons": [dataclasses.asdict(c) for c in compared],
        "rates": {t: _rates(plan, scores, t, chosen[t], items) for t in plan.thinkers},
        "distinct_k": _sensitivity(plan, scores, best, items) if kind == "open" else {},
        "by_item": {t: {item: float(v) for item, v in zip(items, held[t][axes.diversity], strict=True)} for t in held},
    }


def _points(curve: Any, settings: Sequence[int]) -> list[dict[str, float]]:
    return [
        {"setting": s, "quality": float(q), "diversity": float(d)}
        for s, q, d in zip(settings, curve.quality.mean(0), curve.diversity.mean(0), strict=True)
    ]


def _rates(
    plan: Plan, scores: _Scores, thinker: str, settings: Sequence[int], items: Sequence[str]
) -> dict[str, float]:
    """Means over every reported cell of a thinker: what would otherwise be lost in silence."""
    cells = [scores.of(Cell(thinker, s, i, k)) for s in settings for i in items for k in range(plan.seeds)]
    return {name: float(np.mean([c[name] for c in cells])) for name in RATES if all(name in c for c in cells)}


def _sensitivity(
    plan: Plan, scores: _Scores, best: Mapping[str, int], items: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean distinct_k of each thinker at its best setting, by threshold."""
    names = [f"distinct_k@{t:g}" for t in sorted({*THRESHOLDS, plan.threshold})]
    return {
        t: {
            name.partition("@")[2]: float(frontier.table(scores, t, [best[t]], items, range(plan.seeds), name).mean())
            for name in names
        }
        for t in plan.thinkers
    }


def _examples(plan: Plan, store: Store, choices: Mapping[Kind, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Held-out prompts drawn by seed, with every thought of each thinker at its best setting and one seed."""
    picked = rng.permutation(len(plan.held_out))[:EXAMPLES]
    out = []
    for index in picked:
        item, seed = plan.held_out[int(index)], int(rng.integers(plan.seeds))
        texts = {}
        for thinker in plan.thinkers:
            made = store.records[Cell(thinker, choices[item.kind]["best"][thinker], item.id, seed).key]["set"]
            texts[thinker] = [t["text"] for t in made["thoughts"]]
        out.append({"item": item.id, "prompt": item.prompt, "seed": seed, "texts": texts})
    return out


def _json(value: Any) -> Any:
    """NaN and infinity, which JSON has not, as null."""
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
