"""Peer: Hugging Face `generate(num_return_sequences=n)`, which prefills n copies of the prompt.

Tried with transformers 5.23.0 and torch 2.13.0 (CPU).  Both are dependencies of thoughtmix itself, so its own
environment runs this worker; alone: `python -m venv hf && hf/bin/pip install torch transformers`.
"""

from __future__ import annotations

from typing import Any

import _worker


class HfGenerate:
    """The stock sampling loop of transformers, end-of-sequence and top-k switched off."""

    def __init__(self, request: _worker.Request) -> None:
        import torch
        import transformers

        torch.set_num_threads(request.threads)
        self._torch: Any = torch
        self._set_seed = transformers.set_seed
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.dtype = request.dtype
        dtype = getattr(torch, request.dtype)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(request.model, dtype=dtype)
        # A fresh configuration, so that nothing the checkpoint carries (top-p, eos, ...) changes the work.
        self._model.generation_config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True,
            temperature=request.temperature,
            min_p=request.min_p,
            top_k=0,
            top_p=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        self._set_seed(seed)
        prompt = self._torch.tensor([prompt_ids])
        rows = self._model.generate(
            prompt,
            attention_mask=self._torch.ones_like(prompt),
            num_return_sequences=n,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )
        answer: list[list[int]] = rows[:, len(prompt_ids) :].tolist()
        return answer


if __name__ == "__main__":
    _worker.main("hf_generate", HfGenerate)
