"""Tiny GGUF files as converters write them: a random model, its tokenizer and its chat template in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def random_model(architecture: str, vocabulary: int) -> Any:
    """A float32 model of transformers' own class."""
    config = CONFIG_MAPPING[architecture](
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=5, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.ndim < 2 else 0.0, 0.2)
    return model.eval()


def write_gguf(path: Path, model: Any, tokenizer: Any) -> Path:
    """In full precision, with byte-level BPE."""
    c, architecture = model.config, model.config.model_type
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    writer.add_vocab_size(c.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in state["added_tokens"]}
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2" if architecture == "llama" else "qwen2")
    writer.add_token_list([name for name, _ in names])
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for _, i in names])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]])
    writer.add_bos_token_id(c.bos_token_id)
    writer.add_eos_token_id(c.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)

    def add(name: str, tensor: torch.Tensor) -> None:
        writer.add_tensor(name, np.ascontiguousarray(tensor.detach().float().numpy()))

    weights = model.state_dict()
    add("token_embd.weight", weights["model.embed_tokens.weight"])
    add("output_norm.weight", weights["model.norm.weight"])
    add("output.weight", weights["lm_head.weight"])
    for layer in range(c.num_hidden_layers):
        for theirs, ours in _LAYER.items():
            for end in ("weight", "bias"):
                tensor = weights.get(f"model.layers.{layer}.{theirs}.{end}")
                if tensor is None:
                    continue
                if architecture == "llama" and ours in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours
                    heads = c.num_attention_heads if ours == "attn_q" else c.num_key_value_heads
                    tensor = tensor.unflatten(0, (heads, 2, -1)).swapaxes(1, 2).flatten(0, 2)
                add(f"blk.{layer}.{ours}.{end}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
