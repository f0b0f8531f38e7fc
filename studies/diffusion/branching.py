"""Branching with selection beside best-of-N, at the same budget of passes, judged by a model that selected nothing.

    python studies/diffusion/branching.py --data TEXT --out out/branching

Writer, selector and judge learned three disjoint parts of the text, prompts are beginnings of lines of a fourth
(apart.py). Each arm writes one text a prompt and seed. Cost: rows that went through the writer and, where the selector
scores, texts that went through the selector (a smaller model, yet counted alike). An arm is compared with the cheapest
best-of-N that costs as much as it does or more. Unit: the prompt (seeds averaged); intervals: paired BCa bootstrap, p
by Holm's correction over the arms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import part, reader, writer

from thoughtmix.bench.statistics import bootstrap, holm
from thoughtmix.core.files import write_whole
from thoughtmix.diffusion.branching import BranchingConfig, branch
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost
from thoughtmix.diffusion.selection import likelihood_judge
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.training.data import read_text

N = 8
BASES = {"best-of-8": 8, "best-of-9": 9}  # the ninth pays for what the selector reads
ARMS = (*BASES, "one", "best", "diverse", "halving", "smc")


class Counted:
    """A score of texts that counts them."""

    def __init__(self, score: Callable[[Sequence[str]], Any]) -> None:
        self.score, self.texts = score, 0

    def __call__(self, texts: Sequence[str]) -> Any:
        self.texts += len(texts)
        return self.score(texts)


def prompts_of(text: str, count: int, size: int) -> list[str]:
    """The first `size` characters of lines spread over the text."""
    lines = [line for line in text.split("\n") if len(line) > size]
    return [lines[i][:size] for i in np.linspace(0, len(lines) - 1, count).astype(int)]


def run(
    arm: str, dm: DiffusionModel, prompts: list[str], seed: int, a: argparse.Namespace, score: Any
) -> tuple[list[str], float]:
    """(one text a prompt, without it; the writer's row-passes a prompt)."""
    config = DenoisingConfig(make_policy(a.policy), None if make_policy(a.policy).one_per_step else a.steps)
    spent = ForwardCost()
    # halving: 16 rows to 1/4, 8 to 1/2, 4 to the end: 8 all along
    rows = {"one": 1, "halving": 2 * N, **BASES}.get(arm, N)
    seeds = [seed * 1000 + i for i in range(rows)] * len(prompts)
    state = dm.prompt_state([p for p in prompts for _ in range(rows)], a.length, seeds)
    select = {"one": "none", "halving": "best", **dict.fromkeys(BASES, "none")}.get(arm, arm)
    how = BranchingConfig(select, (0.25, 0.5), refill=arm != "halving", score=score, strength=a.strength)
    done = branch(dm, state, how, config, group=rows, cost=spent)
    best = [done.ranked(g)[0] for g in range(len(prompts))]
    return dm.texts(done.state.select_rows(best), prompt=False), spent.row_passes / len(prompts)


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
    texts, passes, read = [], [], []
    for seed in range(a.seeds):
        counted = Counted(score) if callable(score) else score
        made, cost = run(arm, dm, prompts, seed, a, counted)
        texts.append(made)
        passes.append(cost)
        read.append(counted.texts / len(prompts) if isinstance(counted, Counted) else 0.0)
    nll = [[float(judge_nll(p, [t], judge)[0]) for p, t in zip(prompts, made, strict=True)] for made in texts]
    body = {"about": about, "arm": arm, "score": name, "nll": nll, "passes": passes, "read": read, "texts": texts}
    write_whole(path, json.dumps(body, ensure_ascii=False))
    return body


def cost(f: dict[str, Any]) -> float:
    return float(np.mean(f["passes"]) + np.mean(f["read"]))


def beside(arms: dict[str, Any], arm: str) -> str:
    """The cheapest best-of-N that costs at least as much as the arm; else the dearest."""
    bases = sorted((b for b in BASES if b in arms), key=lambda b: cost(arms[b]))
    return next((b for b in bases if cost(arms[b]) >= cost(arms[arm])), bases[-1])


def report(found: list[dict[str, Any]]) -> None:
    print("| score | arm | writer + selector passes | judge NLL | minus (95%) | p (Holm) | distinct trigrams |")
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(f["score"] for f in found):
        arms = {f["arm"]: f for f in found if f["score"] == name}
        gaps: dict[str, Any] = {}
        for i, (arm, f) in enumerate(arms.items()):
            if arm not in BASES:
                gap = np.mean(f["nll"], 0) - np.mean(arms[beside(arms, arm)]["nll"], 0)
                gaps[arm] = bootstrap(lambda w, gap=gap: w @ gap, len(gap), np.random.default_rng([7, i]))
        adjusted = dict(zip(gaps, holm([g.p for g in gaps.values()]), strict=True))
        for arm, f in arms.items():
            g = gaps.get(arm)
            said = " | "
            if g:
                said = f"{beside(arms, arm)}: {g.value:+.3f} ({g.low:+.3f} to {g.high:+.3f}) | {adjusted[arm]:.3g}"
            distinct = np.mean([trigrams(t) for made in f["texts"] for t in made])
            print(
                f"| {name} | {arm} | {np.mean(f['passes']):.0f} + {np.mean(f['read']):.0f} | {np.mean(f['nll']):.3f} | "
                f"{said} | {distinct:.3f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scores", default="selector,fill,path")
    parser.add_argument("--policy", default="random")
    for name, value in (
        ("prompts", 40),
        ("seeds", 2),
        ("steps", 24),
        ("prefix", 16),
        ("length", 112),
        ("writer-steps", 1500),
        ("reader-steps", 500),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--strength", type=float, default=20.0)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    text = read_text(a.data)
    prompts = prompts_of(part(text, "rest"), a.prompts, a.prefix)
    dm, judge = writer(text, a.out, a.writer_steps), reader("judge", text, a.out, a.reader_steps)
    by: dict[str, Callable[..., Any] | str] = {"fill": "fill", "path": "path"}
    by["selector"] = likelihood_judge(reader("selector", text, a.out, a.reader_steps))
    with torch.inference_mode():
        found = []
        for name in a.scores.split(","):
            for arm in ARMS:
                found.append(measured(arm, name, by[name], dm, prompts, judge, a))
                print(f"{name} {arm}: judge NLL {np.mean(found[-1]['nll']):.3f}", flush=True)
    report(found)


if __name__ == "__main__":
    main()
