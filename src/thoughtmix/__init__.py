"""thoughtmix: one prompt in, many genuinely different and still good answers out, in one batched pass.

    import thoughtmix
    thoughts = thoughtmix.think("Name a use for a brick.", n=8)
    for thought in thoughts.select(3):
        print(thought.seed, thought.text)

Importing this package imports no torch; the first call does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from thoughtmix import _peft_hook
from thoughtmix.core.types import register_html

_peft_hook.install()  # stock PEFT then knows grafts

__version__ = "0.1.0"

_HOME = {  # public name -> module, imported at first use
    "CacheError": "core.errors",
    "InputError": "core.errors",
    "Interrupted": "core.errors",
    "ModelError": "core.errors",
    "NumericsError": "core.errors",
    "Pipeline": "api",
    "Request": "core.thinker",
    "StepEvent": "core.thinker",
    "Thinker": "core.thinker",
    "Thought": "core.types",
    "ThoughtSet": "core.types",
    "ThoughtmixError": "core.errors",
    "UnknownName": "core.errors",
    "get_thinker": "core.registry",
    "think": "api",
    "thinker_names": "core.registry",
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
    "think",
    "thinker_names",
]

if TYPE_CHECKING:
    from thoughtmix.api import Pipeline, think
    from thoughtmix.core.errors import (
        CacheError,
        InputError,
        Interrupted,
        ModelError,
        NumericsError,
        ThoughtmixError,
        UnknownName,
    )
    from thoughtmix.core.registry import get_thinker, thinker_names
    from thoughtmix.core.thinker import Request, StepEvent, Thinker
    from thoughtmix.core.types import Thought, ThoughtSet


def _html(thoughts: ThoughtSet) -> str:
    """What a notebook shows of a set: the report's business, of which `core` knows nothing."""
    from thoughtmix.report.html import fragment

    return fragment(thoughts)


register_html(_html)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
