"""Are NoveltyBench's own partitions and utilities what our rules give? Row by row, from files that its authors ship.

    python studies/metrics/novelty_bench.py novelty-bench/evaluation/*/nb-curated/scores.jsonl

A line of such a file has `generations` and `partition`, and mostly `generation_scores` and `utility`. Where two answers
are short, the rule for short answers decides alone, and must agree with the partition on every pair that NoveltyBench
compared. Longer pairs were decided by its classifier, which is not asked here: its decisions are read off the partition
and put in its place (as `same` of `novelty_classes`), so that a whole row is reproduced when every short pair of it and
the greedy order are right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtmix.metrics import novelty_classes, same_words, utility_k


def main(files: Annotated[list[Path], typer.Argument(help="scores.jsonl or partitions.jsonl.")]) -> None:
    """Print, a file a line, how many rows, compared short pairs and utilities agree."""
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [check(row) for row in rows if row.get("partition")]
        sums = {name: sum(each[name] for each in found) for name in ("row", "right", "pairs", "utility", "utilities")}
        print(
            f"{file}: partitions {sums['row']} of {len(found)}, pairs of short answers {sums['right']} of"
            f" {sums['pairs']}, utilities {sums['utility']} of {sums['utilities']}"
        )
        for row, each in zip((r for r in rows if r.get("partition")), found, strict=True):
            if not each["row"] or each["right"] < each["pairs"] or each["utility"] < each["utilities"]:
                print(f"  {row.get('id')}: {each} {[g[:30] for g in row['generations']]} {row['partition']}")


def check(row: dict[str, Any]) -> dict[str, int]:
    """What agrees in one row, and out of how much."""
    texts, partition = row["generations"], row["partition"]
    short = same_words(texts)
    first = {c: partition.index(c) for c in set(partition)}
    # Answer j was compared with the first member of every class up to its own.
    compared = [(first[c], j) for j in range(len(texts)) for c in range(partition[j] + 1) if first[c] < j]
    decided = [(i, j, short(i, j)) for i, j in compared]
    known = {(texts[i], texts[j]): partition[i] == partition[j] for i, j, rule in decided if rule is None}
    ours = novelty_classes(texts, same=lambda a, b: known.get((a, b), False))
    out = {
        "row": int(ours == partition),
        "right": sum(rule == (partition[i] == partition[j]) for i, j, rule in decided if rule is not None),
        "pairs": sum(rule is not None for _, _, rule in decided),
        "utility": 0,
        "utilities": int("utility" in row and "partition_scores" in row),
    }
    if out["utilities"]:
        scores = [float(row["partition_scores"][c]) for c in partition]
        out["utility"] = int(abs(utility_k(ours, scores) - row["utility"]) < 1e-9)
    return out


if __name__ == "__main__":
    typer.run(main)
