"""Branching with selection beside best-of-N, at the same budget of row-passes, judged by a model that selected nothing.

    python studies/diffusion/branching.py --data TEXT --out out/branching --judge FOLDER --selector FOLDER

The text is cut in three: writer (masked diffusion, trained here unless --writer names another) and selector
(autoregressive) learned the first 60%, the judge (autoregressive, another seed) the next 30%; prompts are beginnings
of lines of the last 10%. Selector and judge are `models/baseline-0` and `models/judge` of a folder that
`thoughtmix experiment --data TEXT --out FOLDER` wrote: it cuts the text the same way. Each arm writes one text a prompt
and seed. Unit: the prompt (seeds averaged); intervals: paired BCa bootstrap, p by Holm's correction over the arms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtmix.bench.statistics import bootstrap, holm
from thoughtmix.diffusion.branching import Branching, branch
from thoughtmix.diffusion.load import DiffusionModel, load_diffusion
from thoughtmix.diffusion.policies import policy
from thoughtmix.diffusion.sampler import Meter, Plan
from thoughtmix.diffusion.scores import likelihood
from thoughtmix.diffusion.search import Search, search
from thoughtmix.diffusion.train import train_diffusion
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.models import load_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import read_text, split
from thoughtmix.training.language import Shape

N = 8
ARMS = ("one", "best-of-n", "best", "diverse", "halving", "smc", "search")


def writer(a: argparse.Namespace, splits: Any) -> DiffusionModel:
    """The named one, or a small one trained here once."""
    place = a.out / "writer"
    if a.writer is None and not (place / "config.json").exists():
        config = TrainConfig(
            steps=a.train_steps, batch_size=16, learning_rate=3e-3, ema=0.99, evaluate_every=250, save_every=250
        )
        train_diffusion(splits, Shape(3, 96, 4, 96), config, place, resume=(place / "training" / "state.pt").exists())
    return load_diffusion(a.writer or str(place))


def prompts_of(text: str, count: int, size: int) -> list[str]:
    """The first `size` characters of lines spread over the text."""
    lines = [line for line in text.split("\n") if len(line) > size]
    return [lines[i][:size] for i in np.linspace(0, len(lines) - 1, count).astype(int)]


def run(
    arm: str, dm: DiffusionModel, prompts: list[str], seed: int, a: argparse.Namespace, score: Any
) -> tuple[list[str], float]:
    """(one text a prompt, without it; row-passes a prompt)."""
    plan = Plan(policy(a.policy), None if policy(a.policy).one else a.steps)
    meter = Meter()
    if arm == "search":
        canvas = dm.canvas(prompts, a.length, [seed * N + 10_000] * len(prompts))
        how = Search((0.125, 0.25, 0.5), children=3, expansions=a.expansions, branches=4, score=score)
        found = search(dm, canvas, how, plan, meter)
        return dm.texts(found.canvas.pick(found.best()), prompt=False), meter.row_passes / len(prompts)
    rows = {"one": 1, "halving": 2 * N}.get(arm, N)  # halving: 16 rows to 1/4, 8 to 1/2, 4 to the end: 8 all along
    seeds = [seed * 1000 + i for i in range(rows)] * len(prompts)
    canvas = dm.canvas([p for p in prompts for _ in range(rows)], a.length, seeds)
    select = {"one": "none", "best-of-n": "none", "halving": "best"}.get(arm, arm)
    how = Branching(select, (0.25, 0.5), refill=arm != "halving", score=score, strength=a.strength)
    done = branch(dm, canvas, how, plan, group=rows, meter=meter)
    best = [done.ranked(g)[0] for g in range(len(prompts))]
    return dm.texts(done.canvas.pick(best), prompt=False), meter.row_passes / len(prompts)


def trigrams(text: str) -> float:
    """Share of distinct ones: a text that repeats itself pleases a judge."""
    found = [text[i : i + 3] for i in range(len(text) - 2)]
    return len(set(found)) / len(found)


def measured(
    arm: str, name: str, score: Any, dm: DiffusionModel, prompts: list[str], judge: Any, a: argparse.Namespace
) -> dict[str, Any]:
    """One arm over all prompts and seeds, from --out when it is there already."""
    path = a.out / f"{name}-{arm}.json"
    about = {k: str(v) for k, v in vars(a).items()}
    if path.exists() and (body := json.loads(path.read_text()))["about"] == about:
        return dict(body)
    texts, passes = [], []
    for seed in range(a.seeds):
        made, cost = run(arm, dm, prompts, seed, a, score)
        texts.append(made)
        passes.append(cost)
    nll = [[float(judge_nll(p, [t], judge)[0]) for p, t in zip(prompts, made, strict=True)] for made in texts]
    body = {"about": about, "arm": arm, "score": name, "nll": nll, "passes": passes, "texts": texts}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(body, ensure_ascii=False))
    part.replace(path)
    return body


def report(found: list[dict[str, Any]]) -> None:
    print("| score | arm | row-passes | judge NLL | minus best-of-n (95%) | p (Holm) | distinct trigrams |")
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(f["score"] for f in found):
        arms = {f["arm"]: f for f in found if f["score"] == name}
        base = np.mean(arms["best-of-n"]["nll"], 0)
        gaps: dict[str, Any] = {}
        for i, (arm, f) in enumerate(arms.items()):
            if arm != "best-of-n":
                gap = np.mean(f["nll"], 0) - base
                gaps[arm] = bootstrap(lambda w, gap=gap: w @ gap, len(gap), np.random.default_rng([7, i]))
        adjusted = dict(zip(gaps, holm([g.p for g in gaps.values()]), strict=True))
        for arm, f in arms.items():
            g = gaps.get(arm)
            said = f"{g.value:+.3f} ({g.low:+.3f} to {g.high:+.3f}) | {adjusted[arm]:.3g}" if g else " | "
            distinct = np.mean([trigrams(t) for made in f["texts"] for t in made])
            print(
                f"| {name} | {arm} | {np.mean(f['passes']):.0f} | {np.mean(f['nll']):.3f} | {said} | {distinct:.3f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--selector", required=True)
    parser.add_argument("--writer")
    parser.add_argument("--scores", default="selector,fill,path")
    parser.add_argument("--policy", default="random")
    for name, value in (("prompts", 40), ("seeds", 2), ("steps", 24), ("prefix", 16), ("length", 48),
                        ("expansions", 10), ("train-steps", 2200)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--strength", type=float, default=20.0)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    splits = split(read_text(a.data), validation=0.1, held_out=0.3)
    prompts = prompts_of(splits.validation, a.prompts, a.prefix)
    dm, judge = writer(a, splits), load_model(a.judge, dtype="float32")
    by: dict[str, Callable[..., Any] | str] = {"fill": "fill", "path": "path"}
    by["selector"] = likelihood(load_model(a.selector, dtype="float32"))
    with torch.inference_mode():
        found = []
        for name in a.scores.split(","):
            for arm in ARMS:
                found.append(measured(arm, name, by[name], dm, prompts, judge, a))
                print(f"{name} {arm}: judge NLL {np.mean(found[-1]['nll']):.3f}", flush=True)
    report(found)


if __name__ == "__main__":
    main()
