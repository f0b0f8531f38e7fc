"""Attention of short answers over short prompts, with gradients, on CPUs.

torch's flash attention in bfloat16 is made for long texts: of ten tokens after forty it takes most of a step of
training, in its backward above all. Small products in float32 take a tenth of that. A model that attends by "sdpa" is
asked for these instead, within `small_attention`.

Axis letters: b rows, h key/value heads, g query heads a key/value head, t queries, s keys, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "thoughtmix_small"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (b, h g, t, d), key and value (b, h, s, d), mask (b, 1, t, s) -> (b, t, h g, d)."""
    b, heads, t, d = query.shape
    h, s = key.shape[1:3]
    q = query.float().reshape(b * h, -1, d) * (d**-0.5 if scaling is None else scaling)
    scores = torch.bmm(q, key.float().reshape(b * h, s, d).mT).view(b, heads, t, s)
    if attention_mask is None:
        seen = torch.ones(t, s, dtype=torch.bool, device=query.device).tril(s - t)
        scores = scores.masked_fill(~seen, -torch.inf)
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)  # rows that see nothing stay finite
    else:
        scores = scores + attention_mask
    mixed = torch.bmm(scores.softmax(-1).view(b * h, -1, s), value.float().reshape(b * h, s, -1))
    return mixed.view(b, heads, t, -1).transpose(1, 2).to(query.dtype), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def small_attention(model: Any) -> Iterator[None]:
    """Within, a model on a CPU attends so, if it would by "sdpa"; others as they do. In one thread at a time."""
    config = model.config.get_text_config()
    if model.device.type != "cpu" or getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
