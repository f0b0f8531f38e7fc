"""Kinds of machines: what one multiplies, holds and costs. The figures and their sources are in data/hardware.toml."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from datetime import date
from importlib.resources import files

from thoughtmix.core.errors import UnknownName

DEFAULT = "h100"


@dataclass(frozen=True, slots=True)
class Kind:
    """tflops: dense peak in the numbers used, 10^12 FLOP/s. memory: GB (10^9 bytes). bandwidth: of that memory, GB/s.
    bytes: a weight in training and decoding. utilisation: the part of the peak that training reaches. price: US
    dollars an hour for one, at `place` on the day `dated`."""

    name: str
    title: str
    tflops: float
    memory: float
    bandwidth: float
    bytes: int
    utilisation: float
    price: float
    place: str
    dated: date

    @property
    def is_cpu(self) -> bool:
        return self.name.startswith("cpu")


@functools.cache
def kinds() -> dict[str, Kind]:
    """Every kind by name, in the order of the file."""
    body = tomllib.loads(files(__package__).joinpath("data/hardware.toml").read_text(encoding="utf-8"))
    return {name: Kind(name=name, **facts) for name, facts in body.items()}


def kind(name: str) -> Kind:
    """Raises `UnknownName`."""
    if name not in kinds():
        raise UnknownName("kind of GPU", name, kinds())
    return kinds()[name]
