"""Tiny random models of the real Hugging Face classes, and a word tokenizer for them: seconds, no download."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 160  # 160 = 10 x 16: the blocked search of the sampler is exercised, as on real vocabularies
_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 6},
    # untied: Gemma scales its embeddings, and a tied random one would only ever repeat the last token
    "gemma2": {"tie_word_embeddings": False, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {"tie_word_embeddings": False, "sliding_window": 6, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 256},
    "gpt_neox": {"rotary_pct": 0.5},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "bloom": {"n_layer": 3, "n_head": 6},
    "mamba": {"state_size": 8, "expand": 2, "conv_kernel": 4, "use_mambapy": False},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "phi3": {"sliding_window": None},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
}  # fmt: skip


@functools.cache
def tiny(family: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model in eval mode. Its weights are larger than at initialisation, so that logits differ
    clearly and greedy choices are not ties. Cached: do not modify it (use `fresh`)."""
    return fresh(family, seed)


def fresh(family: str, seed: int = 0) -> PreTrainedModel:
    kind = CONFIG_MAPPING[family.split("-")[0]]
    settings = {**_BASE, **_OWN[family]}
    if family == "falcon":  # derives its head width, and refuses to be told
        del settings["head_dim"]
    config = kind(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.25)
    return model.eval().requires_grad_(False)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words w3..w159 by number; decoding joins them with spaces."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def language_model(family: str, seed: int = 0) -> Any:
    from thoughtmix.models import wrap_model

    if family == "mixture":
        return wrap_model(tiny_mixture(), tokenizer(), name="tiny-mixture")
    return wrap_model(tiny(family, seed), tokenizer(), name=f"tiny-{family}")


@functools.cache
def tiny_mixture() -> PreTrainedModel:
    from thoughtmix.mixture.config import MixtureOfThoughtsConfig
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

    config = MixtureOfThoughtsConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=256
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MixtureOfThoughtsTransformer(config).eval().requires_grad_(False)
