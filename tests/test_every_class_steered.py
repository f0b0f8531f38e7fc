"""Grafts and expert control over every causal class of the installed transformers, a tiny model each: every branch and
every mixture-of-experts layer moves the logits, or the class is refused in one true line."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from every_class import EXCEPTIONS, build, classes
from peft import get_peft_model
from torch import Tensor

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.experts import ExpertController
from thoughtmix.experts.families import find_moe_layers
from thoughtmix.graft import MoTConfig, MoTLayer, thoughts

NAMES = sorted(set(classes()) - set(EXCEPTIONS))
NO_GRAFT = {
    "BltForCausalLM": "rows cannot be told apart",  # it goes through patches of bytes
    "CpmAntForCausalLM": "rows cannot be told apart",  # it reads a prompt of its own before the text
    "ProphetNetForCausalLM": "rows cannot be told apart",  # several streams of each token
    "XLNetLMHeadModel": "rows cannot be told apart",  # tokens stand before rows
}
NO_CONTROL = {
    "DeepseekV4ForCausalLM": "hashes token ids",
    "JetMoeForCausalLM": "sorts tokens by expert",
    "LongcatFlashForCausalLM": "experts that do not exist",
}
IDS = torch.tensor([[3, 17, 40, 5, 77, 23], [9, 11, 30, 100, 4, 8]])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_steered_or_refused(name: str) -> None:
    model = build(name)
    want = logits(model)
    _experts(name, model, want)
    _graft(name, model, want)


def _experts(name: str, model: Any, want: Tensor) -> None:
    if name in NO_CONTROL:
        with pytest.raises(ModelError, match=NO_CONTROL[name]):
            find_moe_layers(model)
        return
    try:
        layers = find_moe_layers(model)
    except InputError as error:
        assert "has no mixture-of-experts layers" in str(error)
        assert not any(n.split(".")[-1] == "experts" for n, _ in model.named_modules()), "its experts were not found"
        return
    with ExpertController(model) as controller:
        for layer in layers:
            last = layer.num_experts - 1
            controller.reset().force([last], [0.7], layers=[layer.number])
            assert not torch.equal(logits(model), want), (layer.name, "force")
            controller.reset().bias({last: 50.0}, layers=[layer.number])
            assert not torch.equal(logits(model), want), (layer.name, "bias")
        controller.reset().perturb(3.0, seeds=[1, 2])
        assert not torch.equal(logits(model), want), "noise"
    assert torch.equal(logits(model), want)


def _graft(name: str, model: Any, want: Tensor) -> None:
    if name in NO_GRAFT:
        with pytest.raises(InputError, match=NO_GRAFT[name]):
            get_peft_model(model, MoTConfig(num_branches=4, r=2))
        assert torch.equal(logits(model), want)
        return
    grafted: Any = get_peft_model(model, MoTConfig(num_branches=4, r=2)).eval()
    layers = [m for m in grafted.modules() if isinstance(m, MoTLayer)]
    for layer in layers:
        layer.mot_B["default"].data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
        with thoughts(grafted, 1.0, 3):
            assert not torch.equal(logits(grafted), want)
        with thoughts(grafted, 0.0, 3):
            assert torch.equal(logits(grafted), want), "law 1"
        layer.mot_B["default"].data.zero_()
    assert torch.equal(logits(grafted.unload()), want), "law 2"
