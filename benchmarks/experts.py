"""What control of the routing costs a decoding step, as ratios within one run:

    python benchmarks/experts.py [--rounds 40] [--hidden 512]

A Mixtral-class model with random weights steps 8 rows with a cache. In each round the plain model, one with an idle
controller attached, one that is forced, one under noise and one that is read take turns in a random order, so that a
drift of the machine meets all; quoted are the medians over rounds of time / time of the plain model in the same round,
with a 95% bootstrap interval, and the same of the plain model against itself, which shows what the machine allows.
Forced rows run other experts than the router's, which costs more or less by itself: the forced model is compared with
one whose routers return those experts by their own code.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM

from thoughtmix.experts import ExpertActivationExtractor, ExpertController

ROWS, PROMPT, STEPS = 8, 32, 6
BUILT_IN, FORCED = "those experts, built in", "forced, two a row / built in"


class Fixed(torch.nn.Module):
    """A router that does its work and then names other experts: what forcing would cost if it were built in."""

    def __init__(self, gate: torch.nn.Module, index: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.gate, self.index, self.weight = gate, index, weight

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, _, _ = self.gate(hidden)
        steps = len(hidden) // ROWS
        return logits, self.weight.repeat_interleave(steps, 0), self.index.repeat_interleave(steps, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=8192, hidden_size=args.hidden, intermediate_size=2 * args.hidden, num_hidden_layers=args.layers,
            num_attention_heads=8, num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2,
        )
    ).eval()  # fmt: skip
    ids = torch.randint(0, 8192, (ROWS, PROMPT))
    index = torch.stack([torch.arange(ROWS) % 8, (torch.arange(ROWS) + 1) % 8], 1)
    weight = torch.tensor([[0.6, 0.4]]).expand(ROWS, 2)
    built_in = copy.deepcopy(model)
    for layer in built_in.model.layers:
        layer.mlp.gate = Fixed(layer.mlp.gate, index, weight)

    def forced() -> ExpertController:
        controller = ExpertController(model, rows=ROWS)
        for row in range(ROWS):
            controller.force(index[row].tolist(), weight[row].tolist(), rows=[row])
        return controller

    kinds: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain": nullcontext,
        "plain again": nullcontext,
        "idle controller": lambda: ExpertController(model),
        BUILT_IN: nullcontext,
        FORCED: forced,
        "noise": lambda: ExpertController(model).perturb(1.0, range(ROWS)),
        "read, routing": lambda: ExpertActivationExtractor(model, outputs=""),
        "read, outputs": lambda: ExpertActivationExtractor(model),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for turn in range(args.rounds + 2):
            for name in rng.permutation(list(kinds)):
                with kinds[name]():
                    cache, run = DynamicCache(), built_in if name == BUILT_IN else model
                    run(ids, past_key_values=cache)
                    began = time.perf_counter()
                    for step in range(STEPS):
                        run(ids[:, step : step + 1], past_key_values=cache)
                    if turn >= 2:  # the first are warm-up
                        times[name].append((time.perf_counter() - began) / STEPS)
    plain = np.array(times["plain"])
    print(f"{ROWS} rows, {args.layers} layers of width {args.hidden}, {torch.get_num_threads()} threads, ", end="")
    print(f"plain step {np.median(plain) * 1e3:.1f} ms, {args.rounds} rounds")
    print("| | time / plain | 95% |\n|---|---|---|")
    for name, values in times.items():
        ratio = np.array(values) / (np.array(times[BUILT_IN]) if name == FORCED else plain)
        draws = np.median(ratio[rng.integers(len(ratio), size=(2000, len(ratio)))], axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        print(f"| {name} | {np.median(ratio):.3f} | {low:.3f}..{high:.3f} |")


if __name__ == "__main__":
    main()
