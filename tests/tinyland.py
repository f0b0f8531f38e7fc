"""The whole program on a tiny model: what `load_model` and `load_embedder` give is replaced, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tiny import language_model


class HashEmbedder:
    """A text's words as directions: alike when they share words."""

    name = "hash"
    max_tokens = 64

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        out = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            row[0] = 0.3
            for word in text.split():
                row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.fixture
def tinyland(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Gives a dict that notes what was loaded."""
    import thoughtmix.api
    import thoughtmix.models

    seen: dict[str, Any] = {"models": []}

    def load_model(name: str | None = None, **how: Any) -> Any:
        seen["models"].append((name, how.get("dtype"), how.get("device")))
        return language_model(name or "llama")

    monkeypatch.setattr(thoughtmix.models, "load_model", load_model, raising=False)
    monkeypatch.setattr(thoughtmix.models, "load_embedder", lambda name=None, **how: HashEmbedder(), raising=False)
    thoughtmix.api._LAST.clear()
    yield seen
    thoughtmix.api._LAST.clear()
