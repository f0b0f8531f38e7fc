"""What a step of the thinker `explore` costs beside the same step of plain sampling, on the default model:

    python benchmarks/explore.py [--pairs 9] [--rows 32] [--tokens 48] [--min-p 0.1] [--layer 1] [--width 128]

The two take turns in one process (A B, B A, ...), so that a drift of the machine meets both; every row makes as many
tokens. Processor time is reported beside the clock: where others use the machine, it says more.
"""

from __future__ import annotations

import argparse
import statistics
import time

from thoughtmix import Pipeline
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import LocalModelEngine, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.explore.head import OutputHead
from thoughtmix.explore.row_state import ExploringRows


def seconds(engine: LocalModelEngine, args: argparse.Namespace, explores: bool) -> tuple[float, float]:
    """Clock and processor milliseconds of a step; the processor also read the prompt."""
    sampling = SamplingParams(temperature=1.0, min_p=args.min_p)
    prompt = Prompt.from_user("Write a short story about a lighthouse.")
    asked = [SequenceRequest(prompt, seed, sampling, args.tokens, end_ids=frozenset()) for seed in range(args.rows)]
    state = NO_ROW_STATE
    if explores:
        head = OutputHead.of(engine.model.model)
        state = ExploringRows(head, args.rows, 0.25, args.layer, args.width, 100.0, seed=0)
    began = time.process_time()
    done = engine.generate(asked, row_state=state)
    used = time.process_time() - began
    steps = args.tokens - 1
    return (done.seconds - done.prefill_seconds) * 1000 / steps, used * 1000 / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--min-p", type=float, default=0.1)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    args = parser.parse_args()
    engine = Pipeline().engine
    assert isinstance(engine, LocalModelEngine)
    for explores in (False, True):  # warm
        seconds(engine, args, explores)
    pairs = []
    for pair in range(args.pairs):
        first = bool(pair % 2)
        one, other = seconds(engine, args, first), seconds(engine, args, not first)
        pairs.append((other, one) if first else (one, other))
    print("| ms a step | sampling | explore | overhead, median of pairs (lowest to highest) |\n|---|---|---|---|")
    for which, name in enumerate(("clock", "processor")):
        plain, explored = ([pair[side][which] for pair in pairs] for side in (0, 1))
        over = sorted(b / a - 1 for a, b in zip(plain, explored, strict=True))
        medians = f"{statistics.median(plain):.1f} | {statistics.median(explored):.1f}"
        print(f"| {name} | {medians} | {statistics.median(over):+.1%} ({over[0]:+.1%} to {over[-1]:+.1%}) |")


if __name__ == "__main__":
    main()
