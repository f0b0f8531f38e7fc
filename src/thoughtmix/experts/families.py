"""Where a model's mixture-of-experts layers are, and how each hands its router's choice to its experts.

Nearly every family is alike: a block with a child `experts` and a child `gate` or `router`, and experts that are called
as experts(hidden, index (T, k), weight (T, k)). Such blocks are found by that structure and need no entry here; the
table holds those that differ, and those that cannot be controlled, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError, ModelError

RoutingFormat = Literal["index", "input_scale", "onehot", "mask"]
"""How a choice reaches the experts. index: experts(hidden, index, weight), both (T, k). input_scale: the router returns
scores (T, e) that scale each expert's *input*. onehot: experts(hidden, one-hot (T, k, e), weight (T, k)). mask:
experts(hidden, mask (T, e), weight (T, e))."""


@dataclass(frozen=True, slots=True)
class Family:
    """What must be known of a kind of block beyond its structure."""

    format: RoutingFormat = "index"
    sigmoid: bool = False
    """Scores are sigmoids of the logits, not their softmax."""
    logits: int | None = 0
    """Where the router's output has its logits; None: it is the logits."""
    probabilities: bool = False
    """What stands there is the softmax of the logits already."""
    top_k: int | None = None
    """Experts a token, where the modules do not say."""
    unheard: str = ""
    """Why the router's choice does not reach the experts, so that only forcing can work; "" where it does."""
    refused: str = ""
    """Why nothing here can be controlled; "" where something can."""


_NLLB = (
    "transformers one-hots NLLB-MoE's router mask a second time, so that only expert_0 and expert_1 ever run, "
    "whatever the router says"
)
_FAMILIES = {  # by class name of the block, the router or the experts
    "DbrxFFN": Family(logits=None),
    "Ernie4_5_MoeSparseMoeBlock": Family(sigmoid=False),  # corrected, yet softmax
    "Gemma4TextRouter": Family(probabilities=True),
    "Llama4TextMoe": Family(format="input_scale", sigmoid=True, logits=1),
    "SwitchTransformersSparseMLP": Family(format="onehot", logits=2, top_k=1),
    "NllbMoeSparseMLP": Family(format="mask", logits=2, top_k=2, unheard=_NLLB),
    "ZayaRouter": Family(sigmoid=False),  # the same
    "JetMoeMoE": Family(refused="JetMoE sorts tokens by expert inside its router"),
    "JetMoeMoA": Family(refused="JetMoE routes inside its attention"),
    "LongcatFlashMoE": Family(refused="LongCat routes some tokens to experts that do not exist"),
    "DeepseekV4HashRouter": Family(refused="its router hashes token ids and reads no scores"),
    "Mxfp4GptOssExperts": Family(refused="its MXFP4 kernel bypasses router and experts"),
}
_PLAIN = Family()
_TOP_K = ("top_k", "num_experts_per_tok", "moe_top_k", "top_k_experts", "moe_topk")
_CORRECTED = Family(sigmoid=True)  # DeepSeek-V3 and its many kin: a corrected choice over sigmoids


@dataclass(frozen=True, eq=False)
class MoELayer:
    """One mixture-of-experts layer of a model. `number` counts these layers from 0, in the order of the modules."""

    number: int
    name: str
    block: nn.Module
    router: nn.Module
    experts: nn.Module
    num_experts: int
    top_k: int
    family: Family

    @property
    def device(self) -> torch.device:
        return next(self.router.parameters()).device

    @property
    def restricted(self) -> bool:
        """Whether the choice is not simply the k largest logits: groups of experts, or a correction of the scores."""
        router = inner(self.router)
        groups = getattr(router, "num_group", None) or getattr(router, "n_group", None) or 1
        return int(groups) > 1 or _corrected(self.block) or _corrected(router)

    @property
    def scored(self) -> int:
        """How many outputs the router's linear map has: Inkling scores its shared experts, too, and Zaya one that does
        nothing, after the others."""
        router = inner(self.router)
        return int(getattr(router, "n_total_experts", 0) or getattr(router, "num_router_classes", self.num_experts))

    def logits(self, out: Any) -> Tensor:
        """(T, e) float32 router logits, from what the router returned."""
        at = self.family.logits
        found = out if at is None else out[at] if isinstance(out, tuple) and len(out) > at else None
        if isinstance(found, Tensor) and found.shape[-1] == self.scored:
            found = found[..., : self.num_experts]
        if not isinstance(found, Tensor) or found.shape[-1] != self.num_experts:
            raise ModelError(f"The router of {self.name} returns no logits of {self.num_experts} experts.", _REPORT)
        found = found.reshape(-1, self.num_experts).float()
        return found.clamp(min=torch.finfo(torch.float32).tiny).log() if self.family.probabilities else found

    def probabilities(self, logits: Tensor) -> Tensor:
        """(T, e) scores that sum to 1: softmax of the logits, or their sigmoids by their sum."""
        if not self.family.sigmoid:
            return logits.softmax(-1)
        scores = logits.sigmoid()
        total: Tensor = scores.sum(-1, keepdim=True).clamp(min=1e-20)
        return scores / total


_REPORT = "Choose another family, or report this model class to thoughtmix."


def find_moe_layers(model: nn.Module) -> tuple[MoELayer, ...]:
    """The mixture-of-experts layers of a model, also under PEFT, in the order of its modules.

    Raises:
        InputError: There are none.
        ModelError: A layer cannot be controlled; the message names it.
    """
    found: list[MoELayer] = []
    for name, module in model.named_modules():
        known = _FAMILIES.get(type(module).__name__)
        if known is not None and known.refused:
            raise _refusal(name, known.refused)
        router = _child(module, "gate") or _child(module, "router")
        experts = _child(module, "experts")
        if router is not None and experts is not None:
            found.append(_layer(model, len(found), name, module, router, experts))
    if not found:
        raise InputError(
            f"{type(inner(model)).__name__} has no mixture-of-experts layers.",
            "Choose a mixture-of-experts model (Mixtral, OLMoE, Qwen3-MoE, ...), or another thinker (--thinker).",
        )
    return tuple(found)


def layers_to_hook(
    model: nn.Module, numbers: Sequence[int] | None
) -> tuple[tuple[MoELayer, ...], tuple[MoELayer, ...]]:
    """(all mixture-of-experts layers of a model, those of `numbers`, in order; None: all).

    Raises:
        InputError: There are none, or a number is none of theirs.
        ModelError: A layer cannot be controlled, or the model is compiled already.
    """
    every = find_moe_layers(model)
    _refuse_compiled(model, every)
    wrong = [x for x in numbers or () if not 0 <= x < len(every)]
    if wrong:
        raise InputError(f"There is no mixture-of-experts layer {wrong[0]}.", f"Pass 0 to {len(every) - 1}.")
    return every, every if numbers is None else tuple(every[i] for i in sorted(set(numbers)))


def _refuse_compiled(model: nn.Module, layers: tuple[MoELayer, ...]) -> None:
    """Raises `ModelError` when the model was compiled: compiled code ignores what is attached later."""
    way = "Attach first and compile inside the context, or use the model that was given to torch.compile."
    if hasattr(model, "_orig_mod"):
        raise ModelError(f"{layers[0].name} belongs to a compiled model, which would ignore the controller.", way)
    for layer in layers:
        for name, module in model.named_modules():
            whole = name == "" or layer.name == name or layer.name.startswith(f"{name}.")
            if whole and getattr(module, "_compiled_call_impl", None) is not None:
                raise ModelError(f"{layer.name} is compiled already and would ignore the controller.", way)


def inner(module: nn.Module) -> nn.Module:
    """The module itself, out of the layers that PEFT put around it."""
    while isinstance(getattr(module, "base_layer", None), nn.Module):
        module = module.base_layer  # type: ignore[assignment]
    return module


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return module._modules.get(name)


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(f"{name or 'This model'} cannot be controlled: {reason}.", _REPORT)


def _layer(
    model: nn.Module, number: int, name: str, block: nn.Module, router: nn.Module, experts: nn.Module
) -> MoELayer:
    mine = inner(experts)
    family = _PLAIN
    for part in (mine, inner(router), block):
        family = _FAMILIES.get(type(part).__name__, family)
        if family.refused:
            raise _refusal(name, family.refused)
    if isinstance(mine, nn.ModuleList):
        raise _refusal(name, "its block walks through a list of experts by itself")
    if getattr(mine, "_is_expert_parallel", False):
        raise ModelError(f"{name} spreads its experts over devices.", "Load the model without expert parallelism.")
    if family is _PLAIN and (_corrected(block) or _corrected(inner(router))):
        family = _CORRECTED
    count = _number([mine, inner(router), block], "num_experts", "n_routed_experts", "num_local_experts")
    if count is None and isinstance(mine, nn.ModuleDict):
        count = len(mine)
    top_k = family.top_k or _number([inner(router), block, mine], *_TOP_K)
    if top_k is None:
        top_k = _number(_configs(model, inner(router)), *_TOP_K)
    if count is None or top_k is None:
        raise _refusal(name, "it does not say how many experts it has and uses")
    return MoELayer(number, name, block, router, experts, count, min(top_k, count), family)


def _configs(model: nn.Module, router: nn.Module) -> list[Any]:
    """Who may say how many experts a token has: the router's own config, the text model's, the whole model's."""
    own: Any = getattr(inner(model), "config", None)
    text = own.get_text_config(decoder=True) if hasattr(own, "get_text_config") else None
    return [getattr(router, "config", None), text, own]


def _corrected(module: nn.Module) -> bool:
    """Whether the choice adds a learned correction to the scores."""
    own = {*vars(module), *module._parameters, *module._buffers}
    corrections = {"e_score_correction_bias", "expert_bias", "balancing_biases"}
    return bool(own & corrections) or hasattr(module, "moe_statics")


def _number(parts: Sequence[Any], *names: str) -> int | None:
    """The first positive whole number that a part has by one of these names."""
    values = (getattr(part, name, None) for part in parts for name in names)
    return next((x for x in values if isinstance(x, int) and not isinstance(x, bool) and x > 0), None)
