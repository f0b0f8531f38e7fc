"""A model in one GGUF file, dequantised: weights, tokenizer and chat template."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import ModelError

_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_MARKS = ("hf_quantizer", "is_quantized", "quantization_method", "_weight_conversions")


def is_gguf(path: Path) -> bool:
    """Whether a path names such a file, by its ending."""
    return path.suffix.lower() == ".gguf"


def gguf_settings(source: str) -> tuple[str, dict[str, str]]:
    """What transformers' `from_pretrained` is told: a name and, of a GGUF file, which file in that folder."""
    path = Path(source)
    return (str(path.parent), {"gguf_file": path.name}) if is_gguf(path) and path.is_file() else (source, {})


def check_gguf(path: Path) -> None:
    """Raises `ModelError` for a file that is none, or one part of several."""
    with path.open("rb") as file:
        begins = file.read(len(_MAGIC))
    if begins != _MAGIC:
        raise ModelError(f"{path.name} is no GGUF file: it begins with {begins!r}.", "Download it again.")
    if _PART.search(path.stem):
        raise ModelError(f"{path.name} is one part of a model.", "Type: llama-gguf-split --merge PART-1 WHOLE.gguf")


def dequantised_bytes(path: Path) -> int:
    """Of its weights in 16 bits, about: files have four bits a weight or a little more, and to know better takes as
    long as to read a small one."""
    return 4 * path.stat().st_size


def unmark(model: Any) -> None:
    """Let a model whose weights were dequantised while they were read be saved, adapted and trained like any other;
    transformers goes on calling it quantised."""
    for name in _MARKS:
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


@contextlib.contextmanager
def no_bar() -> Iterator[None]:
    """The GGUF reader draws its own progress bar, which no verbosity setting reaches."""
    import transformers.modeling_gguf_pytorch_utils as reader

    module: Any = reader
    bar = getattr(module, "tqdm", None)
    if bar is None:
        yield
        return
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
