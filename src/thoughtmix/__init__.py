"""thoughtmix: one prompt in, many genuinely different and still good answers out, in one batched pass.

    import thoughtmix
    thoughts = thoughtmix.think("Name a use for a brick.", n=8)
    for thought in thoughts.select(3):
        print(thought.seed, thought.text)

Importing this package imports no torch; the first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thoughtmix import _moved, _peft_hook
from thoughtmix.core import __version__
from thoughtmix.core.lazy import lazy_names
from thoughtmix.core.types import register_html, register_measure, register_text
from thoughtmix.models.checkpoint import register_architecture

_peft_hook.install()  # stock PEFT then knows grafts
_moved.install()
register_architecture("thoughtmix_mixture", "thoughtmix.mixture.model")
register_architecture("thoughtmix_diffusion", "thoughtmix.diffusion.model", causal=False)

_HOME = {  # public name -> module, imported at first use
    "CacheError": "core.errors",
    "InputError": "core.errors",
    "Interrupted": "core.errors",
    "ModelError": "core.errors",
    "NumericsError": "core.errors",
    "Pipeline": "pipeline",
    "Request": "core.request",
    "StepEvent": "core.request",
    "Thinker": "thinkers.base",
    "Thought": "core.types",
    "ThoughtSet": "core.types",
    "ThoughtmixError": "core.errors",
    "UnknownName": "core.errors",
    "get_thinker": "thinkers.registry",
    "map_dataset": "batch.tables",
    "think": "api",
    "thinker_names": "thinkers.registry",
}

__all__ = [
    "CacheError",
    "InputError",
    "Interrupted",
    "ModelError",
    "NumericsError",
    "Pipeline",
    "Request",
    "StepEvent",
    "Thinker",
    "Thought",
    "ThoughtSet",
    "ThoughtmixError",
    "UnknownName",
    "__version__",
    "get_thinker",
    "map_dataset",
    "think",
    "thinker_names",
]

if TYPE_CHECKING:
    from thoughtmix.api import think
    from thoughtmix.batch.tables import map_dataset
    from thoughtmix.core.errors import (
        CacheError,
        InputError,
        Interrupted,
        ModelError,
        NumericsError,
        ThoughtmixError,
        UnknownName,
    )
    from thoughtmix.core.request import Request, StepEvent
    from thoughtmix.core.types import Thought, ThoughtSet
    from thoughtmix.pipeline import Pipeline
    from thoughtmix.thinkers.base import Thinker
    from thoughtmix.thinkers.registry import get_thinker, thinker_names


__getattr__, __dir__ = lazy_names(__name__, _HOME)


def _html(thoughts: ThoughtSet) -> str:
    """What a notebook shows of a set: the report's business, of which `core` knows nothing."""
    from thoughtmix.report.html import fragment

    return fragment(thoughts)


def _text(thoughts: ThoughtSet) -> str:
    """What `print` shows of a set, which is the report's business, too."""
    from thoughtmix.report.text import screenful

    return screenful(thoughts)


def _measure(thoughts: ThoughtSet, embedder: Any, judge: Any) -> ThoughtSet:
    """How texts from elsewhere are measured: the metrics' business, of which `core` knows nothing."""
    from thoughtmix.metrics import measure
    from thoughtmix.models import load_embedder

    named = embedder is None or isinstance(embedder, str)
    return measure(thoughts, load_embedder(embedder) if named else embedder, judge)


register_html(_html)
register_text(_text)
register_measure(_measure)
