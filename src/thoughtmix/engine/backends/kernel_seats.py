"""Where keys and values lie, as the C functions are told.

Axis letters: l layers, n rows, h key/value heads, t prompt tokens, s own tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from thoughtmix import kernels

Layers = Tensor | Sequence[Tensor]
"""A tensor a layer."""


@dataclass(slots=True)
class Seats:
    """Where the keys and values of all rows stand, until rows come or go."""

    version: int
    segments: Any
    addresses: list[Any]  # arrays of addresses, which the segments point to
    together: bool  # whether rows may look at each other's keys

    @classmethod
    def of(cls, made: Sequence[Seat], version: int = 0) -> Seats:
        segments = (kernels.Segment * len(made))(*(seat.segment for seat in made))
        together = any(segment.reads or segment.tokens > 1 for segment in segments)
        return cls(version, segments, [seat.addresses for seat in made], together)


@dataclass(frozen=True, slots=True)
class Seat:
    """Of one segment."""

    segment: kernels.Segment
    addresses: Any
    memory: Tensor | None
    """That they are of, where it may be another one later."""

    @classmethod
    def of(
        cls,
        first: int,
        rows: int,
        prompt: int,
        reads: bool,
        shared: Sequence[Layers],
        own: Sequence[Tensor] = (),
        memory: Tensor | None = None,
        root: Sequence[Layers] | None = None,
    ) -> Seat:
        """See `Segment` in kernels.h.

        Args:
            shared: Keys and values (h, t, d) a layer, of the prompt.
            own: Those of the rows' own tokens, (l, n, h, s, d) each.
            root: Keys and values of the prompt's first tokens, where `shared` has those behind them.
        """
        parts, like = [*shared, *own, *(root or ())], shared[0][0]
        known = 0 if root is None else root[0][0].shape[1]
        addresses = np.stack([_by_layer(part) for part in parts])
        addresses[:2] -= np.uint64(known * like.shape[-1] * like.element_size())
        at = [addresses.ctypes.data + i * addresses.strides[0] for i in range(len(parts))]
        segment = kernels.Segment(first, rows, prompt, reads, 1, known, at[0], at[1], like.stride(0))
        if root is not None:
            segment.known_keys, segment.known_values = at[-2:]
            segment.known_stride = root[0][0].stride(0)
        if own:
            segment.own_keys, segment.own_values = at[2:4]
            segment.own_row, segment.own_head = own[0].stride(1), own[0].stride(2)
        return cls(segment, addresses, memory)


def _by_layer(part: Layers) -> Any:
    """The address of each layer's."""
    if isinstance(part, Tensor):
        apart = part.stride(0) * part.element_size()
        return np.arange(len(part), dtype=np.uint64) * np.uint64(apart) + np.uint64(part.data_ptr())
    return np.array([layer.data_ptr() for layer in part], np.uint64)
