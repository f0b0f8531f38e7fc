"""Denoising: one vectorised step over all rows, and the loops around it.

Randomness is a function of (row's stream, its step, purpose, position): a row's tokens are the same alone, in any
batch, however padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.denoiser import Denoiser
from thoughtmix.diffusion.policies import Ancestral, Policy, PolicyInputs, propose, rounded, top_positions
from thoughtmix.diffusion.schedules import Linear, Remask, Schedule
from thoughtmix.diffusion.state import DiffusionState
from thoughtmix.engine.counter_rng import key, uniform

_TOKENS, _POSITIONS, _REMASK, _NOISE = 1, 2, 3, 4  # what a row draws for at a step
_STEPS = 128  # of ancestral, where none are given


@dataclass(frozen=True)
class DenoisingConfig:
    """How rows are denoised.

    Args:
        policy: Which positions are kept at a step.
        steps: Forward passes at most a row, all of them used where there are as many tokens; blocks share them in
            proportion to what is masked in each. None: as many as the policy needs (128 for ancestral, one a token for
            others).
        block: Tokens filled in at a time from left to right, more where there are fewer steps than blocks; 0: all.
        remask: How kept tokens are masked again; None: never.
        schedule: How much is masked at each time.
        top_p: Keep this much of the probability of a token draw; 1: all.
        min_p: Keep tokens at least this likely beside the likeliest; 0: all.
        guidance: 0 is off; log p = (1 + g) log p(. | prefix) - g log p(. | prefix hidden) (Ho and Salimans 2022), two
            row-passes a step.

    Raises:
        InputError: For numbers out of range, and for what the policy cannot do.
    """

    policy: Policy = field(default_factory=Ancestral)
    steps: int | None = None
    block: int = 0
    remask: Remask | None = None
    schedule: Schedule = field(default_factory=Linear)
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}.", "Pass 1 or more (--steps 128).")
        if self.block < 0:
            raise InputError(f"block is {self.block}.", "Pass 0 (off) or a number of tokens (--block 32).")
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise InputError(f"top_p {self.top_p}, min_p {self.min_p}.", "Pass top_p in (0, 1], min_p in [0, 1].")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(f"guidance is {self.guidance}.", "Pass 0 (off) or more (--guidance 1).")
        name = self.policy.name
        if self.policy.one_per_step and self.steps is not None:
            raise InputError(f"{name} takes one step a token.", "Leave steps out, or choose random or ancestral.")
        if self.remask is not None and (not self.policy.fixed_steps or self.policy.one_per_step):
            raise InputError(f"Remasking needs a plan of steps, {name} has none.", "Choose ancestral or confidence.")


@dataclass
class ForwardCost:
    """What was spent."""

    calls: int = 0  # of the model
    row_passes: int = 0  # rows read in them
    kept: int = 0  # tokens
    remasked: int = 0  # tokens masked again


@dataclass(frozen=True)
class DenoisingStep:
    """What happened at a step, for r of the rows."""

    rows: Tensor  # (r,): which ones; the other tensors have these rows first
    before: DiffusionState
    after: DiffusionState
    logits: Tensor  # (r, t, v) float32, -inf is forbidden
    kept: Tensor  # (r, t) bool: positions that were decided
    remasked: Tensor  # (r, t) bool: positions that were masked again
    log_proposal: Tensor  # (r,): log-probability of the tokens kept now under what they were drawn from, nats
    log_model: Tensor  # (r,): the same under the model at temperature 1

    @cached_property
    def _likeliest(self) -> tuple[Tensor, Tensor]:
        top = self.logits.max(-1)
        return top.values - self.logits.logsumexp(-1), top.indices

    @property
    def guess(self) -> Tensor:
        """(r, t) ids after the step, the likeliest token by this step's logits where still undecided."""
        return torch.where(self.after.masked, self._likeliest[1], self.after.ids)

    @property
    def certainty(self) -> Tensor:
        """(r, t) float32: probability of the guess; of kept tokens, when they were kept; 0 at padding."""
        sure = torch.where(self.after.masked, self._likeliest[0].exp(), self.after.confidence)
        return sure * self.after.real


@dataclass
class StepStats:
    """What the last step of each row said; rows as in the state."""

    guess: Tensor  # (b, t): the row's text, the likeliest token where undecided
    certainty: Tensor  # (b, t): the probability of each
    fresh: Tensor  # (b, t) bool: positions that were undecided before that step
    log_weight: Tensor  # (b,): the row's importance weight, sum over steps of log_model - log_proposal

    @classmethod
    def before_any_step(cls, state: DiffusionState) -> StepStats:
        return cls(state.ids, state.confidence * state.real, state.masked, torch.zeros_like(state.logprob))

    def update(self, rows: Tensor, step: DenoisingStep) -> None:
        """Take in a step of `rows` (r,) of these rows."""
        self.guess = self.guess.index_copy(0, rows, step.guess)
        self.certainty = self.certainty.index_copy(0, rows, step.certainty)
        self.fresh = self.fresh.index_copy(0, rows, step.before.masked)
        self.log_weight = self.log_weight.index_add(0, rows, step.log_model - step.log_proposal)

    def select_rows(self, rows: Tensor | Sequence[int]) -> StepStats:
        at = torch.as_tensor(rows, device=self.guess.device)
        return StepStats(self.guess[at], self.certainty[at], self.fresh[at], self.log_weight[at])


def predict_logits(
    denoiser: Denoiser, state: DiffusionState, guidance: float = 0.0, cost: ForwardCost | None = None
) -> tuple[DiffusionState, Tensor]:
    """One forward of all rows.

    Returns:
        The state with the denoiser's new memory, and logits (b, t, v) float32 with -inf at forbidden tokens.

    Raises:
        InputError: For guidance with a model that has no mask.
    """
    ids, real, memory = _visible_ids(denoiser, state), state.real, dict(state.memory)
    forbidden = torch.tensor(list(denoiser.forbidden), dtype=torch.int64, device=ids.device)
    with torch.no_grad():
        if guidance:
            if denoiser.mask_id is None:
                raise InputError(
                    "Guidance hides the prefix behind a mask, and this model has none.", "Pass guidance 0."
                )
            prefix = state.locked & ((state.locked | ~real).cumprod(1) > 0)
            both = torch.cat([ids, ids.masked_fill(prefix, denoiser.mask_id)])
            both_logits = denoiser(both, torch.cat([real, real]), memory).float().index_fill(-1, forbidden, -torch.inf)
            given, hidden = both_logits.log_softmax(-1).chunk(2)
            logits = (1 + guidance) * given - guidance * hidden
        else:
            logits = denoiser(ids, real, memory).float()
    if cost is not None:
        cost.calls += 1
        cost.row_passes += len(ids) * (2 if guidance else 1)
    return state.replace(memory=memory), logits.index_fill(-1, forbidden, -torch.inf)


def denoise_step(
    state: DiffusionState, logits: Tensor, config: DenoisingConfig, denoiser: Denoiser
) -> tuple[DiffusionState, DenoisingStep]:
    """Keep some of the masked tokens of every row, mask some again if the configuration says so.

    Rows with nothing masked stay.

    Args:
        logits: (b, t, v) of `predict_logits` for this state.

    Raises:
        NumericsError: For logits that are NaN or infinite.
    """
    policy = config.policy
    state, region = _enter_block(state, config)
    busy = state.num_masked > 0
    free = region & busy[:, None]
    masked = state.masked & free
    candidates = free if policy.revises else masked

    def draw(purpose: int) -> Tensor:
        """(b, t) float64, of each row's own stream, step and positions."""
        keys = key(state.streams[:, None], state.steps[:, None], purpose, state.position_ids)
        return uniform(keys, 1)[..., 0]

    proposals = propose(logits, candidates, draw(_TOKENS), state.temperature, config.top_p, config.min_p)
    last = state.block_step + 1 >= state.block_steps
    rate, count, taken = _step_size(state, config, masked, free & ~state.masked, last, lambda: draw(_REMASK))
    kept = policy.select_positions(PolicyInputs(candidates, proposals, count, rate, lambda: draw(_POSITIONS)))
    if not policy.fixed_steps:  # at least one, or the row would stand still
        surest = top_positions(rounded(proposals.logp), candidates, torch.ones_like(count))
        kept = torch.where(kept.any(1)[:, None], kept, surest)
    kept = torch.where(last[:, None], candidates, kept)

    new = kept if policy.revises else kept & masked
    undecided = (state.masked & ~new) | taken | (candidates & ~kept)
    log_model, log_proposal = (proposals.logp * new).sum(1), (proposals.logq * new).sum(1)
    confidence = torch.where(new, proposals.logp.exp().float(), state.confidence)
    after = state.replace(
        ids=torch.where(new, proposals.drawn, state.ids).masked_fill(undecided, denoiser.mask_id or 0),
        masked=undecided,
        confidence=confidence.masked_fill(undecided, 0.0),
        steps=state.steps + busy,
        block_step=state.block_step + busy,
        run_steps=state.run_steps + busy,
        logprob=state.logprob + log_model,
    )
    rows = torch.arange(len(state), device=state.ids.device)
    return after, DenoisingStep(rows, state, after, logits, new, undecided & ~state.masked, log_proposal, log_model)


def _enter_block(state: DiffusionState, config: DenoisingConfig) -> tuple[DiffusionState, Tensor]:
    """(the state with a number of steps for each row's current block, that block's writable positions (b, t))."""
    free, policy = state.writable, config.policy
    limited = not policy.one_per_step and (config.steps is not None or isinstance(policy, Ancestral))
    budget = config.steps or _STEPS
    size = torch.full_like(state.steps, config.block or max(1, state.ids.shape[1]))
    if limited:  # a block takes a step at least: with fewer steps than blocks, blocks are larger
        size = torch.maximum(size, -(-free.sum(1) // budget))
    index = (free.cumsum(1) - 1).clamp(min=0) // size[:, None]
    first = torch.where(state.masked, index, 2**62).amin(1)  # the leftmost block with something to do
    region = free & (index == first[:, None])
    begins = (first != state.block) & (state.num_masked > 0)
    in_block = (state.masked & region).sum(1)
    steps = in_block
    if limited:  # of the steps that are left, the block's share of what is masked, so that in the end all are used
        left = (budget - state.run_steps).clamp(min=1)
        blocks = _blocks_to_do(state.masked, index)
        steps = torch.minimum(left * in_block // state.num_masked.clamp(min=1), left - blocks + 1).clamp(min=1)
        if config.remask is None and not policy.revises and not isinstance(policy, Ancestral):
            steps = torch.minimum(steps, in_block)  # each step keeps one at least
    entered = state.replace(
        block=torch.where(begins, first, state.block),
        block_step=torch.where(begins, 0, state.block_step),
        block_steps=torch.where(begins, steps, state.block_steps),
        block_masked=torch.where(begins, in_block, state.block_masked),
    )
    return entered, region


def _blocks_to_do(masked: Tensor, index: Tensor) -> Tensor:
    """(b,) how many of each row's blocks hold masked positions; index (b, t) the block of each position."""
    count = int(index.max()) + 1 if index.numel() else 1
    found = torch.zeros((len(masked), count), dtype=torch.int64, device=masked.device)
    return found.scatter_add(1, index, masked.long()).gt(0).sum(1)


def _step_size(
    state: DiffusionState,
    config: DenoisingConfig,
    masked: Tensor,
    kept: Tensor,
    last: Tensor,
    draw: Callable[[], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """What the schedule asks of this step: the rate (b,) at which each masked position should be kept, how many (b,),
    and which kept ones (b, t) are masked again."""
    remask = config.remask
    t, s = (1 - (state.block_step + i).double() / state.block_steps.clamp(min=1) for i in (0, 1))
    alpha_t, alpha_s = (remask.alpha(x, config.schedule) if remask else config.schedule.alpha(x) for x in (t, s))
    taken, sigma_masked = torch.zeros_like(masked), torch.zeros_like(t)
    if remask is not None:
        sigma = remask.sigma(t, alpha_t, alpha_s, state.confidence, kept)
        taken = (draw() < sigma) & kept & ~last[:, None]
        if remask.kind != "confidence":  # there the softmax gives masked tokens no share
            sigma_masked = remask.sigma(t, alpha_t, alpha_s, state.confidence, torch.ones_like(kept))[:, 0]
    rate = (alpha_s - (1 - sigma_masked) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
    goal = (state.block_masked * (1 - alpha_s)).round().long()  # masked when the step is done
    count = masked.sum(1) + taken.sum(1) - goal
    return rate, count.clamp(min=0 if remask else 1), taken


def denoise_steps(
    denoiser: Denoiser, state: DiffusionState, config: DenoisingConfig | None = None, cost: ForwardCost | None = None
) -> Iterator[tuple[DiffusionState, DenoisingStep]]:
    """Step until nothing is masked.

    A row whose text a step did not change (ancestral keeps nothing at some) needs no pass for the next: without a time
    input the same text gives the same logits (MDLM's cache).

    Yields:
        The whole state after each step, and what happened to the rows that were not ready.
    """
    config = config or DenoisingConfig()
    still = denoiser.mask_id is not None  # a fixed input may give fixed logits
    logits: Tensor | None = None
    stale = torch.ones_like(state.steps, dtype=torch.bool)
    while bool((busy := state.num_masked > 0).any()):
        todo = (busy & stale).nonzero()[:, 0]
        if len(todo) == len(state):
            state, logits = predict_logits(denoiser, state, config.guidance, cost)
        elif len(todo):
            part, found = predict_logits(denoiser, state.select_rows(todo), config.guidance, cost)
            state = state.with_rows(todo, part)
            if logits is None:
                logits = found.new_zeros((len(state), *found.shape[1:]))
            logits = logits.index_copy(0, todo, found)
        assert logits is not None
        rows = busy.nonzero()[:, 0]
        if len(rows) == len(state):
            state, step = denoise_step(state, logits, config, denoiser)
        else:
            after, step = denoise_step(state.select_rows(rows), logits[rows], config, denoiser)
            state, step = state.with_rows(rows, after), replace(step, rows=rows)
        changed = (step.kept | step.remasked).any(1)
        stale = torch.zeros_like(stale).index_copy(0, rows, changed | (not still or bool(state.memory)))
        if cost is not None:
            cost.kept += int(step.kept.sum())
            cost.remasked += int(step.remasked.sum())
        yield state, step


def denoise(
    denoiser: Denoiser,
    state: DiffusionState,
    config: DenoisingConfig | None = None,
    *,
    limit: int | None = None,
    cost: ForwardCost | None = None,
) -> DiffusionState:
    """Step until nothing is masked, or `limit` steps: then call it again with what it returned, perhaps with rows
    selected, forked or remasked, to go on. `cost` counts what is spent."""
    for now, _ in islice(denoise_steps(denoiser, state, config, cost), limit):
        state = now
    return state


def denoise_until(
    denoiser: Denoiser,
    state: DiffusionState,
    config: DenoisingConfig,
    level: float,
    stats: StepStats,
    cost: ForwardCost | None = None,
    on_step: Callable[[DiffusionState], None] | None = None,
) -> DiffusionState:
    """Denoise every row until at least a share `level` of its writable positions is decided.

    A row that is there waits, so that rows stand at the same level of noise when they are compared.

    Args:
        stats: Is updated by each step.
        on_step: Called after each step with the whole state.
    """
    todo = ((state.filled < level - 1e-9) & (state.num_masked > 0)).nonzero()[:, 0]
    while len(todo):
        whole = len(todo) == len(state)
        part = state if whole else state.select_rows(todo)
        for now, step in denoise_steps(denoiser, part, config, cost):
            part = now
            stats.update(todo[step.rows], step)
            ready = part.filled >= level - 1e-9
            if on_step is not None:
                on_step(part if whole else state.with_rows(todo, part))
            if bool(ready.any()):
                break
        state = part if whole else state.with_rows(todo, part)
        todo = todo[~ready & (part.num_masked > 0)]
    return state


def _visible_ids(denoiser: Denoiser, state: DiffusionState) -> Tensor:
    """What the model is shown (b, t): the ids; at undecided positions of a model of uniform noise, random tokens."""
    if denoiser.mask_id is not None:
        return state.ids
    allowed = torch.ones(denoiser.vocab, dtype=torch.bool)
    allowed[list(denoiser.forbidden)] = False
    tokens = allowed.nonzero()[:, 0].to(state.ids.device)
    keys = key(state.streams[:, None], state.steps[:, None], _NOISE, state.position_ids)
    noise = tokens[(uniform(keys, 1)[..., 0] * len(tokens)).long()]
    return torch.where(state.masked, noise, state.ids)
