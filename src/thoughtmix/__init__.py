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

from thoughtmix import peft_hook

peft_hook.install()  # stock PEFT then knows grafts

__version__ = "0.1.0"

_HOME = {  # public name -> module, imported at first use
    "CacheError": "errors",
    "InputError": "errors",
    "Interrupted": "errors",
    "ModelError": "errors",
    "NumericsError": "errors",
    "Pipeline": "api",
    "Request": "thinker",
    "StepEvent": "thinker",
    "Thinker": "thinker",
    "Thought": "thoughts",
    "ThoughtSet": "thoughts",
    "ThoughtmixError": "errors",
    "UnknownName": "errors",
    "get_thinker": "registry",
    "think": "api",
    "thinker_names": "registry",
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
    from thoughtmix.errors import (
        CacheError,
        InputError,
        Interrupted,
        ModelError,
        NumericsError,
        ThoughtmixError,
        UnknownName,
    )
    from thoughtmix.registry import get_thinker, thinker_names
    from thoughtmix.thinker import Request, StepEvent, Thinker
    from thoughtmix.thoughts import Thought, ThoughtSet


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thoughtmix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtmix.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
