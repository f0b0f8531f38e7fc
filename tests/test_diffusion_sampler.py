"""The sampler's laws: a row is the same alone and however padded, what is locked stays, no mask survives, and the exact
policies have the distribution that they claim."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from thoughtmix.core.errors import InputError, NumericsError, UnknownName
from thoughtmix.diffusion.denoiser import MaskPredictor
from thoughtmix.diffusion.load import wrap_diffusion
from thoughtmix.diffusion.model import MaskedDiffusionConfig, MaskedDiffusionTransformer
from thoughtmix.diffusion.policies import POLICIES, Factor, PolicyInputs, Threshold, make_policy, propose
from thoughtmix.diffusion.sampler import (
    DenoisingConfig,
    ForwardCost,
    denoise,
    denoise_step,
    denoise_steps,
    predict_logits,
)
from thoughtmix.diffusion.schedules import REMASK_KINDS, Cosine, Linear, Remask
from thoughtmix.diffusion.state import DiffusionState

VOCAB, MASK = 7, 6
_PAIRS = torch.from_numpy(np.random.default_rng(0).normal(0, 1.2, (2, VOCAB, VOCAB)))


def _toy(ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Logits from both neighbours; padding is nobody's neighbour."""
    x = F.one_hot(ids, VOCAB).double() * real[..., None]
    return F.pad(x, (0, 0, 1, 0))[:, :-1] @ _PAIRS[0] + F.pad(x, (0, 0, 0, 1))[:, 1:] @ _PAIRS[1]


TOY = MaskPredictor(_toy, MASK, VOCAB)


def small(seed: int = 0) -> MaskedDiffusionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = MaskedDiffusionConfig(vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        model = MaskedDiffusionTransformer(config).eval().requires_grad_(False)
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0.0, 0.3)
    return model


def configs() -> list[Any]:
    out = []
    for name in POLICIES:
        one = POLICIES[name].one_per_step
        steps = None if one else 5
        out += [pytest.param(DenoisingConfig(make_policy(name), steps), id=name)]
        out += [pytest.param(DenoisingConfig(make_policy(name), steps, block=3), id=f"{name}-block")]
    for kind in REMASK_KINDS:
        for name in ("ancestral", "confidence"):
            out += [pytest.param(DenoisingConfig(make_policy(name), 7, 4, Remask(kind, 0.4)), id=f"{name}-{kind}")]
    out += [pytest.param(DenoisingConfig(make_policy("entropy-bound", revise=True), 5), id="revise")]
    out += [
        pytest.param(
            DenoisingConfig(make_policy("confidence", noise=0.7), 5, top_p=0.8, min_p=0.1), id="noise-truncated"
        )
    ]
    return [*out, pytest.param(DenoisingConfig(make_policy("margin"), 5, schedule=Cosine(), guidance=0.8), id="guided")]


@pytest.mark.parametrize("config", configs())
def test_a_row_is_the_same_alone_and_however_padded(config: DenoisingConfig, global_state_untouched: None) -> None:
    """Real model, float32: prompts, lengths, temperatures and seeds differ; then each row by itself, then padded on
    the left."""
    denoiser = MaskPredictor(small(), 11, 12)
    prompts, lengths, seeds, warm = [[1, 2], [3], [], [4, 5, 6]], [9, 12, 5, 7], [5, 6, 2**63, -1], [1.0, 0.6, 2.0, 0.0]
    together = denoise(denoiser, DiffusionState.from_prompts(prompts, lengths, seeds, 11, warm), config)
    assert not bool(together.masked.any()) and not bool((together.ids[together.real] == 11).any())
    for i in range(4):
        alone = denoise(
            denoiser, DiffusionState.from_prompts([prompts[i]], lengths[i], [seeds[i]], 11, warm[i]), config
        )
        assert alone.ids[0].tolist() == together.ids[i, together.real[i]].tolist()
        assert float(alone.logprob[0]) == pytest.approx(float(together.logprob[i]), abs=1e-3)
        begun = DiffusionState.from_prompts([prompts[i]], lengths[i], [seeds[i]], 11, warm[i])
        left = DiffusionState.from_tokens(
            F.pad(begun.ids, (3, 2)),
            F.pad(begun.masked, (3, 2)),
            [seeds[i]],
            locked=F.pad(begun.locked, (3, 2)),
            real=F.pad(begun.real, (3, 2)),
            temperature=warm[i],
            fill=11,
        )
        padded = denoise(denoiser, left, config)
        assert padded.ids[0, 3:-2].tolist() == alone.ids[0].tolist()


def test_padding_changes_no_logit() -> None:
    model = small()
    ids = torch.tensor([[1, 11, 3, 11, 5]])
    plain = model(ids).logits
    for before, after in ((0, 4), (3, 0), (2, 5)):
        mask = F.pad(torch.ones_like(ids), (before, after))
        padded = model(F.pad(ids, (before, after), value=7), mask).logits
        assert torch.allclose(padded[:, before : before + 5], plain, atol=1e-5)
    assert bool((plain[..., 11] == -torch.inf).all())


def test_a_model_looks_both_ways() -> None:
    model, ids = small(), torch.tensor([[1, 11, 3, 11, 5]])
    other = ids.clone()
    other[0, 4] = 6
    assert not torch.allclose(model(ids).logits[0, 1, :11], model(other).logits[0, 1, :11], atol=1e-3)


@pytest.mark.parametrize("config", configs())
def test_locked_and_given_tokens_stay(config: DenoisingConfig) -> None:
    draw = np.random.default_rng(1)
    ids = torch.from_numpy(draw.integers(0, MASK, (6, 14)))
    masked = torch.from_numpy(draw.random((6, 14)) < 0.5)
    locked = torch.from_numpy(draw.random((6, 14)) < 0.6) & ~masked
    state = DiffusionState.from_tokens(ids, masked, range(6), locked=locked, fill=MASK)
    out = denoise(TOY, state, config)
    assert torch.equal(out.ids[locked], ids[locked]) and not bool(out.masked.any())
    if config.remask is None and not config.policy.revises:
        assert torch.equal(out.ids[~masked], ids[~masked])


# --- distributions ----------------------------------------------------------------------------------------------------


def exact(length: int) -> dict[tuple[int, ...], float]:
    """The any-order distribution: one uniformly random position at a time, drawn from the toy, by enumeration."""
    states: dict[tuple[int, ...], float] = {(MASK,) * length: 1.0}
    for _ in range(length):
        later: dict[tuple[int, ...], float] = {}
        ids = torch.tensor(list(states))
        logits = _toy(ids, torch.ones_like(ids, dtype=torch.bool))
        logits[..., MASK] = -torch.inf
        chances = logits.softmax(-1)
        for row, (state, share) in enumerate(states.items()):
            places = [i for i, token in enumerate(state) if token == MASK]
            for i, token in itertools.product(places, range(MASK)):
                new = (*state[:i], token, *state[i + 1 :])
                later[new] = later.get(new, 0.0) + share / len(places) * float(chances[row, i, token])
        states = later
    return states


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (DenoisingConfig(make_policy("first-hitting")), 40_000),
        (DenoisingConfig(make_policy("random"), 3), 40_000),
        (DenoisingConfig(steps=150), 8_000),
    ],
)
def test_the_exact_policies_have_the_enumerated_distribution(config: DenoisingConfig, rows: int) -> None:
    """Pearson's chi-square over all 216 texts of 3 letters below its 99.99% quantile; ancestral is exact but for
    texts in which two letters fall into one of 150 steps (a share of 2%, inside the test's power)."""
    from scipy.stats import chi2

    truth = exact(3)
    out = denoise(TOY, DiffusionState.from_prompts([[]] * rows, 3, range(rows), MASK), config)
    found = Counter(map(tuple, out.ids.tolist()))
    big = [t for t, p in truth.items() if p * rows >= 5]
    expected = np.array([truth[t] * rows for t in big])
    seen = np.array([found[t] for t in big], dtype=float)
    rest = rows - expected.sum()
    value = float(((seen - expected) ** 2 / expected).sum()) + ((rows - seen.sum()) - rest) ** 2 / max(rest, 1)
    assert value < chi2.ppf(0.9999, len(big))


def test_few_steps_are_another_distribution() -> None:
    """So that the test above can fail: all letters at once ignores what they say of each other."""
    rows, truth = 40_000, exact(3)
    found = Counter(
        map(
            tuple,
            denoise(
                TOY, DiffusionState.from_prompts([[]] * rows, 3, range(rows), MASK), DenoisingConfig(steps=1)
            ).ids.tolist(),
        )
    )
    assert sum(abs(found[t] / rows - p) for t, p in truth.items()) / 2 > 0.15


def shares(state: DiffusionState, config: DenoisingConfig, cost: ForwardCost | None = None) -> list[float]:
    """How much is masked after each step."""
    return [float(c.masked.float().mean()) for c, _ in denoise_steps(TOY, state, config, cost)]


def test_ancestral_keeps_at_the_schedules_rate() -> None:
    for kind in (Linear(), Cosine()):
        found = shares(
            DiffusionState.from_prompts([[]] * 400, 50, range(400), MASK), DenoisingConfig(steps=8, schedule=kind)
        )
        t = 1 - torch.arange(1, 9, dtype=torch.float64) / 8
        assert np.allclose(found, 1 - kind.alpha(t).numpy(), atol=0.02)


def test_remasking_keeps_the_schedules_share_masked() -> None:
    for remask in (Remask("cap", 0.1), Remask("rescale", 0.5), Remask("loop", 0.1)):
        cost = ForwardCost()
        found = shares(
            DiffusionState.from_prompts([[]] * 200, 50, range(200), MASK),
            DenoisingConfig(steps=40, remask=remask),
            cost,
        )
        t = 1 - torch.arange(1, 41, dtype=torch.float64) / 40
        assert np.allclose(found, 1 - remask.alpha(t, Linear()).numpy(), atol=0.03)
        assert cost.remasked > 2000 and cost.kept == 200 * 50 + cost.remasked


def test_draws_have_their_distribution_in_the_tail() -> None:
    """A token of probability 1e-5 comes up 10 times in a million (4.5 sd); temperature 2 draws from its square root."""
    logits = torch.tensor([0.0, math.log(1e-5)]).expand(1000, 1000, 2)
    u = torch.from_numpy(np.random.default_rng(0).random((1000, 1000)))
    everywhere = torch.ones(1000, 1000, dtype=torch.bool)
    drawn = propose(logits, everywhere, u, torch.ones(1000, dtype=torch.float64)).drawn
    assert abs(int(drawn.sum()) - 10) < 4.5 * math.sqrt(10)
    warm = propose(logits[:100], everywhere[:100], u[:100], torch.full((100,), 2.0, dtype=torch.float64))
    p = math.sqrt(1e-5) / (1 + math.sqrt(1e-5))
    assert abs(float(warm.drawn.double().mean()) - p) < 4.5 * math.sqrt(p / 1e5)
    assert float(warm.logq.exp().mean()) == pytest.approx(p * p + (1 - p) ** 2, abs=1e-3)


def test_truncation_and_its_density() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 4000, 4)
    u = torch.from_numpy(np.random.default_rng(0).random((1, 4000)))
    every, one = torch.ones(1, 4000, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    for more, kept in (({"top_p": 0.7}, 2), ({"min_p": 0.2}, 3), ({"top_p": 0.81}, 3)):
        found = propose(logits, every, u, one, **more)
        assert set(found.drawn.flatten().tolist()) == set(range(kept))
        share = logits[0, 0, :kept].softmax(0)
        assert torch.allclose(found.logq.exp().float(), share[found.drawn])
        assert torch.allclose(found.logp.exp().float(), logits[0, 0].exp()[found.drawn])


# --- policies ---------------------------------------------------------------------------------------------------------


def inputs(p: list[float], count: int = 1) -> PolicyInputs:
    """Candidates whose drawn token has these probabilities (of two)."""
    top = torch.tensor([p], dtype=torch.float64)
    logits = torch.stack([top, 1 - top], -1).log()
    u, every = torch.zeros_like(top) + 1e-12, torch.ones(1, len(p), dtype=torch.bool)
    found = propose(logits, every, u, torch.ones(1, dtype=torch.float64))
    return PolicyInputs(every, found, torch.tensor([count]), torch.tensor([0.5], dtype=torch.float64), lambda: u)


def test_policies_choose_what_they_say() -> None:
    p = [0.6, 0.97, 0.91, 0.55, 0.99]
    ids = lambda kept: kept[0].nonzero()[:, 0].tolist()  # noqa: E731
    for name in ("confidence", "margin", "entropy"):
        assert ids(make_policy(name).select_positions(inputs(p, 3))) == [1, 2, 4]
    assert ids(Threshold(0.9).select_positions(inputs(p))) == [1, 2, 4]
    # (n+1)(1-p_n): .02, .09, .36, 2.0, 2.7
    assert ids(Factor(0.5).select_positions(inputs(p))) == [1, 2, 4] and ids(
        Factor(0.08).select_positions(inputs(p))
    ) == [4]
    h = [-(q * math.log(q) + (1 - q) * math.log(1 - q)) for q in sorted(p, reverse=True)]
    for k in range(1, 6):
        bound = sum(h[: k - 1]) + 1e-9
        assert len(ids(make_policy("entropy-bound", bound=bound).select_positions(inputs(p)))) == k


def test_a_step_says_what_its_proposal_was() -> None:
    """log_proposal and log_model against numbers by hand, and the logits that were used."""
    state = DiffusionState.from_prompts([[1]] * 3, 4, [0, 1, 2], MASK, temperature=0.7)
    state, logits = predict_logits(TOY, state)
    after, record = denoise_step(state, logits, DenoisingConfig(make_policy("random"), 2), TOY)
    cold = (logits.double() / 0.7).log_softmax(-1).gather(-1, after.ids[..., None])[..., 0]
    plain = logits.double().log_softmax(-1).gather(-1, after.ids.clamp(max=5)[..., None])[..., 0]
    assert torch.allclose(record.log_proposal, torch.where(record.kept, cold, 0.0).sum(1))
    assert torch.allclose(record.log_model, torch.where(record.kept, plain, 0.0).sum(1))
    assert torch.allclose(after.logprob, record.log_model)
    assert torch.allclose(after.confidence[record.kept].double(), plain.exp()[record.kept], atol=1e-6)
    best = logits.log_softmax(-1).max(-1)
    assert torch.equal(record.guess, torch.where(after.masked, best.indices, after.ids))
    assert torch.allclose(record.certainty[after.masked], best.values.exp()[after.masked])
    assert bool((record.certainty[:, 0] == 1).all())


def test_noise_draws_positions_by_their_score() -> None:
    """With noise 1, a position is the first to be kept in proportion to exp(score), that is its token's probability."""
    rows = 20_000
    state = DiffusionState.from_prompts([[]] * rows, 3, range(rows), MASK, temperature=0.0)
    state, logits = predict_logits(TOY, state)
    config = DenoisingConfig(make_policy("confidence", noise=1.0), 3)  # one of three positions
    _, record = denoise_step(state, logits, config, TOY)
    p = logits[0].double().softmax(-1).amax(-1)
    assert torch.allclose(record.kept.double().mean(0), p / p.sum(), atol=4.5 * 0.5 / math.sqrt(rows))


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_passes_are_counted_and_unchanged_rows_cost_none() -> None:
    cost, seen = ForwardCost(), []

    def counting(ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        seen.append(len(ids))
        return _toy(ids, real)

    denoiser = MaskPredictor(counting, MASK, VOCAB)
    out = denoise(
        denoiser, DiffusionState.from_prompts([[1], [2, 3]], [4, 9], [0, 1], MASK), DenoisingConfig(steps=64), cost=cost
    )
    assert cost.calls == len(seen) and cost.row_passes == sum(seen)
    assert cost.kept == 13 and cost.row_passes <= 4 + 9 and int(out.steps.max()) <= 64
    guided = ForwardCost()
    denoise(
        TOY,
        DiffusionState.from_prompts([[1]], 4, [0], MASK),
        DenoisingConfig(make_policy("confidence"), 4, guidance=1.0),
        cost=guided,
    )
    assert guided.row_passes == 8 and guided.calls == 4


def test_stopped_and_gone_on_is_uninterrupted() -> None:
    for config in (
        DenoisingConfig(steps=12),
        DenoisingConfig(make_policy("confidence"), 6, remask=Remask("cap", 0.2)),
        DenoisingConfig(make_policy("random"), 6, 4),
    ):
        begun = DiffusionState.from_prompts([[1], [2]], [9, 7], [0, 1], MASK)
        whole = denoise(TOY, begun, config)
        parts = begun
        while bool(parts.masked.any()):
            parts = denoise(TOY, parts, config, limit=2)
        assert torch.equal(whole.ids, parts.ids) and torch.equal(whole.steps, parts.steps)


def test_clones_draw_anew_and_others_do_not_notice() -> None:
    config = DenoisingConfig(make_policy("random"), 8)
    half = denoise(TOY, DiffusionState.from_prompts([[1], [2]], 12, [0, 1], MASK), config, limit=3)
    forked = half.fork([0, 1, 0, 0])
    assert len(set(forked.streams.tolist())) == 4
    ends = denoise(TOY, forked, config)
    straight = denoise(TOY, half, config)
    assert torch.equal(ends.ids[:2], straight.ids)
    assert len({tuple(r) for r in ends.ids[[0, 2, 3]].tolist()}) == 3
    assert bool((ends.ids[:, :1] == half.ids[[0, 1, 0, 0], :1]).all())
    same = denoise(TOY, half.select_rows([0, 0]), config)
    assert torch.equal(same.ids[0], same.ids[1])


def test_remask_and_restart_denoise_again() -> None:
    out = denoise(TOY, DiffusionState.from_prompts([[1]] * 4, 10, range(4), MASK), DenoisingConfig(steps=10))
    where = torch.ones_like(out.masked)
    where[:, ::2] = False
    again = out.remask(where, MASK)
    assert again.num_masked.tolist() == [5] * 4 and bool((again.ids[again.masked] == MASK).all())
    end = denoise(TOY, again.restart(), DenoisingConfig(make_policy("confidence"), 3))
    assert torch.equal(end.ids[:, ::2], out.ids[:, ::2]) and not bool(end.masked.any())
    assert int(end.steps.max()) == int(out.steps.max()) + 3  # the count goes on, and with it the randomness


def test_a_stream_gives_snapshots() -> None:
    kept = [
        c
        for c, _ in denoise_steps(
            TOY, DiffusionState.from_prompts([[1]], 8, [0], MASK), DenoisingConfig(make_policy("confidence"), 4)
        )
    ]
    assert [int(c.num_masked) for c in kept] == [6, 4, 2, 0]
    for a, b in itertools.pairwise(kept):
        assert torch.equal(a.ids[~a.masked], b.ids[~a.masked])


def test_blocks_go_from_left_to_right() -> None:
    start, config = (
        DiffusionState.from_prompts([[1, 2]], 9, [0], MASK),
        DenoisingConfig(make_policy("confidence"), 6, block=3),
    )
    order = [record.kept[0].nonzero()[:, 0].tolist() for _, record in denoise_steps(TOY, start, config)]
    places = [i for kept in order for i in kept]
    assert sorted(places) == list(range(2, 11)) and len(order) == 6
    assert [(i - 2) // 3 for i in places] == sorted((i - 2) // 3 for i in places)


@pytest.mark.parametrize(
    ("length", "block", "steps"),
    [
        (100, 32, 32), (64, 16, 4), (100, 10, 5), (100, 10, 7), (100, 10, 15), (64, 64, 1), (64, 16, 15), (64, 16, 7),
        (64, 100, 8), (1, 1, 1), (33, 32, 64), (64, 10, 10), (64, 10, 64), (50, 7, 49), (50, 1, 3), (9, 4, 9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", ["random", "confidence", "ancestral"])
def test_steps_are_a_bound_that_is_kept_and_used(policy: str, length: int, block: int, steps: int) -> None:
    """By rows of other lengths in one batch, too; and blocks go from left to right."""
    config, lengths = DenoisingConfig(make_policy(policy), steps, block), [length, max(1, length // 3), length + 5]
    start = DiffusionState.from_prompts([[1], [], [2, 3]], lengths, range(3), MASK)
    out = start
    for state, record in denoise_steps(TOY, start, config):
        out, undecided = state, record.before.masked.float()
        size = max(block, -(-length // steps))
        if 0 in record.rows.tolist():
            row = record.rows.tolist().index(0)
            first = int(undecided[row].argmax()) - 1
            kept = record.kept[row].nonzero()[:, 0] - 1
            assert all(int(at) // size == first // size for at in kept)
    assert not bool(out.masked.any())
    for row, wanted in enumerate(lengths):
        used = min(steps, wanted)
        assert int(out.steps[row]) == (used if policy != "ancestral" else int(out.steps[row])) <= steps


def test_what_is_denoised_again_has_the_steps_again() -> None:
    """Part of a text, in blocks: the budget is shared over what is masked."""
    config = DenoisingConfig(make_policy("confidence"), 7, 10)
    done = denoise(TOY, DiffusionState.from_prompts([[]], 40, [0], MASK), config)
    where = torch.zeros_like(done.masked)
    where[:, 3:9] = where[:, 31:37] = True
    again = denoise(TOY, done.remask(where, MASK).restart(), config)
    assert int(again.steps - done.steps) == 7 and not bool(again.masked.any())


def test_guidance_hides_the_prefix_and_sharpens() -> None:
    state = DiffusionState.from_prompts([[1, 2]], 4, [0], MASK)
    _, given = predict_logits(TOY, state)
    _, hidden = predict_logits(
        TOY,
        DiffusionState.from_tokens(torch.full_like(state.ids, MASK), state.masked, [0], locked=state.locked, fill=MASK),
    )
    _, guided = predict_logits(TOY, state, guidance=2.0)
    want = 3 * given.log_softmax(-1)[..., :MASK] - 2 * hidden.log_softmax(-1)[..., :MASK]
    assert torch.allclose(guided[:, 2:, :MASK], want[:, 2:], atol=1e-4)


# --- law 8, and fuzz --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: DenoisingConfig(steps=0), "steps is 0"),
        (lambda: DenoisingConfig(block=-1), "block is -1"),
        (lambda: DenoisingConfig(top_p=0.0), "top_p 0.0"),
        (lambda: DenoisingConfig(guidance=-1.0), "guidance is -1"),
        (lambda: DenoisingConfig(make_policy("first-hitting"), 5), "one step a token"),
        (lambda: DenoisingConfig(make_policy("threshold"), remask=Remask()), "Remasking needs a plan"),
        (lambda: Remask(eta=2.0), "eta is 2"),
        (lambda: make_policy("threshold", threshold=0.0), "threshold is 0"),
        (lambda: make_policy("confidence", nose=1), "no option 'nose'"),
        (lambda: DiffusionState.from_prompts([], 4, [], MASK), "There are no rows"),
        (lambda: DiffusionState.from_prompts([[1]], 0, [0], MASK), "Lengths 0"),
        (lambda: DiffusionState.from_prompts([[1]], 4, [0, 1], MASK), "do not fit 1 rows"),
        (lambda: DiffusionState.from_prompts([[1]], 4, [0], MASK, temperature=-1.0), "temperature is -1"),
        (lambda: DiffusionState.from_prompts([[1]], 4, [0], MASK, temperature=math.nan), "temperature is nan"),
        (
            lambda: DiffusionState.from_tokens(
                torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool), [0]
            ),
            "no bool",
        ),
        (lambda: MaskPredictor(_toy, MASK, VOCAB, range(7)), "Every token is forbidden"),
        (lambda: MaskedDiffusionConfig(hidden_size=30, num_attention_heads=4), "no multiple of 2 x"),
    ],
)
def test_law_8(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as told:
        call()
    assert "\n" not in str(told.value) and told.value.hint


def test_unknown_names_are_met_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'confidence'"):
        make_policy("confidance")
    with pytest.raises(UnknownName, match="Did you mean 'rescale'"):
        Remask("rescal")


def test_logits_that_are_no_numbers_stop_with_one_line() -> None:
    broken = MaskPredictor(lambda ids, mask: torch.full((*ids.shape, VOCAB), math.nan), MASK, VOCAB)
    with pytest.raises(NumericsError, match="NaN or infinite"):
        denoise(broken, DiffusionState.from_prompts([[1]], 3, [0], MASK))


def fuzz(calls: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = list(POLICIES)
    for call in range(calls):
        name = names[call % len(names)]
        kind = POLICIES[name]
        remask = Remask(str(draw.choice(REMASK_KINDS)), float(draw.random())) if draw.random() < 0.5 else None
        if not kind.fixed_steps or kind.one_per_step:
            remask = None
        options = {"noise": 0.5} if name in {"confidence", "margin", "entropy"} and draw.random() < 0.3 else {}
        options |= {"revise": True} if name == "entropy-bound" and draw.random() < 0.5 else {}
        config = DenoisingConfig(
            make_policy(name, **options),
            None if kind.one_per_step else int(draw.integers(1, 6)),
            int(draw.integers(0, 4)),
            remask,
            Cosine() if draw.random() < 0.3 else Linear(),
            top_p=float(draw.choice([1.0, 0.5])),
            min_p=float(draw.choice([0.0, 0.2])),
            guidance=float(draw.choice([0.0, 1.0])),
        )
        b, t = int(draw.integers(1, 4)), int(draw.integers(1, 8))
        ids = torch.from_numpy(draw.integers(0, MASK, (b, t)))
        masked = torch.from_numpy(draw.random((b, t)) < 0.7)
        locked = torch.from_numpy(draw.random((b, t)) < 0.6) & ~masked
        real = torch.from_numpy(draw.random((b, t)) < 0.9)
        state = DiffusionState.from_tokens(
            ids,
            masked,
            draw.integers(0, 99, b).tolist(),
            locked=locked,
            real=real,
            fill=MASK,
            temperature=draw.choice([0.0, 0.5, 1.0, 3.0], b).tolist(),
        )
        out = denoise(TOY, state, config)
        assert not bool(out.masked.any()) and not bool((out.ids[real] == MASK).any()), (call, config)
        assert torch.equal(out.ids[state.locked], ids[state.locked]), (call, config)
        assert bool(out.logprob.isfinite().all()), (call, config)


def test_no_mask_survives() -> None:
    fuzz(200, 0)


@pytest.mark.slow
def test_no_mask_survives_ten_thousand_calls() -> None:
    fuzz(10_000, 1)


# --- save and load ----------------------------------------------------------------------------------------------------


def test_saved_and_loaded_gives_the_same_logits(tmp_path: Any) -> None:
    from thoughtmix.diffusion.load import load_diffusion
    from thoughtmix.diffusion.train import diffusion_tokenizer, new_model
    from thoughtmix.training.checkpoint import save_model
    from thoughtmix.training.data import split
    from thoughtmix.training.language import Shape

    splits = split("To be, or not to be.\n" * 40)
    tokenizer = diffusion_tokenizer(splits, Shape())
    model = new_model(tokenizer, Shape(2, 32, 2, 16), 0)
    save_model(model, tokenizer, tmp_path)
    again = load_diffusion(str(tmp_path))
    ids = torch.tensor([again.encode("To be")])
    assert torch.equal(again.denoiser.model(ids).logits, model.eval()(ids).logits)  # type: ignore[attr-defined]
    assert again.decode(ids[0]) == "To be" and again.pieces(ids[0]) == list("To be")
    assert again.denoiser.forbidden == [tokenizer.unk_token_id, tokenizer.mask_token_id]
    plain = wrap_diffusion(model, tokenizer)
    state = plain.prompt_state("To be", 12, seeds=[3])
    assert torch.equal(denoise(plain.denoiser, state).ids, denoise(again.denoiser, state).ids)
    assert plain.texts(denoise(plain.denoiser, state))[0].startswith("To be")
    assert len(plain.texts(denoise(plain.denoiser, state), prompt=False)[0]) == 12
