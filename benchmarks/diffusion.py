"""Text diffusion, ratios in one run: `python benchmarks/diffusion.py [--model shakespeare-diffusion]`

branches  n branches of one prompt in one batch, beside n runs one after the other: same settings, same tokens.
sampler   tokens a second beside the toy's own samplers (benchmarks/peers/tiny_diffusion.py: argmax, Python loops over
          elements) on the same model at the same number of steps; and at its confidence of 0.9.

Medians of interleaved rounds, with the range of the ratio. Runs of other processes do harm: use a quiet machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from tiny_diffusion import sample_confident, sample_topk

from thoughtmix.diffusion.load import DiffusionModel, load_diffusion, wrap_diffusion
from thoughtmix.diffusion.policies import make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise


def model_of(name: str) -> DiffusionModel:
    """By name, or random: `6x192` is 6 layers of width 192 (speed does not look at weights)."""
    if not name.replace("x", "", 1).isdigit():
        return load_diffusion(name)
    from thoughtmix.diffusion.train import diffusion_tokenizer, new_model
    from thoughtmix.training.data import split
    from thoughtmix.training.language import Shape

    layers, width = map(int, name.split("x"))
    splits = split("".join(map(chr, range(32, 96))) * 20)
    tokenizer = diffusion_tokenizer(splits, Shape())
    return wrap_diffusion(
        new_model(tokenizer, Shape(layers, width, max(1, width // 64), 256), 0).eval(), tokenizer, name
    )


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def beside(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], tokens: int, rounds: int, peer: str) -> None:
    a, b = [], []
    for _ in range(rounds):
        a.append(seconds(ours))
        b.append(seconds(theirs))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    x, y = tokens / statistics.median(a), tokens / statistics.median(b)
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{name}: {x:.0f} / {y:.0f} tokens/s ({peer}): {statistics.median(ratios):.2f}x {spread}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="shakespeare-diffusion")
    parser.add_argument("--prompt", default="ROMEO:\n")
    for name, value in (("branches", 8), ("length", 256), ("steps", 32), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="branches,sampler")
    a = parser.parse_args()
    model = model_of(a.model)
    net = model.denoiser.model  # type: ignore[attr-defined]
    size = sum(p.numel() for p in net.parameters())
    print(
        f"{model.name}, {size:,} parameters, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}; {a.length} tokens, {a.steps} steps"
    )
    n, config = a.branches, DenoisingConfig(make_policy("confidence", noise=0.5), a.steps)
    denoise(
        model.denoiser, model.prompt_state(a.prompt, a.length, 1), DenoisingConfig(make_policy("random"), 2)
    )  # warm
    if "branches" in a.only:
        texts: list[str] = []

        def batch() -> None:
            texts[:] = model.texts(denoise(model.denoiser, model.prompt_state(a.prompt, a.length, n), config))

        def one_by_one() -> None:
            for seed in range(n):
                denoise(model.denoiser, model.prompt_state(a.prompt, a.length, [seed]), config)

        beside(f"{n} branches in one batch", batch, one_by_one, n * a.length, a.rounds, "one after the other")
        print(f"  different texts: {len(set(texts))} of {n}")
    if "sampler" in a.only:
        mask = int(model.denoiser.mask_id or 0)
        begun = model.prompt_state(a.prompt, a.length, n, temperature=0.0)
        top = DenoisingConfig(make_policy("confidence"), a.steps)
        beside(
            f"top-k, {a.steps} steps",
            lambda: denoise(model.denoiser, begun, top),
            lambda: sample_topk(net, begun.ids, mask, a.steps),
            n * a.length,
            a.rounds,
            "toy",
        )
        cost = ForwardCost()
        sure = DenoisingConfig(make_policy("threshold", threshold=0.9))
        denoise(model.denoiser, begun, sure, cost=cost)
        _, passes = sample_confident(net, begun.ids, mask)
        beside(
            f"confidence 0.9, {cost.calls} and {passes} passes",
            lambda: denoise(model.denoiser, begun, sure),
            lambda: sample_confident(net, begun.ids, mask),
            n * a.length,
            1,
            "toy",
        )


if __name__ == "__main__":
    main()
