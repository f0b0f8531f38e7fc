"""Denoising: one vectorised step over all rows, and the loop. Randomness is a function of (row's stream, its step,
purpose, place): a row's tokens are the same alone, in any batch, however padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.denoiser import Denoiser
from thoughtmix.diffusion.policies import Ancestral, Policy, View, best, grained
from thoughtmix.diffusion.remask import Remask
from thoughtmix.diffusion.schedules import Linear, Schedule
from thoughtmix.diffusion.tokens import propose
from thoughtmix.engine.counter_rng import key, uniform

_TOKENS, _POSITIONS, _REMASK, _NOISE = 1, 2, 3, 4  # what a row draws for at a step
_STEPS = 128  # of ancestral, where a plan names none


@dataclass(frozen=True)
class Plan:
    """How rows are denoised. steps: forward passes at most a row (blocks share them); None: as many as the policy
    needs (128 for ancestral, one a token for others). block: tokens filled in at a time from left to right; 0: all.
    remask: None, or how kept tokens are taken back. top_p, min_p: truncation of token draws. guidance: 0 is off;
    log p = (1 + g) log p(. | prefix) - g log p(. | prefix hidden) (Ho and Salimans 2022; two row-passes a step)."""

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
        if self.policy.one and self.steps is not None:
            raise InputError(f"{name} takes one step a token.", "Leave steps out, or choose random or ancestral.")
        if self.remask is not None and (not self.policy.planned or self.policy.one):
            raise InputError(f"Remasking needs a plan of steps, {name} has none.", "Choose ancestral or confidence.")


@dataclass
class Meter:
    """What was spent: calls of the model, rows and tokens read in them, tokens kept, tokens taken back."""

    calls: int = 0
    row_passes: int = 0
    tokens: int = 0
    kept: int = 0
    remasked: int = 0


@dataclass(frozen=True)
class Step:
    """What happened at a step, for rows `rows` (r,) of the canvas; other tensors have these r rows first.

    before, after: the rows' canvases. logits (r, t, v) float32, -inf is forbidden. kept, remasked (r, t) bool.
    log_tokens (r,): log-probability of the tokens kept now under what they were drawn from; log_positions (r,): of
    having chosen those positions (0 where the policy does not draw them): together the density of this proposal.
    log_model (r,): of the same tokens under the model at temperature 1.
    """

    rows: Tensor
    before: Canvas
    after: Canvas
    logits: Tensor
    kept: Tensor
    remasked: Tensor
    log_tokens: Tensor
    log_positions: Tensor
    log_model: Tensor

    @cached_property
    def _top(self) -> tuple[Tensor, Tensor]:
        top = self.logits.max(-1)
        return top.values - self.logits.logsumexp(-1), top.indices

    @property
    def guess(self) -> Tensor:
        """(r, t) ids after the step, the likeliest token by this step's logits where still undecided."""
        return torch.where(self.after.masked, self._top[1], self.after.ids)

    @property
    def certainty(self) -> Tensor:
        """(r, t) float32: probability of the guess; of kept tokens, when they were kept; 0 at padding."""
        sure = torch.where(self.after.masked, self._top[0].exp(), self.after.confidence)
        return sure * self.after.real

    @property
    def score(self) -> Tensor:
        """(r,) mean log-probability, nats, of the likeliest token where the row was masked before this step: a partial
        score with no further pass. Compare it between rows at the same level of noise only."""
        masked = self.before.masked
        return (self._top[0] * masked).sum(1) / masked.sum(1).clamp(min=1)


def predict(
    denoiser: Denoiser, canvas: Canvas, guidance: float = 0.0, meter: Meter | None = None
) -> tuple[Canvas, Tensor]:
    """One forward of all rows: (the canvas with its passes counted and the denoiser's new memory, logits (b, t, v)
    float32 with -inf at forbidden tokens)."""
    ids = _visible(denoiser, canvas)
    memory = dict(canvas.memory)
    real = canvas.real
    at = torch.tensor(list(denoiser.forbidden), dtype=torch.int64, device=ids.device)
    with torch.no_grad():
        if guidance:
            if denoiser.mask_id is None:
                raise InputError(
                    "Guidance hides the prefix behind a mask, and this model has none.", "Pass guidance 0."
                )
            prefix = canvas.locked & ((canvas.locked | ~real).cumprod(1) > 0)
            both = torch.cat([ids, ids.masked_fill(prefix, denoiser.mask_id)])
            both_logits = denoiser(both, torch.cat([real, real]), memory).float().index_fill(-1, at, -torch.inf)
            given, hidden = both_logits.log_softmax(-1).chunk(2)
            logits = (1 + guidance) * given - guidance * hidden
        else:
            logits = denoiser(ids, real, memory).float()
    cost = 2 if guidance else 1
    if meter is not None:
        meter.calls += 1
        meter.row_passes += cost * len(ids)
        meter.tokens += cost * int(real.sum())
    logits = logits.index_fill(-1, at, -torch.inf)
    return canvas.replace(passes=canvas.passes + cost, memory=memory), logits


def step(canvas: Canvas, logits: Tensor, plan: Plan, denoiser: Denoiser) -> tuple[Canvas, Step]:
    """Keep some of the masked tokens of every row, take some back if the plan says so. Rows with nothing masked stay.

    logits (b, t, v) of `predict` for this canvas. Raises `NumericsError` for logits that are no numbers.
    """
    canvas, region = _in_block(canvas, plan)
    busy = canvas.left > 0
    free = region & busy[:, None]
    masked = canvas.masked & free
    candidates = free if plan.policy.revises else masked

    def draw(purpose: int) -> Tensor:
        """(b, t) float64, of each row's own stream, step and places."""
        keys = key(canvas.streams[:, None], canvas.steps[:, None], purpose, canvas.places)
        return uniform(keys, 1)[..., 0]

    proposals = propose(logits, candidates, draw(_TOKENS), canvas.temperature, plan.top_p, plan.min_p)
    last = canvas.phase + 1 >= canvas.planned
    rate, count, taken = _pace(canvas, plan, masked, free & ~canvas.masked, last, lambda: draw(_REMASK))
    choice = plan.policy.choose(View(candidates, proposals, count, rate, lambda: draw(_POSITIONS)))
    kept, log_positions = choice.kept, choice.log_positions
    if not plan.policy.planned:  # at least one, or the row would stand still
        kept = torch.where(
            kept.any(1)[:, None], kept, best(grained(proposals.logp), candidates, torch.ones_like(count))
        )
    kept = torch.where(last[:, None], candidates, kept)
    log_positions = torch.where(last, 0.0, log_positions)  # all that is left: no choice

    new = kept if plan.policy.revises else kept & masked
    undecided = (canvas.masked & ~new) | taken | (candidates & ~kept)
    fill = denoiser.mask_id or 0
    ids = torch.where(new, proposals.drawn, canvas.ids).masked_fill(undecided, fill)
    confidence = torch.where(new, proposals.logp.exp().float(), canvas.confidence).masked_fill(undecided, 0.0)
    log_model, log_tokens = (proposals.logp * new).sum(1), (proposals.logq * new).sum(1)
    after = canvas.replace(
        ids=ids,
        masked=undecided,
        confidence=confidence,
        steps=canvas.steps + busy,
        phase=canvas.phase + busy,
        logprob=canvas.logprob + log_model,
        proposal=canvas.proposal + log_tokens,
    )
    rows = torch.arange(len(canvas), device=ids.device)
    gone = undecided & ~canvas.masked
    return after, Step(rows, canvas, after, logits, new, gone, log_tokens, log_positions, log_model)


def _in_block(canvas: Canvas, plan: Plan) -> tuple[Canvas, Tensor]:
    """(the canvas with a plan for each row's current block, that block's open positions (b, t))."""
    free = canvas.real & ~canvas.locked
    size = plan.block or max(1, canvas.ids.shape[1])
    index = (free.cumsum(1) - 1).clamp(min=0) // size
    first = torch.where(canvas.masked, index, 2**62).amin(1)  # the leftmost block with something to do
    region = free & (index == first[:, None])
    fresh = (first != canvas.block) & (canvas.left > 0)
    begun = (canvas.masked & region).sum(1)
    blocks = (free.sum(1) + size - 1) // size
    policy = plan.policy
    if policy.one or (plan.steps is None and not isinstance(policy, Ancestral)):
        planned = begun
    else:
        planned = ((plan.steps or _STEPS) // blocks.clamp(min=1)).clamp(min=1)
        if plan.remask is None and not policy.revises and not isinstance(policy, Ancestral):
            planned = torch.minimum(planned, begun)  # each step keeps one at least
    fields = {"block": first, "phase": torch.zeros_like(begun), "planned": planned, "begun": begun}
    return canvas.replace(**{n: torch.where(fresh, x, getattr(canvas, n)) for n, x in fields.items()}), region


def _pace(
    canvas: Canvas, plan: Plan, masked: Tensor, kept: Tensor, last: Tensor, draw: Callable[[], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the plan asks of this step: the rate (b,) at which each masked position should be kept, how many (b,), and
    which kept ones (b, t) are taken back."""
    remask = plan.remask
    t, s = (1 - (canvas.phase + i).double() / canvas.planned.clamp(min=1) for i in (0, 1))
    alpha_t, alpha_s = (remask.alpha(x, plan.schedule) if remask else plan.schedule.alpha(x) for x in (t, s))
    taken, sigma_masked = torch.zeros_like(masked), torch.zeros_like(t)
    if remask is not None:
        sigma = remask.sigma(t, alpha_t, alpha_s, canvas.confidence, kept)
        taken = (draw() < sigma) & kept & ~last[:, None]
        if remask.kind != "confidence":  # there the softmax gives masked tokens no share
            sigma_masked = remask.sigma(t, alpha_t, alpha_s, canvas.confidence, torch.ones_like(kept))[:, 0]
    rate = (alpha_s - (1 - sigma_masked) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
    goal = (canvas.begun * (1 - alpha_s)).round().long()  # masked when the step is done
    count = masked.sum(1) + taken.sum(1) - goal
    return rate, count.clamp(min=0 if remask else 1), taken


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan | None = None,
    *,
    limit: int | None = None,
    on_step: Callable[[Canvas, Step], None] | None = None,
    meter: Meter | None = None,
) -> Canvas:
    """Step until nothing is masked, or `limit` steps: then call it again with what it returned, perhaps picked, forked
    or remasked, to go on.

    on_step: after each step, with the whole canvas and what happened to the rows that were not ready. A row whose text
    a step did not change (ancestral keeps nothing at some) needs no pass for the next: without a time input the same
    text gives the same logits (MDLM's cache).
    """
    for now, record in islice(stream(denoiser, canvas, plan, meter), limit):
        canvas = now
        if on_step is not None:
            on_step(canvas, record)
    return canvas


def stream(
    denoiser: Denoiser, canvas: Canvas, plan: Plan | None = None, meter: Meter | None = None
) -> Iterator[tuple[Canvas, Step]]:
    """`denoise` as an iterator: the whole canvas after each step, and the step."""
    plan = plan or Plan()
    still = denoiser.mask_id is not None  # a fixed input may give fixed logits
    logits: Tensor | None = None
    stale = torch.ones_like(canvas.left, dtype=torch.bool)
    while bool((canvas.left > 0).any()):
        busy = canvas.left > 0
        todo = (busy & stale).nonzero()[:, 0]
        if len(todo):
            whole = len(todo) == len(canvas)
            part, found = predict(denoiser, canvas if whole else canvas.pick(todo), plan.guidance, meter)
            if whole:
                canvas, logits = part, found
            else:
                canvas = canvas.put(todo, part)
                if logits is None:
                    logits = found.new_zeros((len(canvas), *found.shape[1:]))
                logits = logits.index_copy(0, todo, found)
        assert logits is not None
        rows = busy.nonzero()[:, 0]
        if len(rows) == len(canvas):
            canvas, record = step(canvas, logits, plan, denoiser)
        else:
            after, record = step(canvas.pick(rows), logits[rows], plan, denoiser)
            canvas = canvas.put(rows, after)
            record = replace(record, rows=rows)
        changed = (record.kept | record.remasked).any(1)
        stale = torch.zeros_like(stale).index_copy(0, rows, changed | (not still or bool(canvas.memory)))
        if meter is not None:
            meter.kept += int(record.kept.sum())
            meter.remasked += int(record.remasked.sum())
        yield canvas, record


def _visible(denoiser: Denoiser, canvas: Canvas) -> Tensor:
    """What the model is shown (b, t): the ids; at undecided positions of a model of uniform noise, random tokens."""
    if denoiser.mask_id is not None:
        return canvas.ids
    allowed = torch.ones(denoiser.vocab, dtype=torch.bool)
    allowed[list(denoiser.forbidden)] = False
    tokens = allowed.nonzero()[:, 0].to(canvas.ids.device)
    keys = key(canvas.streams[:, None], canvas.steps[:, None], _NOISE, canvas.places)
    noise = tokens[(uniform(keys, 1)[..., 0] * len(tokens)).long()]
    return torch.where(canvas.masked, noise, canvas.ids)
