"""Decoding steps and reading by each level of the kernels that this processor has, and by torch's products.

    OMP_NUM_THREADS=1 python benchmarks/levels.py                     # 1, 4, 32 and 64 rows behind 32 tokens
    MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/levels.py native  # torch without AVX-512

Tokens a second of processor time, so that other processes count little; one thread, for threads that wait for
each other count as busy. The best of three times ten steps, and of three readings of 512 tokens. Without drawing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from thoughtmix import kernels
from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.fused_kernels import KernelWeights
from thoughtmix.engine.backends.fused_torch import TorchWeights
from thoughtmix.models import load_model

STEPS = 10


def rate(tokens: int, run: Callable[[], Any]) -> float:
    """Of the best of three."""
    took = []
    for _ in range(3):
        before = time.process_time()
        run()
        took.append(time.process_time() - before)
    return tokens / min(took)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help="amx, avx512, avx2, or torch's fp16, bf16, native; all that run")
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 32, 64])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = load_model(asked.model).model
    here = [level for level in kernels.LEVELS if not kernels.why_not(level)]
    print("| by | " + " | ".join(f"{n} rows" for n in asked.rows) + " | reading 512 |")
    print("|---" * (len(asked.rows) + 2) + "|")
    for way in asked.ways or [*here, "fp16", "native"]:
        weights: Any = KernelWeights(model, way) if way in kernels.LEVELS else TorchWeights(model, way)
        found = []
        for n in asked.rows:
            path, tokens = weights.path(), torch.arange(n)
            path.start(Start([[(11 + 7919 * i) % 40_000 for i in range(32)]], [n], 4 * STEPS))
            path.step(tokens)
            found.append(rate(n * STEPS, lambda p=path, t=tokens: [p.step(t) for _ in range(STEPS)]))  # type: ignore[misc]
        path, text = weights.path(), [(3 + 7 * i) % 40_000 for i in range(512)]
        found.append(rate(512, lambda p=path, t=text: p.prefill(t, None)))  # type: ignore[misc]
        print(f"| {way} | " + " | ".join(f"{x:,.0f}" for x in found) + " |", flush=True)


if __name__ == "__main__":
    main()
