"""The limit: nothing but the model's matrix products, `F.linear` at n rows, once a token. No peer can be expected
to reach it with the same kernels; one that packs its weights better can pass it."""

from __future__ import annotations

from typing import Any

import _worker


class MatrixProducts:
    def __init__(self, request: _worker.Request) -> None:
        import torch
        import transformers

        torch.set_num_threads(request.threads)
        self._torch: Any = torch
        self.version, self.dtype = f"torch {torch.__version__}", request.dtype
        model = transformers.AutoModelForCausalLM.from_pretrained(request.model, dtype=getattr(torch, request.dtype))
        self._weights = [m.weight.detach() for m in model.modules() if isinstance(m, torch.nn.Linear)]

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        linear = self._torch.nn.functional.linear
        inputs = {w.shape[1]: self._torch.ones(n, w.shape[1], dtype=w.dtype) for w in self._weights}
        with self._torch.inference_mode():
            for _ in range(new_tokens):
                for weight in self._weights:
                    linear(inputs[weight.shape[1]], weight)
        return [[0] * new_tokens] * n


if __name__ == "__main__":
    _worker.main("matrix_products", MatrixProducts)
