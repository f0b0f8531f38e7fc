"""What the sampler needs of a model, and models as such a thing: mask predictors and transformers' block diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.interruptible import interruptible
from thoughtmix.diffusion.state import Memory


@runtime_checkable
class Denoiser(Protocol):
    """A model that says what could stand at each position of a partly masked text."""

    @property
    def vocab(self) -> int:
        """The width of its logits."""
        ...

    @property
    def mask_id(self) -> int | None:
        """What undecided positions hold. None: random tokens (uniform noise), new ones at each step."""
        ...

    @property
    def forbidden(self) -> Sequence[int]:
        """Ids that are never drawn; the mask is among them."""
        ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        """Logits (b, t, v) of ids (b, t) under attention_mask (b, t) bool; row i may depend on row i alone.

        It may read what it left in `memory` at the step before, and must put the new values there.
        """
        ...


_TOKENS = 384  # that a CPU reads at once: a small model's activations of more fall out of its cache (1.4 times slower)


def rows_at_once(length: int) -> int:
    """How many rows of this many tokens one forward takes on a CPU."""
    return max(1, _TOKENS // max(1, length))


class MaskPredictor:
    """A model that fills in a mask, as a `Denoiser`.

    Args:
        model: `model(ids, attention_mask)` gives logits, or an object that has them.
        mask_id: The id of the mask.
        vocab: The width of the logits.
        forbidden: Further ids that are never drawn.
        device: Where it runs. None: where `model.device` says, else the CPU.

    Raises:
        InputError: When the mask is outside the vocabulary, or nothing may be drawn.
    """

    def __init__(
        self,
        model: Any,
        mask_id: int,
        vocab: int,
        forbidden: Sequence[int] = (),
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= mask_id < vocab:
            raise InputError(f"mask_id {mask_id} is outside the vocabulary of {vocab}.", "Pass an id below vocab.")
        self.model, self.mask_id, self.vocab = model, mask_id, vocab
        self.forbidden = sorted({mask_id, *forbidden})
        own = getattr(model, "device", None)  # a plain function has none
        self.device = torch.device(device or (own if isinstance(own, (str, torch.device)) else "cpu"))
        if len(self.forbidden) >= vocab:
            raise InputError("Every token is forbidden.", "Forbid fewer.")

    def __call__(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        rows = len(ids) if ids.device.type != "cpu" else rows_at_once(ids.shape[1])
        with interruptible():
            parts = [self.model(*part) for part in zip(ids.split(rows), attention_mask.split(rows), strict=True)]
        logits = [part if isinstance(part, Tensor) else part.logits for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)


class BlockDenoiser:
    """transformers' block diffusion (`DiffusionGemmaForBlockDiffusion`) as a `Denoiser`.

    An encoder reads the prefix once; a decoder denoises the block behind it and is told its own logits of the step
    before (self-conditioning). Keys, values and logits travel in `memory`. Undecided positions hold random tokens.
    `EntropyBound(revise=True)` is transformers' own way of choosing.

    Args:
        model: The transformers model.
        prefix: How many columns of a row are the prefix, padded on the left where rows differ; the block is the rest.

    Raises:
        InputError: When there is no prefix.
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
        if "encoded" not in memory or not bool(memory["encoded"].all()):
            self._encode_prefix(ids, attention_mask, memory)
        was_told = memory["told"]  # (b,): whether there was a step before
        out = self.model(
            decoder_input_ids=ids[:, self.prefix :],
            past_key_values=self._prefix_cache(memory),
            self_conditioning_logits=memory["logits"],
            self_conditioning_mask=was_told,
            decoder_attention_mask=None if bool(attention_mask.all()) else attention_mask,
            decoder_position_ids=torch.arange(self.prefix, ids.shape[1], device=ids.device)[None],
        ).logits
        memory["logits"] = out.to(self.model.dtype)
        memory["told"] = torch.ones_like(was_told)
        return torch.nn.functional.pad(out, (0, 0, self.prefix, 0))

    def _encode_prefix(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> None:
        """All rows' prefixes, as keys and values, into `memory`; rows that are new there were told nothing yet."""
        from transformers import DynamicCache

        p, (b, t) = self.prefix, ids.shape
        cache = DynamicCache(config=self.model.config.text_config)
        mask = attention_mask[:, :p].long()
        self.model.model.encoder(input_ids=ids[:, :p], attention_mask=mask, past_key_values=cache)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            memory[f"keys{i}"], memory[f"values{i}"] = layer.keys, layer.values
        known = memory.get("encoded", torch.zeros(b, dtype=torch.bool, device=ids.device))
        memory["told"] = memory.get("told", known) & known
        blank = torch.zeros((b, t - p, self.vocab), dtype=self.model.dtype, device=ids.device)
        memory["logits"] = memory.get("logits", blank)
        memory["encoded"] = torch.ones_like(known)

    def _prefix_cache(self, memory: Memory) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config.text_config)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            cache.update(memory[f"keys{i}"], memory[f"values{i}"], i)
            if hasattr(layer, "cumulative_length"):  # a sliding layer keeps the end of the prefix, and counts it all
                layer.cumulative_length = self.prefix
        return cache
