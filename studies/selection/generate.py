"""Writes the thought sets that `compare.py` scores: a line of JSON a prompt, so that scoring is repeatable.

    python studies/selection/generate.py PROMPTS.jsonl SETS.jsonl [--prompts 40] [-n 32] [--max-new-tokens 64]

PROMPTS.jsonl has an object with `prompt` a line, such as NoveltyBench's curated prompts. A stopped run goes on where it
was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from thoughtmix import Pipeline


def main(
    prompts: Annotated[Path, typer.Argument(help="Lines of JSON with a prompt each.")],
    sets: Annotated[Path, typer.Argument(help="Where the thought sets go.")],
    count: Annotated[int, typer.Option("--prompts", help="The first so many prompts.")] = 40,
    n: Annotated[int, typer.Option("-n", help="Thoughts a prompt.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(help="Longest thought.")] = 64,
    seed: Annotated[int, typer.Option(help="The first thought's seed.")] = 0,
) -> None:
    """Generate with the default model and the default sampling."""
    asked = [json.loads(line)["prompt"] for line in prompts.read_text(encoding="utf-8").splitlines()[:count]]
    done = len(sets.read_text(encoding="utf-8").splitlines()) if sets.exists() else 0
    pipeline = Pipeline()
    with sets.open("a", encoding="utf-8") as out:
        for i, prompt in enumerate(asked[done:], done):
            made = pipeline(prompt, n, "sampling", seed=seed, max_new_tokens=max_new_tokens)
            out.write(made.to_json(indent=None) + "\n")
            out.flush()
            print(f"{i + 1}/{len(asked)} {made.run['wall_seconds']} s: {prompt[:60]}", flush=True)


if __name__ == "__main__":
    typer.run(main)
