"""What a forward of the mixture returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

from thoughtmix.mixture.metrics import LayerMetrics


@dataclass
class MixtureOutput(ModelOutput):
    """What a forward returns.

    loss: lm_loss and the weighted training signals together, where labels were given. lm_loss: nats a token. signals:
    their means over layers (entropy and diversity with gradient only where the config gives them weight), and
    `diversity_by_layer` (layers,). metrics: a list, one dict a layer (see `layer_metrics`) of numbers and lists,
    computed when first looked at, as `out.metrics` or `out["metrics"]`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    final_hidden_states: Tensor | None = None
    lm_loss: Tensor | None = None
    signals: dict[str, Tensor] | None = None
    metrics: list[dict[str, Any]] | None = None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return found.layers if isinstance(found, LayerMetrics) else found

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())  # by position nothing is computed

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return found.layers if isinstance(found, LayerMetrics) else found
