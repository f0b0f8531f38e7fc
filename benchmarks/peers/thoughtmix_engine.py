"""Ours, under the same worker as its peers: the local engine, logs of every probability kept."""

from __future__ import annotations

import _worker


class Engine:
    def __init__(self, request: _worker.Request) -> None:
        import torch

        from thoughtmix import __version__
        from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
        from thoughtmix.models import load_model

        torch.set_num_threads(request.threads)
        self._engine = LocalEngine(load_model(request.model, dtype=request.dtype), weights=request.weights)
        self._request = SequenceRequest
        self._sampling = SamplingParams(temperature=request.temperature, min_p=request.min_p)
        ran = self._engine.generate([SequenceRequest((5,), 0, max_new_tokens=1)])  # packs the weights: part of loading
        self.version = f"thoughtmix {__version__}, torch {torch.__version__}"
        self.dtype = f"{request.dtype}, {ran.path} path, {ran.weights} weights"

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        ids, ends = tuple(prompt_ids), frozenset[int]()
        rows = [self._request(ids, seed + i, self._sampling, new_tokens, end_ids=ends) for i in range(n)]
        return [output.token_ids for output in self._engine.generate(rows).outputs]


if __name__ == "__main__":
    _worker.main("thoughtmix", Engine)
