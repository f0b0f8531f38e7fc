"""Reading a few tokens with a model, to see what of it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 4


def few_tokens(model: nn.Module) -> dict[str, Tensor] | None:
    """Arguments of a forward that reads a few tokens; None where there is no telling."""
    owner: Any = model
    try:
        embedding = owner.get_input_embeddings()
        count, device = int(embedding.weight.shape[0]), embedding.weight.device
    except (AttributeError, NotImplementedError, TypeError):
        return None
    if device.type == "meta" or any(p.device.type == "meta" for p in model.parameters()):
        return None
    ids = torch.tensor([[(11 + 7919 * i) % count for i in range(TOKENS)]], device=device)
    config = getattr(model, "config", None)
    return {"input_ids": ids, **({"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {})}


@contextmanager
def as_in_use(model: nn.Module) -> Iterator[None]:
    """Within, the model is in eval mode, and what it may draw leaves the global random state alone."""
    training = [module for module in model.modules() if module.training]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    for module in training:
        module.training = False
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def modules_that_run(model: nn.Module, modules: Sequence[nn.Module]) -> list[bool] | None:
    """Whether each of these modules runs when the model reads a few tokens; None where it cannot be run so."""
    given = few_tokens(model)
    if given is None:
        return None
    ran: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda m, _: ran.add(m)) for module in modules]
    try:
        with as_in_use(model):
            model(**given, use_cache=False)
    except Exception:  # foreign modelling code may want more than tokens, and say so in any way
        return None
    finally:
        for handle in handles:
            handle.remove()
    return [module in ran for module in modules]
