"""Bits a character of diffusion models and their autoregressive twin, at equal parameters and equal steps.

    python studies/diffusion/bounds.py --data TEXT --out out/bounds --steps 500 --seeds 3

Kinds: ours (exact bound), uniform (ours, unweighted loss), toy (benchmarks/peers/tiny_diffusion.py: time input,
unweighted loss, fixed batches in fixed order), twin (the repository's autoregressive baseline). One trainer, optimizer,
batch size and number of steps for all; one evaluator for the three diffusion models (exactly k masked, stratified, the
same masks), on windows of the last tenth. Each run is one file in --out, so a second call goes on where the first
stopped; the table is printed at the end. Interval: of the mean over seeds and windows (hierarchical bootstrap).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))
from tiny_diffusion import TinyDiffusion, TinyTask

from thoughtmix.diffusion.objective import evaluate_bound, split_windows
from thoughtmix.diffusion.train import DiffusionObjective, DiffusionTask, diffusion_tokenizer, new_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import read_text, split
from thoughtmix.training.language import Shape, build_model, drawn_from, encode
from thoughtmix.training.task import LanguageTask
from thoughtmix.training.trainer import Trainer

KINDS = ("ours", "ours-time", "uniform", "toy", "twin")


def train(kind: str, seed: int, a: argparse.Namespace) -> dict[str, Any]:
    """Train one model; bits a character of each validation window, given its first 1 and first 16 characters."""
    splits = split(read_text(a.data))
    shape = Shape(a.layers, a.width, a.heads, a.context)
    tokenizer = diffusion_tokenizer(splits, shape)
    tokens, validation = encode(tokenizer, splits.train), encode(tokenizer, splits.validation)
    mask_id = tokenizer.mask_token_id
    config = TrainConfig(
        steps=a.steps,
        batch_size=a.batch_size,
        learning_rate=a.learning_rate,
        ema=a.ema,
        evaluate_every=10**9,
        save_every=10**9,
        precision=a.precision,
        seed=seed,
    )
    model: Any
    task: Any
    if kind == "twin":
        model = build_model("baseline", tokenizer, shape, seed)
        task = LanguageTask(tokens, validation, a.context, seed, windows=8)
    elif kind == "toy":
        with drawn_from(seed):
            model = TinyDiffusion(len(tokenizer), mask_id, a.width, a.layers, a.heads)
        task = TinyTask(tokens, a.context, a.batch_size, mask_id, lambda _: {"val_loss": 0.0}, seed)
    else:
        how = DiffusionObjective(
            weighting="uniform" if kind == "uniform" else "bound", masking="time" if kind == "ours-time" else "count"
        )
        model = new_model(tokenizer, shape, seed)
        task = DiffusionTask(tokens, validation, a.context, mask_id, how, seed, int(encode(tokenizer, "\n")[0]), 8)
    clock = time.process_time()
    Trainer(model, task, config).run()
    seconds = time.process_time() - clock
    model.eval()
    windows = split_windows(validation, a.context, a.windows)
    found = {1: _twin(model, windows, 1), 16: _twin(model, windows, 16)} if kind == "twin" else {}
    for prefix in (1, 16) if kind != "twin" else ():
        found[prefix] = evaluate_bound(model, windows, mask_id, draws=a.draws, prefix=prefix, estimator="count").windows
    bits = {str(prefix): (w / math.log(2)).tolist() for prefix, w in found.items()}
    return {
        "kind": kind,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
        "bits": bits,
    }


@torch.no_grad()
def _twin(model: Any, windows: torch.Tensor, prefix: int) -> np.ndarray[Any, Any]:
    """Nats a character of each window, from the `prefix`-th on, given all before it."""
    out = []
    for ids in windows.split(64):
        logits = model(ids[:, :-1], thought_seeds=list(range(len(ids)))).logits.float()
        nll = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        out.append(nll[:, prefix - 1 :].mean(1))
    return torch.cat(out).numpy()


def interval(rows: np.ndarray[Any, Any], draws: int = 4000) -> tuple[float, float, float]:
    """Mean of (seeds, windows) and its 95% interval, seeds and windows both drawn anew."""
    r = np.random.default_rng(0)
    s, w = rows.shape
    means = [rows[np.ix_(r.integers(0, s, s), r.integers(0, w, w))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(rows.mean()), float(low), float(high)


def report(found: list[dict[str, Any]]) -> None:
    print("| model | parameters | CPU s | bits/char given 1 (95%) | given 16 (95%) |\n|---|---|---|---|---|")
    base = None
    for kind in KINDS:
        runs = sorted((f for f in found if f["kind"] == kind), key=lambda f: f["seed"])
        if not runs:
            continue
        rows = {p: np.array([f["bits"][p] for f in runs]) for p in ("1", "16")}
        cells = [f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in (interval(rows[p]) for p in rows)]
        seconds = np.mean([f["cpu_seconds"] for f in runs])
        print(f"| {kind} | {runs[0]['parameters']:,} | {seconds:.0f} | {' | '.join(cells)} |")
        if kind == "ours":
            base = rows
        elif base is not None and all(base[p].shape == rows[p].shape for p in rows):
            gaps = (interval(rows[p] - base[p]) for p in rows)
            print("| minus ours | | | " + " | ".join(f"{m:+.3f} ({lo:+.3f} to {hi:+.3f})" for m, lo, hi in gaps) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    for name, value in (
        ("seeds", 3),
        ("steps", 500),
        ("batch-size", 16),
        ("context", 128),
        ("layers", 4),
        ("width", 128),
        ("heads", 2),
        ("windows", 300),
        ("draws", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.98)
    parser.add_argument("--precision", default="auto")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for seed in range(a.seeds):
        for kind in a.kinds.split(","):
            path = a.out / f"{kind}-{seed}.json"
            if not path.exists():
                body = json.dumps(train(kind, seed, a))
                part = path.with_suffix(".part")
                part.write_text(body)
                part.replace(path)
                print(path.name, file=sys.stderr, flush=True)
    report([json.loads(p.read_text()) for p in sorted(a.out.glob("*.json"))])


if __name__ == "__main__":
    main()
