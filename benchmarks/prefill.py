"""Reading prompts: tokens a second, many short prompts one after the other and packed into one pass.

    python benchmarks/prefill.py                    # prompts of 12, 30 and 60 tokens, sixteen of each
    python benchmarks/prefill.py --weights native   # other products (auto, native, fp16, bf16)
    python benchmarks/prefill.py --long 512 2048    # and one long prompt of so many tokens

Both take turns (A B, B A, ...) in one process and count processor time, so that another process beside them does not
count; the ratio is the median over pairs, with the smallest and largest beside it. No two prompts begin alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from thoughtmix.engine.backends.base import KVPath
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.prefill import ChunkedPrefill, advance
from thoughtmix.engine.prefix_cache import PrefixCache
from thoughtmix.models import load_model

CHUNK = 128
"""Tokens a pass, as in the scheduler."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--lengths", type=int, nargs="+", default=[12, 30, 60])
    parser.add_argument("--long", type=int, nargs="*", default=[])
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    path: Any = choose(load_model(asked.model).model, weights=asked.weights)
    print(f"{path.name} path, {path.weights_kind} weights, {CHUNK} tokens a pass")
    print("| tokens a prompt | prompts | one by one, tok/s | packed, tok/s | ratio (min..max) |\n" + "|---" * 5 + "|")
    for length in asked.lengths:
        prompts = [some_tokens(length, number) for number in range(asked.prompts)]
        one, packed = compare(path, prompts, asked.pairs)
        ratios = sorted(b / a for a, b in zip(one, packed, strict=True))
        print(
            f"| {length} | {asked.prompts} | {statistics.median(one):.0f} | {statistics.median(packed):.0f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f}) |",
            flush=True,
        )
    for length in asked.long:
        alone, _ = compare(path, [some_tokens(length, 0)], asked.pairs)
        print(f"| {length} | 1 | {statistics.median(alone):.0f} | | |", flush=True)


def some_tokens(length: int, number: int) -> list[int]:
    return [(11 + 7919 * (number + 1) * (i + 1)) % 40_000 for i in range(length)]


def compare(path: KVPath, prompts: Sequence[list[int]], pairs: int) -> tuple[list[float], list[float]]:
    """Tokens a second of both, pair by pair."""
    tokens = sum(map(len, prompts))
    work: list[Callable[[], None]] = [lambda: one_by_one(path, prompts), lambda: packed(path, prompts)]
    speeds: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            speeds[which].append(rate(work[which], tokens))
    return speeds


def one_by_one(path: KVPath, prompts: Sequence[list[int]]) -> None:
    for prompt in prompts:
        ChunkedPrefill(path, [prompt]).advance(len(prompt))


def packed(path: KVPath, prompts: Sequence[list[int]]) -> None:
    cache = PrefixCache()
    left = [ChunkedPrefill(path, [prompt], cache) for prompt in prompts]
    while left:
        advance(left, CHUNK)
        left = [prefill for prefill in left if not prefill.done]


def rate(work: Callable[[], None], tokens: int) -> float:
    began = time.process_time()
    work()
    return tokens / (time.process_time() - began)


if __name__ == "__main__":
    main()
