"""Noise without training: one random direction a thought, added where a model keeps its state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import ModelError
from thoughtmix.engine.rng import NOISE, generator


@contextlib.contextmanager
def noise(model: nn.Module, seed: int, strength: float) -> Iterator[None]:
    """While open, `model` adds strength * r * u to its middle layer's output at every position: u a random unit vector
    of `seed`, r the median length of the states (a median, since first tokens are often a hundred times longer) of the
    prompt that was read last. Leaves the model as it was. Decode one prompt and one row at a time."""
    layer = middle_layer(model)
    state: dict[str, Tensor] = {}

    def add(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output  # (1, t, d)
        if "unit" not in state:
            drawn = torch.from_numpy(generator(seed, NOISE).standard_normal(hidden.shape[-1]))
            state["unit"] = (drawn / drawn.norm()).to(hidden)
        if hidden.shape[1] > 1 or "length" not in state:  # a prompt is being read
            state["length"] = hidden.float().norm(dim=-1).median().to(hidden.dtype)
        changed = hidden + strength * state["length"] * state["unit"]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def middle_layer(model: nn.Module) -> nn.Module:
    """The middle one of the model's layers: of its longest list of modules. Raises `ModelError` when it has none."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of layers.", "Drop the gaussian baseline.")
    layers = max(lists, key=len)
    return layers[len(layers) // 2]
