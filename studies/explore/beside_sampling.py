"""`explore` beside plain sampling, small: 15 coverage tasks and 10 open prompts, 8 thoughts each, one seed.

    python studies/explore/beside_sampling.py --prompts novelty_bench_curated.jsonl

Everyone draws as many tokens. Prints after each prompt, so that a run that is stopped has said what it saw.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np

from thoughtmix import Pipeline
from thoughtmix.bench.tasks import answer_parser, coverage_tasks, read_prompts
from thoughtmix.metrics.embedding import relevance, vendi
from thoughtmix.models import load_embedder

SYSTEMS: dict[str, dict[str, Any]] = {
    "sampling, T 1": {"thinker": "sampling", "temperature": 1.0},
    "sampling, T 1.3": {"thinker": "sampling", "temperature": 1.3},
    "explore, beta 0.25": {"thinker": "explore", "beta": 0.25},
    "explore, beta 1": {"thinker": "explore", "beta": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", required=True, help="JSON Lines with open prompts")
    args = parser.parse_args()
    pipeline, embedder = Pipeline(), load_embedder()
    seen: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in SYSTEMS}
    for i, item in enumerate([*coverage_tasks()[::3][:15], *read_prompts(args.prompts)[::10][:10]]):
        tokens = 32 if item.kind == "open" else 16
        for name, how in SYSTEMS.items():
            said = pipeline(item.prompt, n=8, seed=100 * i, max_new_tokens=tokens, measure=False, **how).thoughts
            row = seen[name]
            if item.kind == "open":
                texts, prompt = embedder.encode([t.text for t in said]), embedder.encode([item.prompt])[0]
                row["Vendi"].append(vendi(texts))
                row["relevance"].append(float(np.mean(relevance(texts, prompt))))
                row["nats a token"].append(float(-np.mean([t.logprob / len(t.token_ids) for t in said])))  # type: ignore[operator]
            else:
                answers = [answer_parser(item)(t.text) for t in said]
                row["valid"].append(sum(a.valid for a in answers) / 8)
                row["distinct valid"].append(len({a.answer for a in answers if a.valid}) / 8)
            print(name, {k: (round(float(np.mean(v)), 3), len(v)) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
