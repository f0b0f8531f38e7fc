"""Variants of the mixture's recipe beside it, seed by seed: validation losses, branches, texts.

    python studies/mixture/recipes.py --data tiny-shakespeare --out out/recipes --variants "diversity loss" --seeds 3

Trained as `thoughtmix experiment` trains its contenders (same text, sizes, batches and steps). A variant is the recipe
with the fields of an ablation (bench/experiment_models.py), or "glimpse N": modes are searched for by N tokens of a
continuation. Each training has its folder in --out, so a second call goes on where the first stopped. Losses, nats a
token: over modes, drawn, deterministic. cosine: of two branches' outputs in the last tenth of training. Vendi: of 8
thoughts of 100 characters a prompt at temperature 0 and creativity 1, 2, on the experiment's held-out prompts; no
judge, so not at equal quality. Interval: Student's, over paired seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from thoughtmix.bench.experiment_models import ABLATIONS, ExperimentConfig, ExperimentModels
from thoughtmix.core.files import write_whole
from thoughtmix.metrics import vendi
from thoughtmix.mixture import RECIPE
from thoughtmix.training.modes import ModeSearch

LOSSES = {"over modes": "val_loss_marginal", "drawn": "val_loss", "deterministic": "val_loss_0"}


def measure(name: str, seed: int, config: ExperimentConfig, folder: Path) -> dict[str, float]:
    """One training (or what is left of it) and its figures, kept in its folder."""
    path = folder / "models" / f"mixture-{seed}" / "figures.json"
    if path.exists():
        found: dict[str, float] = json.loads(path.read_text())
        return found
    kind, _, tokens = name.partition(" ")
    search = ModeSearch(lookahead=int(tokens)) if kind == "glimpse" else ModeSearch()
    fields = {} if kind == "glimpse" else ABLATIONS.get(name, {})
    own = dataclasses.replace(config, mixture={**RECIPE, **fields}, search=search)
    models = ExperimentModels(own, folder, lambda *_: None)
    models.train(f"mixture-{seed}", name)
    facts = models.facts[f"mixture-{seed}"]
    print(f"{name}, seed {seed}: {facts['seconds']} s", file=sys.stderr, flush=True)
    figures = {label: facts.get(key, facts["val_loss"]) for label, key in LOSSES.items()}
    late = [e["diversity"] for e in facts["log"] if e["step"] > 0.9 * models.steps]
    figures["cosine"] = float(np.mean(late))
    for creativity in (1.0, 2.0):
        setting = {"creativity": creativity, "temperature": 0.0}
        _, vectors = models.generate(f"mixture-{seed}", setting, models.held_out, 1 + seed)
        figures[f"Vendi at {creativity:g}"] = float(np.mean([vendi(v) for v in vectors]))
    write_whole(path, json.dumps(figures))
    return figures


def interval(x: np.ndarray[Any, Any]) -> str:
    if len(x) < 2:
        return f"{x.mean():+.4f}"
    half = float(student_t.ppf(0.975, len(x) - 1)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return f"{x.mean():+.4f} ({x.mean() - half:+.4f} to {x.mean() + half:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tiny-shakespeare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="diversity loss", help=f"with commas between: {', '.join(ABLATIONS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    a = parser.parse_args()
    config = ExperimentConfig(a.data, steps=a.steps, seeds=a.seeds)
    names = ["recipe", *a.variants.split(",")]
    unknown = [n for n in names[1:] if n not in ABLATIONS and not n.startswith("glimpse ")]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(a.seeds):
        for name in names:
            found[name].append(measure(name, seed, config, a.out / name.replace(" ", "-")))
    measures = list(found["recipe"][0])
    table = {name: np.array([[run[m] for m in measures] for run in runs]) for name, runs in found.items()}
    for i, measured in enumerate(measures):
        own = table["recipe"][:, i]
        print(f"{measured}: recipe {' '.join(f'{x:.4f}' for x in own)}, mean {own.mean():.4f}")
        for name in names[1:]:
            x = table[name][:, i]
            print(f"  {name} {' '.join(f'{y:.4f}' for y in x)}, minus the recipe's {interval(x - own)}")


if __name__ == "__main__":
    main()
