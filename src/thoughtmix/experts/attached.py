"""Which gates there are: one for each layer that some controller or watcher is on."""

from __future__ import annotations

import threading
from typing import Any, Literal

from torch import nn

from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.gate import Gate

_GATES: dict[nn.Module, Gate] = {}  # by router
_LOCK = threading.Lock()
Role = Literal["controllers", "watchers"]


def join(layer: MoELayer, who: Any, role: Role) -> None:
    """Put a controller or watcher on a layer."""
    with _LOCK:
        gate = _GATES.get(layer.router)
        if gate is None:
            gate = _GATES[layer.router] = Gate(layer)
        setattr(gate, role, [*getattr(gate, role), who])  # a new list: forwards of other threads may walk the old
        gate.refresh()


def changed(layer: MoELayer) -> None:
    """A controller on this layer steers otherwise than before."""
    with _LOCK:
        gate = _GATES.get(layer.router)
        if gate is not None:
            gate.refresh()


def leave(layer: MoELayer, who: Any, role: Role) -> None:
    """Take it off again; with the last one go the hooks."""
    with _LOCK:
        gate = _GATES.get(layer.router)
        if gate is None:
            return
        setattr(gate, role, [x for x in getattr(gate, role) if x is not who])
        if not gate.controllers and not gate.watchers:
            gate.close()
            del _GATES[layer.router]
        else:
            gate.refresh()
