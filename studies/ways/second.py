"""Scores of open answers by an embedder that chose none of them: WordLlama's static vectors, means of token vectors.

    pip install "thoughtmix[studies]"

thoughtmix chooses by MiniLM; WordLlama (MIT, 16 MB within its package) was trained otherwise on other text. It is
crude: it knows no order of words. Only its two files are read, its code is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from thoughtmix.core.selection import repeats
from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.metrics.answers import equivalence_classes, near

THRESHOLDS = tuple(round(0.3 + 0.05 * i, 2) for i in range(11))


@cache
def _parts() -> tuple[Any, Any] | None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    found = find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations)))
    table = next(iter(load_file(folder / "weights" / "l2_supercat_256.safetensors").values())).astype(np.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return table, tokenizer


def is_there() -> bool:
    return _parts() is not None


def encode(texts: Sequence[str]) -> Any:
    """(texts, 256), rows of length 1; a blank text is a zero."""
    parts = _parts()
    assert parts is not None, "ask is_there first"
    table, tokenizer = parts
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mean = table[ids].mean(0) if ids else np.zeros(table.shape[1], np.float32)
        rows.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    return np.stack(rows)


def scores(prompt: str, texts: Sequence[str], n: int) -> dict[str, float]:
    """Of a set: `relevance_2`; `distinct_2@t`, different ones at distances from 0.3 to 0.8; `clean`, the share of n
    that neither loops, stutters nor is a stock phrase."""
    out = {"clean": sum(not repeats(t) and not is_stock_phrase(t) and bool(t.strip()) for t in texts) / n}
    if is_there():
        vectors = encode([prompt, *texts])
        distances = 1 - vectors[1:] @ vectors[1:].T
        out["relevance_2"] = float((vectors[1:] @ vectors[0]).mean())
        for t in THRESHOLDS:
            out[f"distinct_2@{t:g}"] = max(equivalence_classes(len(texts), near(distances, t))) + 1.0
    return out
