"""The transformer that predicts masked tokens from both sides, and its configuration.

It has no time input: how much of a text is masked can be seen.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from thoughtmix.core.errors import InputError


class MaskedDiffusionConfig(PreTrainedConfig):
    """Settings of a `MaskedDiffusionTransformer`.

    Args:
        vocab_size: Number of token ids, the mask included.
        mask_token_id: The id of the mask; None: the last one.
        unknown_token_id: The id that is never written; None: there is none.
        intermediate_size: Width of the feed-forward layers; None: 4 times `hidden_size`.
        trained_length: Tokens of a training window. Positions beyond it are untried.
        guidance: Whether prefixes were sometimes hidden in training, so that guidance means something.

    Raises:
        InputError: For a mask outside the vocabulary, or a width that the heads do not divide.
    """

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


class _Norm(nn.RMSNorm):
    """In the type of what it is given: torch fuses no norm of mixed types (half under autocast, weights in float32)."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _Attention(nn.Module):
    def __init__(self, config: MaskedDiffusionConfig) -> None:
        super().__init__()
        d, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.q_norm = _Norm(d // self.heads, config.rms_norm_eps)
        self.k_norm = _Norm(d // self.heads, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # each (b, h, t, d/h)
        q, k = apply_rotary_pos_emb(self.q_norm(q), self.k_norm(k), cos.to(q.dtype), sin.to(q.dtype))
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, mask)
        return self.out(y.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, config: MaskedDiffusionConfig) -> None:
        super().__init__()
        d, f = config.hidden_size, int(config.intermediate_size or 0)
        self.before_attention = _Norm(d, config.rms_norm_eps)
        self.attention = _Attention(config)
        self.before_feed = _Norm(d, config.rms_norm_eps)
        self.up = nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.before_attention(x), cos, sin, mask)
        return x + self.down(self.act(self.up(self.before_feed(x))))


class MaskedDiffusionTransformer(PreTrainedModel):
    """Pre-norm, rotary positions, norms on queries and keys, attention both ways. Positions count a row's real tokens,
    and padding is no key, so a row's logits are the same whatever it is padded with and on whichever side."""

    config_class = MaskedDiffusionConfig
    config: MaskedDiffusionConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "embed.weight"}  # noqa: RUF012  transformers' own form
    _no_split_modules = ["_Block"]  # noqa: RUF012

    def __init__(self, config: MaskedDiffusionConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02), projections into the residual stream smaller by sqrt(2 layers) (Radford et al. 2019, 2.3)."""
        super()._init_weights(module)
        std = self.config.initializer_range
        into_stream = std * (2 * self.config.num_hidden_layers) ** -0.5
        if isinstance(module, _Attention):
            init.normal_(module.out.weight, std=into_stream)
        elif isinstance(module, _Block):
            init.normal_(module.down.weight, std=into_stream)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> MaskedLMOutput:
        """Predict every token of a text from all the others.

        Args:
            input_ids: (b, t) token ids, the mask where a token is to be predicted.
            attention_mask: (b, t), 0 or False is padding. None: there is none.
            labels: (b, t) token ids, -100 is ignored.

        Returns:
            Logits (b, t, v), -inf for the mask. With labels also their mean cross-entropy in nats, which is no bound
            on the likelihood (see objective.py).
        """
        x = self.embed(input_ids)  # (b, t, d)
        cos, sin, mask = self._rotary_and_mask(x, attention_mask)
        for block in self.layers:
            x = block(x, cos, sin, mask)
        logits = self.lm_head(self.norm(x))
        mask_id = torch.tensor(self.config.mask_token_id, device=logits.device)
        logits = logits.index_fill(-1, mask_id, -torch.inf)
        loss = None if labels is None else F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)

    def _rotary_and_mask(self, x: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary cosines and sines (b or 1, t, d/h), and which keys may be seen (b, 1, 1, t); None: all."""
        t, d = x.shape[1:]
        real = None if attention_mask is None else attention_mask.bool()
        if real is None or bool(real.all()):
            mask, positions = None, torch.arange(t, device=x.device)[None]
        else:
            mask, positions = real[:, None, None, :], (real.cumsum(1) - 1).clamp(min=0)
        half = d // self.config.num_attention_heads // 2
        speed = self.config.rope_theta ** (-torch.arange(half, device=x.device).float() / half)
        angle = (positions[..., None] * speed).repeat(1, 1, 2)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype), mask


# The Auto classes of transformers know the model once this module is imported.
AutoConfig.register(MaskedDiffusionConfig.model_type, MaskedDiffusionConfig, exist_ok=True)
AutoModelForMaskedLM.register(MaskedDiffusionConfig, MaskedDiffusionTransformer, exist_ok=True)
