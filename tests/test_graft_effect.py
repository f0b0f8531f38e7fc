"""Grafts work in every model that takes them, and are refused in one true line where they would do nothing."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from graftland import grafted
from peft import get_peft_model
from tiny import VOCABULARY, tiny, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from thoughtmix.core.errors import InputError
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.graft import MoTConfig, MoTLayer, thoughts
from thoughtmix.graft.adapter import graft_of
from thoughtmix.models import wrap_model

pytestmark = pytest.mark.usefixtures("global_state_untouched")
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_SHARED = {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "global_head_dim": 8, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3 with a deep vision tower": (
        "gemma3",
        {"text_config": {**_TEXT, "sliding_window": 16}, "vision_config": _VISION, "mm_tokens_per_image": 1,
         "image_token_index": 9, "boi_token_index": 7, "eoi_token_index": 8},
    ),
    "two recurring stacks": ("hrm_text", {**_TEXT, "num_hidden_layers": 2, "H_cycles": 2, "L_cycles": 2}),
    "keys shared by later layers": ("gemma4_text", {**_TEXT, **_SHARED}),
    "no attention": ("mamba", {**_TEXT, "state_size": 8, "expand": 2, "use_mambapy": False}),
    "no name of a block": ("bert", {**_TEXT, "is_decoder": True}),
    "layers of several kinds": (
        "nemotron_h",
        {**_TEXT, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 8,
         "ssm_state_size": 8, "n_groups": 1, "use_mamba_kernels": False},
    ),
}  # fmt: skip
every = pytest.mark.parametrize("name", _CONFIGS)
IDS = torch.tensor([[3, 17, 40, 5, 77, 23], [10, 11, 30, 100, 4, 90]])


@functools.cache
def _built(name: str) -> Any:
    kind, settings = _CONFIGS[name]
    auto: Any = AutoModelForImageTextToText if kind == "gemma3" else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(CONFIG_MAPPING[kind](**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.25)
    return model.eval().requires_grad_(False)


def base(name: str) -> Any:
    return copy.deepcopy(_built(name))


@every
def test_every_branch_moves_the_logits(name: str) -> None:
    """And creativity 0 is the base model bit for bit (law 1), as it is again without the graft (law 2)."""
    bare = base(name)
    want = bare(input_ids=IDS).logits
    model = grafted("", stir=0, model=bare)
    layers = [m for m in model.modules() if isinstance(m, MoTLayer)]
    assert len(layers) == bare.config.get_text_config().num_hidden_layers or name == "two recurring stacks"
    with torch.no_grad():
        for layer in layers:
            layer.mot_B["default"].normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
            with thoughts(model, 1.0, 3):
                assert not torch.allclose(model(input_ids=IDS).logits, want, atol=1e-5)
            with thoughts(model, 0.0, 3):
                assert torch.equal(model(input_ids=IDS).logits, want)
            layer.mot_B["default"].zero_()
    assert torch.equal(model.unload()(input_ids=IDS).logits, want)


@every
@pytest.mark.parametrize("read", ["each", "shared"])
def test_the_engine_decodes_it(name: str, read: str) -> None:
    """Laws 4 and 5: each thought's tokens are the greedy ones of whole forwards under its own route."""
    settings = {"router": "prompt", "noise": "fresh"} if read == "each" and name != "two recurring stacks" else {}
    model = grafted("", model=base(name), tail=0, **settings)
    lm = wrap_model(model, tokenizer())
    prompt, seeds = tuple(IDS[0].tolist()), [4, 5, 6]
    state = graft_of(lm.model).row_state(seeds, [1.0] * 3, torch.device("cpu"))  # type: ignore[union-attr]
    from thoughtmix.engine.sampling_params import SamplingParams

    asked = [SequenceRequest(prompt, s, SamplingParams(temperature=0.0), 4, end_ids=frozenset()) for s in seeds]
    done = LocalEngine(lm).generate(asked, row_state=state, read=read)  # type: ignore[arg-type]
    for seed, output in zip(seeds, done.outputs, strict=True):
        ids = torch.tensor([[*prompt, *output.token_ids[:-1]]])
        lengths = len(prompt) if read == "shared" else None
        with torch.no_grad(), thoughts(model, 1.0, seed, prompt_lengths=lengths):
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
        if read == "shared":  # the last token of the prompt was read by the base model
            assert output.token_ids[0] == int(logits[0].argmax())
        assert logits.argmax(-1).tolist() == output.token_ids
        torch.testing.assert_close(
            logits.log_softmax(-1).max(-1).values, torch.tensor(output.logprobs).float(), atol=1e-3, rtol=1e-3
        )


def test_what_would_do_nothing_is_refused_and_taken_off() -> None:
    model = base("gemma3 with a deep vision tower")
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(InputError, match=r"vision_tower\S*fc2 cannot be grafted \(6 of 6 layers\).*does not run when"):
        get_peft_model(model, MoTConfig(target_modules=r".*vision_tower.*\.fc2"))
    assert [n for n, _ in model.named_modules()] == names
    assert not any(m._forward_hooks for m in model.modules() if "vision" in type(m).__name__.lower())
    get_peft_model(model, MoTConfig())


def test_what_has_no_say_is_refused() -> None:
    model = copy.deepcopy(tiny("llama"))
    model.model.norm.weight.data.zero_()
    with pytest.raises(InputError, match=r"cannot be grafted \(3 of 3 layers\): in LlamaForCausalLM it has no say in"):
        get_peft_model(model, MoTConfig())


def test_a_model_that_is_not_loaded_yet_is_left_unjudged() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny("llama").config)
    get_peft_model(model, MoTConfig())
