"""Law 5 under stress: many threads, random starts, injected yields, callers that leave; every thought against its solo one.

    python tests/stress.py [--rounds 2000] [--families llama,mixture] [--seed 0]

A round is a scheduler with limits drawn at random (rows, chunk, slices of no time at all: then work beside the batch is
cut at every operation) and eight calls from six threads, of which some are cancelled on the way. Whenever a lock is
taken, a step is noted or a turn ends, the thread may be put to sleep for up to a millisecond, and Python changes threads
every ten microseconds. `tests/test_stress.py` runs a few rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from decoding import decode
from test_continuous import call_of, scheduled, some_call
from test_decoding import lm
from tiny import tiny, tiny_mixture

from thoughtmix.engine.caller import Caller, Cancelled
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.job import Job
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine

FAMILIES = ("llama", "gpt2", "gemma2", "bloom", "mixture")
CALLS = 40
"""Different calls of a family."""


@dataclass
class Found:
    """What was seen. differences: the calls whose tokens, texts or ends were not those of the call alone."""

    rounds: int = 0
    calls: int = 0
    cancelled: int = 0
    draws: int = 0
    furthest: float = 0.0
    """The largest difference of a token's log-probability."""
    differences: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def figures(self) -> dict[str, Any]:
        names = ("rounds", "calls", "cancelled", "draws", "furthest")
        return {**{name: getattr(self, name) for name in names}, "differences": len(self.differences)}

    def compare(self, what: str, got: Any, want: Any) -> None:
        with self.lock:
            self.calls += 1
            for row, (one, alone) in enumerate(zip(got.outputs, want.outputs, strict=True)):
                self.draws += len(one.token_ids)
                if (one.token_ids, one.text, one.finish) != (alone.token_ids, alone.text, alone.finish):
                    pairs = zip(one.token_ids, alone.token_ids, strict=False)
                    at = next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
                    self.differences.append(f"{what}, row {row}, token {at}: {one.token_ids} for {alone.token_ids}")
                else:
                    apart = (abs(a - b) for a, b in zip(one.logprobs, alone.logprobs, strict=True))
                    self.furthest = max(self.furthest, *apart)


@contextlib.contextmanager
def yields(dice: random.Random) -> Iterator[None]:
    """Threads change at the worst of times. Of this process: put back at the end."""
    interval, patched = sys.getswitchinterval(), list[tuple[Any, str, Any]]()

    def disturbed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if dice.random() < 0.3:
                time.sleep(dice.random() * 1e-3)
            return real(*args, **kwargs)

        return call

    places: list[tuple[Any, str]] = [
        (FairLock, "_acquire"),
        (FairLock, "_release"),
        (Job, "take"),
        (Scheduler, "_leave"),
        (Scheduler, "_take"),
        (Scheduler, "join"),
    ]
    for kind, name in places:
        patched.append((kind, name, getattr(kind, name)))
        setattr(kind, name, disturbed(getattr(kind, name)))
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        for kind, name, real in patched:
            setattr(kind, name, real)


class Stress:
    """A family's model, its calls and what each is alone.

    Args:
        family: Of a tiny model.
        calls: How many different ones.
    """

    def __init__(self, family: str, calls: int = CALLS) -> None:
        self.family, self.model = family, lm(tiny_mixture() if family == "mixture" else tiny(family))
        self.calls = [some_call(1000 + n) for n in range(calls)]
        self.alone = [decode(self.model, weights="native", **call) for call in self.calls]

    def round(self, number: int, found: Found) -> None:
        """Eight calls at once, by the number of the round alone but for what threads make of it."""
        dice = random.Random(f"{self.family} {number}")
        limits = {"rows": dice.choice([4, 8, 64]), "chunk": dice.choice([3, 16, 128])}
        chosen = [dice.randrange(len(self.calls)) for _ in range(8)]
        leaving = {i for i in range(8) if dice.random() < 0.15}
        starts = [dice.random() / 100 for _ in chosen]
        each = {i for i in range(8) if self.family != "mixture" and dice.random() < 0.3}

        with (
            scheduled(self.model, pause=dice.choice([0.0, 1e-3, 0.06]), **limits) as scheduler,
            ThreadPoolExecutor(6) as pool,
        ):

            def one(i: int) -> None:
                time.sleep(starts[i])
                caller, call = Caller(), self.calls[chosen[i]]
                if i in leaving:
                    threading.Timer(starts[i], scheduler.cancel, [caller]).start()
                more = {"read": "each"} if i in each else {}
                try:
                    got = call_of(SharedEngine(scheduler, caller), call, **more)
                except Cancelled:
                    with found.lock:
                        found.cancelled += 1
                    assert i in leaving, "who did not leave was cancelled"
                    return
                found.compare(f"{self.family} round {number} call {chosen[i]}", got, self.alone[chosen[i]])

            for _ in pool.map(one, range(8)):
                pass
        with found.lock:
            found.rounds += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="of all families together")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds; a round that hangs shows where")
    args = parser.parse_args()
    families = [Stress(name) for name in args.families.split(",")]
    found, began = Found(), time.monotonic()
    with yields(random.Random(args.seed)):
        for number in range(args.rounds):
            faulthandler.dump_traceback_later(args.patience, exit=True)
            families[number % len(families)].round(args.seed + number, found)
            if number % 100 == 99 or number == args.rounds - 1:
                print(json.dumps({**found.figures(), "seconds": round(time.monotonic() - began)}), flush=True)
    for each in found.differences[:20]:
        print(each)
    raise SystemExit(bool(found.differences))


if __name__ == "__main__":
    main()
