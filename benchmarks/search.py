"""Tree search beside best-of-N at an equal token budget: `python benchmarks/search.py --out DIR` (resumes)

compare   tasks whose answers a program checks. Three systems draw from the same model and prompt, and spend the
          same number of tokens an instance: best-of-N (N thoughts, as many as the budget pays), the same with early
          rejection (a thought is stopped, and its unused tokens are spent on others, as soon as the partial check says
          that it cannot become right; checked at every token), and the search, whose value is the same partial check.
          The last word is the task's own reader for all three. best-of-N cannot use a partial check: the second
          system is there so that what the tree adds is not confused with what the check adds.
          Each has three settings, chosen for each family on its development instances (solved, then distinct), reported
          on others. Unit: instance. Intervals: paired BCa bootstrap; p by Holm over all comparisons.
overhead  time outside of the model at 1,000 nodes, as a share of the time in it; and tokens computed beside tokens new.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtmix.bench.statistics import holm, mean_difference
from thoughtmix.bench.tasks import ParsedAnswer, countdown, writing
from thoughtmix.bench.tasks.puzzles import Puzzle, sum_so_far
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.models import load_model
from thoughtmix.search import Evaluators, Limits, SamplingProposal, Settings, TreeSearch, Verifier
from thoughtmix.search.answers import valid
from thoughtmix.search.evaluators import Likelihood

LONGEST = 24  # tokens of a thought
MIN_P = 0.02
SAMPLES = [{"temperature": t} for t in (0.8, 1.0, 1.3)]
GRIDS: dict[str, list[dict[str, Any]]] = {
    "search": [
        {"temperature": 1.0, "step": 1, "width": 1, "batch": 4, "exploration": 0.3},
        {"temperature": 1.0, "step": 1, "width": 1, "batch": 4, "exploration": 1.0},
        {"temperature": 1.3, "step": 1, "width": 1, "batch": 4, "exploration": 0.3},
    ],
    "best-of-n": SAMPLES,
    "early": SAMPLES,
}


@dataclass(frozen=True)
class Instance:
    name: str
    prompt: str
    read: Callable[[str], ParsedAnswer]
    so_far: Callable[[str], float]


def countdowns(count: int, seed: int, check: Callable[..., float]) -> list[Instance]:
    shots = (
        "Use each of the numbers once to reach the target.\n"
        "Numbers: 2 3 4. Target: 24. Answer: 2 * 3 * 4\nNumbers: 5 7 9. Target: 3. Answer: 5 + 7 - 9\n"
        "Numbers: 1 6 10. Target: 50. Answer: (6 - 1) * 10\nNumbers: 3 8 11. Target: 35. Answer: 3 * 8 + 11\n"
    )
    out = []
    for item in countdown.problems(count, seed):
        numbers, target = item.data["numbers"], item.data["target"]
        asked = f"{shots}Numbers: {' '.join(map(str, numbers))}. Target: {target}. Answer:"
        out.append(
            Instance(
                item.id,
                asked,
                functools.partial(countdown.parse, numbers=numbers, target=target),
                functools.partial(check, numbers=tuple(numbers), target=target),
            )
        )
    return out


def writings(count: int, seed: int) -> list[Instance]:
    shots = (
        'A sentence of exactly 5 words that begins with T and contains "dog": The old dog sleeps outside.\n'
        'A sentence of exactly 7 words that begins with S and contains "apple": She ate a red apple after lunch.\n'
        'A sentence of exactly 6 words that begins with M and contains "school": My brother walks to school early.\n'
    )
    return [
        Instance(
            f"{c.words}-{c.letter}-{c.noun}",
            f'{shots}A sentence of exactly {c.words} words that begins with {c.letter} and contains "{c.noun}":',
            c.parse,
            c.so_far,
        )
        for c in writing.constraints(count, seed)
    ]


def sums(count: int, seed: int) -> list[Instance]:
    shots = (
        "3 positive whole numbers that sum to 20: 5, 7, 8\n4 positive whole numbers that sum to 33: 2, 10, 9, 12\n"
        "5 positive whole numbers that sum to 48: 11, 4, 17, 6, 10\n"
    )
    rng, out = np.random.default_rng([seed, 1357]), {}
    while len(out) < count:
        k, total = int(rng.integers(3, 6)), int(rng.integers(25, 100))

        def right(*numbers: int, total: int = total) -> bool:
            return min(numbers) > 0 and sum(numbers) == total

        asked = f"{k} positive whole numbers that sum to {total}:"
        puzzle = Puzzle(asked, (), k, right)
        out[(k, total)] = Instance(
            f"{k}-{total}", shots + asked, puzzle.parse, functools.partial(sum_so_far, count=k, total=total)
        )
    return list(out.values())


FAMILIES: dict[str, Callable[[int, int], list[Instance]]] = {
    "countdown": functools.partial(countdowns, check=countdown.reachable_so_far),
    "countdown, legal": functools.partial(countdowns, check=countdown.legal_so_far),
    "sums": sums,
    "writing": writings,
}


def result(distinct: set[str], thoughts: int, tokens: int) -> dict[str, Any]:
    return {"solved": len(distinct) > 0, "distinct": len(distinct), "thoughts": thoughts, "tokens": tokens}


def stream(lm: Any, one: Instance, temperature: float, seed: int) -> Iterator[tuple[list[int], bool]]:
    """Thoughts without end, each of its own seed: (tokens, True)."""
    ids, sampler = lm.encode(one.prompt, raw=True), SamplingParams(temperature=temperature, min_p=MIN_P)
    for start in itertools.count(seed * 1_000_003, 16):
        rows = [SequenceRequest(tuple(ids), start + i, sampler, LONGEST, ("\n",)) for i in range(16)]
        for row in LocalEngine(lm).generate(rows).outputs:
            yield row.token_ids, True


def rejecting(lm: Any, one: Instance, temperature: float, seed: int) -> Iterator[tuple[list[int], bool]]:
    """The same, but a thought ends at the first token after which the partial check gives it up: (its tokens up to
    there, False). Drawn a few tokens at a time, from prefixes, so that little is drawn past that token; what is drawn
    past it does not count."""
    ids, sampler = lm.encode(one.prompt, raw=True), SamplingParams(temperature=temperature, min_p=MIN_P)
    root: Any = None  # the prompt, read once
    for start in itertools.count(seed * 1_000_003, 32):
        out: list[tuple[list[int], bool] | None] = [None] * 32
        alive: list[tuple[int, list[int], Any]] = [(i, [], None) for i in range(32)]
        for part, length in enumerate((2, 2, 4, 8, 8)):
            if not alive:
                break
            rows = [
                SequenceRequest(
                    (*ids, *tokens),
                    (start + i) * 8 + part,
                    sampler,
                    length,
                    ("\n",),
                    prefix=root if part == 0 else prefix,
                )
                for i, tokens, prefix in alive
            ]
            done = LocalEngine(lm).generate(rows, keep_prefixes=True)
            first = done.prefixes[0]
            if root is None and first is not None and first.parent is not None:
                root = first.parent.cut(len(ids) - 1)
            going = []
            for (i, before, _), row, prefix in zip(alive, done.outputs, done.prefixes, strict=True):
                tokens, ended = [*before, *row.token_ids], row.finish == "stop" or part == 4
                dead = next(
                    (
                        at
                        for at in range(len(before) + 1, len(tokens) + (not ended))
                        if one.so_far(lm.decode(tokens[:at]).split("\n")[0]) <= 0
                    ),
                    None,
                )
                if dead is not None:
                    out[i] = (tokens[:dead], False)
                elif ended:
                    out[i] = (tokens, True)
                else:
                    going.append((i, tokens, prefix))
            alive = going
        yield from (each for each in out if each is not None)


def sampled(lm: Any, one: Instance, how: dict[str, Any], budget: int, seed: int, early: bool) -> dict[str, Any]:
    """Thoughts while the budget pays for them; with early rejection each costs what it had when it was given up."""
    spent = count = 0
    distinct: set[str] = set()
    for tokens, alive in (rejecting if early else stream)(lm, one, how["temperature"], seed):
        if spent + len(tokens) > budget:
            break
        spent, count = spent + len(tokens), count + 1
        reading = one.read(lm.decode(tokens).split("\n")[0])
        if alive and reading.valid:
            distinct.add(str(reading.answer))
    return result(distinct, count, spent)


def searched(lm: Any, one: Instance, how: dict[str, Any], budget: int, seed: int) -> dict[str, Any]:
    def check(text: str, done: bool) -> float:
        return float(one.read(text).valid) if done else one.so_far(text)

    search = TreeSearch(
        lm,
        lm.encode(one.prompt, raw=True),
        Settings(LONGEST, how["step"], how["width"], how["batch"], exploration=how["exploration"], stop=("\n",)),
        Evaluators(((Verifier(check, lambda text: one.read(text).answer), 1.0), (Likelihood(), 0.02))),
        SamplingProposal(SamplingParams(temperature=how["temperature"], min_p=MIN_P)),
        seed=seed,
    )
    limits = Limits(budget)
    search.explore(limits, 1)
    search.finish(limits, 1)
    assert search.spent.drawn <= budget, "over the budget"
    return result(valid(search), len(search.tree.complete()), search.spent.drawn)


def trial(lm: Any, who: str, one: Instance, how: dict[str, Any], budget: int, seed: int) -> dict[str, Any]:
    if who == "search":
        return searched(lm, one, how, budget, seed)
    return sampled(lm, one, how, budget, seed, early=who == "early")


class Trials:
    """One line of a file for each trial that is done."""

    def __init__(self, file: Path) -> None:
        self.file, self.done = file, {}
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                body = json.loads(line)
                self.done[body["key"]] = body

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.done:
            body = {"key": key, **make()}
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(body) + "\n")
            self.done[key] = body
        return self.done[key]


def compare(
    lm: Any, out: Path, families: list[str], development: int, held_out: int, budget: int, seeds: int, pick: list[int]
) -> None:
    trials, table, tests = Trials(out / "cells.jsonl"), [], []
    for family in families:
        reported: dict[str, np.ndarray] = {}
        for who, grid in GRIDS.items():

            def values(split: str, how: dict[str, Any], who: str = who, family: str = family) -> np.ndarray:
                """(instances, 2): solved and distinct, seeds averaged."""
                some = FAMILIES[family](development if split == "dev" else held_out, 1 if split == "dev" else 2)
                rows = []
                for one in some:
                    keys = [f"{family}|{who}|{json.dumps(how)}|{budget}|{split}|{one.name}|{s}" for s in range(seeds)]
                    got = [
                        trials.get(key, functools.partial(trial, lm, who, one, how, budget, s))
                        for s, key in enumerate(keys)
                    ]
                    rows.append([np.mean([float(g[name]) for g in got]) for name in ("solved", "distinct")])
                return np.array(rows)

            if pick:
                reported[who] = values("test", grid[pick[len(reported)]])
                continue
            scored = [values("dev", how).mean(0) for how in grid]
            best = max(range(len(grid)), key=lambda i: tuple(scored[i]))
            print(
                f"{family}, {who}: on development instances "
                + ", ".join(f"{s[0]:.2f}/{s[1]:.1f}" for s in scored)
                + f" (solved/distinct); takes {grid[best]}",
                flush=True,
            )
            reported[who] = values("test", grid[best])
        for rival in ("best-of-n", "early"):
            for at, name in enumerate(("solved", "distinct")):
                rng = np.random.default_rng([17, len(tests)])
                tests.append(
                    (family, rival, name, mean_difference(reported["search"][:, at], reported[rival][:, at], rng))
                )
        table.append((family, reported))
    print(f"\n{held_out} held-out instances, {budget} tokens each, {seeds} seed(s)\n")
    print("| task | system | solved | distinct valid | share with 4 or more |\n|---|---|---|---|---|")
    for family, reported in table:
        for who, v in reported.items():
            print(f"| {family} | {who} | {v[:, 0].mean():.3f} | {v[:, 1].mean():.2f} | {(v[:, 1] >= 4).mean():.2f} |")
    print("\n| task | search less | of | difference (95%) | p (Holm) |\n|---|---|---|---|---|")
    for (family, rival, name, i), p in zip(tests, holm([t[3].p for t in tests]), strict=True):
        print(f"| {family} | {rival} | {name} | {i.value:+.3f} ({i.low:+.3f} to {i.high:+.3f}) | {p:.4f} |")


def overhead(lm: Any, nodes: int, seconds: float) -> None:
    ids = lm.encode("Give me an unusual idea for a birthday party.")
    search = TreeSearch(lm, ids, Settings(length=96, step=8, width=4, batch=4))
    search.explore(Limits(10**9, seconds=2.0), 1)  # packs and probes
    search = TreeSearch(lm, ids, Settings(length=96, step=8, width=4, batch=8))
    began = time.perf_counter()

    def enough(s: TreeSearch) -> None:
        if len(s.tree) >= nodes or time.perf_counter() - began > seconds:
            raise KeyboardInterrupt

    search.explore(Limits(10**9), 1, enough)
    s = search.spent
    outside = s.seconds - s.model_seconds
    first = search.settings.batch * search.settings.width
    print(
        f"{len(search.tree)} nodes in {s.rounds} rounds: {s.model_seconds:.1f} s in the model, {outside:.2f} s "
        f"outside ({outside / s.model_seconds:.1%}), of which evaluators {s.judging_seconds:.2f} s"
    )
    print(
        f"tokens drawn {s.drawn}, computed {s.computed}; expected {len(ids) + s.drawn - first}: the prompt once, and "
        f"every new token once (the last of the first {first} children is read with theirs)"
    )
    held = sum(n.prefix.nbytes for n in search.tree.nodes if n.prefix is not None)
    print(f"keys and values held: {held / 2**20:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=["compare", "overhead"])
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=Path("out/search"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--development", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--budget", type=int, default=192)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pick", type=int, nargs=3, default=[], help="Settings by number, chosen elsewhere.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lm = load_model(args.model)
    if "compare" in args.what:
        compare(lm, args.out, args.families, args.development, args.held_out, args.budget, args.seeds, args.pick)
    if "overhead" in args.what:
        overhead(lm, args.nodes, args.seconds)


if __name__ == "__main__":
    main()
