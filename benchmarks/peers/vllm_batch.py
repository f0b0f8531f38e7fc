"""Peer of `benchmarks/batch.py`: a whole file of prompts in one call of vLLM's offline engine, n rows each.

    vllm/bin/python vllm_batch.py < lines

The first line is the request: {"model": FOLDER, "prompts": [[1, 2], ...], "n": 8, "new_tokens": 48, "ends": [2]}. Once
loaded and warm it says so on stdout, then runs all prompts for each further line and says how many tokens were drawn in
how many seconds. Rows end where the model ends them. Number type and rows of a step are vLLM's own choice
(`"dtype"`, `"rows"` and `"eager"` change that); prefix caching is on, and emptied before each run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> int:
    asked = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print there
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }.items():
        os.environ.setdefault(name, value)
    try:
        import torch
        import vllm
    except ImportError as error:
        print(json.dumps({"unavailable": str(error)}), file=out)
        return 3
    more = {"max_num_seqs": asked["rows"]} if asked.get("rows") else {}
    engine: Any = vllm.LLM(
        model=asked["model"],
        dtype=asked.get("dtype", "auto"),
        max_model_len=max(map(len, asked["prompts"])) + asked["new_tokens"] + 1,
        block_size=32,
        kv_cache_memory_bytes=2**31,
        enable_prefix_caching=True,
        generation_config="vllm",
        enforce_eager=bool(asked.get("eager")),
        disable_log_stats=True,
        **more,
    )
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]

    def run(prompts: list[Any], new_tokens: int) -> dict[str, Any]:
        engine.reset_prefix_cache()
        params = [
            vllm.SamplingParams(n=asked["n"], temperature=1.0, min_p=0.1, max_tokens=new_tokens, ignore_eos=True,
                                stop_token_ids=asked["ends"], seed=i, detokenize=False)
            for i in range(len(prompts))
        ]  # fmt: skip
        began = time.perf_counter()
        done = engine.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        return {"tokens": sum(len(row.token_ids) for one in done for row in one.outputs), "seconds": seconds}

    run(prompts[: max(2, 256 // asked["n"])], 4)  # compiled at the shapes to come
    dtype = str(engine.model_config.dtype).removeprefix("torch.")
    print(json.dumps({"version": f"vllm {vllm.__version__}, torch {torch.__version__}", "dtype": dtype}), file=out)
    for _ in sys.stdin:
        print(json.dumps(run(prompts, asked["new_tokens"])), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
