"""A grafted model beside its base model, through the same engine: `python benchmarks/graft.py`

steps     time per token of n thoughts on one prompt, mixture on a graft against sampling on the base model.
reading   the same with the prompt re-read by each thought (read=each), base and graft alike, and its prefill.

The two alternate, as many tokens each, and the ratio is taken pair by pair: median, and the middle half of the pairs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from peft import get_peft_model

from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.graft import MoTConfig, graft_of
from thoughtmix.models import load_model, wrap_model

PROMPT = "Give me an unusual idea for a birthday party, and say why people would like it."


def grafted(lm: Any, config: MoTConfig) -> Any:
    """Branches that do something, in a model that shares the base's weights."""
    memo = {id(p): p for p in lm.model.parameters()}
    made = get_peft_model(copy.deepcopy(lm.model, memo), config)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".mot_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.02)
    return wrap_model(made.eval().requires_grad_(False), lm.tokenizer)


def seconds(lm: Any, n: int, tokens: int, read: Any, graft: Any, weights: Any) -> tuple[float, float, str]:
    """(a step, the prefill, the path)"""
    ids, sampling = tuple(lm.encode(PROMPT)), SamplingParams(temperature=0.7, min_p=0.1)
    rows = [SequenceRequest(ids, i, sampling, tokens, end_ids=frozenset()) for i in range(n)]
    row_state = NO_ROW_STATE if graft is None else graft.row_state(range(n), [1.0] * n, lm.device)
    done = LocalEngine(lm, weights=weights).generate(rows, row_state=row_state, read=read)
    return (done.seconds - done.prefill_seconds) / (tokens - 1), done.prefill_seconds, done.path


def compare(base: Any, other: Any, n: int, tokens: int, pairs: int, read: Any, weights: Any) -> None:
    graft = graft_of(other.model)
    for lm, g in ((base, None), (other, graft)):
        seconds(lm, n, 3, read, g, weights)  # packs and probes
    found = []
    for pair in range(pairs):
        sides = [(base, None), (other, graft)]
        for lm, g in sides if pair % 2 == 0 else sides[::-1]:
            found.append((g is not None, *seconds(lm, n, tokens, read, g, weights)))
    plain, moved = ([f for f in found if f[0] is side] for side in (False, True))
    ratios = sorted(b[1] / a[1] for a, b in zip(plain, moved, strict=True))
    prefill = statistics.median(b[2] / a[2] for a, b in zip(plain, moved, strict=True))
    q = statistics.quantiles(ratios, n=4) if len(ratios) > 2 else [ratios[0], ratios[0], ratios[-1]]
    print(
        f"n={n:2d} read={read:6s} {moved[0][3]:8s} base {1e3 * statistics.median(p[1] for p in plain):6.1f} ms a step, "
        f"graft {1e3 * statistics.median(p[1] for p in moved):6.1f}, ratio {statistics.median(ratios):.3f} "
        f"({q[0]:.3f} to {q[2]:.3f}), prefill ratio {prefill:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--read", nargs="+", default=["shared", "each"])
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weights", default="auto")
    given = parser.parse_args()
    began = time.perf_counter()
    base = load_model(given.model, dtype=given.dtype)
    other = grafted(base, MoTConfig(num_branches=given.branches, r=given.rank))
    added = sum(p.numel() for n, p in other.model.named_parameters() if ".mot_" in n)
    print(
        f"{given.branches} branches of rank {given.rank}: {added / base.model.num_parameters():.2%} parameters; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for read in given.read:
        for n in given.rows:
            compare(base, other, n, given.tokens, given.pairs, read, given.weights)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
