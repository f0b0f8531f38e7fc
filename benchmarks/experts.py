"""What control of the routing costs a decoding step, as ratios that can see 1%:

    OMP_NUM_THREADS=1 python benchmarks/experts.py [--like olmoe] [--seconds 200] [--comparisons 3]

8 rows step by one token over one cache of 32, on one thread pinned to one core, garbage collection off, by the thread's
own clock, which stops while other programs have the core. Each comparison takes turns plain, controlled, controlled,
plain, a step each, so that a drift meets both alike (a step so is the first after attaching: what is quoted is rather
too much); quoted is the mean of the middle half of the rounds' log ratios with its 95% bootstrap interval. The plain
model beside itself is measured likewise: the run counts when that interval lies within 1%, and exits with 1 otherwise.

Forced rows run other experts than the router's, which costs more or less by itself, so the forced model is compared
with one whose routers return those experts by their own code. Reading is compared with plain.

What control costs hardly grows with the model: it is some microseconds a layer and step. They are measured where they
can be seen, on a narrow model of the same class and many layers, and given as a share of the wide one's layer.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from thoughtmix.experts import ExpertActivationExtractor, ExpertController, find_moe_layers

ROWS, PROMPT = 8, 32
Context = Callable[[], AbstractContextManager[Any]]


def mixtral(hidden: int, layers: int) -> PreTrainedModel:
    """8 experts twice as wide as the model, two a token."""
    config = MixtralConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=8,
        num_experts_per_tok=2,
    )
    return MixtralForCausalLM(config)


def olmoe(hidden: int, layers: int) -> PreTrainedModel:
    """OLMoE-1B-7B's layers at hidden 2048: 64 experts of half the width, eight a token. Its vocabulary is cut as its
    layers are, so that the head weighs here what it weighs there."""
    config = OlmoeConfig(
        vocab_size=max(1024, 50304 * layers // 16),
        hidden_size=hidden,
        intermediate_size=hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_experts=64,
        num_experts_per_tok=8,
        pad_token_id=0,
    )
    return OlmoeForCausalLM(config)


SIZES = {"mixtral": (mixtral, 512, 4), "olmoe": (olmoe, 2048, 2)}
NARROW, MANY = 64, 8


class Fixed(torch.nn.Module):
    """A router that does its work and then names other experts: what forcing would cost if it were built in."""

    def __init__(self, gate: torch.nn.Module, index: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.gate, self.index, self.weight = gate, index, weight

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.gate(hidden)[0], self.weight, self.index


@dataclass(eq=False)
class Bench:
    """A model, its cache, and the comparisons: name -> (context of the base, context of what is compared)."""

    model: PreTrainedModel

    def __post_init__(self) -> None:
        self.model.eval()
        layers = find_moe_layers(self.model)
        self.layers, k, e = len(layers), layers[0].top_k, layers[0].num_experts
        self.index = torch.stack([(torch.arange(k) + row) % e for row in range(ROWS)])
        self.weight = torch.full((ROWS, k), 1 / k)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.model.config.vocab_size, (ROWS, PROMPT + 1), generator=generator)
        self.cache, self.last = DynamicCache(), ids[:, -1:]
        self.model(ids[:, :-1], past_key_values=self.cache)

    def step(self) -> float:
        """Seconds of one step; the cache is as before."""
        began = time.thread_time_ns()
        self.model(self.last, past_key_values=self.cache)
        took = time.thread_time_ns() - began
        self.cache.crop(-1)
        return took / 1e9

    @contextmanager
    def built_in(self) -> Iterator[None]:
        blocks = [x.block for x in find_moe_layers(self.model)]
        gates = [block.gate for block in blocks]
        for block, gate in zip(blocks, gates, strict=True):
            block.gate = Fixed(gate, self.index, self.weight)
        try:
            yield
        finally:
            for block, gate in zip(blocks, gates, strict=True):
                block.gate = gate

    def forced(self, **more: Any) -> ExpertController:
        controller = ExpertController(self.model, rows=ROWS, **more)
        for row in range(ROWS):
            controller.force(self.index[row].tolist(), self.weight[row].tolist(), rows=[row])
        return controller

    @contextmanager
    def followed(self, controller: ExpertController) -> Iterator[None]:
        with controller, controller.using(range(ROWS)):
            yield

    def comparisons(self) -> dict[str, tuple[Context, Context]]:
        idle, forced, scoped = ExpertController(self.model), self.forced(), self.forced(scoped=True)
        return {
            "plain beside itself": (nullcontext, nullcontext),
            "idle controller": (nullcontext, lambda: idle),
            "forced, beside the same built in": (self.built_in, lambda: forced),
            "forced in a thinker, likewise": (self.built_in, lambda: self.followed(scoped)),
            "reading the routing": (nullcontext, lambda: ExpertActivationExtractor(self.model, outputs="")),
            "reading experts' outputs": (nullcontext, lambda: ExpertActivationExtractor(self.model)),
        }

    def run(self, seconds: float, count: int) -> dict[str, NDArray[np.float64]]:
        """{name: (rounds, 2) seconds of a step: base, compared}, of the first `count` comparisons."""
        kinds = dict(list(self.comparisons().items())[:count])
        rng = np.random.default_rng(0)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or len(next(iter(times.values()))) < 10:
            for name in rng.permutation(list(kinds)):
                took = [0.0, 0.0]
                for side in (0, 1, 1, 0):
                    with kinds[name][side]():
                        took[side] += self.step() / 2
                times[name].append((took[0], took[1]))
        return {name: np.array(x[3:]) for name, x in times.items()}  # the first are warm-up


def middle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half, over the last axis."""
    cut = x.shape[-1] // 4
    out: NDArray[np.float64] = np.sort(x, -1)[..., cut : x.shape[-1] - cut].mean(-1)
    return out


def interval(x: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of the middle half, 95% by bootstrap over rounds."""
    rng = np.random.default_rng(1)
    draws = middle(x[rng.integers(len(x), size=(4000, len(x)))])
    return float(middle(x)), *map(float, np.quantile(draws, [0.025, 0.975]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=list(SIZES), default="mixtral")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--comparisons", type=int, default=6, help="so many of the first")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    kind, hidden, layers = SIZES[args.like]
    hidden, layers = args.hidden or hidden, args.layers or layers
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {args.core})
    torch.manual_seed(0)
    with torch.no_grad(), ExitStack() as stack:
        benches = {Bench(kind(NARROW, MANY)): 0.2, Bench(kind(hidden, layers)): 0.8}
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        small, times = (x.run(args.seconds * part, args.comparisons) for x, part in benches.items())
    plain = float(np.median(times["plain beside itself"][:, 0]))
    print(
        f"{args.like}: {ROWS} rows, {layers} layers of width {hidden}, one thread, a plain step {plain * 1e3:.2f} ms, ",
        end="",
    )
    print(f"{len(next(iter(times.values())))} rounds; ", end="")
    print(f"narrow: {MANY} layers of width {NARROW}, {len(next(iter(small.values())))} rounds")
    print("| | time ratio (95%) | microseconds a layer and step (95%) | of a layer here |\n|---|---|---|---|")
    for name, x in times.items():
        ratio, low, high = map(np.exp, interval(np.log(x[:, 1] / x[:, 0])))
        cost, least, most = (v / MANY * 1e6 for v in interval(small[name][:, 1] - small[name][:, 0]))
        share = cost * 1e-6 * layers / plain
        print(f"| {name} | {ratio:.4f} ({low:.4f}-{high:.4f}) | {cost:.1f} ({least:.1f} to {most:.1f}) | {share:.2%} |")
    x = times["plain beside itself"]
    _, low, high = interval(np.log(x[:, 1] / x[:, 0]))
    if max(-low, high) > 0.01:
        print("This run does not count: plain beside itself is not within 1%. Quieten the machine or add --seconds.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
