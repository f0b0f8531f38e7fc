"""Mixture of Thoughts, ratios in one run: `python benchmarks/mixture.py`

Of the recipe that training takes (`thoughtmix.mixture.RECIPE`), or of another kind by --kind: blind (a route for the
whole thought, drawn without knowing the text, with held noise).

loop      n thoughts of 200 tokens by the engine, beside the loop that the original prototype ran: thought after
          thought, one forward over the whole growing sequence for each token, no cache. The loop here calls our own
          layers, so it is quicker than the prototype's was, which also went row by row.
training  one training step beside the baseline's at equal active parameters, by processor seconds.
answers   the same of a step on four prompts with eight answers each, every answer under all modes: each by itself, and
          side by side behind the prompt that they share (training/modes.py).
growth    seconds of generating over n and over tokens, beside a straight line through them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from thoughtmix.mixture import RECIPE
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.training.answers import AnsweredPrompt, AnswerTask
from thoughtmix.training.language import active_parameters, equal_active
from thoughtmix.training.modes import ModeSearch, chosen_seeds

VOCABULARY = 66
KINDS: Mapping[str, Mapping[str, Any]] = {"recipe": RECIPE, "blind": {}}


def model_of(width: int, layers: int, branches: int, kind: str = "recipe") -> MixtureOfThoughtsTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MixtureOfThoughtsConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32),
            num_branches=branches,
            max_position_embeddings=4096,
            **KINDS[kind],
        )
        return MixtureOfThoughtsTransformer(config).eval()


def engine(model: MixtureOfThoughtsTransformer, prompt: torch.Tensor, n: int, tokens: int) -> float:
    began = time.perf_counter()
    model.generate_parallel_thoughts(prompt, n, tokens, creativity=1.0)
    return time.perf_counter() - began


@torch.no_grad()
def loop(model: MixtureOfThoughtsTransformer, prompt: torch.Tensor, n: int, tokens: int) -> float:
    """What the prototype did, on our layers."""
    random = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    for thought in range(n):
        ids = prompt
        for _ in range(tokens):
            logits = model(ids, creativity=1.0, thought_seeds=[thought]).logits[:, -1]
            ids = torch.cat([ids, torch.multinomial((logits / 0.8).softmax(-1), 1, generator=random)], 1)
    return time.perf_counter() - began


def step_seconds(model: MixtureOfThoughtsTransformer, optimizer: Any, x: torch.Tensor, tried: bool = False) -> float:
    """Processor seconds. tried: with the search for modes of half the windows, as the language task does it."""
    began = time.process_time()
    optimizer.zero_grad()
    seeds = torch.arange(len(x))
    if tried and model.config.modes:
        batch = {"ids": x, "seeds": seeds, "cuts": torch.zeros_like(seeds), "plain": seeds % 2 == 0}
        seeds = chosen_seeds(model, batch, ModeSearch())
    model(x, labels=x, thought_seeds=seeds).loss.backward()
    optimizer.step()
    return time.process_time() - began


def answers(mixture: MixtureOfThoughtsTransformer, pairs: int) -> dict[str, float]:
    """Median ratios, of a step to the baseline's: without a search, each answer by itself, side by side."""
    draw = np.random.default_rng(0)
    prompts = [
        AnsweredPrompt(
            tuple(draw.integers(0, VOCABULARY, 9).tolist()),
            tuple(tuple(draw.integers(0, VOCABULARY, 4).tolist()) for _ in range(24)),
            tuple(1.0 / (1 + np.arange(24))),
        )
        for _ in range(16)
    ]
    task = AnswerTask(prompts, prompts, 8, ModeSearch(candidates=0, lookahead=0, plain=0.25))
    baseline = MixtureOfThoughtsTransformer(equal_active(mixture.config)).train()
    ways = {"baseline": baseline, "no search": mixture, "each by itself": mixture, "side by side": mixture.train()}
    optimizers = {id(m): torch.optim.AdamW(m.parameters(), fused=True) for m in ways.values()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(pairs + 3):
        for name, model in ways.items():
            batch = task.batch(step, range(32), 32)
            if name == "no search":
                batch["plain"][:] = True
            if name == "each by itself":
                del batch["group"]
            began = time.process_time()
            optimizers[id(model)].zero_grad()
            task.loss(model, batch)[0].backward()
            optimizers[id(model)].step()
            times[name].append(time.process_time() - began)
    rows = zip(*(times[name][3:] for name in ways), strict=True)
    ratios = np.median([[t / row[0] for t in row] for row in rows], 0)
    return dict(zip(ways, ratios.tolist(), strict=True))


def training(
    mixture: MixtureOfThoughtsTransformer, batch: int, context: int, pairs: int, tried: bool = False
) -> list[float]:
    """Ratios mixture / baseline of interleaved steps."""
    baseline = MixtureOfThoughtsTransformer(equal_active(mixture.config)).train()
    assert (
        abs(active_parameters(mixture.config) - active_parameters(baseline.config))
        <= 2 * mixture.config.hidden_size * mixture.config.num_hidden_layers
    )
    mixture.train()
    both = [(m, torch.optim.AdamW(m.parameters(), fused=True)) for m in (mixture, baseline)]
    x = torch.randint(0, VOCABULARY, (batch, context), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for m, o in both:
            step_seconds(m, o, x, tried)
    times = [[step_seconds(m, o, x, tried) for m, o in both] for _ in range(pairs)]
    return [a / b for a, b in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--kind", choices=sorted(KINDS), default="recipe")
    parser.add_argument("--parts", default="loop,training,answers,growth", help="which, separated by commas")
    parser.add_argument("--plot", help="also draw the growth here (.svg, .png)")
    a = parser.parse_args()
    print(
        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"width {a.width}, {a.layers} layers, {a.branches} branches, {a.kind}"
    )
    parts = set(a.parts.split(","))
    model = model_of(a.width, a.layers, a.branches, a.kind)
    prompt = torch.arange(16)[None] % VOCABULARY
    engine(model, prompt, 8, 8)
    if "loop" in parts:
        pairs = [(engine(model, prompt, 8, a.tokens), loop(model, prompt, 8, a.tokens)) for _ in range(a.pairs)]
        ratios = [slow / quick for quick, slow in pairs]
        print(
            f"8 thoughts of {a.tokens} tokens: {statistics.median(q for q, _ in pairs):.2f} s, the loop "
            f"{statistics.median(s for _, s in pairs):.1f} s: {statistics.median(ratios):.1f}x "
            f"({min(ratios):.1f}..{max(ratios):.1f})",
            flush=True,
        )
    if "training" in parts:
        for batch, context, tried in [(b, c, t) for b, c in ((12, 64), (32, 64), (8, 256)) for t in (False, True)]:
            mixture = model_of(a.width, a.layers, a.branches, a.kind)
            found = training(mixture, batch, context, 4 * a.pairs, tried)
            words = ", trying modes" if tried and mixture.config.modes else ""
            print(
                f"training step, {batch} windows of {context}{words}: {statistics.median(found):.2f}x the baseline's "
                f"({min(found):.2f}..{max(found):.2f})",
                flush=True,
            )
    if "answers" in parts:
        found_ratios = answers(model_of(a.width, a.layers, a.branches, a.kind), 4 * a.pairs)
        said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found_ratios.items() if name != "baseline")
        print(f"training step, 4 prompts with 8 answers, beside the baseline's: {said}", flush=True)
    if "growth" in parts:
        by_n = [(n, min(engine(model, prompt, n, a.tokens) for _ in range(3))) for n in (1, 8, 16, 32, 48, 64)]
        by_tokens = [(t, min(engine(model, prompt, 8, t) for _ in range(3))) for t in (50, 100, 200, 400, 600, 800)]
        for name, points in (("n", by_n), ("tokens", by_tokens)):
            slope, start, off = line(points)
            print(
                f"seconds by {name}:",
                ", ".join(f"{x}: {y:.2f}" for x, y in points),
                f"(line: {start:.3f} + {slope:.5f} {name}, R^2 {off:.4f})",
            )
        if a.plot:
            draw(by_n, by_tokens, a.plot)


def line(points: list[tuple[int, float]]) -> tuple[float, float, float]:
    """Slope, start and R^2 of the straight line through points."""
    x, y = np.array(points, dtype=float).T
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(start), float(1 - (y - start - slope * x).var() / y.var())


def draw(by_n: list[tuple[int, float]], by_tokens: list[tuple[int, float]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, points, label in zip(figure.subplots(1, 2), (by_n, by_tokens), ("thoughts", "tokens"), strict=True):
        slope, start, _ = line(points)
        ends = np.array([0, points[-1][0]])
        axes.plot(ends, start + slope * ends, color="0.6", linewidth=1)
        axes.plot(*zip(*points, strict=True), "o")
        axes.set(xlabel=label, ylabel="seconds", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
