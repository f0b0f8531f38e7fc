"""Tiny random mixture-of-experts models of the real Hugging Face classes, four experts a layer."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tiny import VOCABULARY
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

EXPERTS = 4
_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_experts_per_tok": 2,
}  # fmt: skip
_DEEPSEEK: dict[str, Any] = {
    "moe_intermediate_size": 24, "n_routed_experts": EXPERTS, "num_key_value_heads": 4, "first_k_dense_replace": 1,
    "n_shared_experts": 1, "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "routed_scaling_factor": 1.5, "n_group": 2, "topk_group": 1,
}  # fmt: skip
_QWEN: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts": EXPERTS, "decoder_sparse_step": 1}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_heads": 4, "num_experts": EXPERTS,
    "expert_capacity": 64, "decoder_start_token_id": 0, "pad_token_id": 0, "dropout_rate": 0.0,
}  # fmt: skip
_NLLB: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_experts": EXPERTS,
    "encoder_sparse_step": 2, "decoder_sparse_step": 2, "expert_capacity": 64, "max_position_embeddings": 64,
    "moe_token_dropout": 0.2, "dropout": 0.0, "decoder_start_token_id": 2,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": EXPERTS, "sliding_window": None},
    "olmoe": {"num_experts": EXPERTS, "norm_topk_prob": False},
    "qwen2_moe": {**_QWEN, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_QWEN, "head_dim": 8, "norm_topk_prob": True},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": {"num_local_experts": EXPERTS, "head_dim": 8, "sliding_window": 16},
    "granitemoe": {"num_local_experts": EXPERTS},
    "granitemoeshared": {"num_local_experts": EXPERTS, "shared_intermediate_size": 24},
    "phimoe": {"num_local_experts": EXPERTS},
    "jamba": {"num_experts": EXPERTS, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8},
    "llama4_text": {"num_local_experts": EXPERTS, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1,
                    "head_dim": 8, "attention_chunk_size": 64},
    "dbrx": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 256,
             "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": 2, "hidden_size": 32}},
    "gemma4_text": {"num_experts": EXPERTS, "top_k_experts": 2, "enable_moe_block": True, "moe_intermediate_size": 24,
                    "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "sliding_window": 16,
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
    "switch_transformers": _T5,
    "nllb-moe": _NLLB,
}  # fmt: skip
FAMILIES = tuple(_OWN)
DECODERS = tuple(f for f in FAMILIES if f not in {"switch_transformers", "nllb-moe"})


@functools.cache
def tiny_moe(family: str) -> PreTrainedModel:
    """Cached: do not modify it (use `fresh_moe`)."""
    return fresh_moe(family)


def fresh_moe(family: str, seed: int = 0) -> PreTrainedModel:
    own = _OWN[family]
    whole = family in {"switch_transformers", "nllb-moe", "dbrx"}
    base = {"vocab_size": VOCABULARY} if family == "dbrx" else {} if whole else _BASE
    config = CONFIG_MAPPING[family](**{**base, **own})
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.2)
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.normal_(0.0, 0.1)
    return model.eval().requires_grad_(False)


def inputs(family: str, rows: int = 1, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Rows of different tokens, no padding."""
    ids = torch.tensor([[3 + (17 * r + 7 * t * t + t) % (VOCABULARY - 3) for t in range(tokens)] for r in range(rows)])
    if family in {"switch_transformers", "nllb-moe"}:
        return {"input_ids": ids, "decoder_input_ids": ids.flip(1)}
    return {"input_ids": ids}
