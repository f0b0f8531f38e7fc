"""Where a model's feed-forward blocks are, and which map of each is the last.

Nearly every family is alike: a decoder layer has a child that is its feed-forward block, whose last linear map has a
name of a few. Where names say nothing it is the last map of the layer that gives its width back and is not attention's.
Blocks of experts have no one last map: there the branches go beside the whole block. Which of a model's lists of layers
read a text, and not an image, is found by reading one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from thoughtmix.core.errors import InputError
from thoughtmix.graft.reading import modules_that_run

BLOCKS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "DenseReluDense", "moe", "ff", "mixer")
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
    lists = _lists_of_text(model)
    if not lists:
        raise InputError(f"{type(model).__name__} has no list of layers.", _SAY)
    _, longest = max(lists, key=lambda item: len(item[1]))
    width = width_of(model)
    found = []
    for name, layers in lists:
        if type(layers[0]) is not type(longest[0]):
            continue
        for number, layer in enumerate(layers):
            block = _of_layer(f"{name}.{number}", layer, width)
            if block is None:
                raise InputError(f"No feed-forward block is known in {name}.{number} ({type(layer).__name__}).", _SAY)
            found.append(block)
    return found


def _lists_of_text(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of layers that run when the model reads a text: a multimodal model's other towers do not. All of them
    where it cannot be run so."""
    lists = stacks(model)
    if len(lists) < 2:
        return lists
    ran = modules_that_run(model, [layers[0] for _, layers in lists])
    return [pair for pair, runs in zip(lists, ran, strict=True) if runs] if ran is not None else lists


def width_of(model: nn.Module) -> int | None:
    """The width of a model's hidden states, as its config has it."""
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config  # type: ignore[union-attr]
    return getattr(text, "hidden_size", None) or getattr(text, "d_model", None)


def _of_layer(name: str, layer: nn.Module, width: int | None) -> Block | None:
    for path, block in _candidates(name, layer):
        if any(child in dict(_inner(block).named_children()) for child in EXPERTS):
            return Block(path, beside=True)
        last = _last(path, block)
        if last is not None:
            return last
    for child in ON_THE_LAYER:
        if _is_linear(getattr(layer, child, None)):
            return Block(f"{name}.{child}", beside=False)
    return _by_shape(name, layer, width)


def _by_shape(name: str, layer: nn.Module, width: int | None) -> Block | None:
    """Where no name is known: a block of experts anywhere in the layer, else the last linear map that gives the
    model's width and is no part of an attention."""
    last = None
    for path, module in layer.named_modules():
        if path and any(child in module._modules for child in EXPERTS):
            return Block(f"{name}.{path}", beside=True)
        if "att" not in path.lower() and _is_linear(module) and features(path, module, width)[1] == width:
            last = Block(f"{name}.{path}", beside=False)
    return last


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


def stack_of(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The module that is given the tokens and runs the lists of layers in which the modules of these names stand: the
    innermost one around them all that takes ids or embeddings."""
    around = [_list_of(model, name) for name in names]
    common = around[0]
    for parts in around:
        common = common[: next((i for i, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b), len(common))]
    for end in range(len(common), 0, -1):
        above = model.get_submodule(".".join(common[:end]))
        if not isinstance(above, nn.ModuleList) and _TOKENS & set(inspect.signature(above.forward).parameters):
            return above
    return model


_TOKENS = {"input_ids", "inputs_embeds"}


def _list_of(model: nn.Module, name: str) -> list[str]:
    """The name, in parts, of the outermost list that a module stands in; of the module itself where it is in none."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList):
            return parts[:end]
    return parts[:-1]
