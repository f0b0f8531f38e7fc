"""The configuration of a masked diffusion transformer."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from thoughtmix.core.errors import InputError


class MaskedDiffusionConfig(PreTrainedConfig):
    """vocab_size counts the mask, whose id is `mask_token_id` (None: the last). intermediate_size None: 4 hidden_size.
    unknown_token_id: never emitted; None: there is none. trained_length: tokens a training window; positions beyond
    it are untried. guidance: whether prefixes were sometimes hidden in training, so that guidance means something."""

    model_type = "thoughtmix_diffusion"

    vocab_size: int = 256
    mask_token_id: int | None = None
    unknown_token_id: int | None = None
    pad_token_id: int | None = None
    hidden_size: int = 128
    intermediate_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 4096
    trained_length: int = 256
    hidden_act: str = "relu2"
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    guidance: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise InputError(
                f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}.",
                "Pass an id below vocab_size.",
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise InputError(
                f"hidden_size {self.hidden_size} is no multiple of 2 x num_attention_heads "
                f"{self.num_attention_heads} (rotary positions turn pairs).",
                "Change one of the two (--width, --heads).",
            )
