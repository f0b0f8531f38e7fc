"""Processor seconds of open answers by a pool beside plain sampling, in turns, one thread: what `auto` may cost.

    OMP_NUM_THREADS=1 python studies/ways/processor.py

Seconds of the processor, so that a busy machine says something, too; the median ratio over the prompts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from thoughtmix import Pipeline

PROMPTS = (
    "Give me an unusual idea for a birthday party.",
    "Write a tweet about learning to swim as an adult.",
    "Tell me a riddle.",
)
WAYS: dict[str, dict[str, Any]] = {
    "sampling": {"thinker": "sampling"},
    "pool": {"thinker": "pool", "keep": "sound", "source": "sampling"},
    "pool, source=plan": {"thinker": "pool", "keep": "sound", "source": "plan"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    args = parser.parse_args()
    pipeline = Pipeline()
    pipeline("Hello", 8, "sampling", max_new_tokens=4)  # loads the model and the embedder
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    for prompt in args.prompts:
        for name, how in WAYS.items():
            began = time.process_time()
            pipeline(prompt, 8, **how)
            spent[name].append(time.process_time() - began)
        print(prompt, {name: round(took[-1], 1) for name, took in spent.items()}, flush=True)
    for name, took in spent.items():
        ratio = statistics.median(a / b for a, b in zip(took, spent["sampling"], strict=True))
        print(f"{name}: {ratio:.2f} times sampling's")


if __name__ == "__main__":
    main()
