"""The decoding engine: one prompt read once, n rows continued together."""

from thoughtmix.decoding.engine import Continuation, Decoded, Row, decode
from thoughtmix.decoding.known import Prefix
from thoughtmix.decoding.once import Taken
from thoughtmix.decoding.sampling import Sampler

__all__ = ["Continuation", "Decoded", "Prefix", "Row", "Sampler", "Taken", "decode"]
