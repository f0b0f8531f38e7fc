"""One Mixture-of-Thoughts layer: router -> noisy branches -> combiner, for all rows and tokens at once.

What creativity c means, here and in a graft: y = y_0 + c (y_drawn - y_0). y_0 takes the likeliest route without noise;
y_drawn a drawn route with noise. So 0 is deterministic, 1 is what was trained, and 2 departs twice as far.

Axis letters: b rows, t tokens, n = b t, g segments, k branches, s slots of a route, d width, f width of a branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from thoughtmix.engine.counter_rng import key, normal
from thoughtmix.engine.rng import NOISE
from thoughtmix.mixture.branch import BranchNoise, ThoughtBranch
from thoughtmix.mixture.combiner import AttentionCombiner
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.router import Route, RouterNoise, ThoughtRouter, route_keys
from thoughtmix.mixture.state import BranchState, LayerCache, Segments


class Modes(nn.Module):
    """Learned ways to continue: each thought has one, for all its tokens and layers.

    A mode moves what the branches read along a learned direction and prefers some of them: noise that is held, with a
    meaning. Which mode suits a text is found in training by trying them, so that the model is
    p(y | x) = sum_z p(z) p(y | x, z), trained by hard EM (Neal and Hinton 1998; for mixtures of sequence models Shen et
    al. 2019).

    Args:
        count: How many. The thought of seed s has mode s mod count, so that neighbouring seeds differ.
        hidden_size: d.
        num_branches: k.
    """

    def __init__(self, count: int, hidden_size: int, num_branches: int) -> None:
        super().__init__()
        self.count = count
        self.direction = nn.Parameter(torch.empty(count, hidden_size))
        self.preference = nn.Parameter(torch.empty(count, num_branches))

    def directions(self, seeds: Tensor) -> Tensor:
        """seeds (b,) -> (b, d)."""
        return self.direction[seeds % self.count]

    def preferences(self, seeds: Tensor) -> Tensor:
        """seeds (b,) -> (b, k), added to the router's logits."""
        return self.preference[seeds % self.count]


@dataclass(slots=True)
class LayerTrace:
    """What a layer did, for training signals and metrics."""

    route: Route
    outputs: Tensor  # (n, s, d) of the branches
    active: Tensor  # (n, s) bool
    branch: Tensor  # (n, s)
    segments: Segments

    @property
    def token_share(self) -> Tensor:
        """(b, g)"""
        return self.segments.token_share()

    @property
    def mask(self) -> Tensor | None:
        """(n,) 0 where padded."""
        return None if self.segments.mask is None else self.segments.mask.flatten()


class MixtureOfThoughtsLayer(nn.Module):
    """Stands where a transformer has its feed-forward block; the caller adds the residual."""

    router: ThoughtRouter
    combiner: AttentionCombiner

    def __init__(self, config: Any, layer_idx: int = 0) -> None:
        config = MixtureOfThoughtsConfig.from_any(config)
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
        self,
        x: Tensor,
        state: BranchState | None = None,
        segments: Segments | None = None,
        noise_factor: Tensor | float = 1.0,
    ) -> tuple[Tensor, LayerTrace | None]:
        """Nothing at a token depends on later tokens.

        Args:
            x: (b, t, d), normalised.
            state: Of the rows; None: seeds 0..b-1 at creativity 1.
            segments: Of the tokens; None: from the state.
            noise_factor: The model's learned strength of noise.

        Returns:
            (b, t, d), and what was done; None where there is one branch.
        """
        b, t, d = x.shape
        if self.branches.num_branches == 1:
            return self.branches(x.view(b * t, d)).view(b, t, d), None
        if state is None:
            state = BranchState.create(range(b), device=x.device)
        if segments is None:
            segments = Segments.create(state, torch.arange(t, device=x.device).expand(b, t), self.segment_length, None)
        flat = x.reshape(b * t, d)
        moved = flat
        if self.modes is not None:
            on = (segments.to_tokens(segments.creativity) > 0).to(x.dtype)  # (b, t)
            moved = (x + on[..., None] * self.modes.directions(state.seeds)[:, None]).view(b * t, d)
        route = self._route(x, state, segments)
        if self.follow:
            segments = segments.split_tokens()
        noise = self._noise(state, segments, route, noise_factor)
        mixed, outputs, branch, active = self._mix(moved, route, segments, noise)
        if not segments.unit_creativity:
            base = self._mix(flat, self.router.likeliest(route), segments, None)[0]
            c = segments.to_tokens(segments.creativity).flatten()[:, None]
            mixed = torch.where(c > 0, base + c * (mixed - base), mixed)
        if self.shared is not None:
            mixed = mixed + self.shared(flat)[:, 0]
        return mixed.view(b, t, d), LayerTrace(route, outputs, active, branch, segments)

    def _mix(
        self, flat: Tensor, route: Route, segments: Segments, noise: BranchNoise | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens (n, d) through their branches: combined (n, d), each branch's output (n, s, d), branch and active."""
        branch, log_weight = (segments.to_tokens(part).flatten(0, 1) for part in (route.branch, route.log_weight))
        active = log_weight > -torch.inf
        outputs = self.branches(flat, branch, active, noise)
        return self.combiner(flat, outputs, log_weight), outputs, branch, active

    def _route(self, x: Tensor, state: BranchState, segments: Segments) -> Route:
        """The routes of the segments (or of the tokens), from the layer's cache when they are final; it is brought up
        to date."""
        cache = state.layers.get(self.index, {}) if state.use_cache else None
        if cache and x.shape[1] == 1 and segments.final and "branch" in cache:
            return Route(cache["branch"], cache["log_weight"], cache["log_prob"])
        noise = self.router_noise(state, segments.ids, segments.creativity > 0)
        if self.follow:
            return self.router.route(x, noise.to_tokens(segments))
        pool, total = self._pool(x, segments, cache or {})
        route = self.router.route(pool.to(x.dtype), noise)
        if cache is None:
            return route
        last = segments.of_token[:, -1]

        def ending(y: Tensor) -> Tensor:
            return y[torch.arange(len(y), device=y.device), last][:, None]

        length = segments.positions[:, -1] + 1
        cache = {"sum": total.detach(), "length": length, "pool": ending(pool).detach()}
        if segments.final and not bool((ending(segments.ids) == 0).any()):
            cache |= {n: ending(getattr(route, n)).detach() for n in ("branch", "log_weight", "log_prob")}
        state.layers[self.index] = cache
        return route

    def router_noise(self, state: BranchState, segment: Tensor, drawn: Tensor) -> RouterNoise:
        """What the rows' seeds draw for segments (b, g) by number, where drawn (b, g) bool is set."""
        keys = route_keys(state.seeds, self.index, segment) if self.router.routing == "gumbel" else None
        noise = self.router.sample_noise(keys, drawn)
        if self.modes is not None:
            noise.bonus = noise.bonus + drawn[..., None] * self.modes.preferences(state.seeds)[:, None]
        return noise

    def _pool(self, x: Tensor, segments: Segments, cache: LayerCache) -> tuple[Tensor, Tensor]:
        """(b, g, d) mean hidden state before each segment, the prior where there is none; (b, d) sum after this
        forward. In float32: sums over thousands of tokens must not lose the last."""
        real = x.float() if segments.mask is None else x.float() * segments.mask[..., None]
        before = cache.get("sum", real.new_zeros(real[:, 0].shape))
        # A masked product, not a running sum: there are few segments, and its backward is a product too.
        earlier = torch.arange(x.shape[1], device=x.device) < segments.start_columns[..., None]  # (b, g, t)
        exclusive = before[:, None] + torch.bmm(earlier.float(), real)  # sum before the column
        start = (
            segments.start_columns + segments.positions[:, :1]
        )  # the segment's first position, where nothing is padded
        if segments.mask is not None:
            first = segments.mask.argmax(1, keepdim=True)
            start = segments.start_columns - first + segments.positions.gather(1, first)
        pool = exclusive / start.clamp(min=1)[..., None]
        if "pool" in cache:
            pool = torch.where((segments.start_columns < 0)[..., None], cache["pool"], pool)
        return torch.where(segments.from_prior[..., None], self.router.prior.float(), pool), before + real.sum(1)

    def _noise(
        self, state: BranchState, segments: Segments, route: Route, factor: Tensor | float
    ) -> BranchNoise | None:
        if self.branches.input_noise is None:
            return None
        b, t = segments.of_token.shape
        g, s = route.branch.shape[1:]
        amplitude = segments.to_tokens((segments.creativity > 0).float()).flatten() * factor  # (n,)
        device = amplitude.device
        f, d = self.branches.up.shape[1:]
        seeds = state.seeds[:, None, None]
        if self.noise == "fresh":
            keys = key(seeds, NOISE, self.index, segments.to_tokens(route.branch), segments.positions[..., None])
            index = torch.arange(b * t * s, device=device).view(b * t, s)
            return BranchNoise(*noise_tables(keys.flatten(), d, f), index, amplitude)
        if self.follow:
            k = self.branches.num_branches
            at_input, latent = noise_tables(key(seeds[:, 0], NOISE, self.index, torch.arange(k, device=device)), d, f)
            index = torch.arange(b, device=device)[:, None, None] * k + route.branch
            return BranchNoise(at_input.view(-1, d), latent.view(-1, f), index.view(b * t, s), amplitude)
        at_input, latent = noise_tables(key(seeds, NOISE, self.index, route.branch), d, f)  # (b, g, s, .)
        group = torch.arange(b, device=device)[:, None] * g + segments.of_token  # (b, t): which route
        index = group.flatten()[:, None] * s + torch.arange(s, device=device)
        return BranchNoise(at_input.view(-1, d), latent.view(-1, f), index, amplitude)


def noise_tables(keys: Tensor, d: int, f: int) -> tuple[Tensor, Tensor]:
    """Noise of pairs with these keys: (..., d) at the input, (..., f) inside."""
    both = normal(keys, d + f)
    return both[..., :d], both[..., d:]


class MixtureBlock(nn.Module):
    """A transformer block: attention, then a Mixture-of-Thoughts layer."""

    attention: LlamaAttention
    mixture: MixtureOfThoughtsLayer

    def __init__(self, config: MixtureOfThoughtsConfig, index: int) -> None:
        super().__init__()
        self.before_attention = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = LlamaAttention(config, index)
        self.before_mixture = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixture = MixtureOfThoughtsLayer(config, index)

    def forward(
        self, x: Tensor, state: BranchState, segments: Segments, noise_factor: Tensor, **attention: Any
    ) -> tuple[Tensor, LayerTrace | None]:
        """x (b, t, d) -> (b, t, d), and what the layer did."""
        x = x + self.attention(self.before_attention(x), **attention)[0]
        y, trace = self.mixture(self.before_mixture(x), state, segments, noise_factor)
        return x + y, trace
