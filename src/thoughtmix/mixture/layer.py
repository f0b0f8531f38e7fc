"""One Mixture-of-Thoughts layer: router -> noisy branches -> combiner, for all rows and tokens at once.

What creativity c means, here and in a graft: y = y_0 + c (y_drawn - y_0). y_0 takes the likeliest route without noise;
y_drawn a drawn route with noise. So 0 is deterministic, 1 is what was trained, and 2 departs twice as far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtmix.engine.counter_rng import key, normal
from thoughtmix.engine.rng import NOISE
from thoughtmix.mixture.branch import Noise, ThoughtBranch
from thoughtmix.mixture.combiner import AttentionCombiner
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.modes import Modes
from thoughtmix.mixture.router import Route, Taste, ThoughtRouter, route_keys
from thoughtmix.mixture.segments import Segments
from thoughtmix.mixture.state import Memory, Rows


@dataclass(slots=True)
class Trace:
    """What a layer did, for training signals and metrics; made only when asked for."""

    route: Route
    outputs: Tensor  # (n, s, d) of the branches
    active: Tensor  # (n, s) bool
    branch: Tensor  # (n, s)
    segments: Segments

    @property
    def share(self) -> Tensor:
        """(b, g) of tokens."""
        return self.segments.share()

    @property
    def real(self) -> Tensor | None:
        """(n,) 0 where padded."""
        return None if self.segments.real is None else self.segments.real.flatten()


class MixtureOfThoughtsLayer(nn.Module):
    """Stands where a transformer has its feed-forward block; the caller adds the residual."""

    def __init__(self, config: MixtureOfThoughtsConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.index, self.segment_length, self.noise = layer_idx, config.segment_length, config.noise
        self.follow = config.follow
        d, k = config.hidden_size, config.num_branches
        scale = 0.0 if config.noise == "none" else config.noise_scale
        self.branches = ThoughtBranch(d, int(config.branch_width or 0), k, scale)
        # What all thoughts need alike is learned once here, from every token; the branches learn how to differ.
        self.shared = ThoughtBranch(d, config.shared_width) if config.shared_width else None
        self.modes = Modes(config.modes, d, k) if config.modes and k > 1 else None
        if k > 1:
            self.router = ThoughtRouter(
                d, k, config.branches_min, config.branches_max, config.diversity_bonus, config.routing
            )
            self.router.prior.requires_grad_(not self.follow)  # no route is drawn before the text is there
            self.combiner = AttentionCombiner(d, config.combiner_rank if config.combiner == "attention" else 0)

    def forward(
        self, x: Tensor, rows: Rows | None = None, segments: Segments | None = None, factor: Tensor | float = 1.0
    ) -> tuple[Tensor, Trace | None]:
        """x (b, t, d), normalised -> (b, t, d) and what was done. rows None: seeds 0..b-1 at creativity 1. factor: the
        model's learned strength of noise. Nothing at a token depends on later tokens."""
        b, t, d = x.shape
        if self.branches.num_branches == 1:
            return self.branches(x.view(b * t, d)).view(b, t, d), None
        if rows is None:
            rows = Rows.of(range(b), device=x.device)
        if segments is None:
            segments = Segments.of(rows, torch.arange(t, device=x.device).expand(b, t), self.segment_length, None)
        flat = x.reshape(b * t, d)
        moved = flat
        if self.modes is not None:
            on = (segments.take(segments.creativity) > 0).to(x.dtype)  # (b, t)
            moved = (x + on[..., None] * self.modes.direction[self.modes.of(rows.seeds)][:, None]).view(b * t, d)
        route = self._route(x, rows, segments)
        if self.follow:
            segments = segments.by_token()
        noise = self._noise(rows, segments, route, factor)
        mixed, outputs, branch, active = self._mix(moved, route, segments, noise)
        if not segments.unit:
            likeliest = self.likeliest(route)
            base = self._mix(flat, likeliest, segments, None)[0]
            c = segments.take(segments.creativity).flatten()[:, None]
            mixed = torch.where(c > 0, base + c * (mixed - base), mixed)
        return self._with_shared(mixed, flat).view(b, t, d), Trace(route, outputs, active, branch, segments)

    def _with_shared(self, mixed: Tensor, flat: Tensor) -> Tensor:
        return mixed if self.shared is None else mixed + self.shared(flat)[:, 0]

    def _mix(
        self, flat: Tensor, route: Route, segments: Segments, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens (n, d) through their branches: combined (n, d), each branch's output (n, s, d), branch and active."""
        branch, log_weight = (segments.take(part).flatten(0, 1) for part in (route.branch, route.log_weight))
        active = log_weight > -torch.inf
        outputs = self.branches(flat, branch, active, noise)
        return self.combiner(flat, outputs, log_weight), outputs, branch, active

    def likeliest(self, route: Route) -> Route:
        """The undrawn route of the same segments."""
        weight, branch = route.log_prob.topk(self.router.high, dim=-1)
        return Route(branch, F.log_softmax(weight, -1), route.log_prob)

    def _route(self, x: Tensor, rows: Rows, segments: Segments) -> Route:
        """The routes of the segments (or of the tokens), from the rows' memory when they stand; it is brought up to
        date."""
        if self.follow:
            taste = self._taste(rows, segments.ids, segments.creativity > 0)
            route: Route = self.router.choose(x, taste.take(segments))
            return route
        memory = rows.layers.get(self.index, {}) if rows.remember else None
        step = x.shape[1] == 1
        if memory and step and segments.settled and "branch" in memory:
            return Route(memory["branch"], memory["log_weight"], memory["log_prob"])
        pool, total = self._pool(x, segments, memory or {})
        route = self.router.choose(pool.to(x.dtype), self._taste(rows, segments.ids, segments.creativity > 0))
        if memory is None:
            return route
        last = segments.local[:, -1]

        def ending(y: Tensor) -> Tensor:
            return y[torch.arange(len(y), device=y.device), last][:, None]

        length = segments.positions[:, -1] + 1
        memory = {"sum": total.detach(), "length": length, "pool": ending(pool).detach()}
        if segments.settled and not bool((ending(segments.ids) == 0).any()):
            memory |= {n: ending(getattr(route, n)).detach() for n in ("branch", "log_weight", "log_prob")}
        rows.layers[self.index] = memory
        return route

    def _taste(self, rows: Rows, segment: Tensor, drawn: Tensor) -> Taste:
        """For segments (b, g) by number; drawn (b, g) bool."""
        keys = route_keys(rows.seeds, self.index, segment) if self.router.routing == "gumbel" else None
        taste = self.router.taste(keys, drawn)
        if self.modes is not None:
            taste.bonus = taste.bonus + drawn[..., None] * self.modes.preference[self.modes.of(rows.seeds)][:, None]
        return taste

    def _pool(self, x: Tensor, segments: Segments, memory: Memory) -> tuple[Tensor, Tensor]:
        """(b, g, d) mean hidden state before each segment, the prior where there is none; (b, d) sum after this
        forward. In float32: sums over thousands of tokens must not lose the last."""
        real = x.float() if segments.real is None else x.float() * segments.real[..., None]
        before = memory.get("sum", real.new_zeros(real[:, 0].shape))
        # A masked product, not a running sum: there are few segments, and its backward is a product too.
        earlier = torch.arange(x.shape[1], device=x.device) < segments.columns[..., None]  # (b, g, t)
        exclusive = before[:, None] + torch.bmm(earlier.float(), real)  # sum before the column
        start = segments.columns + segments.positions[:, :1]  # the segment's first position, where nothing is padded
        if segments.real is not None:
            first = segments.real.argmax(1, keepdim=True)
            start = segments.columns - first + segments.positions.gather(1, first)
        pool = exclusive / start.clamp(min=1)[..., None]
        if "pool" in memory:
            pool = torch.where((segments.columns < 0)[..., None], memory["pool"], pool)
        return torch.where(segments.from_prior[..., None], self.router.prior.float(), pool), before + real.sum(1)

    def _noise(self, rows: Rows, segments: Segments, route: Route, factor: Tensor | float) -> Noise | None:
        if self.branches.input_noise is None:
            return None
        b, t = segments.local.shape
        g, s = route.branch.shape[1:]
        amplitude = segments.take((segments.creativity > 0).float()).flatten() * factor  # (n,)
        device = amplitude.device
        f, d = self.branches.up.shape[1:]
        seeds = rows.seeds[:, None, None]
        if self.noise == "fresh":
            keys = key(seeds, NOISE, self.index, segments.take(route.branch), segments.positions[..., None])
            index = torch.arange(b * t * s, device=device).view(b * t, s)
            return Noise(*tables(keys.flatten(), d, f), index, amplitude)
        if self.follow:
            k = self.branches.num_branches
            at_input, latent = tables(key(seeds[:, 0], NOISE, self.index, torch.arange(k, device=device)), d, f)
            index = torch.arange(b, device=device)[:, None, None] * k + route.branch
            return Noise(at_input.view(-1, d), latent.view(-1, f), index.view(b * t, s), amplitude)
        at_input, latent = tables(key(seeds, NOISE, self.index, route.branch), d, f)  # (b, g, s, .)
        group = torch.arange(b, device=device)[:, None] * g + segments.local  # (b, t): which route
        index = group.flatten()[:, None] * s + torch.arange(s, device=device)
        return Noise(at_input.view(-1, d), latent.view(-1, f), index, amplitude)


def tables(keys: Tensor, d: int, f: int) -> tuple[Tensor, Tensor]:
    """Noise of pairs with these keys: (..., d) at the input, (..., f) inside."""
    both = normal(keys, d + f)
    return both[..., :d], both[..., d:]


def signals(trace: Trace, entropy: bool = True, diversity: bool = True) -> dict[str, Tensor]:
    """The training signals of one layer, each a scalar, with gradient but where that is not asked for, each to be made
    small:

    balance: K sum_k f_k P_k (Fedus et al. 2021, eq. 4-6), 1 when branches share the work evenly;
    entropy: 1 - H(router) / log K, 0 when the router keeps every branch possible;
    diversity: mean cosine of the outputs of two active branches at one token (every fourth), 1 when all say the same.
    """
    log_p = trace.route.log_prob
    k = log_p.shape[-1]
    p = log_p.exp()
    mean = (p * trace.share[..., None]).sum((0, 1))  # (k,)
    chosen = F.one_hot(trace.branch, k).float() * trace.active[..., None]
    if trace.real is not None:
        chosen = chosen * trace.real[:, None, None]
    use = _everywhere(chosen.sum((0, 1)))
    found = {"balance": k * (use / use.sum().clamp(min=1) * mean).sum()}
    learning = torch.is_grad_enabled()
    with torch.set_grad_enabled(learning and entropy):
        found["entropy"] = 1 + ((p * log_p).sum(-1) * trace.share).sum() / math.log(k)
    with torch.set_grad_enabled(learning and diversity):
        found["diversity"] = mean_cosine(trace, every=4)
    return found


def mean_cosine(trace: Trace, every: int = 1) -> Tensor:
    """Mean over tokens of the mean cosine of two active branches' outputs; tokens with one branch count as 0. every:
    look at each so-many-th token only: an estimate, for a signal that training adds up over many steps."""
    y, active = trace.outputs[::every].float(), trace.active[::every]
    unit = active / torch.linalg.vector_norm(y, dim=-1).clamp(min=1e-6)  # (n, s): scales each to length 1
    count = active.sum(1).float()
    total = (unit[..., None] * y).sum(1).square().sum(-1) - count  # |sum|^2 = count + sum over ordered pairs
    each = total / (count * (count - 1)).clamp(min=1)
    if trace.real is None:
        return each.mean()
    real = trace.real[::every]
    return (each * real).sum() / real.sum().clamp(min=1)


def _everywhere(counts: Tensor) -> Tensor:
    """Counts summed over all training processes, so that the balance of P of them is that of one larger batch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    return counts
