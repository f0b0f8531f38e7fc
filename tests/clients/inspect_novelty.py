"""inspect_evals/novelty_bench against a server: python inspect_novelty.py URL PROMPTS LOGS, see tests/clients/inspect.txt.

The task, its solver and its metrics are inspect_evals' own, as `inspect eval` runs them. What comes from Hugging Face is
not asked for: the prompts are those of a JSON Lines file, and in place of the DeBERTa classifier and the reward model
answers are the same when their first words are, and all have grade 5. Prints what the report has, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

URL, PROMPTS, LOGS = sys.argv[1:]
os.environ |= {"THOUGHTMIX_BASE_URL": f"{URL}/v1", "THOUGHTMIX_API_KEY": "unused", "INSPECT_DISPLAY": "none"}

from inspect_ai import eval as run_eval  # noqa: E402
from inspect_ai.dataset import MemoryDataset  # noqa: E402

task_of: Any = importlib.import_module("inspect_evals.novelty_bench.novelty_bench")


def prompts(**how: Any) -> MemoryDataset:
    rows = [json.loads(line) for line in Path(PROMPTS).read_text(encoding="utf-8").splitlines()]
    return MemoryDataset([how["sample_fields"](row) for row in rows])


async def partition(responses: list[str], **how: Any) -> list[int]:
    assert how["equivalence_threshold"] == 0.102
    firsts: dict[str, int] = {}
    return [firsts.setdefault(" ".join(text.split()[:1]), len(firsts)) for text in responses]


async def grades(equivalence_classes: list[int], **how: Any) -> tuple[list[float], list[float]]:
    seen: set[int] = set()
    each = [0.0 if c in seen else (seen.add(c) or 5.0) for c in equivalence_classes]
    return each, [5.0] * len(seen)


def main() -> None:
    task_of.hf_dataset, task_of.partition_responses, task_of.score_with_reward_model = prompts, partition, grades
    task_of.select_device = lambda device: "cpu"  # it asks torch, which those models alone need
    task = task_of.novelty_bench(num_generations=4, shuffle=False)
    (log,) = run_eval(
        task,
        model="openai-api/thoughtmix/thoughtmix",
        max_tokens=8,
        extra_body={"thinker": "sampling"},
        log_dir=LOGS,
        display="none",
    )
    assert log.status == "success", log.error
    scores = {score.name: score.metrics["mean"].value for score in log.results.scores}
    texts = [sample.metadata["all_completions"] for sample in log.samples]
    print(json.dumps({"scores": scores, "texts": texts}))


main()
