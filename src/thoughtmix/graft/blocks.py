"""Where a model's feed-forward blocks are, and which map of each is the last.

Nearly every family is alike: a decoder layer has a child that is its feed-forward block, whose last linear map has a
name of a few. Families that differ stand in a table. Blocks of experts have no one last map: there the branches go
beside the whole block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from thoughtmix.core.errors import InputError

BLOCKS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "DenseReluDense", "moe", "ff")
LAST = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "wo", "fc_out", "w2", "output_linear", "down")
ON_THE_LAYER = ("fc2",)  # OPT, BART: the last map is a child of the decoder layer itself
EXPERTS = ("experts", "gate", "router")
_SAY = "Name the modules: target_modules=[...] of last linear maps, or of whole blocks; see model.named_modules()."


@dataclass(frozen=True, slots=True)
class Block:
    """What is grafted in one decoder layer: `name` is the last linear map, or (beside) the block itself."""

    name: str
    beside: bool


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The list of decoder layers by name; of an encoder-decoder model, the decoder's."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            found.append((name, module))
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        found = [(name, module) for name, module in found if "decoder" in name.split(".")]
    return found


def find_blocks(model: nn.Module) -> list[Block]:
    """One block a decoder layer, in their order. Raises `InputError` naming a layer in which there is none."""
    kind = type(model).__name__
    lists = stacks(model)
    if not lists:
        raise InputError(f"{kind} has no list of layers.", _SAY)
    name, layers = max(lists, key=lambda item: len(item[1]))
    found = []
    for number, layer in enumerate(layers):
        block = _of_layer(f"{name}.{number}", layer)
        if block is None:
            raise InputError(f"No feed-forward block is known in {name}.{number} ({type(layer).__name__}).", _SAY)
        found.append(block)
    return found


def _of_layer(name: str, layer: nn.Module) -> Block | None:
    for path, block in _candidates(name, layer):
        if any(child in dict(_inner(block).named_children()) for child in EXPERTS):
            return Block(path, beside=True)
        last = _last(path, block)
        if last is not None:
            return last
    for child in ON_THE_LAYER:
        if _is_linear(getattr(layer, child, None)):
            return Block(f"{name}.{child}", beside=False)
    return None


def _candidates(name: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children by the names of feed-forward blocks; T5 keeps its own as the last of a list of sub-layers."""
    for child, module in layer.named_children():
        if child in BLOCKS:
            yield f"{name}.{child}", module
    for child, module in layer.named_children():
        if isinstance(module, nn.ModuleList) and len(module):
            yield from _candidates(f"{name}.{child}.{len(module) - 1}", module[-1])


def _inner(module: nn.Module) -> nn.Module:
    """Out of what PEFT put around it."""
    while isinstance(getattr(module, "base_layer", None), nn.Module):
        module = module.base_layer  # type: ignore[assignment]
    return module


def _last(path: str, block: nn.Module) -> Block | None:
    for child in LAST:
        if _is_linear(getattr(block, child, None)):
            return Block(f"{path}.{child}", beside=False)
    return None


def _is_linear(module: object) -> bool:
    """Quantised linear maps, too, say how many features they have."""
    return isinstance(module, (nn.Linear, Conv1D)) or (
        isinstance(module, nn.Module) and hasattr(module, "in_features") and hasattr(module, "out_features")
    )


def features(name: str, module: nn.Module, width: int | None) -> tuple[int, int]:
    """(inputs, outputs) of a linear map; of a block the model's width both. Raises `InputError`."""
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    if _is_linear(module):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    if isinstance(module, (nn.Embedding, nn.ModuleList, nn.ModuleDict)) or width is None:
        raise InputError(f"{name} ({type(module).__name__}) cannot be grafted.", _SAY)
    return width, width


def stack_of(model: nn.Module, name: str) -> nn.Module:
    """The module whose forward runs the list of layers in which the module `name` stands."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList):
            return model.get_submodule(".".join(parts[: end - 1]))
    return model
