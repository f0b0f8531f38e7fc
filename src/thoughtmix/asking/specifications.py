"""Specifications: what one of several answers is to be like. Written for the prompt by a model, or from a catalogue."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from thoughtmix.asking.conversation import wording
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text
from thoughtmix.core.request import TextEmbedder


@dataclass(frozen=True, slots=True)
class Specification:
    """What an answer is to be like. source: model, ideas (the model's, too), catalogue, noise or file."""

    text: str
    source: str

    def asked(self, prompt: str) -> str:
        """The prompt with it. What the model wrote is a few words; the others are whole instructions."""
        form = {"model": "follow", "ideas": "use"}.get(self.source, "instruct")
        filled: str = wording()["plan"][form].format(prompt=prompt, specification=self.text)
        return filled


def specifications(source: str, count: int) -> list[Specification]:
    """All of a source, which is gone through again where it has fewer than `count`.

    Args:
        source: catalogue; noise, whose rewriting directions become instructions; or a file, one a line.

    Raises:
        InputError: A file that cannot be read, or has none.
    """
    if source == "catalogue":
        texts = list(_catalogue())
    elif source == "noise":
        from thoughtmix.noise.catalogue import Catalogue

        texts = [f"Then change your answer: {d.instruction()}" for d in Catalogue.load().values()]
    else:
        texts = _of_file(Path(source))
    found = [Specification(text, source if source in {"catalogue", "noise"} else "file") for text in texts]
    return [found[i % len(found)] for i in range(max(count, len(found)))]


def most_different(found: Sequence[Specification], n: int, embedder: Callable[[], TextEmbedder]) -> list[Specification]:
    """n of them, spread by meaning: greedy MAP of a determinantal point process over their embeddings, the first one
    first (`core.selection.select_diverse`)."""
    if len(found) <= n:
        return [found[i % len(found)] for i in range(n)]
    from thoughtmix.core.selection import select_diverse
    from thoughtmix.metrics.embedding import pairwise_distances

    d = pairwise_distances(embedder().encode([one.text for one in found]))
    return [found[i] for i in select_diverse(d.tolist(), [0.0] * len(found), n, quality_weight=0.0)]


def _of_file(path: Path) -> list[str]:
    hint = "Write one specification a line, or pass source=model or source=catalogue."
    try:
        texts = [line.strip() for line in bounded_text(path).splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the specifications: {error}.", hint) from None
    if not texts:
        raise InputError(f"{path} has no specification.", hint)
    return texts


@functools.cache
def _catalogue() -> tuple[str, ...]:
    body = tomllib.loads(files(__package__).joinpath("specifications.toml").read_text(encoding="utf-8"))
    return tuple(body["specifications"])
