"""The transformer that predicts masked tokens from both sides. It has no time input: how much is masked can be seen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from thoughtmix.diffusion.config import MaskedDiffusionConfig


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
        """Logits (b, t, v) of input_ids (b, t), -inf for the mask. attention_mask (b, t): 0 or False is padding.
        labels (b, t): loss is their mean cross-entropy in nats, -100 ignored (no bound: see objective.py)."""
        return self.read(self.embed(input_ids), attention_mask, labels)

    def read(self, x: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> MaskedLMOutput:
        """`forward` from embeddings x (b, t, d)."""
        cos, sin, mask = self._places(x, attention_mask)
        for block in self.layers:
            x = block(x, cos, sin, mask)
        logits = self.lm_head(self.norm(x))
        at = torch.tensor(self.config.mask_token_id, device=logits.device)
        logits = logits.index_fill(-1, at, -torch.inf)
        loss = None if labels is None else F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)

    def _places(self, x: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary cosines and sines (b or 1, t, d/h), and which keys may be seen (b, 1, 1, t), None: all."""
        t, d = x.shape[1:]
        real = None if attention_mask is None else attention_mask.bool()
        if real is None or bool(real.all()):
            mask, places = None, torch.arange(t, device=x.device)[None]
        else:
            mask = real[:, None, None, :]
            places = (real.cumsum(1) - 1).clamp(min=0)
        half = d // self.config.num_attention_heads // 2
        speed = self.config.rope_theta ** (-torch.arange(half, device=x.device).float() / half)
        angle = (places[..., None] * speed).repeat(1, 1, 2)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype), mask


def register() -> None:
    """Make the Auto classes of transformers know the model; done when this module is imported."""
    AutoConfig.register(MaskedDiffusionConfig.model_type, MaskedDiffusionConfig, exist_ok=True)
    AutoModelForMaskedLM.register(MaskedDiffusionConfig, MaskedDiffusionTransformer, exist_ok=True)


register()
