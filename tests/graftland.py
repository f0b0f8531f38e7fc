"""Tiny grafted models of the real classes, with branches that do something."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from peft import get_peft_model
from tiny import VOCABULARY, tiny
from tiny_moe import tiny_moe
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from thoughtmix.graft import MoTConfig

DENSE = (
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt_neox",
    "falcon",
    "bloom",
    "opt",
)
EXPERTS = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss")
FAMILIES = (*DENSE, "t5", *EXPERTS)


@functools.cache
def _base(family: str) -> PreTrainedModel:
    if family == "t5":
        config = T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = T5ForConditionalGeneration(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(0.0, 0.25)
        return model.eval().requires_grad_(False)
    return tiny(family) if family in DENSE else tiny_moe(family)


def base(family: str) -> Any:
    """A copy: do with it what you like."""
    return copy.deepcopy(_base(family))


def stirred(model: Any, size: float = 0.2) -> Any:
    """B is 0 at first; here it is not, nor are the odds even."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(f".{part}." in name for part in ("mot_B", "mot_prior", "mot_router", "mot_query")):
                parameter.copy_(torch.randn(parameter.shape, generator=random) * size)
    return model


def grafted(family: str, stir: float = 0.2, model: Any = None, **settings: Any) -> Any:
    """In eval mode."""
    config = MoTConfig(**{"num_branches": 4, "r": 3, "noise_scale": 0.3, **settings})
    made = get_peft_model(base(family) if model is None else model, config)
    return stirred(made, stir).eval() if stir else made.eval()


def inputs(family: str, rows: int = 3, tokens: int = 8) -> dict[str, torch.Tensor]:
    """Rows of different tokens, no padding."""
    ids = torch.tensor([[3 + (17 * r + 7 * t * t + t) % (VOCABULARY - 3) for t in range(tokens)] for r in range(rows)])
    return {"input_ids": ids.flip(1), "decoder_input_ids": ids} if family == "t5" else {"input_ids": ids}
