"""Whether every branch of a new graft moves the model's logits: looked at once, when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.graft.adapter import Graft, routed
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.reading import as_in_use, few_tokens, modules_that_run

_SAY = "Name modules that the text goes through: target_modules=[...]; see model.named_modules()."


def require_effect(model: nn.Module, graft: Graft, names: Sequence[str]) -> None:
    """Refuse a graft of which a layer changes nothing.

    One forward of a few tokens through all branches, and the gradient of a mixture of its logits at every B (which is 0
    at first, so that B's gradient is all that a step of training would see). Where it is 0 or there is none, as behind
    kernels that have no backward, B is set for a moment and the logits are compared. A model that cannot be run on
    tokens alone, or is not loaded yet, is left unjudged.

    Args:
        model: The model, grafted.
        graft: The graft, at work.
        names: Of its layers.

    Raises:
        InputError: Branches of a layer change nothing, or cannot tell rows apart; the message says why.
    """
    given = few_tokens(model)
    if given is None or graft.layers[0].thought_graft is not graft:
        return
    weights = torch.ones(graft.config.num_branches) / graft.config.num_branches
    with as_in_use(model), routed(model, weights):
        try:
            silent = _without_gradient(model, given, graft)
        except InputError:  # rows cannot be followed
            raise
        except Exception:  # foreign modelling code, which may want more than tokens or have no backward at all
            silent = list(range(len(graft.layers)))
        if not silent:
            return
        try:
            dead = [number for number in silent if not _moves(model, given, graft.layers[number], graft.adapter)]
        except Exception:  # it cannot be run at all
            return
    if dead:
        raise InputError(_why(model, graft, names, dead), _SAY)


def _without_gradient(model: nn.Module, given: dict[str, Tensor], graft: Graft) -> list[int]:
    """The numbers of the layers of which some branch has no gradient."""
    parameters: list[Tensor] = [layer.mot_B[graft.adapter] for layer in graft.layers]
    wanted = [p.requires_grad for p in parameters]
    with torch.enable_grad():
        for p in parameters:
            p.requires_grad_(True)
        try:
            logits = model(**given, use_cache=False).logits.float()
            mix = torch.linspace(-1, 1, logits.shape[-1], device=logits.device).cos() + logits.detach().tanh()
            gradients = torch.autograd.grad((logits * mix).mean(), parameters, allow_unused=True)
        finally:
            for p, before in zip(parameters, wanted, strict=True):
                p.requires_grad_(before)
    return [i for i, g in enumerate(gradients) if g is None or not bool(g.flatten(1).any(1).all())]


@torch.no_grad()
def _moves(model: nn.Module, given: dict[str, Tensor], layer: MoTLayer, adapter: str) -> bool:
    """Whether the logits change when this layer's B is not 0."""
    b = layer.mot_B[adapter]
    kept = b.detach().clone()
    before = model(**given, use_cache=False).logits
    try:
        b.copy_(kept + torch.linspace(-1, 1, b.numel(), device=b.device, dtype=torch.float32).view(b.shape).to(b.dtype))
        after = model(**given, use_cache=False).logits
    finally:
        b.copy_(kept)
    return not torch.equal(before, after)


def _why(model: nn.Module, graft: Graft, names: Sequence[str], dead: list[int]) -> str:
    parts: list[Any] = [graft.layers[number] for number in dead]
    ran = modules_that_run(model, parts) or []
    reason = "does not run when the model reads a text" if False in ran else "has no say in the logits"
    first = names[dead[ran.index(False)] if False in ran else dead[0]]
    return f"{first} cannot be grafted ({len(dead)} of {len(names)} layers): in {type(model).__name__} it {reason}."
