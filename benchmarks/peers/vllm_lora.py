"""Proof that exported thoughts serve at scale: one vLLM engine, one prompt, a LoRA adapter a request, all at once.

Each adapter is a fixed mixture of thought branches in PEFT's format (`thoughtmix export DIR --lora OUT -n 8`),
on the feed-forward blocks' down projections. vLLM's greedy tokens are compared with those of the same adapters loaded
by PEFT on transformers, in float32:

* free: both write on their own, up to the end of their answer; the share of equal tokens. After one near tie that falls
  the other way all differ.
* forced: PEFT reads what vLLM wrote; the share of tokens that are its own first choice, and how far behind (nats) the
  others are.

Runs in vLLM's environment with peft beside it (README.md in this folder). Exit status 1 when less than 99% agree
forced, or when all adapters give the same answer, which would prove nothing; 3 when vLLM is not installed.

    vllm/bin/python vllm_lora.py MODEL_FOLDER ADAPTER_FOLDER ...
    vllm/bin/python vllm_lora.py MODEL_FOLDER --make SCRATCH    # eight random adapters of rank 16, made there first
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "Name an unusual use for a brick and explain it."
AGREE = 0.99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("adapters", nargs="*", help="folders of PEFT LoRA adapters")
    parser.add_argument("--make", metavar="FOLDER", help="write eight random adapters here and use them")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16, help="of the adapters that --make writes")
    parser.add_argument("--scale", type=float, default=0.1, help="standard deviation of their lora_B")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # before any library that reads it is imported
    folders = make(asked) if asked.make else asked.adapters
    if not folders:
        parser.error("name adapter folders, or --make FOLDER")
    ids = prompt_ids(asked.model, asked.prompt)
    try:
        version, seconds, written = serve(asked, folders, ids)
    except ImportError as error:
        print(json.dumps({"peer": "vllm_lora", "unavailable": " ".join(str(error).split())}))
        return 3
    return compare(asked, folders, ids, written, version, seconds)


def prompt_ids(model: str, prompt: str) -> list[int]:
    """One user turn where the model has a chat template, else the text."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def make(asked: argparse.Namespace) -> list[str]:
    """Random adapters on the down projections: both factors random, so that each changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for i in range(8):
        base = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=asked.rank, lora_alpha=asked.rank, target_modules=["down_proj"]))
        generator = torch.Generator().manual_seed(i)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                std = asked.scale if "lora_B" in name else weight.shape[1] ** -0.5
                weight.data.copy_(torch.randn(weight.shape, generator=generator) * std)
        folder = Path(asked.make) / f"adapter-{i}"
        model.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def largest_rank(folders: list[str]) -> int:
    """The smallest rank limit that vLLM knows and that fits every adapter."""
    ranks = [json.loads((Path(f) / "adapter_config.json").read_text(encoding="utf-8"))["r"] for f in folders]
    return next(limit for limit in (8, 16, 32, 64, 128, 256) if limit >= max(ranks))


def serve(asked: argparse.Namespace, folders: list[str], ids: list[int]) -> tuple[str, float, list[list[int]]]:
    """(version, seconds, tokens): a row an adapter and last the model without one, from one call of one engine."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch
    import vllm
    from vllm.lora.request import LoRARequest

    torch.set_num_threads(asked.threads)
    engine: Any = vllm.LLM(
        model=asked.model,
        dtype="float32",
        enable_lora=True,
        # One slot more than adapters: the CPU build gives a request without one whatever is in the last slot, which so
        # stays empty (https://github.com/vllm-project/vllm/pull/48421, open; seen with 0.32.0).
        max_loras=len(folders) + 1,
        max_lora_rank=largest_rank(folders),
        max_model_len=len(ids) + asked.new_tokens + 1,
        max_num_seqs=len(folders) + 1,
        kv_cache_memory_bytes=2**28,
        generation_config="vllm",
        enforce_eager=True,
        disable_log_stats=True,
    )
    params = vllm.SamplingParams(temperature=0.0, max_tokens=asked.new_tokens, ignore_eos=True, detokenize=False)
    rows: list[Any] = [LoRARequest(f"thought-{i}", i + 1, str(Path(f).resolve())) for i, f in enumerate(folders)]
    rows.append(None)
    prompts = [{"prompt_token_ids": ids}] * len(rows)
    engine.generate(prompts, params, lora_request=rows, use_tqdm=False)  # loads the adapters
    start = time.perf_counter()
    out = engine.generate(prompts, params, lora_request=rows, use_tqdm=False)
    seconds = time.perf_counter() - start
    return f"vllm {vllm.__version__}, torch {torch.__version__}", seconds, [list(o.outputs[0].token_ids) for o in out]


def answer(tokens: list[int], ends: set[int]) -> list[int]:
    """Up to and with the first token that ends an answer: the engine was told to write on."""
    last = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: last + 1]


def compare(
    asked: argparse.Namespace,
    folders: list[str],
    ids: list[int],
    written: list[list[int]],
    version: str,
    seconds: float,
) -> int:
    import peft
    import torch
    import transformers
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    n = asked.new_tokens
    print(f"{version}; peft {peft.__version__}, transformers {transformers.__version__}; float32")
    print(f"{len(folders)} adapters and the base model, {n} tokens each, in one batch: {seconds:.1f} s, "
          f"{len(written) * n / seconds:.0f} tokens/s")  # fmt: skip
    found = base.generation_config.eos_token_id
    ends = set(found) if isinstance(found, list) else {found}
    free, forced, worst, count = [], [], 0.0, 0
    for i, tokens in enumerate(written):
        wrapped: Any = PeftModel.from_pretrained(base, folders[i]).eval() if i < len(folders) else None
        model = wrapped if wrapped is not None else base
        tokens = answer(tokens, ends)
        with torch.no_grad():
            prompt = torch.tensor([ids])
            own = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n,
                                 do_sample=False)[0, len(ids) :].tolist()  # fmt: skip
            logits = model(input_ids=torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        if wrapped is not None:
            base = wrapped.unload()
        same = [a == b for a, b in zip(own, tokens, strict=False)]
        first = [t == int(row.argmax()) for t, row in zip(tokens, logits, strict=True)]
        behind = max(float(row.max() - row[t]) for t, row in zip(tokens, logits, strict=True))
        free.append(sum(same) / max(len(own), len(tokens)))
        forced.append(sum(first) / len(tokens))
        count += len(tokens)
        worst = max(worst, behind)
        name = Path(folders[i]).name if i < len(folders) else "no adapter"
        print(f"  {name:12} free {free[-1]:6.1%}  forced {forced[-1]:6.1%}  at most {behind:.2g} nats behind"
              f"{'' if written[i] != written[-1] or i == len(folders) else '  as without'}")  # fmt: skip
    distinct = len({tuple(row) for row in written[:-1]})
    agree = sum(forced) / len(forced)
    print(f"token agreement: {sum(free) / len(free):.1%} free, {agree:.1%} forced (at most {worst:.2g} nats behind), "
          f"{count} tokens; {distinct} distinct answers of {len(folders)} adapters")  # fmt: skip
    return int(agree < AGREE or (distinct < 2 and len(folders) > 1))


if __name__ == "__main__":
    sys.exit(main())
