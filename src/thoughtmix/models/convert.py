"""GGUF -> a Hugging Face folder: safetensors, tokenizer, chat template. Done once; loading is then quick."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import CacheError
from thoughtmix.models.cache import disk_full


def convert_gguf(gguf: Path, folder: Path, dtype: str, title: str) -> None:
    """Dequantise `gguf` to float32, cast to `dtype` and write it into `folder`. Raises `CacheError`."""
    try:
        _convert(gguf, folder, dtype)
    except Exception as error:  # parsers, torch and safetensors each have errors of their own
        if disk_full(error):
            raise
        raise CacheError(
            f"Cannot convert {title}: {str(error)[:200] or type(error).__name__}.",
            "Type: pip install -U transformers gguf && thoughtmix pull",
        ) from error


def _convert(gguf: Path, folder: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from thoughtmix.models.quiet import quiet

    automodel: Any = AutoModelForCausalLM
    where = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet(), _no_bar():
        source = automodel.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **where)
        config = source.config
        # transformers keeps calling the model quantised, and would refuse to save it: start a clean one.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = automodel.from_config(config, dtype=torch.float32)
        model.load_state_dict(source.state_dict())
        model.generation_config = source.generation_config
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
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
