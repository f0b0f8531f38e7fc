"""Seconds from typing a command to its end, of each way to think: the times in the README's table.

    OMP_NUM_THREADS=2 python benchmarks/ways.py [--times 2] [--only pool list]

Each is a process of its own, loading included, default model, eight thoughts, its own defaults. The quicker of the
runs is printed: what else runs on the machine only makes it longer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

QUESTION = "What is a good gift for a friend?"
NAME = "Name a bird."
THINK = {
    name: ("think", QUESTION, "-t", name)
    for name in ("sampling", "list", "iterate", "plan", "mixture", "explore", "hybrid")
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "auto, a name": ("think", NAME),
    "auto, a phrase": ("think", QUESTION),
    "pool": ("think", NAME, "-t", "pool"),
    **THINK,
    "noise": ("noise", "a cafe where people repair things", "-n", "8"),
    "search": ("search", QUESTION, "-n", "8"),
    "diffuse": ("diffuse", "ROMEO:"),
    "measure": ("measure", "-"),
}


def seconds(words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "thoughtmix", *words],
        input="Build a wall.\nWarm a bed.\n",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr.strip()}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=sorted(COMMANDS), default=sorted(COMMANDS))
    args = parser.parse_args()
    for name, words in COMMANDS.items():
        if name in args.only:
            took = min(seconds(words) for _ in range(args.times))
            print(f"{name:18} {took:5.1f} s   thoughtmix {' '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
