"""One grafted map: the model's own module, and K low-rank branches beside it.

All branches of all rows are two matrix products whatever their number: A of every branch stacked, then the route's
weights (0 where a row does not travel), then B of every branch stacked. K r is small beside the width (64 beside 1,536
in the default graft of the default model), so that this is quicker than gathering each row's own branches.

Axis letters: b rows, t tokens, k branches, r rank, f inputs, d outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.context import AttachedGraft, ForwardContext, recomputing
from thoughtmix.graft.route import fresh_noise

NO_MERGE = (
    "Branches differ by thought, so they cannot be merged into one model.",
    "Call unload() for the base model, or export_lora() (thoughtmix export) for fixed thoughts as LoRA.",
)


class MoTLayer(nn.Module, BaseTunerLayer):
    """Stands where `base_layer` stood: the last linear map of a feed-forward block, or a whole block.

    Of each adapter: mot_A (k, r, f) and mot_B (k, r, d), which is 0 at first; mot_noise (), from which the noise's
    standard deviation follows; mot_prior (k), logits of the odds, on layers that draw a route of their own;
    mot_router (k, f) with router="prompt"; mot_query and mot_key (a, r) with combiner="attention". On the first layer
    also mot_drawn (), no parameter: how many rows training has drawn for, so that who resumes draws on.
    """

    adapter_layer_names = ("mot_A", "mot_B", "mot_noise", "mot_prior", "mot_router", "mot_query", "mot_key")
    other_param_names = ("mot_drawn",)
    mot_A: nn.ParameterDict
    mot_B: nn.ParameterDict
    mot_noise: nn.ParameterDict
    mot_prior: nn.ParameterDict
    mot_router: nn.ParameterDict
    mot_query: nn.ParameterDict
    mot_key: nn.ParameterDict

    def __init__(self, base_layer: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = inputs, outputs
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.mot_drawn = BufferDict(persistent=True)
        self.register_load_state_dict_post_hook(_drawn_was_loaded)
        self.grafts: dict[str, AttachedGraft] = {}
        self.numbers: dict[str, int] = {}  # of this layer among an adapter's
        self._disable_adapters = False
        self._active_adapter: Any = []
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter: str, config: MoTConfig, number: int) -> None:
        """Add an adapter's branches. number: of this layer among those of the adapter."""
        k, r, f, d = config.num_branches, config.r, self.in_features, self.out_features
        self.numbers[adapter] = number
        random = torch.Generator().manual_seed(config.init_seed * 1_000_003 + number)
        draws = number == 0 or config.route == "layer"
        self.mot_A[adapter] = nn.Parameter(torch.randn(k, r, f, generator=random) * f**-0.5)
        self.mot_B[adapter] = nn.Parameter(torch.zeros(k, r, d))
        if config.noise != "none":
            self.mot_noise[adapter] = nn.Parameter(torch.zeros(()))
        if number == 0:
            self.mot_drawn[adapter] = torch.zeros((), dtype=torch.int64)
        if draws:
            self.mot_prior[adapter] = nn.Parameter(torch.zeros(k))
        if draws and config.router == "prompt":
            self.mot_router[adapter] = nn.Parameter(torch.zeros(k, f))
        if config.combiner == "attention":
            self.mot_query[adapter] = nn.Parameter(torch.zeros(r, r))
            self.mot_key[adapter] = nn.Parameter(torch.randn(r, r, generator=random) * r**-0.5)
        self._move_adapter_to_device_of_base_layer(adapter, self._device())
        self.set_adapter(self.active_adapters or [adapter], inference_mode=config.inference_mode)

    def _device(self) -> torch.device | None:
        """Of the base layer; a whole block has no `weight` that PEFT could ask."""
        return next((p.device for p in self.base_layer.parameters()), None)

    def sigma(self, adapter: str, scale: float) -> Tensor:
        """() the noise's standard deviation, within 0.5 to 1.5 of `scale`: training cannot switch the noise off."""
        return scale * (0.5 + torch.sigmoid(self.mot_noise[adapter]))

    @property
    def thought_graft(self) -> AttachedGraft | None:
        """The graft at work, if any."""
        if self.disable_adapters:
            return None
        active = [a for a in self.active_adapters if a in self.grafts]
        if len(active) > 1:
            raise InputError(f"{len(active)} grafts are active at once.", "Call set_adapter() with one name.")
        return self.grafts[active[0]] if active else None

    def _recomputed_graft(self) -> AttachedGraft | None:
        """The graft of the forward that a backward computes again: since then another may have been set to work, or
        none."""
        return next((graft for graft in self.grafts.values() if graft.forward_context() is not None), None)

    def thought_update(self) -> tuple[int, Tensor, Tensor] | None:
        """For steps over fused weights (see `GraftedModule`): this layer's number, A (k r, f) and B (d, k r)."""
        graft = self.thought_graft
        if graft is None:
            return None
        a, b = self.mot_A[graft.adapter], self.mot_B[graft.adapter]
        return self.numbers[graft.adapter], a.flatten(0, 1), b.flatten(0, 1).T

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Whatever the base layer returns, its hidden states moved by the thought of each row."""
        out = self.base_layer(x, *args, **kwargs)
        graft = self._recomputed_graft() if recomputing() else self.thought_graft
        context = None if graft is None else graft.forward_context()
        if graft is None or context is None or not context.adds(self.numbers[graft.adapter], x):
            return out
        delta = self._delta(x, graft, context)
        return (context.add(out[0], delta), *out[1:]) if isinstance(out, tuple) else context.add(out, delta)

    def _delta(self, x: Tensor, graft: AttachedGraft, context: ForwardContext) -> Tensor:
        """x (b, t, f), or (b t, f) from blocks that flatten -> (b, t, d), times creativity."""
        number = self.numbers[graft.adapter]
        # Branches learn in float32 and multiply as the base does: beside bfloat16, float32 would take half of a step.
        a, b = self.mot_A[graft.adapter].to(x.dtype), self.mot_B[graft.adapter].to(x.dtype)
        z = F.linear(context.by_row(x), a.flatten(0, 1))  # (b, t, k r)
        noise = self._noise(graft, context, number, z.shape[1])
        if graft.config.combiner == "attention":
            u = self._attended(z, noise, graft, context, number)
        else:
            u = context.of_layer("scale", number)[:, None] * (z if noise is None else z + noise)
        return (u.to(b.dtype) @ b.flatten(0, 1)).view(*x.shape[:-1], -1)

    def _noise(self, graft: AttachedGraft, context: ForwardContext, number: int, tokens: int) -> Tensor | None:
        """(b, 1, k r) held, (b, t, k r) fresh, at its strength; of the last `tokens`."""
        cache = context.state.cache
        if "noise" in cache:
            return cache["noise"][:, number, None]
        if "noisy" not in cache:
            return None
        k, r = graft.config.num_branches, graft.config.r
        noise = fresh_noise(context.state.seeds, number, k, r, context.positions[:, -tokens:]).flatten(2)
        return noise * self.sigma(graft.adapter, graft.config.noise_scale) * cache["noisy"][:, None, None]

    def _attended(
        self, z: Tensor, noise: Tensor | None, graft: AttachedGraft, context: ForwardContext, number: int
    ) -> Tensor:
        """Attention across the branches of one position, in rank space: the mean over the route is the query."""
        shape, r = (graft.config.num_branches, graft.config.r), graft.config.r
        apart = z.to(self.mot_query[graft.adapter].dtype).unflatten(-1, shape)  # (b, t, k, r)
        weight = context.of_layer("weight", number)[:, None]  # (b, 1, k)
        mean = (weight[..., None].to(z.dtype) * apart).sum(2)  # (b, t, r)
        query, keys = F.linear(mean, self.mot_query[graft.adapter]), F.linear(apart, self.mot_key[graft.adapter])
        bias = weight.clamp(min=1e-30).log().masked_fill(weight == 0, -torch.inf)
        share = torch.softmax((keys * query[:, :, None]).sum(-1).float() * r**-0.5 + bias, -1)  # (b, t, k)
        noisy = apart if noise is None else apart + noise.unflatten(-1, shape)
        return (share[..., None] * context.state.creativity[:, None, None, None] * noisy).flatten(2)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise InputError(*NO_MERGE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        graft = self.grafts.pop(adapter_name, None)
        self.numbers.pop(adapter_name, None)
        if graft is not None:
            graft.close()

    def __repr__(self) -> str:
        return "mot." + super().__repr__()


def _drawn_was_loaded(layer: MoTLayer, keys: Any) -> None:
    """After a state dict was loaded: grafts go on from its count. Files from before it was kept have none."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if ".mot_drawn." not in key]
    for adapter, graft in layer.grafts.items():
        if adapter in layer.mot_drawn:
            graft.drawn = int(layer.mot_drawn[adapter])
