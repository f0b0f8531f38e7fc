"""Peer: llama.cpp through llama-cpp-python's low-level API, the prompt decoded once, shared by n sequences.

Tried with llama-cpp-python 0.3.36, built from source for the machine it runs on (about ten minutes on two
cores): `python -m venv llama && llama/bin/pip install llama-cpp-python`.  `model` is a GGUF file, and its
quantisation decides the arithmetic: the request's dtype is ignored, the answer's says what was run.

Not named llama_cpp.py: a script's own folder comes first on the import path, and it would import itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

import _worker


class LlamaBatched:
    """Prefill as sequence 0, copy its cache cells (by reference) to the others, then one batch a step."""

    def __init__(self, request: _worker.Request) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._request = request
        # An attribute, because C keeps a bare pointer to it.
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = request.model.encode()
        self._model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"cannot load {request.model}")
        text = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self._model, text, len(text))
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.dtype = text.value.decode()
        self._context: Any = None
        self._shape = (0, 0)
        self._batch: Any = None

    def _reshape(self, length: int, n: int) -> None:
        """Make the context fit, once a shape, and outside the timed repeats: it reserves the whole cache."""
        if self._shape == (length, n):
            return
        self.release()
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx = length + n * self._request.new_tokens
        params.n_batch = max(length, n)
        params.n_ubatch = min(512, params.n_batch)
        params.n_seq_max = n
        params.n_threads = params.n_threads_batch = self._request.threads
        params.kv_unified = True  # one buffer for all sequences: the prompt's cells carry many sequence ids
        params.no_perf = True
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"no context of {params.n_ctx} cells for {n} sequences")
        self._batch = lib.llama_batch_init(params.n_batch, 0, 1)
        self._shape = (length, n)

    def release(self) -> None:
        """Give the context and its cache back."""
        if self._context:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
        self._context, self._shape = None, (0, 0)

    def _decode(self, tokens: list[int], positions: list[int], rows: list[int], logits: list[bool]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, positions[i]
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, rows[i]
            batch.logits[i] = logits[i]
        if status := self._lib.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {status}")

    def _sampler(self, seed: int) -> Any:
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(self._request.temperature))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(self._request.min_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed))
        return chain

    def generate(self, prompt_ids: list[int], n: int, new_tokens: int, seed: int) -> list[list[int]]:
        lib, length = self._lib, len(prompt_ids)
        self._reshape(length, n)
        memory = lib.llama_get_memory(self._context)
        lib.llama_memory_clear(memory, False)
        # End-of-sequence needs no ban: nothing below stops at it.  One sampler serves all the rows.
        sampler = self._sampler(seed)
        last = [False] * (length - 1) + [True]
        self._decode(prompt_ids, list(range(length)), [0] * length, last)
        for other in range(1, n):
            lib.llama_memory_seq_cp(memory, 0, other, -1, -1)
        rows = [[lib.llama_sampler_sample(sampler, self._context, length - 1)] for _ in range(n)]
        for step in range(1, new_tokens):
            tokens = [row[-1] for row in rows]
            self._decode(tokens, [length + step - 1] * n, list(range(n)), [True] * n)
            for index, row in enumerate(rows):
                row.append(lib.llama_sampler_sample(sampler, self._context, index))
        lib.llama_sampler_free(sampler)
        return rows


if __name__ == "__main__":
    _worker.main("llama_cpp", LlamaBatched)
