"""Models of others as denoisers. A masked language model of Hugging Face needs none of this: `load.wrap_diffusion`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.denoiser import Memory


class BlockDenoiser:
    """transformers' block diffusion (`DiffusionGemmaForBlockDiffusion`): an encoder reads the prefix once, a decoder
    denoises the block behind it, told its own logits of the step before (self-conditioning).

    prefix: columns of a row that are the prefix, padded on the left where rows differ; the block is the rest. Its noise
    is uniform (mask_id None): undecided positions hold random tokens. Keys, values and logits travel in `memory`.
    `EntropyBound(revise=True)` is transformers' own way of choosing.
    """

    mask_id = None

    def __init__(self, model: Any, prefix: int) -> None:
        if prefix < 1:
            raise InputError("Block diffusion needs a prefix of one token or more.", "Begin with the BOS token.")
        text = model.config.text_config
        images = (model.config.boi_token_id, model.config.eoi_token_id, model.config.image_token_id)
        self.model, self.prefix, self.vocab = model, prefix, int(text.vocab_size)
        self.forbidden = [i for i in {*images, text.pad_token_id} if i is not None and i < self.vocab]
        self.device = model.device

    def __call__(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        """(b, t) -> (b, t, v), zeros at the prefix."""
        p = self.prefix
        if "read" not in memory or not bool(memory["read"].all()):
            self._read(ids, attention_mask, memory)
        cache = self._cache(memory)
        every = bool(attention_mask.all())
        told = memory["told"]  # (b,): whether there was a step before
        out = self.model(
            decoder_input_ids=ids[:, p:],
            past_key_values=cache,
            self_conditioning_logits=memory["logits"],
            self_conditioning_mask=told,
            decoder_attention_mask=None if every else attention_mask,
            decoder_position_ids=torch.arange(p, ids.shape[1], device=ids.device)[None],
        ).logits
        memory["logits"] = out.to(self.model.dtype)
        memory["told"] = torch.ones_like(told)
        return torch.nn.functional.pad(out, (0, 0, p, 0))

    def _read(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> None:
        """All rows' prefixes, as keys and values, into `memory`; rows that are new there were told nothing yet."""
        from transformers import DynamicCache

        p, (b, t) = self.prefix, ids.shape
        cache = DynamicCache(config=self.model.config.text_config)
        mask = attention_mask[:, :p].long()
        self.model.model.encoder(input_ids=ids[:, :p], attention_mask=mask, past_key_values=cache)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            memory[f"keys{i}"], memory[f"values{i}"] = layer.keys, layer.values
        known = memory.get("read", torch.zeros(b, dtype=torch.bool, device=ids.device))
        memory["told"] = memory.get("told", known) & known
        blank = torch.zeros((b, t - p, self.vocab), dtype=self.model.dtype, device=ids.device)
        memory["logits"] = memory.get("logits", blank)
        memory["read"] = torch.ones_like(known)

    def _cache(self, memory: Memory) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config.text_config)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            cache.update(memory[f"keys{i}"], memory[f"values{i}"], i)
            if hasattr(layer, "cumulative_length"):  # a sliding layer keeps the end of the prefix, and counts it all
                layer.cumulative_length = self.prefix
        return cache
