"""The decoding engine: one prompt read once, n rows continued together."""

from thoughtmix.engine.loop import Continuation, Decoded, Row, decode
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.sampling import Sampler
from thoughtmix.engine.without_replacement import Taken

__all__ = ["Continuation", "Decoded", "Prefix", "Row", "Sampler", "Taken", "decode"]
