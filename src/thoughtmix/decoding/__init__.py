"""The decoding engine: one prompt read once, n rows continued together."""

from thoughtmix.decoding.engine import Continuation, Decoded, Row, decode
from thoughtmix.decoding.sampling import Sampler

__all__ = ["Continuation", "Decoded", "Row", "Sampler", "decode"]
