"""Ours, under the same worker as its peers: `thoughtmix.engine.decode`, logs of every probability kept."""

from __future__ import annotations

import _worker


class Engine:
    def __init__(self, request: _worker.Request) -> None:
        import torch

        from thoughtmix import __version__
        from thoughtmix.engine import Row, Sampler, decode
        from thoughtmix.models import load_model

        torch.set_num_threads(request.threads)
        self._lm = load_model(request.model, dtype=request.dtype)
        self._row, self._decode = Row, decode
        self._sampler = Sampler(temperature=request.temperature, min_p=request.min_p)
        ran = decode(self._lm, [[5]], [Row(seed=0)], max_new_tokens=1)  # packs the weights: part of loading
        self.version = f"thoughtmix {__version__}, torch {torch.__version__}"
        self.dtype = f"{request.dtype}, {ran.path} path, {ran.weights} weights"

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        rows = [self._row(seed=seed + i, sampler=self._sampler) for i in range(n)]
        ran = self._decode(self._lm, [prompt_ids], rows, max_new_tokens=new_tokens, end_ids=frozenset())
        return [r.token_ids for r in ran.rows]


if __name__ == "__main__":
    _worker.main("thoughtmix", Engine)
