"""Adapters as users of PEFT have them: the loaded one continues as PEFT's own `generate` does, or is refused by name."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    CPTConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from tiny import VOCABULARY, fresh, tokenizer
from transformers import AutoModelForCausalLM

from thoughtmix.core.errors import ModelError
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.models import load_model

TEXT, IDS = "w31 w40 w77 w5 w120", [31, 40, 77, 5, 120]
LM: dict[str, Any] = {"task_type": "CAUSAL_LM"}
HEAD, BOTH = ["lm_head"], ["embed_tokens", "lm_head"]


def lora(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(target_modules=list(targets or ["q_proj"]), r=4, **LM, **more)


KINDS: dict[str, tuple[str, Any]] = {
    "LoRA": ("llama", lambda: lora("q_proj", "v_proj")),
    "LoRA on a tied head": ("llama-tied", lambda: lora("q_proj", "lm_head")),
    "LoRA on a tied embedding": ("llama-tied", lambda: lora("q_proj", "embed_tokens")),
    "head saved": ("llama", lambda: lora(modules_to_save=HEAD)),
    "tied embedding and head saved": ("llama-tied", lambda: lora(modules_to_save=BOTH)),
    "tied and kept tied": ("llama-tied", lambda: lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "some tokens": ("llama-tied", lambda: lora(trainable_token_indices=[31, 9])),
    "only tokens": ("llama", lambda: TrainableTokensConfig(token_indices=[31, 9], **LM)),
    "IA3": ("llama", lambda: IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], **LM)),
    "a prompt": ("llama", lambda: PromptTuningConfig(num_virtual_tokens=5, **LM)),
    "a prompt, tied": ("llama-tied", lambda: PromptTuningConfig(num_virtual_tokens=5, **LM)),
    "a prompt, scaled embedding": ("gemma3_text", lambda: PromptTuningConfig(num_virtual_tokens=3, **LM)),
    "a prompt, learned positions": ("gpt2", lambda: PromptTuningConfig(num_virtual_tokens=4, **LM)),
    "P-tuning": ("llama", lambda: PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, **LM)),
    "context-aware prompt": (
        "llama",
        lambda: CPTConfig(cpt_token_ids=[7, 8], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 1], **LM),
    ),
}  # fmt: skip


def base_folder(tmp: Path, family: str) -> Path:
    fresh(family).save_pretrained(tmp / family)
    tokenizer().save_pretrained(tmp / family)
    return tmp / family


def trained(base: Path, config: PeftConfig, tmp: Path, tokens: int = VOCABULARY) -> Any:
    """A PEFT model with an adapter at random, and its folder as PEFT saves it."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens != VOCABULARY:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # P-tuning's own network is drawn
        peft: Any = get_peft_model(model, config)
    draws = torch.Generator().manual_seed(3)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=draws)
    peft.eval().save_pretrained(tmp / "adapter")
    return peft


def continued(peft: Any, ids: list[int], count: int = 8) -> list[int]:
    """By PEFT's own generate, greedily."""
    row = torch.tensor([ids])
    out = peft.generate(
        input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=count, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )[0].tolist()  # fmt: skip
    return out[-count:]


def greedy(prompt: Any) -> SequenceRequest:
    return SequenceRequest(prompt, 0, SamplingParams(temperature=0), 8, (), frozenset())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: base_folder(folder, family) for family in {family for family, _ in KINDS.values()}}


@pytest.mark.parametrize("kind", KINDS)
def test_it_continues_as_peft_does(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    family, config = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = trained(bases[family], config(), tmp_path)
        want = continued(peft, IDS)
    plain = LocalEngine(load_model(str(bases[family]))).generate([greedy(Prompt(TEXT))]).outputs[0].token_ids
    assert want != plain
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that PEFT or transformers says reaches the user
        lm = load_model(str(tmp_path / "adapter"))
    assert torch.equal(torch.get_rng_state(), before)
    engine = LocalEngine(lm)
    both = engine.generate([greedy(Prompt(TEXT)), greedy(tuple(IDS)), greedy(Prompt("w9 w8"))])
    assert [out.token_ids for out in both.outputs[:2]] == [want, want]
    ids = torch.tensor([lm.encode(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(
            lm.model(ids).logits[0, -1], peft(torch.tensor([IDS])).logits[0, -1], atol=1e-4, rtol=1e-4
        )
    assert lm.encode(TEXT)[len(lm.virtual) :] == IDS
    assert len(lm.tokenizer) == VOCABULARY


@pytest.mark.parametrize("more", [{"modules_to_save": BOTH}, {"trainable_token_indices": [160, 161]}])
def test_tokens_that_were_added_come_with_it(more: Any, bases: dict[str, Path], tmp_path: Path) -> None:
    added = copy.deepcopy(tokenizer())
    added.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    added.chat_template = "{% for m in messages %}<|im_start|> {{ m.content }} <|im_end|>{% endfor %}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = trained(bases["llama"], lora(**more), tmp_path, len(added))
        added.save_pretrained(tmp_path / "adapter")
    lm = load_model(str(tmp_path / "adapter"))
    ids = lm.encode("w5 w6")
    assert ids == [160, 5, 6, 161] and len(lm.tokenizer) == 162
    assert LocalEngine(lm).generate([greedy(Prompt("w5 w6"))]).outputs[0].token_ids == continued(peft, ids)
    assert 161 in lm.eos_ids


def test_what_cannot_be_loaded_right_is_refused_with_its_reason(bases: dict[str, Path], tmp_path: Path) -> None:
    added = copy.deepcopy(tokenizer())
    added.add_tokens(["<new>"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(bases["llama"], lora(), tmp_path)
        added.save_pretrained(tmp_path / "adapter")
        with pytest.raises(ModelError, match=r"has 161 tokens, and neither .* \(160\)\. Save it again with modules_to"):
            load_model(str(tmp_path / "adapter"))
        trained(bases["llama"], PrefixTuningConfig(num_virtual_tokens=3, **LM), tmp_path / "prefix")
        with pytest.raises(ModelError, match="PREFIX_TUNING: trained keys and values"):
            load_model(str(tmp_path / "prefix" / "adapter"))
        trained(
            bases["llama"],
            LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[5, 120], **LM),
            tmp_path / "a",
        )
        with pytest.raises(ModelError, match="activated LoRA"):
            load_model(str(tmp_path / "a" / "adapter"))
        from transformers import AutoModelForSequenceClassification

        classifier = AutoModelForSequenceClassification.from_pretrained(bases["llama"], num_labels=2)
        get_peft_model(classifier, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])).save_pretrained(
            tmp_path / "c"
        )
        with pytest.raises(ModelError, match=r"classifies \(SEQ_CLS\)"):
            load_model(str(tmp_path / "c"))


def test_a_trainers_config_beside_an_adapter_hides_it_not(bases: dict[str, Path], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = trained(bases["llama"], lora(), tmp_path)
    (tmp_path / "adapter" / "config.json").write_bytes((bases["llama"] / "config.json").read_bytes())
    lm = load_model(str(tmp_path / "adapter"))
    assert LocalEngine(lm).generate([greedy(tuple(IDS))]).outputs[0].token_ids == continued(peft, IDS)
