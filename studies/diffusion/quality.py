"""Quality and diversity of diffusion samples over the number of steps, remasking on and off.

    python studies/diffusion/quality.py --data TEXT --out out/branching

Writer and judge learned disjoint parts of the text (apart.py; the same folder as branching.py's), and real text that
neither saw is scored beside. With --model another writer, which may have seen what the judge learned. Generative
perplexity alone can be had by repeating oneself, hence beside it: entropy of letters, distinct 4-grams of letters, and
the share of words that occur in the writer's text. Interval: bootstrap over the texts.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from apart import part, reader, splits_for, writer

from thoughtmix.diffusion.load import load_diffusion
from thoughtmix.diffusion.policies import make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise
from thoughtmix.diffusion.schedules import Remask
from thoughtmix.training.data import read_text, split


@torch.no_grad()
def nats(judge: Any, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Mean negative log-likelihood of a character of each text under the judge."""
    out = []
    for text in texts:
        ids = torch.tensor([judge.encode(text, raw=True)])
        logits = judge.model(ids[:, :-1]).logits.float()
        out.append(float(F.cross_entropy(logits[0], ids[0, 1:])))
    return np.array(out)


def entropy(texts: Sequence[str]) -> float:
    """Bits a character of the letters' frequencies."""
    counts = np.array(list(Counter("".join(texts)).values()), dtype=float)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def distinct(texts: Sequence[str], n: int = 4) -> float:
    grams = [t[i : i + n] for t in texts for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams)


def row(name: str, texts: Sequence[str], judge: Any, known: set[str], passes: float) -> str:
    found = nats(judge, texts)
    boot = np.random.default_rng(0).integers(0, len(found), (4000, len(found)))
    low, high = np.quantile(found[boot].mean(1), [0.025, 0.975])
    words = re.findall(r"[A-Za-z']+", " ".join(texts))
    real = sum(w in known for w in words) / max(1, len(words))
    return (
        f"| {name} | {passes:.0f} | {found.mean():.3f} ({low:.3f} to {high:.3f}) | {entropy(texts):.2f} | "
        f"{distinct(texts):.3f} | {100 * real:.0f}% |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="Another writer; default: one trained apart from the judge.")
    parser.add_argument("--prompt", default="\n")
    parser.add_argument("--steps", default="4,8,16,32,64,128,256")
    for name, value in (("rows", 32), ("length", 256), ("writer-steps", 1500), ("reader-steps", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--eta", type=float, default=0.02)
    parser.add_argument("--show", action="store_true", help="Print a sample of each.")
    a = parser.parse_args()
    text = read_text(a.data)
    judge = reader("judge", text, a.out, a.reader_steps)
    model = load_diffusion(a.model) if a.model else writer(text, a.out, a.writer_steps)
    learned = split(text).train if a.model else splits_for(text, "writer").train
    known, unseen = set(re.findall(r"[A-Za-z']+", learned)), part(text, "rest")
    print("| samples | passes | judge, nats/char (95%) | letter entropy, bits | distinct 4-grams | words known |")
    print("|---|---|---|---|---|---|")
    size = len(unseen) // a.rows
    real = [unseen[i * size : i * size + a.length] for i in range(a.rows)]
    print(row("real, held out", real, judge, known, math.nan), flush=True)

    def sampled(name: str, config: DenoisingConfig) -> None:
        cost = ForwardCost()
        begun = model.prompt_state(a.prompt, a.length, a.rows)
        texts = model.texts(denoise(model.denoiser, begun, config, cost=cost), prompt=False)
        print(row(name, texts, judge, known, cost.row_passes / a.rows), flush=True)
        if a.show:
            print("".join(f"    {line}\n" for line in texts[0].splitlines()), flush=True)

    for steps in map(int, a.steps.split(",")):
        sampled(f"ancestral {steps}", DenoisingConfig(steps=steps))
        sampled(
            f"ancestral {steps}, remasking (cap {a.eta})", DenoisingConfig(steps=steps, remask=Remask("cap", a.eta))
        )
    middle = sorted(map(int, a.steps.split(",")))[-2]
    sampled(f"confidence {middle}", DenoisingConfig(make_policy("confidence"), middle))
    sampled(f"ancestral {middle}, min-p 0.1", DenoisingConfig(steps=middle, min_p=0.1))


if __name__ == "__main__":
    main()
