"""Models: the default ones from the user's cache, or any Hugging Face causal language model.

Importing this package imports no torch. No module here is called like a public name: `from thoughtmix.models
import pull` must give the function whether or not a submodule was imported before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thoughtmix.models.cache import cache_dir
    from thoughtmix.models.embed import Embedder, load_embedder
    from thoughtmix.models.language import LanguageModel, load_model, wrap_model
    from thoughtmix.models.packaged import pull, state

__all__ = [
    "Embedder",
    "LanguageModel",
    "cache_dir",
    "load_embedder",
    "load_model",
    "pull",
    "state",
    "wrap_model",
]

_HOME = {
    "Embedder": "embed",
    "LanguageModel": "language",
    "cache_dir": "cache",
    "load_embedder": "embed",
    "load_model": "language",
    "pull": "packaged",
    "state": "packaged",
    "wrap_model": "language",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.models.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
