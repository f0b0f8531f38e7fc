"""Where a small chat's wait goes beside a large request: `OMP_NUM_THREADS=1 python benchmarks/waits.py`

Processor time of the scheduler's thread is told, so that other work on the machine hardly counts.

For each chat of two tokens, in milliseconds from the moment it stood in line: what the thread did, `name@start:length`,
and, in brackets, tokens that were read or drawn. No server: HTTP and its threads are `fairness.py`'s to measure.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from fairness import LONG

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.engine import SamplingParams, SequenceRequest
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.models import load_model

Noted = list[tuple[str, float, float, Any]]


def watch(owner: Any, name: str, noted: Noted) -> None:
    """Note the calls of a method of the scheduler's thread."""
    method: Callable[..., Any] = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        made = method(*args, **kwargs)
        noted.append((name.strip("_"), began, time.thread_time(), made))
        return made

    setattr(owner, name, watched)


def told(noted: Noted, since: float) -> str:
    """Milliseconds since then, of what took more than two, or was under way."""
    parts = []
    for name, began, ended, made in noted:
        if ended > since and ended - began > 0.002:
            count = f"({made})" if isinstance(made, int) else ""
            parts.append(f"{name}@{1e3 * (began - since):.0f}:{1e3 * (ended - began):.0f}{count}")
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", choices=("sampling", "long"), default="sampling")
    parser.add_argument("--times", type=int, default=8)
    args = parser.parse_args()
    lm, sampling, noted = load_model(), SamplingParams(min_p=0.1), Noted()
    scheduler, heavy = Scheduler(lm, tokens=46_000), Caller()
    for owner, name in ((scheduler, "_prefill"), (scheduler._batch, "step"), (scheduler._batch, "join")):
        watch(owner, name, noted)

    def ask(text: str, n: int, tokens: int, seed: int, caller: Caller) -> None:
        ids = tuple(lm.encode(text))
        rows = [SequenceRequest(ids, seed + i, sampling, tokens) for i in range(n)]
        SharedEngine(scheduler, caller).generate(rows)

    def over_and_over() -> None:
        what = ("Name a use for a brick.", 64, 128) if args.beside == "sampling" else (LONG * 24, 8, 64)
        seed = 100
        while not heavy.cancelled:
            try:
                ask(*what, seed, heavy)
            except ThoughtmixError:  # it is cancelled
                return
            seed += 64

    with scheduler:
        clock = time.pthread_getcpuclockid(scheduler._thread.ident or 0)

        def chat(number: int) -> tuple[float, float]:
            since = time.clock_gettime(clock)
            ask(f"Name use {number} of a brick.", 1, 2, 1, Caller())
            return since, time.clock_gettime(clock) - since

        alone = statistics.median(chat(number)[1] for number in range(6))
        print(f"alone: {1e3 * alone:.0f} ms", flush=True)
        thread = threading.Thread(target=over_and_over)
        thread.start()
        time.sleep(2)
        took = []
        for number in range(args.times):
            time.sleep(random.random() / 3)
            noted.clear()
            since, wait = chat(100 + number)
            took.append(wait)
            print(f"{1e3 * wait:.0f} ms, {scheduler.rows} rows: {told(noted, since)}", flush=True)
        scheduler.cancel(heavy)
        thread.join()
    wait = statistics.median(took)
    print(f"beside {args.beside}: {1e3 * wait:.0f} ms, {wait / alone:.1f} times alone")


if __name__ == "__main__":
    main()
