"""What the rows of a forward go through: found once, before the first block, and read by every grafted layer.

An episode begins with a forward whose cache is absent or empty. Its rows then stay with that cache (and move with it,
under beam search), so that a thought keeps its route and noise from token to token. Nothing is drawn inside a block:
recomputing one (gradient checkpointing) finds what the forward found.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.engine.row_state import without_row_state
from thoughtmix.graft import route
from thoughtmix.graft.config import MoTConfig
from thoughtmix.mixture.state import Rows, current, follow, followed

if TYPE_CHECKING:
    from thoughtmix.graft.context import Asked
    from thoughtmix.graft.layer import MoTLayer
    from thoughtmix.graft.row_state import GraftRowState

_PLANS: ContextVar[dict[int, Plan] | None] = ContextVar("thoughtmix_graft_plans", default=None)


@dataclass
class Plan:
    """One forward of b rows and t tokens. Memory of the rows (`Rows.layers`, at 0): `scale` (b, l, k r) creativity
    times weight of each branch, l = 1 where the model has one route; `noise` (b, L, k r); `branch`, `log_weight`
    (b, l, s) and `weight` (b, l, k) the route; `noisy` (b,) whether fresh noise is drawn; `sum` (b, f) over the
    prompt, for routers that read it; `length` (b,) of what was read first."""

    graft: Graft
    rows: Rows
    b: int
    t: int
    positions: Tensor  # (b, t)
    keep: Tensor | None  # (b, t) bool: where thoughts go their ways; None: everywhere
    real: Tensor | None = None  # (b, t), 0 where padded; None: nowhere
    idle: bool = False  # nowhere: only the router may want to see what is read
    looked: bool = False  # the route was drawn by what the first layer saw

    def ready(self, number: int, x: Tensor) -> bool:
        """Whether layer `number` has something to add; the first one completes the plan by what it sees."""
        again = self.looked and torch._C._current_graph_task_id() != -1  # what is computed again must be the same
        if number == 0 and (again or "scale" not in self.rows.memory):
            self.looked = True
            self.graft.look(self, self.by_row(x))
        return not self.idle

    def by_row(self, x: Tensor) -> Tensor:
        """(b, t, ...) again, where a block has flattened rows and tokens into one axis."""
        if x.ndim == 3 and x.shape[:2] == (self.b, self.t):
            return x
        if x.ndim == 2 and len(x) == self.b * self.t:
            return x.view(self.b, self.t, -1)
        raise InputError(
            f"A grafted block got {tuple(x.shape)} for {self.b} rows of {self.t} tokens, so rows cannot be told apart.",
            "Graft other modules (target_modules=).",
        )

    def moved(self, y: Tensor, delta: Tensor) -> Tensor:
        """y + delta; bit for bit y where thoughts do not differ."""
        delta = delta.view(y.shape).to(y.dtype)
        if self.keep is None:
            return y + delta
        return torch.where(self.keep.view(*y.shape[:-1], 1), y + delta, y)

    def scale_of(self, number: int) -> Tensor:
        """(b, k r)"""
        scale = self.rows.memory["scale"]
        return scale[:, number if scale.shape[1] > 1 else 0]

    def weight_of(self, number: int) -> Tensor:
        """(b, k)"""
        weight = self.rows.memory["weight"]
        return weight[:, number if weight.shape[1] > 1 else 0]

    @property
    def noise(self) -> Tensor | None:
        return self.rows.memory.get("noise")

    @property
    def noisy(self) -> Tensor | None:
        return self.rows.memory.get("noisy")


class Graft:
    """The layers of one adapter in one model, and the hooks around the stack that holds them."""

    thought_hooks = True  # decoding/fused.py knows these hooks by it

    def __init__(
        self, config: MoTConfig, adapter: str, layers: list[MoTLayer], stack: nn.Module, model: nn.Module
    ) -> None:
        self.config, self.adapter, self.layers, self.model = config, adapter, layers, model
        self.names = list(inspect.signature(stack.forward).parameters)
        self.drawn = 0  # rows of training forwards so far: each draws anew
        self.last: Plan | None = None  # of the forward whose blocks a backward may compute again
        self._handles = [
            stack.register_forward_pre_hook(self._begin, with_kwargs=True),
            stack.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]
        for layer in layers:
            layer.grafts[adapter] = self

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def active(self) -> bool:
        return self.layers[0].thought_graft is self

    def row_state(
        self, seeds: Sequence[int], creativity: Sequence[float], device: torch.device, weights: Tensor | None = None
    ) -> GraftRowState:
        """The state of rows for the decoding engine; weights (rows, k): routes that are not drawn."""
        from thoughtmix.graft.row_state import GraftRowState

        return GraftRowState(self, seeds, creativity, device, weights)

    def plan(self) -> Plan | None:
        """Of the forward that is under way in this thread; in a backward that computes again, of the forward before."""
        found = (_PLANS.get() or {}).get(id(self))
        return self.last if found is None and torch._C._current_graph_task_id() != -1 else found

    # --- around the stack's forward ---

    def _begin(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.active:
            return
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        if "Paged" in type(given.get("cache")).__name__ or given.get("block_table") is not None:
            raise InputError(
                "Continuous batching packs many prompts into one row, whose thoughts cannot be told apart.",
                "Call generate(), or thoughtmix.think.",
            )
        plan = self._plan(given)
        if plan is not None:
            _PLANS.set({**(_PLANS.get() or {}), id(self): plan})
        if torch.is_grad_enabled():
            self.last = plan

    def _end(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        plans = dict(_PLANS.get() or {})
        plan = plans.pop(id(self), None)
        _PLANS.set(plans)
        cache = getattr(output, "past_key_values", None)
        hidden = output if isinstance(output, Tensor) else output[0] if output else None
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(_Again(self, plan))  # a backward comes by here before it reaches the blocks
        if plan is not None and cache is not None and current() is None and followed(cache) is None:
            follow(cache, plan.rows)

    def _plan(self, given: dict[str, Any]) -> Plan | None:
        ids = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
        if ids is None or without_row_state():
            return None
        b, t = ids.shape[:2]
        cache = given.get("past_key_values")
        seen = 0 if cache is None else int(cache.get_seq_length())
        mask = given.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= t else None
        length = torch.full((b,), seen + t, device=ids.device) if mask is None else mask.sum(-1).to(ids.device)
        rows = self._rows(b, ids.device, cache, seen, length)
        positions = _positions(given.get("position_ids"), mask, b, t, seen, ids.device)
        if rows.remember and seen == 0:
            rows.memory["length"] = length
        keep = (rows.creativity > 0)[:, None] & (positions >= rows.prompt_lengths[:, None])
        plan = Plan(self, rows, b, t, positions, keep, None if mask is None else mask[:, -t:])
        if not bool(keep.any()):
            plan.idle = True
            return plan if self._reads(rows) else None
        if bool(keep.all()):
            plan.keep = None
        if "scale" not in rows.memory and not self._reads(rows):
            self.settle(rows)
        return plan

    def _rows(self, b: int, device: torch.device, cache: Any, seen: int, length: Tensor) -> Rows:
        """Whose draws: the engine's rows, else those this cache began with, else new ones as was asked."""
        from thoughtmix.graft.context import asked

        rows = current() or (followed(cache) if seen else None)
        if rows is not None:
            return rows if len(rows.seeds) == b else rows.pick([0] * b)
        wish: Asked = asked(self) or self._unasked(b)
        rows = wish.rows(self, b, device, cache, length)
        if cache is not None:
            follow(cache, rows)
        return rows

    def _unasked(self, b: int) -> Asked:
        """A forward outside `thoughts`, `routed` and the engine: rows 0, 1, ... at the config's creativity. While
        training each forward draws on, evenly over the odds, never from global random state."""
        from thoughtmix.graft.context import Asked

        generation = getattr(self.model, "generation_config", None)
        creativity = getattr(generation, "creativity", None)
        seed = int(getattr(generation, "thought_seed", None) or 0)
        if self.model.training:
            world, rank = 1, 0
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
            seed = self.drawn + rank * b
            self.drawn += world * b
        return Asked(self, self.config.creativity_default if creativity is None else creativity, seed)

    # --- draws ---

    def _reads(self, rows: Rows) -> bool:
        """Whether the route waits for what the first layer sees of the prompt."""
        waits = self.config.router == "prompt" and "scale" not in rows.memory
        return waits and bool((rows.prompt_lengths > 0).any())

    @torch.no_grad()
    def _gather(self, plan: Plan, x: Tensor) -> Tensor:
        """(b, f) sum over the prompt so far."""
        inside = (plan.positions < plan.rows.prompt_lengths[:, None]).float()  # (b, t)
        if plan.real is not None:
            inside = inside * plan.real
        total = torch.bmm(inside[:, None], x.float())[:, 0]
        before = plan.rows.memory.get("sum")
        total = total if before is None else before + total
        if plan.rows.remember:
            plan.rows.memory["sum"] = total
        return total

    def look(self, plan: Plan, x: Tensor) -> None:
        """The first layer's inputs (b, t, f): what a router that reads the prompt goes by."""
        total = self._gather(plan, x)
        if not plan.idle:
            plan.rows.memory.pop("weight", None)
            self.settle(plan.rows, total / plan.rows.prompt_lengths.clamp(min=1)[:, None])

    def log_odds(self, b: int, pool: Tensor | None = None) -> Tensor:
        """(b, l, k) log-odds of the branches; pool (b, f) the mean of the first layer's inputs over the prompt."""
        drawing = self.layers if self.config.route == "layer" else self.layers[:1]
        prior = torch.stack([layer.mot_prior[self.adapter] for layer in drawing]).float()  # (l, k)
        logits = prior.expand(b, *prior.shape)
        if pool is not None and self.config.router == "prompt":
            weights = torch.stack([layer.mot_router[self.adapter] for layer in drawing]).float()  # (l, k, f)
            logits = logits + torch.einsum("lkf,bf->blk", weights, pool)
        return logits.log_softmax(-1)

    def settle(self, rows: Rows, pool: Tensor | None = None) -> None:
        """Draw what these rows go through, into their memory."""
        c = self.config
        if "weight" not in rows.memory:
            odds = self.log_odds(len(rows.seeds), pool)
            if pool is not None:  # a row without a prompt has nothing to go by
                odds = torch.where((rows.prompt_lengths > 0)[:, None, None], odds, self.log_odds(len(rows.seeds)))
            branch, log_weight = route.draw(odds, rows.seeds, c.branches_min, c.branches_max, c.draw == "stratified")
            rows.memory["branch"], rows.memory["log_weight"] = branch, log_weight
            rows.memory["weight"] = route.dense(branch, log_weight, c.num_branches)
            rows.memory["noisy"] = torch.ones_like(rows.creativity)
        weight = rows.memory["weight"]
        rows.memory["scale"] = (rows.creativity[:, None, None] * weight).repeat_interleave(c.r, -1)
        noisy = rows.memory.get("noisy")
        if noisy is not None and c.noise == "held":
            rows.memory["noise"] = self._held(rows.seeds) * noisy[:, None, None]
        if c.noise != "fresh":
            rows.memory.pop("noisy", None)

    def _held(self, seeds: Tensor) -> Tensor:
        """(b, L, k r) noise of every layer at its strength."""
        c = self.config
        noise = route.held_noise(seeds, torch.arange(len(self.layers)), c.num_branches, c.r).flatten(2)
        sigma = torch.stack([layer.sigma(self.adapter, c.noise_scale) for layer in self.layers])
        return noise * sigma.float()[:, None]


@dataclass(slots=True)
class _Again:
    """A backward hook: blocks that are computed again find the plan of their own forward, whichever came last."""

    graft: Graft
    plan: Plan | None

    def __call__(self, gradient: Tensor) -> None:
        self.graft.last = self.plan


def _positions(given: Any, mask: Tensor | None, b: int, t: int, seen: int, device: torch.device) -> Tensor:
    """(b, t): of a row's real tokens."""
    if isinstance(given, Tensor) and given.ndim == 2 and given.shape[1] == t:
        return given.to(device).expand(b, t)
    if mask is not None:
        return (mask.long().cumsum(-1) - 1)[:, -t:].clamp(min=0).to(device)
    return torch.arange(seen, seen + t, device=device).expand(b, t)
