"""Many prompts: `Pipeline.stream` beside the engine's best at as many rows, and memory over thousands of prompts.

    python benchmarks/batch.py                                  # 200 prompts x 8 thoughts x 48 tokens, 64 rows
    python benchmarks/batch.py --prompts 40 --pairs 3           # a shorter run
    python benchmarks/batch.py --vllm .venv/vllm/bin/python     # beside vLLM's CPU build (make .venv/.vllm), same run
    python benchmarks/batch.py --memory 5000                    # a tiny model: memory alone

The engine's best is one `generate` after another, each of as many whole prompts as the rows hold, all their rows from
the first step to the last token (no prompt waits, nothing is written, nobody listens). Both take turns (A B, B A, ...)
in one process, each in a thread that ends, so that no idle thread keeps a team of workers; the ratio is the median over
pairs, with the smallest and largest beside it. Ended rows count for what they drew. `measured` is the batch with
embeddings and metrics, which the engine does not compute. vLLM (`peers/vllm_batch.py`) gets the same prompts and
end tokens in one call, in a process of its own that waits while we run; number type and rows are its own choice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from thoughtmix import Pipeline
from thoughtmix.batch.records import SEED_STRIDE
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.engine.threads import EphemeralThreadExecutor

NOUNS = ("brick", "river", "winter", "library", "robot", "garden", "city", "bird", "letter", "clock")
ASKS = ("Name an unusual use for a {}.", "Write the first line of a poem about a {}.", "Give me an idea for a {} game.",
        "Tell me one surprising fact about a {}.", "Describe a {} to somebody who has never seen one.")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--file", type=Path, help="prompts, one JSON object a line with `prompt`; default: built in")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measured", action="store_true", help="also with embeddings and metrics, once")
    parser.add_argument("--vllm", type=Path, help="the Python of an environment with vLLM, to be run beside")
    parser.add_argument(
        "--vllm-more", default="{}", help='of its worker: {"dtype": "float32", "rows": 64, "eager": true}'
    )
    parser.add_argument("--memory", type=int, default=0, help="prompts of a tiny model, for memory alone")
    asked = parser.parse_args()
    if asked.memory:
        memory(asked.memory)
        return
    prompts = some_prompts(asked.file, asked.prompts)
    pipeline = Pipeline(asked.model)
    in_thread(lambda: (pipeline.engine, pipeline.embedder if asked.measured else None))
    engine = pipeline.local_engine
    runs: dict[str, Callable[[], Any]] = {
        "engine": lambda: alone(engine, prompts, asked.n, asked.new_tokens, asked.rows),
        "batch": lambda: batch(pipeline, prompts, asked.n, asked.new_tokens, asked.rows, False),
    }
    if asked.vllm is not None:
        runs["vllm"] = beside(asked.vllm, engine, prompts, asked.n, asked.new_tokens, json.loads(asked.vllm_more))
    # warm: weights packed, paths tried
    in_thread(lambda: alone(engine, prompts[:2], asked.n, 4, asked.rows))
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(asked.pairs):
        for name in (list(runs), list(runs)[::-1])[pair % 2]:
            tokens, seconds = timed(runs[name]) if name != "vllm" else runs[name]()
            speeds[name].append(tokens / seconds)
            print(f"{name:8} {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s", flush=True)
    for other in ("engine", "vllm"):
        ratios = [b / a for a, b in zip(speeds.get(other, []), speeds["batch"], strict=False)]
        if ratios:
            print(
                f"{len(prompts)} prompts x {asked.n} x {asked.new_tokens}, {asked.rows} rows: batch / {other} "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )
    if asked.measured:
        tokens, seconds = timed(lambda: batch(pipeline, prompts, asked.n, asked.new_tokens, asked.rows, True))
        print(f"measured {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s")


def some_prompts(file: Path | None, count: int) -> list[str]:
    if file is None:
        return [ASKS[i % 5].format(f"{NOUNS[i // 5 % 10]} of number {i}") for i in range(count)]
    given = [json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines()]
    return [given[i % len(given)] for i in range(count)]


def beside(
    python: Path, engine: LocalEngine, prompts: list[str], n: int, new_tokens: int, more: dict[str, Any]
) -> Callable[[], tuple[int, float]]:
    """A run of all prompts by vLLM: tokens and seconds."""
    from thoughtmix.models.packaged import GENERATOR, ensure

    if not engine.model.is_default and not Path(engine.model.name).is_dir():
        raise SystemExit("Beside vLLM the model is the default one, or a folder in the current one.")
    asked = {
        "model": str(ensure(GENERATOR, "float32")) if engine.model.is_default else engine.model.name,
        "prompts": [engine.encode(Prompt(prompt)) for prompt in prompts],
        "n": n,
        "new_tokens": new_tokens,
        "ends": sorted(engine.model.eos_ids),
        **more,
    }
    worker = Path(__file__).parent / "peers" / "vllm_batch.py"
    process = subprocess.Popen(
        [str(python), str(worker)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def answer(line: str) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        said: dict[str, Any] = json.loads(process.stdout.readline() or '{"unavailable": "it ended"}')
        if "unavailable" in said:
            raise SystemExit(f"No vLLM of {python}: {said['unavailable']}. Type: make .venv/.vllm")
        return said

    print(f"vllm     {answer(json.dumps(asked))}", flush=True)

    def run() -> tuple[int, float]:
        said = answer("go")
        return said["tokens"], said["seconds"]

    return run


def in_thread(work: Callable[[], object]) -> None:
    EphemeralThreadExecutor("benchmark").submit(work).result()


def timed(work: Callable[[], int]) -> tuple[int, float]:
    began = time.perf_counter()
    tokens = EphemeralThreadExecutor("benchmark").submit(work).result()
    return tokens, time.perf_counter() - began


def alone(engine: LocalEngine, prompts: list[str], n: int, new_tokens: int, rows: int) -> int:
    """One `generate` after another."""
    tokens = 0
    params = SamplingParams(temperature=1.0, min_p=0.1)
    together = max(1, rows // n)
    for first in range(0, len(prompts), together):
        sequences = [
            SequenceRequest(Prompt(prompt), k * SEED_STRIDE + i, params, new_tokens)
            for k, prompt in enumerate(prompts[first : first + together], first)
            for i in range(n)
        ]
        tokens += sum(len(output.token_ids) for output in engine.generate(sequences).outputs)
    return tokens


def batch(pipeline: Pipeline, prompts: list[str], n: int, new_tokens: int, rows: int, measure: bool) -> int:
    """Without landing, which would cut back what was drawn."""
    how: dict[str, Any] = {"max_new_tokens": new_tokens, "landing": 0, "measure": measure}
    sets = pipeline.stream(prompts, n, "sampling", rows=rows, ordered=False, **how)
    return sum(len(thought.token_ids) for one in sets for thought in one)


def memory(count: int) -> None:
    """Resident memory while a tiny random model makes thoughts for so many prompts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from thoughtmix.models import wrap_model

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 160)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    config = LlamaConfig(vocab_size=160, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)  # fmt: skip
    torch.manual_seed(0)
    pipeline = Pipeline(wrap_model(LlamaForCausalLM(config).eval(), tokenizer, name="tiny"))
    process = psutil.Process()
    prompts = (f"w{3 + i % 150} w{3 + i % 7}" for i in range(count))
    for done, _ in enumerate(pipeline.stream(prompts, 4, "sampling", max_new_tokens=12, measure=False), 1):
        if done % max(1, count // 10) == 0:
            print(f"{done:7} prompts: {process.memory_info().rss / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
