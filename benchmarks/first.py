"""How long the first answer takes, phase by phase, from typing the command on:

    python benchmarks/first.py                       # this checkout
    python benchmarks/first.py --before CHECKOUT     # another of this repository beside it, in turns (A B, B A)

Each run is a process of its own: `thoughtmix think "Name a fruit." -n 1 --max-new-tokens 4`, the default model, as many
threads as the machine gives. One run of each comes first and does not count: it fetches and converts the model, writes
bytecode, fills the disk's cache and tries the decoding path. Every phase is told by the clock and by processor seconds
of all threads, from the start of the process; where others use the machine, the second says more. Ratios are of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PHASES = ("python", "command line", "engine", "first token", "last token", "end")
WORDS = ("think", "Name a fruit.", "-n", "1", "--max-new-tokens", "4")
HERE = Path(__file__).resolve().parents[1]


def child(out: Path, began: float) -> None:
    """The command, with the times of its phases noted."""
    marks: dict[str, list[float]] = {}

    def mark(phase: str) -> None:
        used = os.times()
        marks[phase] = [time.time() - began, used.user + used.system]

    mark("python")
    from thoughtmix import cli

    mark("command line")
    from thoughtmix.pipeline import Pipeline

    call = Pipeline.__call__

    def on_step(event: Any) -> None:
        if "first token" not in marks:
            mark("first token")
        mark("last token")

    def told(self: Pipeline, prompt: Any, *args: Any, **settings: Any) -> Any:
        _ = self.engine
        mark("engine")
        return call(self, prompt, *args, **{**settings, "on_step": on_step})

    Pipeline.__call__ = told  # type: ignore[method-assign]
    sys.argv[1:] = WORDS
    try:
        cli.run()
    finally:
        mark("end")
        out.write_text(json.dumps(marks))


def run(checkout: Path) -> tuple[dict[str, list[float]], str]:
    """Phase -> seconds of the clock and of the processor, up to its end; and what was printed of the thought."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "marks.json"
        sources = {**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONPYCACHEPREFIX": str(PYC)}
        sources.pop("PYTHONDONTWRITEBYTECODE", None)
        words = [sys.executable, __file__, "--child", str(out), str(time.time())]
        done = subprocess.run(words, env=sources, capture_output=True, text=True, check=True)
        return json.loads(out.read_text()), next(line for line in done.stdout.splitlines() if line.startswith("  "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), float(args.child[1]))
    sides = {"now": HERE} | ({"before": args.before.resolve()} if args.before else {})
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; bytecode in {PYC}", flush=True)
    texts = {name: run(checkout)[1] for name, checkout in sides.items()}
    if len(set(texts.values())) > 1:
        print(f"The thoughts differ: {texts}")
    runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in sides}
    for pair in range(args.pairs):
        for name in list(sides)[:: 1 if pair % 2 else -1]:
            runs[name].append(run(sides[name])[0])
    print(f"\nseconds up to the end of each phase, median of {args.pairs}: clock (processor)")
    print(f"{'':14}" + "".join(f"{name:>18}" for name in sides) + ("   now/before" if args.before else ""))
    for phase in PHASES:
        cells = ""
        for some in runs.values():
            clock, used = (statistics.median(r[phase][i] for r in some) for i in (0, 1))
            cells += f"{f'{clock:.2f} ({used:.2f})':>18}"
        if args.before:
            pairs = list(zip(runs["now"], runs["before"], strict=True))
            clock, used = (statistics.median(a[phase][i] / max(b[phase][i], 0.01) for a, b in pairs) for i in (0, 1))
            cells += f"   {clock:.2f} ({used:.2f})"
        print(f"{phase:14}{cells}")


PYC = Path(tempfile.gettempdir()) / "thoughtmix-first-bytecode"
"""Bytecode of both, also where PYTHONDONTWRITEBYTECODE is set: a user has it."""

if __name__ == "__main__":
    main()
