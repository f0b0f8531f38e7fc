"""Which models the fused step (fused.py) can take: Llama and those built alike, with nothing hooked into them; and what
tells that their weights have changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from thoughtmix.models.grafted import GraftedModule, GraftHooks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = {  # module of transformers -> what its classes' names begin with
    "transformers.models.llama.modeling_llama": "Llama",
    "transformers.models.mistral.modeling_mistral": "Mistral",
    "transformers.models.qwen2.modeling_qwen2": "Qwen2",
    "transformers.models.qwen3.modeling_qwen3": "Qwen3",
}
_PARTS = ("ForCausalLM", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")


def _family(kind: type) -> tuple[type, ...]:
    """The classes of a family, those of `_PARTS`, when this is its model; else (). Nothing is imported for it: whoever
    made a model of the family has done so."""
    name = _FAMILIES.get(kind.__module__)
    classes = tuple(getattr(sys.modules[kind.__module__], f"{name}{part}") for part in _PARTS) if name else ()
    return classes if classes[:1] == (kind,) else ()


def fits(model: PreTrainedModel) -> bool:
    """Whether the fused step computes exactly what this model's forward would."""
    family = _family(type(model))
    config = model.config
    if not family or model.training or config.rope_parameters.get("rope_type", "default") != "default":
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
        return False
    if family[0].__name__ == "MistralForCausalLM" and config.sliding_window is not None:
        return False
    body: Any = model.model
    act = type(body.layers[0].mlp.act_fn)
    if act.__name__ not in {"SiLU", "SiLUActivation"}:
        return False
    known = {*family, type(model), type(body), type(body.layers[0]), act, nn.Linear, nn.Embedding, nn.ModuleList}
    maps: list[nn.Module] = [layer.mlp.down_proj for layer in body.layers]
    branches = {down for down in maps if isinstance(down, GraftedModule)}
    # containers, which compute nothing
    inside = {part for layer in branches for part in layer.children() if type(part).forward is nn.Module.forward}
    for module in model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        foreign = any(not _is_harmless(hook) for some in hooks for hook in some.values())
        if foreign or "forward" in vars(module):
            return False
        if type(module) not in known and module not in branches and module not in inside:
            return False
    devices = {p.device for p in model.parameters()}
    return len(devices) == 1 and not any(d.type == "meta" for d in devices)


def _is_harmless(hook: Any) -> bool:
    """A graft's, which the step takes into account, or one that transformers leaves on a model once it was asked for
    hidden states or attentions: it notes outputs while a forward asks for them, and never changes one."""
    if isinstance(getattr(hook, "__self__", None), GraftHooks):
        return True
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


def fingerprint(model: PreTrainedModel) -> tuple[Any, ...]:
    """Changes when any weight but those of branches is replaced or written in place, so that packed copies are never
    stale, and when another graft is at work."""
    body: Any = model.model
    maps = [layer.mlp.down_proj for layer in body.layers]
    grafts = {id(down.thought_graft) if isinstance(down, GraftedModule) else 0 for down in maps}
    branches = {id(p) for p in _branch_parameters(model)}
    return (grafts, *((p.data_ptr(), p._version) for p in model.parameters() if id(p) not in branches))


def branch_fingerprint(model: PreTrainedModel) -> tuple[Any, ...]:
    """Changes when a weight of a graft's branches does: what training moves, and `fingerprint` leaves out."""
    return tuple((p.data_ptr(), p._version) for p in _branch_parameters(model))


def _branch_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    body: Any = model.model
    maps: list[nn.Module] = [layer.mlp.down_proj for layer in body.layers]
    for down in maps:
        if isinstance(down, GraftedModule):
            yield from (p for name, p in down.named_parameters() if not name.startswith("base_layer."))
