"""Mixture of Thoughts, ratios in one run: `python benchmarks/mixture.py`

loop      n thoughts of 200 tokens by the engine, beside the loop that the original prototype ran: thought after
          thought, one forward over the whole growing sequence for each token, no cache. The loop here calls our own
          layers, so it is quicker than the prototype's was, which also went row by row.
training  one training step beside the baseline's at equal active parameters.
growth    seconds of generating over n and over tokens.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from typing import Any

import torch

from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.training.language import active_parameters, equal_active

VOCABULARY = 66


def model_of(width: int, layers: int, branches: int) -> MixtureOfThoughtsTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MixtureOfThoughtsConfig(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32), num_branches=branches, max_position_embeddings=4096,
        )  # fmt: skip
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


def step_seconds(model: MixtureOfThoughtsTransformer, optimizer: Any, x: torch.Tensor, seeds: torch.Tensor) -> float:
    began = time.perf_counter()
    optimizer.zero_grad()
    model(x, labels=x, thought_seeds=seeds).loss.backward()
    optimizer.step()
    return time.perf_counter() - began


def training(width: int, layers: int, branches: int, batch: int, context: int, pairs: int) -> list[float]:
    """Ratios mixture / baseline of interleaved steps."""
    mixture = model_of(width, layers, branches).train()
    baseline = MixtureOfThoughtsTransformer(equal_active(mixture.config)).train()
    assert abs(active_parameters(mixture.config) - active_parameters(baseline.config)) <= 2 * width * layers
    both = [(m, torch.optim.AdamW(m.parameters(), fused=True)) for m in (mixture, baseline)]
    x = torch.randint(0, VOCABULARY, (batch, context), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for m, o in both:
            step_seconds(m, o, x, torch.arange(batch))
    times = [[step_seconds(m, o, x, torch.arange(batch)) for m, o in both] for _ in range(pairs)]
    return [a / b for a, b in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plot", help="also draw the growth here (.svg, .png)")
    a = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"width {a.width}, {a.layers} layers, {a.branches} branches")  # fmt: skip
    model = model_of(a.width, a.layers, a.branches)
    prompt = torch.arange(16)[None] % VOCABULARY
    engine(model, prompt, 8, 8)
    pairs = [(engine(model, prompt, 8, a.tokens), loop(model, prompt, 8, a.tokens)) for _ in range(a.pairs)]
    ratios = [slow / quick for quick, slow in pairs]
    print(f"8 thoughts of {a.tokens} tokens: {statistics.median(q for q, _ in pairs):.2f} s, the loop "
          f"{statistics.median(s for _, s in pairs):.1f} s: {statistics.median(ratios):.1f}x "
          f"({min(ratios):.1f}..{max(ratios):.1f})")  # fmt: skip
    for batch, context in ((12, 64), (32, 64), (8, 256)):
        found = training(a.width, a.layers, a.branches, batch, context, 4 * a.pairs)
        print(f"training step, {batch} windows of {context}: {statistics.median(found):.2f}x the baseline's "
              f"({min(found):.2f}..{max(found):.2f})")  # fmt: skip
    by_n = [(n, min(engine(model, prompt, n, a.tokens) for _ in range(2))) for n in (1, 2, 4, 8, 16, 32, 64)]
    by_tokens = [(t, min(engine(model, prompt, 8, t) for _ in range(2))) for t in (50, 100, 200, 400, 800)]
    print("seconds by n:", ", ".join(f"{n}: {s:.2f}" for n, s in by_n))
    print("seconds by tokens:", ", ".join(f"{t}: {s:.2f}" for t, s in by_tokens))
    if a.plot:
        draw(by_n, by_tokens, a.plot)


def draw(by_n: list[tuple[int, float]], by_tokens: list[tuple[int, float]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, points, label in zip(figure.subplots(1, 2), (by_n, by_tokens), ("thoughts", "tokens"), strict=True):
        axes.plot(*zip(*points, strict=True), "o-")
        axes.set(xlabel=label, ylabel="seconds", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
