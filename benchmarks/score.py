"""How long scoring takes without model passes: 1,000 prompts x 32 thoughts, on one core.

    OMP_NUM_THREADS=1 python benchmarks/score.py [--prompts 1000] [--n 32] [--words 40]

Texts are drawn from a Zipf vocabulary, embeddings at random around a prompt's centre; both are made before the clock
starts, as are the imports. Timed: every metric of `measure` but the judge, and parsing of the answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from thoughtmix import metrics as m
from thoughtmix.bench.tasks import answer_parser, coverage_tasks


def texts_of(rng: np.random.Generator, n: int, words: int, answers: Sequence[str]) -> list[str]:
    """n texts that begin with an answer and go on with about `words` words of a small, skewed vocabulary."""
    vocabulary = np.minimum(rng.zipf(1.3, (n, words)), 20_000)
    ends = rng.integers(words // 2, words + 1, n)
    return [
        f"The answer is {answers[int(rng.integers(len(answers)))]}, because "
        + " ".join(f"w{w}" for w in row[:end])
        + "."
        for row, end in zip(vocabulary, ends, strict=True)
    ]


def score(texts: list[str], vectors: Any, prompt: Any, parse: Any) -> dict[str, float]:
    """What `measure` computes from texts and embeddings, and the coverage of the answers."""
    distances = m.pairwise_distances(vectors)
    right = [a.answer for a in map(parse, texts) if a.valid]
    return {
        **{f"distinct_{k}": m.distinct_n(texts, k) for k in (1, 2, 3)},
        "ead": m.ead(texts),
        "self_bleu": m.self_bleu(texts),
        "duplicate_rate": m.duplicate_rate(texts),
        "mean_words": m.mean_words(texts),
        "vendi": m.vendi(vectors),
        "mean_distance": m.mean_distance(vectors),
        "distinct_k": m.distinct_k(texts, distances),
        "relevance": float(m.relevance(vectors, prompt).mean()),
        "coverage": len(set(right)) / len(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--width", type=int, default=384)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tasks = coverage_tasks()
    jobs = []
    for i in range(args.prompts):
        centre = rng.normal(size=args.width)
        vectors = centre + rng.normal(size=(args.n, args.width))
        texts = texts_of(rng, args.n, args.words, ["Kenya", "Peru", "seven"])
        jobs.append((texts, vectors, centre, answer_parser(tasks[i % len(tasks)])))
    score(*jobs[0])
    began = time.process_time()
    wall = time.perf_counter()
    for job in jobs:
        score(*job)
    print(
        f"{args.prompts} prompts x {args.n} thoughts of about {args.words} words: {time.process_time() - began:.1f} s "
        f"of processor time, {time.perf_counter() - wall:.1f} s on the clock"
    )


if __name__ == "__main__":
    main()
