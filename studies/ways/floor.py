"""What the floor under nearness to the prompt does to `pool`'s sound texts (`asking.drafts.RELEVANCE_FLOOR`).

    python studies/ways/floor.py --prompts novelty_bench_curated.jsonl --out floor.jsonl

Twelve texts of up to 64 tokens are drawn once for each prompt and seed (kept in the file; the same command goes on);
of the same drafts eight are then kept under each floor, or the first eight, as sampling would have them. Told: means
over prompts, seeds averaged, and the paired difference to plain sampling with its 95% interval (BCa over prompts).
Nearness and different ones are by the second embedder, which chose nothing (second.py). The prompts are those of the
file that ask for a sentence or more; half of them, drawn by the bench's split, are to choose a floor by, and the others
say whether it holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import second
from frontier import asks

from thoughtmix import Pipeline
from thoughtmix.asking.drafts import keep_sound
from thoughtmix.bench import statistics as st
from thoughtmix.bench.config import split_items
from thoughtmix.bench.tasks import Item, read_prompts
from thoughtmix.core.files import append_line
from thoughtmix.core.types import Thought
from thoughtmix.metrics.soundness import is_complete

N, DRAFTS, TOKENS = 8, 12, 64
FLOORS = (0.0, 0.1, 0.25, 0.4, 0.5)
NAMES = ("different", "nearness", "clean", "whole")
AS_DRAWN = -1.0
"""In place of a floor: the first eight drafts, which is plain sampling."""
SAME = 0.55
"""Distance of the second embedder below which two answers are the same; other ways count by frontier.py's."""


def drawn(args: argparse.Namespace, pipeline: Pipeline, items: list[Item]) -> dict[str, list[Thought]]:
    """Drafts of every prompt and seed, by "id|seed"."""
    file = Path(args.out)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {row["key"]: row["texts"] for row in map(json.loads, lines)}
    wanted = [(item, seed) for seed in range(args.seeds) for item in items]
    todo = [(item, seed) for item, seed in wanted if f"{item.id}|{seed}" not in done]
    for seed in range(args.seeds):
        own = [item for item, s in todo if s == seed]
        settings = {"seed": 1000 * seed, "temperature": 1.0, "max_new_tokens": TOKENS, "measure": False}
        for made in pipeline.stream([item.prompt for item in own], DRAFTS, **settings):
            key = f"{own[made.run['index']].id}|{seed}"
            done[key] = [[t.text, t.finish] for t in made]
            append_line(file, json.dumps({"key": key, "texts": done[key]}, ensure_ascii=False))
    return {
        key: [Thought(text, (), 0, None, finish) for text, finish in texts if text.strip()]
        for key, texts in done.items()
    }


def kept(drafts: list[Thought], prompt: str, floor: float, pipeline: Pipeline) -> list[Thought]:
    return drafts[:N] if floor == AS_DRAWN else keep_sound(drafts, N, prompt, lambda: pipeline.embedder, floor)[0]


def scores(prompt: str, texts: list[Thought]) -> list[float]:
    got = second.scores(prompt, [t.text for t in texts], N)
    whole = sum(is_complete(t.text, t.finish) for t in texts) / N
    return [got[f"distinct_2@{SAME:g}"], got["relevance_2"], got["clean"], whole]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", required=True, help="JSON Lines with open prompts (NoveltyBench's file)")
    parser.add_argument("--out", required=True, help="file of what was drawn")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--count", type=int, default=24, help="prompts of the file, in its order")
    parser.add_argument("--weights", default="auto", help="how weights are multiplied by: auto, native, fp16 or bf16")
    args = parser.parse_args()
    items = [item for item in read_prompts(args.prompts) if asks(item, "sentence,long")][: args.count]
    pipeline = Pipeline(weights=args.weights)
    drafts = drawn(args, pipeline, items)
    rng = np.random.default_rng(7)
    for part, own in zip(("to choose by", "held out"), split_items(items, 0.5), strict=True):
        at = {
            floor: np.array(
                [
                    np.mean(
                        [
                            scores(item.prompt, kept(drafts[key], item.prompt, floor, pipeline))
                            for key in (f"{item.id}|{seed}" for seed in range(args.seeds))
                        ],
                        axis=0,
                    )
                    for item in own
                ]
            )
            for floor in (*FLOORS, AS_DRAWN)
        }  # floor -> (prompts, NAMES)
        print(f"\n{len(own)} prompts {part}, {args.seeds} seeds\n\n| floor | " + " | ".join(NAMES) + " |")
        print("|---" * (len(NAMES) + 1) + "|")
        for floor, values in at.items():
            cells = []
            for i, _ in enumerate(NAMES):
                said = f"{values[:, i].mean():.3f}"
                if floor != AS_DRAWN:
                    d = st.mean_difference(values[:, i], at[AS_DRAWN][:, i], rng)
                    said += f" ({d.value:+.3f}: {d.low:+.3f} to {d.high:+.3f})"
                cells.append(said)
            print(f"| {'as drawn' if floor == AS_DRAWN else f'{floor:g}'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
