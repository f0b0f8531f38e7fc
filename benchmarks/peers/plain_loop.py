"""Peer: what a careful user writes by hand: one prefill, the cache repeated n times, a plain loop.

Tried with transformers 5.23.0 and torch 2.13.0 (CPU).  Both are dependencies of thoughtmix itself, so its own
environment runs this worker; alone: `python -m venv hf && hf/bin/pip install torch transformers`.
"""

from __future__ import annotations

from typing import Any

import _worker


class PlainLoop:
    """Prefill once at batch 1, repeat the keys and values for n rows, then step all rows together."""

    def __init__(self, request: _worker.Request) -> None:
        import torch
        import transformers

        torch.set_num_threads(request.threads)
        self._torch: Any = torch
        self._new_cache = transformers.DynamicCache
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.dtype = request.dtype
        dtype = getattr(torch, request.dtype)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(request.model, dtype=dtype)
        self._temperature, self._min_p = request.temperature, request.min_p

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        torch = self._torch
        torch.manual_seed(seed)
        with torch.inference_mode():
            cache = self._new_cache(config=self._model.config)
            tokens, rows = torch.tensor([prompt_ids]), []
            for step in range(new_tokens):
                output = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits = output.logits[:, -1]
                if step == 0:
                    cache.batch_repeat_interleave(n)
                    logits = logits.expand(n, -1)
                tokens = torch.multinomial(self._min_p_probs(logits), 1)
                rows.append(tokens)
            answer: list[list[int]] = torch.cat(rows, dim=1).tolist()
        return answer

    def _min_p_probs(self, logits: Any) -> Any:
        """Probabilities, those below `min_p` times the row's largest set to zero (multinomial rescales)."""
        probs = (logits.float() / self._temperature).softmax(-1)
        floor = self._min_p * probs.amax(-1, keepdim=True)
        return probs.masked_fill(probs < floor, 0.0)


if __name__ == "__main__":
    _worker.main("plain_loop", PlainLoop)
