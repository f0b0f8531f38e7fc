"""Sentence embeddings: where texts lie in meaning, to say how far thoughts lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import ModelError
from thoughtmix.models.checkpoint import locate
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.models.hardware import quiet, usable_device
from thoughtmix.models.minilm import MiniLM
from thoughtmix.models.packaged import EMBEDDER, Progress, loaded


class Embedder(Protocol):
    """Anything that turns texts into unit vectors."""

    @property
    def name(self) -> str: ...

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """(len(texts), d), rows of length 1."""
        ...


class CountingEmbedder(Embedder, Protocol):
    """One that says how long texts are for it. What lies past its most tokens has no part in a text's vector."""

    @property
    def max_tokens(self) -> int | None:
        """Of a text; None: no limit."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, with the special tokens, all of a text that is too long."""
        ...


class SentenceTransformerEmbedder:
    """Any model that sentence-transformers loads: a folder or a Hugging Face id."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        source, self.name, hub = locate(name, "modules.json", "config.json")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ModelError(
                f"The embedder {name!r} needs sentence-transformers.",
                "Type: pip install sentence-transformers",
            ) from None
        try:
            with quiet(downloads=hub):
                self.model = SentenceTransformer(source, device=device, local_files_only=not hub)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:200].rstrip(".")
            raise ModelError(
                f"Cannot load the embedder {name!r}: {reason}.", "Leave --embedder out for the default."
            ) from None

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        vectors = self.model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    @property
    def max_tokens(self) -> int | None:
        most: Any = self.model.max_seq_length
        return None if most is None else int(most)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return _lengths(self.model.tokenizer, texts)


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


class EndpointEmbedder:
    """A server's /v1/embeddings."""

    batch = 128
    """Texts of a request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        return self.endpoint.name

    def encode(self, texts: Sequence[str], batch_size: int = 128) -> NDArray[np.float32]:
        """(len(texts), d), rows of length 1.

        Raises:
            ModelError: The server finally failed, or its vectors are no directions.
        """
        rows = [vector for at in range(0, len(texts), self.batch) for vector in self._some(texts[at : at + self.batch])]
        try:
            out = np.asarray(rows, dtype=np.float32)
            length = np.linalg.norm(out, axis=1, keepdims=True)
        except ValueError:  # of different lengths
            length = np.zeros(1, dtype=np.float32)
        if not np.isfinite(length).all() or (length == 0).any():
            raise ModelError(f"{self.name} gives embeddings that are no directions.", "Name another: --embed-endpoint.")
        return np.asarray(out / length, dtype=np.float32)

    def _some(self, texts: Sequence[str]) -> list[list[float]]:
        return self.endpoint.embed([text if text.strip() else "." for text in texts])  # many refuse an empty text


def load_embedder(
    name: str | None = None, device: str = "cpu", on_progress: Progress | None = None
) -> CountingEmbedder:
    """The packaged all-MiniLM-L6-v2 (None), or one of sentence-transformers' by folder or id.

    Raises:
        InputError: The device does not exist.
        ModelError: It cannot be loaded.
    """
    device = usable_device(device)
    if name is None or name in {"default", EMBEDDER.title}:
        return loaded(EMBEDDER, "float32", lambda folder: MiniLM(folder, device), on_progress)
    return SentenceTransformerEmbedder(name, device)
