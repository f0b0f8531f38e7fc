"""Models: the default ones from the user's cache, any Hugging Face language model, or a server elsewhere.

Importing this package imports no torch. No module here is called like a public name: `from thoughtmix.models
import pull` must give the function whether or not a submodule was imported before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.core.lazy import lazy_names

if TYPE_CHECKING:
    from thoughtmix.models.cache import cache_dir
    from thoughtmix.models.embed import Embedder, load_embedder
    from thoughtmix.models.language import LanguageModel, wrap_model
    from thoughtmix.models.loading import load_model
    from thoughtmix.models.packaged import pull, state

_HOME = {  # public name -> module, imported at first use
    "Embedder": "embed",
    "LanguageModel": "language",
    "cache_dir": "cache",
    "load_embedder": "embed",
    "load_model": "loading",
    "pull": "packaged",
    "state": "packaged",
    "wrap_model": "language",
}

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
