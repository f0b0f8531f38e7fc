"""Engines continue sequences: one prompt read once, n rows continued together.

engine.py is the interface, local.py our loop over a model in this process, shared.py the same loop joined by many
callers. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.core.lazy import lazy_names

if TYPE_CHECKING:
    from thoughtmix.engine.engine import Capability, Engine, Generation, SequenceOutput, SequenceRequest
    from thoughtmix.engine.local import LocalEngine
    from thoughtmix.engine.prefix_cache import Prefix
    from thoughtmix.engine.sampling_params import SamplingParams
    from thoughtmix.engine.without_replacement import Excluded

__all__ = [
    "Capability",
    "Engine",
    "Excluded",
    "Generation",
    "LocalEngine",
    "Prefix",
    "SamplingParams",
    "SequenceOutput",
    "SequenceRequest",
]

_HOME = {
    "Capability": "engine",
    "Engine": "engine",
    "Excluded": "without_replacement",
    "Generation": "engine",
    "LocalEngine": "local",
    "Prefix": "prefix_cache",
    "SamplingParams": "sampling_params",
    "SequenceOutput": "engine",
    "SequenceRequest": "engine",
}
__getattr__, __dir__ = lazy_names(__name__, _HOME)
