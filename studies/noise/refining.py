"""Does refining a clean draft help? Draft, select, polish, noise and all together, at equal tokens.

    python studies/noise/refining.py --out out/refining-tasks --tasks coverage,puzzles
    python studies/noise/refining.py --out out/refining-open --prompts FILE --limit 30 --tokens 40 --seeds 1

Every arm gives 4 thoughts for a budget of 8 texts of --tokens tokens: four drafts twice as long; eight drafts of which
the four likeliest are kept; four drafts, each rewritten with "improve it" (polish) or in a direction of the catalogue
(noise); four drafts of which two are kept and disturbed twice each (full). Selection goes by the generator's
likelihood, which therefore does not report: tasks with known answers report validity and distinct valid answers / 4,
open prompts relevance and mean distance (MiniLM) and distinct-2. Trials are kept as they finish; the same command
continues. Unit: the prompt (seeds averaged); paired BCa bootstrap; Holm's correction over the arms of one measure.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from thoughtmix.bench.scoring import score
from thoughtmix.bench.statistics import holm, mean_difference
from thoughtmix.bench.tasks import Item, family, read_prompts
from thoughtmix.bench.trials import Trial, TrialStore
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import measure
from thoughtmix.pipeline import Pipeline

N = 4
POLISH = {"file": str(Path(__file__).with_name("polish.toml")), "directions": "polish"}
ARMS: dict[str, dict[str, Any]] = {
    "draft": {"thinker": "sampling"},
    "select": {"stages": "sampling>select", "drafts": 2 * N, "keep": N},
    "polish": {"stages": "sampling>noise", "drafts": N, **POLISH},
    "noise": {"stages": "sampling>noise", "drafts": N},
    "full": {"stages": "sampling>select>noise", "drafts": N, "keep": N // 2},
}
MEASURES = {
    "known": (("valid", "valid"), ("coverage", "distinct valid / 4")),
    "open": (("relevance", "relevance"), ("mean_distance", "mean distance"), ("distinct_2", "distinct-2")),
}


def answer(pipeline: Pipeline, item: Item, arm: str, seed: int, tokens: int) -> ThoughtSet:
    """One trial: unmeasured for known answers, embedded for open prompts."""
    how = dict(ARMS[arm])
    thinker = how.pop("thinker", "hybrid")
    if thinker == "hybrid":
        how |= {"draft": 1000 * seed, "report": False}
    length = 2 * tokens if arm == "draft" else tokens
    made = pipeline(item.prompt, N, thinker, seed=1000 * seed, max_new_tokens=length, measure=False, **how)
    return measure(made, embedder=pipeline.embedder if item.kind == "open" else None)


def numbers(record: dict[str, Any], item: Item) -> dict[str, float]:
    if item.kind == "open":
        return {k: float(v) for k, v in record["set"]["metrics"].items()}
    return score(record, item, N)


def report(store: TrialStore, items: list[Item], seeds: int) -> None:
    """A table: each arm's mean, and its difference to the draft."""
    kind = "open" if items[0].kind == "open" else "known"
    print(f"{len(items)} prompts, {seeds} seeds, {N} thoughts\n")
    print("| arm | measure | mean | minus draft (95%) | p (Holm) |\n|---|---|---|---|---|")
    for name, says in MEASURES[kind]:
        means = {}
        for arm in ARMS:
            keys = [[Trial(arm, 0, item.id, s).key for s in range(seeds)] for item in items]
            rows = [[numbers(store.records[k], i)[name] for k in own] for own, i in zip(keys, items, strict=True)]
            means[arm] = np.mean(rows, axis=1)
        gaps = {
            arm: mean_difference(values, means["draft"], np.random.default_rng(3))
            for arm, values in means.items()
            if arm != "draft"
        }
        adjusted = dict(zip(gaps, holm([g.p for g in gaps.values()]), strict=True))
        for arm, mean in means.items():
            g = gaps.get(arm)
            gap = " | "
            if g is not None:
                gap = f"{g.value:+.3f} ({g.low:+.3f} to {g.high:+.3f}) | {adjusted[arm]:.2g}"
            print(f"| {arm} | {says} | {mean.mean():.3f} | {gap} |")
    cells = [(i.id, s) for i in items for s in range(seeds)]
    spent = {arm: [store.records[Trial(arm, 0, *c).key]["set"]["run"]["tokens"] for c in cells] for arm in ARMS}
    print("\ntokens a prompt: " + ", ".join(f"{arm} {np.mean(v):.0f}" for arm, v in spent.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--prompts")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--model")
    parser.add_argument("--report", action="store_true", help="only the table, of the prompts that are complete")
    a = parser.parse_args()
    items = read_prompts(a.prompts) if a.prompts else [i for name in a.tasks.split(",") for i in family(name)]
    items = [items[i] for i in np.random.default_rng(1).permutation(len(items))[: a.limit]]
    about = {
        "arms": {k: {x: str(y) for x, y in v.items() if x != "file"} for k, v in ARMS.items()},
        "tokens": a.tokens,
        "model": a.model,
        "items": [i.id for i in items],
    }
    store = TrialStore(a.out, about)
    todo = [Trial(arm, 0, item.id, s) for s in range(a.seeds) for item in items for arm in ARMS]
    left = [trial for trial in todo if trial.key not in store.records]
    if a.report:
        missing = {trial.item for trial in left}
        report(store, [item for item in items if item.id not in missing], a.seeds)
        return
    pipeline, by = Pipeline(a.model), {i.id: i for i in items}
    for done, trial in enumerate(left, len(todo) - len(left) + 1):
        store.add(trial, {"set": answer(pipeline, by[trial.item], trial.system, trial.seed, a.tokens).to_dict()})
        if done % 20 == 0:
            print(f"{done} of {len(todo)} trials", flush=True)
    report(store, items, a.seeds)


if __name__ == "__main__":
    main()
