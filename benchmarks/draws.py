"""A draw for many rows by the C kernels and by torch: `OMP_NUM_THREADS=1 python benchmarks/draws.py [--rows 64]`

Processor time, the least of some turns, of logits like a model's: a few likely tokens and a long tail.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from thoughtmix import kernels
from thoughtmix.engine import sampling
from thoughtmix.engine.sampling_params import SamplingParams

KINDS = {
    "min-p 0.1": SamplingParams(min_p=0.1),
    "no truncation": SamplingParams(),
    "top-p 0.9": SamplingParams(top_p=0.9),
    "top-k 50": SamplingParams(top_k=50),
    "top-nsigma 1": SamplingParams(top_nsigma=1.0),
    "temperature 1.5, top-p 0.95": SamplingParams(1.5, top_p=0.95),
}


def least(work: Callable[[], object], turns: int) -> float:
    """Milliseconds of the processor."""
    seconds = []
    for _ in range(turns):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 1e3 * min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(args.rows, args.vocabulary, generator=random) * 2.2
    logits[:, :50] += 8
    uniform = torch.rand(args.rows, dtype=torch.float64, generator=random)
    print(
        f"{args.rows} rows of {args.vocabulary}, {torch.get_num_threads()} threads, kernels: {kernels.best() or 'none'}"
    )
    for name, params in KINDS.items():
        sampler = sampling.SamplingTensors.of([params] * args.rows)
        blocks = sampling._blocks(logits)
        ours = least(lambda s=sampler: sampling.draw(logits, uniform, s), args.turns)
        torchs = least(lambda s=sampler, b=blocks: sampling._draw_by_torch(b, logits, uniform, s), args.turns)
        print(f"{name:28s} {ours:7.2f} ms, by torch {torchs:7.2f}")


if __name__ == "__main__":
    main()
