"""A whole bench: trials on development prompts, choice of settings, held-out trials, comparisons, and the record."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from thoughtmix.bench import frontier, record
from thoughtmix.bench import statistics as st
from thoughtmix.bench.config import SEED_STEP, BenchConfig
from thoughtmix.bench.judging import Scorers
from thoughtmix.bench.scoring import AXES, THRESHOLDS, Axes, open_axes, score, secondary
from thoughtmix.bench.systems import get_system
from thoughtmix.bench.tasks import Item, TaskKind
from thoughtmix.bench.trials import Record, RunTrial, Trial, TrialProgress, TrialRequest, TrialStore, run_trials

SCHEMA, SCHEMA_VERSION = "thoughtmix/bench", 1  # the record's keys keep the names of its first version
RATES = (
    *("tokens", "mean_words", "missing", "empty", "duplicate_rate", "unread", "valid", "sound", "complete"),
    *("repetition", "relevance", "parseable", "distinct_words", "judge_ties", "judge_silent"),
)
EXAMPLES = 4


def run_bench(
    config: BenchConfig,
    store: TrialStore,
    *,
    workers: int = 1,
    ray: bool = False,
    on_progress: Callable[[TrialProgress], None] | None = None,
    resamples: int = 9999,
) -> dict[str, Any]:
    """Run the trials that `store` lacks and return the record, as JSON.

    Raises:
        Stopped: on Ctrl-C. Run it again to continue.
    """
    began = time.monotonic()
    run = functools.partial(
        run_trials,
        load_worker=functools.partial(load_worker, config),
        store=store,
        workers=workers,
        ray=ray,
        total=config.trial_count,
        on_progress=on_progress,
    )
    run(config.development_trials())
    scores = TrialScores(config, store)
    choices = {kind: _choose(scores, kind) for kind in config.kinds}
    run(config.held_out_trials({kind: choice["chosen"] for kind, choice in choices.items()}))
    rng = np.random.default_rng([config.seed, 31])
    kinds = {kind: _report(scores, kind, choices[kind], rng, resamples) for kind in config.kinds}
    judges = {r["set"]["run"].get("judge") for r in store.records.values()} - {None}
    out = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": config.to_dict(),
        "environment": record.environment(),
        "model": next(iter(store.records.values()))["set"]["model"],
        "judge": next(iter(judges), None),  # of the open prompts
        "reward": next(
            (r["set"]["run"]["reward"] for r in store.records.values() if "reward" in r["set"]["run"]), None
        ),
        "cells": len(store.records),
        "seconds": {
            "generating": sum(r["seconds"] for r in store.records.values()),
            "this run": round(time.monotonic() - began, 1),
        },
        "kinds": kinds,
        "examples": _examples(config, store, choices, rng),
    }
    return dict(record.finite_json(out))


def load_worker(config: BenchConfig) -> RunTrial:
    """Load the models, once in each process, and return what runs a trial of the configuration."""
    pipeline, items = config.models.pipeline(), config.items
    scorers = Scorers(config.models, pipeline, config.max_new_tokens, config.threshold)

    def run(trial: Trial) -> Record:
        began = time.perf_counter()
        request = TrialRequest(items[trial.item], config.n, SEED_STEP * trial.seed, config.max_new_tokens)
        setting = config.grids[trial.system][trial.setting]
        pipeline.asked_embedder = False
        made = get_system(trial.system).answer(pipeline, request, setting)
        seconds = time.perf_counter() - began
        chose = {"chose_by": ["embedder"]} if pipeline.asked_embedder else {}
        return {**scorers.measured(made, request.item), **chose, "seconds": round(seconds, 3)}

    return run


class TrialScores:
    """Numbers of trials, computed once each. To be made when the trials on development prompts are there."""

    def __init__(self, config: BenchConfig, store: TrialStore) -> None:
        self.config, self.store, self.items = config, store, config.items
        self._kept: dict[str, dict[str, float]] = {}
        self.chose = sorted({key.partition("|")[0] for key, r in store.records.items() if r.get("chose_by")})
        """Systems that asked the run's embedder while they answered."""
        named = config.models.equivalence
        self.equivalence = ("words" if self.chose else "embedder") if named == "auto" else named

    def axes(self, kind: TaskKind) -> Axes:
        """What is counted as quality and diversity. Where a system may have chosen by the embedder, diversity is not
        the embedder's, unless that was asked for."""
        if kind != "open":
            return AXES[kind]
        return open_axes(self.config.models, self.equivalence, bool(self.chose))

    def score(self, trial: Trial) -> dict[str, float]:
        if trial.key not in self._kept:
            record, item, config = self.store.records[trial.key], self.items[trial.item], self.config
            found = score(record, item, config.n, config.threshold, self.equivalence)
            self._kept[trial.key] = found
        return self._kept[trial.key]

    def table(self, system: str, settings: Sequence[int], items: Sequence[str], name: str) -> st.Floats:
        """(items, settings) of one score, seeds averaged: the item is the unit."""

        def mean(item: str, setting: int) -> float:
            trials = (Trial(system, setting, item, seed) for seed in range(self.config.seeds))
            return float(np.mean([self.score(trial)[name] for trial in trials]))

        return np.array([[mean(item, setting) for setting in settings] for item in items])

    def curve(self, system: str, settings: Sequence[int], items: Sequence[str], axes: Axes) -> st.Curve:
        return st.Curve(*(self.table(system, settings, items, name) for name in (axes.quality, axes.diversity)))

    def rates(self, system: str, settings: Sequence[int], items: Sequence[str]) -> dict[str, float]:
        """Means over every reported trial of a system: what would otherwise be lost in silence."""
        seeds = range(self.config.seeds)
        found = [self.score(Trial(system, s, item, k)) for s in settings for item in items for k in seeds]
        return {name: float(np.mean([f[name] for f in found])) for name in RATES if all(name in f for f in found)}


def _ids(items: Sequence[Item], kind: TaskKind) -> list[str]:
    return [item.id for item in items if item.kind == kind]


def _choose(scores: TrialScores, kind: TaskKind) -> dict[str, Any]:
    """What is fixed on development prompts: the settings and best setting of each system, and the quality levels."""
    config, axes = scores.config, scores.axes(kind)
    items = _ids(config.development, kind)
    settings = {s: range(len(config.grids[s])) for s in config.systems}
    curves = {s: scores.curve(s, settings[s], items, axes) for s in config.systems}
    floor = float(np.median(curves[config.systems[0]].quality.mean(0)))
    chosen = {s: frontier.choose_settings(c, config.keep, axes.reference) for s, c in curves.items()}
    return {
        "chosen": chosen,
        "best": {s: frontier.best_setting(c, chosen[s], floor) for s, c in curves.items()},
        "levels": frontier.quality_levels(list(curves.values())),
        "floor": floor,
        "development": {s: _points(c, settings[s]) for s, c in curves.items()},
    }


def _report(
    scores: TrialScores, kind: TaskKind, choice: Mapping[str, Any], rng: np.random.Generator, resamples: int
) -> dict[str, Any]:
    """Everything about one kind of item, from held-out prompts."""
    config, axes = scores.config, scores.axes(kind)
    items, systems = _ids(config.held_out, kind), config.systems
    chosen, best = choice["chosen"], choice["best"]
    curves = {s: scores.curve(s, chosen[s], items, axes) for s in systems}
    wanted = tuple(dict.fromkeys((axes.diversity, *secondary(kind, config.models, config.held_out))))
    at_best = {s: {name: scores.table(s, [best[s]], items, name)[:, 0] for name in wanted} for s in systems}
    compared = compare(curves, at_best, systems[0], choice["levels"], axes, rng, resamples)
    return {
        "axes": dataclasses.asdict(axes),
        **({"equivalence": scores.equivalence, "chose_by_embedder": scores.chose} if kind == "open" else {}),
        "prompts": {"development": len(_ids(config.development, kind)), "held out": len(items)},
        **choice,
        "held_out": {s: _points(c, chosen[s]) for s, c in curves.items()},
        "bands": {s: dataclasses.asdict(frontier.band(c, rng)) for s, c in curves.items()},
        "comparisons": compared,
        "needed": st.least_units(len(compared)),
        "rates": {s: scores.rates(s, chosen[s], items) for s in systems},
        "distinct_k": _distinct_k(scores, best, items) if kind == "open" else {},
        "by_item": {
            s: {item: float(v) for item, v in zip(items, at_best[s][axes.diversity], strict=True)} for s in systems
        },
    }


def compare(
    curves: Mapping[str, st.Curve],
    at_best: Mapping[str, Mapping[str, st.Floats]],
    baseline: str,
    levels: Sequence[float],
    axes: Axes,
    rng: np.random.Generator,
    resamples: int,
) -> list[dict[str, Any]]:
    """Every system against the baseline on held-out prompts of one kind.

    The measures are the hypervolume ratio, diversity at each level of quality, and at the best settings the differences
    of diversity and secondary scores.

    Args:
        curves: by system.
        at_best: by system and score, (items,) values at its best setting.

    Returns:
        Rows of the record. `adjusted` is p after Holm's correction for all of them; None where there are too few items
        for any of them to be below 0.05.
    """
    found: list[tuple[str, str, st.Interval]] = []
    base = curves[baseline]
    for name, own in curves.items():
        if name == baseline:
            continue
        ratio = st.hypervolume_ratio(own, base, axes.reference, rng, resamples=resamples)
        found.append((name, "hypervolume ratio", ratio))
        for level in levels:
            label = f"{axes.diversity} at {axes.quality} {level:.3g}"
            found.append((name, label, st.difference_at(own, base, level, rng, resamples=resamples)))
        for score_name, values in at_best[name].items():
            difference = st.mean_difference(values, at_best[baseline][score_name], rng, resamples=resamples)
            found.append((name, f"{score_name}, best setting", difference))
    adjusted = st.holm([interval.p for _, _, interval in found])
    enough = len(base.quality) >= st.least_units(len(found))
    return [
        {
            "thinker": name,
            "measure": measure,
            "interval": dataclasses.asdict(interval),
            "adjusted": float(p) if enough else None,
        }
        for (name, measure, interval), p in zip(found, adjusted, strict=True)
    ]


def _points(curve: st.Curve, settings: Sequence[int]) -> list[dict[str, float]]:
    return [
        {"setting": s, "quality": float(q), "diversity": float(d)}
        for s, q, d in zip(settings, curve.quality.mean(0), curve.diversity.mean(0), strict=True)
    ]


def _distinct_k(scores: TrialScores, best: Mapping[str, int], items: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean distinct_k of each system at its best setting, by threshold."""
    thresholds = [f"{t:g}" for t in sorted({*THRESHOLDS, scores.config.threshold})]
    return {
        s: {t: float(scores.table(s, [best[s]], items, f"distinct_k@{t}").mean()) for t in thresholds}
        for s in scores.config.systems
    }


def _examples(
    config: BenchConfig, store: TrialStore, choices: Mapping[TaskKind, Any], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Held-out prompts drawn by seed, with every thought of each system at its best setting and one seed."""
    out = []
    for index in rng.permutation(len(config.held_out))[:EXAMPLES]:
        item, seed = config.held_out[int(index)], int(rng.integers(config.seeds))
        texts = {}
        for system in config.systems:
            made = store.records[Trial(system, choices[item.kind]["best"][system], item.id, seed).key]["set"]
            texts[system] = [t["text"] for t in made["thoughts"]]
        out.append({"item": item.id, "prompt": item.prompt, "seed": seed, "texts": texts})
    return out
