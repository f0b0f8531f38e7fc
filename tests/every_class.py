"""Every causal class that the installed transformers can build, tiny, and what becomes of each in the engine.

`small_config` shrinks any config by the names of its fields; what the names do not say is in `OWN`. Classes that are no
causal language model by themselves are in `EXCEPTIONS`, those that the engine must refuse in `REFUSED`, and those whose
`generate` is not what their forward says in `GENERATE`: by name and with the reason.

    python tests/every_class.py > docs/models.md    # the table, a minute or two
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from decoding import Row, decode
from peft import get_peft_model
from tiny import VOCABULARY, tokenizer
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from thoughtmix.core.errors import InputError, ModelError, SlowPathWarning
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.experts import find_moe_layers
from thoughtmix.graft import MoTConfig, graft_of, thoughts
from thoughtmix.models import wrap_model

EXPERTS = 4
WINDOW = 6
HIDDEN, HEADS, KV_HEADS, HEAD, LAYERS = 32, 4, 2, 8, 2

# Small values by a field's name. A field that the config does not have is not set.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "unpadded_vocab_size",
                     "pronunciation_vocab_size", "shape_vocab_size", "encoder_hash_byte_group_vocab"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "emb_dim", "embedding_size", "embedding_dim",
                     "word_embed_proj_dim", "attention_hidden_size", "lru_width", "input_embedding_size",
                     "output_embedding_size", "mamba_d_ssm", "hidden_size_global"), HIDDEN),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
                     "encoder_attention_heads", "attention_heads", "num_decoder_attention_heads",
                     "num_encoder_attention_heads", "linear_num_heads", "swa_num_attention_heads",
                     "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "linear_num_key_heads",
                     "swa_num_key_value_heads", "num_query_groups"), KV_HEADS),
    **dict.fromkeys(("head_dim", "dim_head", "d_head", "d_kv", "kv_channels", "swa_head_dim", "linear_head_dim",
                     "linear_key_head_dim", "linear_value_head_dim", "attention_head_size", "v_head_dim",
                     "qk_nope_head_dim", "qk_rope_head_dim", "index_head_dim", "global_head_dim"), HEAD),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim",
                     "dim_ff", "dff", "d_ff", "n_inner", "d_inner", "ffn_hidden_size", "expert_ffn_hidden_size",
                     "shared_intermediate_size", "shared_expert_intermediate_size", "shared_experts_intermediate_size",
                     "moe_shared_expert_intermediate_size", "intermediate_size_mlp", "dense_intermediate_size",
                     "feed_forward_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
                     "num_encoder_layers", "num_decoder_layers", "num_blocks", "depth"), LAYERS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"),
                    2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace",
                     "num_dense_layers", "moe_layer_start_index", "n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "sliding_window_size",
                     "local_attention", "keep_window_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length",
                     "max_target_positions", "model_max_length"), 256),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "laurel_rank", "gated_norm_rank", "d_rel",
                     "adapter_rank", "hc_lowrank", "hidden_size_per_layer_input", "router_hidden_size"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_dt_rank", "time_step_rank",
                     "mamba_d_head", "mamba_head_dim", "mamba_headdim"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "block_size", "attention_chunk_size"), 4),
    **dict.fromkeys(("bos_token_id",), 1),
    **dict.fromkeys(("eos_token_id",), 2),
    **dict.fromkeys(("pad_token_id",), 0),
    "is_decoder": True, "tie_word_embeddings": False, "rotary_dim": 4, "conv_kernel": 4,
    "type_vocab_size": 2, "index_topk": 4, "index_n_heads": 16, "rel_extent": 32, "max_window_layers": 1,
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip

# Lists with one entry a layer: every kind that the default has, in its order.
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "block_types")

# What the names do not say, by the config's model type (or that of a part).
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"kv_n_heads": KV_HEADS, "rope_theta": 1e4, "clip_qkv": 8.0},
             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": 2, "hidden_size": HIDDEN}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "doge": {"keep_window_size": 256},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": HEADS, "head_dim": 2 * HEAD},
    "gemma3n_text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
                     "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_d_head": 16, "layers_block_type": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": HEAD},
    "hunyuan_v1_moe": {"head_dim": HEAD},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": HEAD, "layer_types": ["sliding_attention", "full_attention"]},
    "nemotron": {"num_key_value_heads": KV_HEADS},
    "nemotron_h": {"n_groups": 1, "mamba_head_dim": 16},
    "qwen4_exp_text": {"indexer_n_heads": HEADS, "indexer_kv_heads": 1, "indexer_head_dim": HEAD, "indexer_budget": 8,
                       "indexer_compress_ratio": 2},
    "moshi": {"sliding_window": 256},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [8, 24], "attn_layers": ["local", "lsh"]},
    "xlm": {"causal": True},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4,
              "num_key_value_heads": HEADS, "attention_hidden_size": None, "attention_head_dim": None},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4, "n_mamba_heads": HEADS,
               "num_key_value_heads": HEADS, "mamba_headdim": 16, "attention_hidden_size": 2 * HIDDEN,
               "head_dim": 16, "num_query_groups": HEADS},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

# Why a class is no causal language model by itself.
EXCEPTIONS: dict[str, str] = {
    "Gemma3nForConditionalGeneration": "its vision tower needs the package timm; its text class is here",
    "Gemma4AssistantForCausalLM": "drafts over another model's keys and values",
    "Gemma4UnifiedAssistantForCausalLM": "drafts over another model's keys and values",
    "MusicgenForCausalLM": "writes sounds: four codebooks a step",
    "MusicgenMelodyForCausalLM": "writes sounds: four codebooks a step",
}


# Why nothing can decode a class from left to right.
REFUSED: dict[str, str] = {
    "CpmAntForCausalLM": "reads its text in both directions",
    "ProphetNetForCausalLM": "what it says of a text depends on how long the text will be",
    "XLNetLMHeadModel": "reads its text in both directions",
}
# Why transformers' `generate` does not give what the class's own forward says, so that law 6 cannot hold beside law 4.
_FROM_0 = "counts positions from 0, the forward from the padding's number on"
GENERATE: dict[str, str] = {
    **dict.fromkeys(("CamembertForCausalLM", "Data2VecTextForCausalLM", "RobertaForCausalLM", "XmodForCausalLM",
                     "RobertaPreLayerNormForCausalLM", "XLMRobertaForCausalLM", "XLMRobertaXLForCausalLM"), _FROM_0),
    "BltForCausalLM": "asks its config for a number of layers, which it has not",
    "XLMWithLMHeadModel": "appends a mask token to the text",
}  # fmt: skip
# What is not as in other classes at texts beyond a length; the tiny models are given room.
BEYOND: dict[str, str] = {
    "DogeForCausalLM": "beyond `keep_window_size` its own forward sees the future",
    "MoshiForCausalLM": "beyond `sliding_window` its cache forgets, as `generate` does, its forward without cache not",
}


def classes() -> dict[str, str]:
    """Name of every class -> the model type that it is built from; where several share one, the type that bears its
    own config."""
    found: dict[str, str] = {}
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if name not in found or kind.endswith("_text"):
            found[name] = kind
    return found


def small_values(config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments that make a config of the same class small."""
    given = config.to_dict()
    kind = config.model_type
    values = {name: SMALL[name] for name in given if name in SMALL and given[name] is not None}
    lists = {name: given[name] for name in PER_LAYER if given.get(name)}
    layers = max([LAYERS, *(len(dict.fromkeys(kinds)) for kinds in lists.values())])
    for name, kinds in lists.items():
        distinct = list(dict.fromkeys(kinds))
        values[name] = (distinct * layers)[:layers] if name != "block_types" else kinds
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if name in values:
            values[name] = layers
    if "kv_lora_rank" in values:  # latent attention has as many key heads as query heads
        values["num_key_value_heads"] = HEADS
    if given.get("per_layer_config"):
        values["per_layer_config"] = None
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            values[name] = {**small_values(part), "model_type": part.model_type}
    return {**values, **OWN.get(kind, {})}


def small_config(kind: str) -> PreTrainedConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config_class = CONFIG_MAPPING[kind]
        try:
            default = config_class()
        except Exception:
            default = config_class(**OWN.get(kind, {}))
        return config_class(**small_values(default))


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model of the class in eval mode. Its weights are larger than at initialisation, so that logits
    differ clearly and greedy choices are not ties."""
    config = small_config(classes()[name])
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(kind, (tuple, list)):
        kind = kind[0]
    for part in type(config).sub_configs:  # of a model of more than text, the part that this class takes
        if isinstance(getattr(config, part, None), kind.config_class):
            config = getattr(config, part)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.25)
    return model.eval().requires_grad_(False)


# --- what becomes of a class in the engine ---

PROMPT, OTHER = [5, 9, 77, 33, 12, 8, 100, 41], [44, 17, 3]
BUDGETS = (9, 3, 5, 9, 1, 7)  # of rows, most of which end before the others


@dataclass(frozen=True)
class Record:
    """path: taken, or refused. wrong: laws that do not hold, with how far off."""

    path: str
    wrong: tuple[str, ...] = ()


def _decode(model: PreTrainedModel, prompts: list[list[int]], rows: list[Row]) -> Any:
    lm = wrap_model(model, tokenizer(), name="tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        return decode(lm, prompts, rows, max_new_tokens=max(BUDGETS), end_ids=frozenset(), weights="native")


def _law_4(model: PreTrainedModel, prompt: list[int], output: Any) -> str:
    """Log-probabilities are those of one forward without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + output.token_ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    want = logits.float().log_softmax(-1).gather(1, torch.tensor(output.token_ids)[:, None])[:, 0]
    off = float((torch.tensor(output.logprobs) - want).abs().max())
    return f"law 4: {off:.2g} nats off" if not off < 2e-3 else ""


def _law_5(model: PreTrainedModel) -> str:
    """A row among rows of another prompt, most of which end before, has the tokens that it has alone."""
    rows = [Row(seed=i % 3, prompt=i % 2, max_new_tokens=budget) for i, budget in enumerate(BUDGETS)]
    together = _decode(model, [PROMPT, OTHER], rows).outputs
    for i in (0, 3, 5):
        alone = _decode(model, [PROMPT, OTHER], [rows[i]]).outputs[0]
        if alone.token_ids != together[i].token_ids:
            return "law 5: neighbours change a row"
    return ""


def _law_6(model: PreTrainedModel, token_ids: list[int]) -> str:
    """Greedy is transformers' `generate`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=len(token_ids), do_sample=False, pad_token_id=0,
            eos_token_id=None, forced_eos_token_id=None, forced_bos_token_id=None,
        )[0, len(PROMPT) :].tolist()  # fmt: skip
    return "" if want == token_ids else "law 6: not what generate gives"


def decoding(name: str, model: PreTrainedModel) -> Record:
    """Which path a model takes, and whether the laws hold there."""
    try:
        got = _decode(model, [PROMPT], [Row(seed=0, sampling=SamplingParams(temperature=0))])
    except ModelError as error:
        return Record("refused", (str(error),))
    greedy = got.outputs[0]
    said = [_law_4(model, PROMPT, greedy), _law_5(model)]
    if name not in GENERATE:
        said.append(_law_6(model, greedy.token_ids))
    return Record(got.path, tuple(filter(None, said)))


# --- its graft and its experts ---


def grafted(model: PreTrainedModel) -> str:
    """What becomes of a graft on it: yes, where creativity 0 is the base model bit for bit, thoughts are not, and the
    log-probabilities of decoded thoughts are those of one forward; else why not. It is taken off again."""
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        want = model(ids, use_cache=False).logits
        try:
            peft: Any = get_peft_model(model, MoTConfig(num_branches=3, r=2)).eval()
        except InputError as error:
            return f"refused: {error.message}"
        random = torch.Generator().manual_seed(1)
        for parameter_name, parameter in peft.named_parameters():
            if ".mot_B." in parameter_name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
        try:
            with thoughts(peft, 0.0, 3):
                zero = torch.equal(peft(ids, use_cache=False).logits, want)
            with thoughts(peft, 1.0, 3):
                moved = not torch.equal(peft(ids, use_cache=False).logits, want)
            said = [] if zero else ["law 1: creativity 0 is not the base model"]
            said += [] if moved else ["it does nothing"]
            return "; ".join([*said, *_thoughts_decoded(peft)]) or "yes"
        finally:
            peft.unload()


def _thoughts_decoded(peft: Any) -> list[str]:
    """Law 4 of two thoughts of one prompt, of which one ends before the other."""
    lm = wrap_model(peft.get_base_model(), tokenizer(), name="tiny")
    seeds, budgets = [3, 4], [3, 6]
    asked = [
        SequenceRequest(tuple(PROMPT), seed, SamplingParams(), budget, (), frozenset())
        for seed, budget in zip(seeds, budgets, strict=True)
    ]
    state = graft_of(lm.model).row_state(seeds, [1.0, 1.0], lm.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)
            got = LocalEngine(lm, weights="native").generate(asked, row_state=state)
    except (InputError, ModelError) as error:
        return [f"no thoughts: {error.message}"]
    for seed, output in zip(seeds, got.outputs, strict=True):
        with thoughts(peft, 1.0, seed, prompt_lengths=len(PROMPT) - state.unshared_suffix):
            found = _law_4(peft, PROMPT, output)
        if found:
            return [found]
    return []


def experts(model: PreTrainedModel) -> str:
    """How many layers of experts can be steered, or why not; "" where there are none."""
    try:
        return f"{len(find_moe_layers(model))} layers"
    except InputError:
        return ""
    except ModelError as error:
        return f"refused: {error.message}"


# --- the table ---

_HEAD = """# Models

Every class of transformers {version}'s table of causal language models, tiny and random, in this engine: the decoding path
that it takes ([how decoding works](explanation/decoding.md)), and whether the laws of decoding hold there (4: the cache changes nothing; 5:
neighbours and rows that end change nothing; 6: greedy is `generate`). Graft: whether thought branches can be put on it, whose
decoded thoughts are right by law 4. Experts: how many of the tiny model's two to four layers have some that can be steered.
`tests/test_every_class.py` holds this; the table is made by `python tests/every_class.py > docs/models.md`.

| class | built from | path | decoded rightly | graft | experts |
|---|---|---|---|---|---|
"""


def _row(name: str, kind: str) -> str:
    model = build(name)
    found = decoding(name, model)
    if found.path == "refused":
        right = f"refused: {REFUSED.get(name, found.wrong[0])}"
    else:
        right = "; ".join(found.wrong) or "yes"
        notes = [f"`generate` {GENERATE[name]}"] if name in GENERATE else []
        notes += [BEYOND[name]] if name in BEYOND else []
        right += f" ({'; '.join(notes)})" if notes else ""
    steered = experts(model)
    return f"| {name} | {kind} | {found.path} | {right} | {grafted(model)} | {steered} |"


def table() -> str:
    """docs/models.md."""
    rows = [
        f"| {name} | {kind} | | not tried: {EXCEPTIONS[name]} | | |" if name in EXCEPTIONS else _row(name, kind)
        for name, kind in sorted(classes().items())
    ]
    return _HEAD.format(version=transformers.__version__) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    sys.stdout.write(table())
