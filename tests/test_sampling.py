"""The draw: the same distributions as transformers' processors, exactly, and nothing but the row's own business."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from thoughtmix.core.errors import InputError, NumericsError
from thoughtmix.engine.rng import generator, uniforms
from thoughtmix.engine.sampling import SamplingParams, SamplingTensors, draw

STEPS = 4000


def frequencies(logits: torch.Tensor, sampler: SamplingParams) -> torch.Tensor:
    """Share of each token over an even grid of uniforms: the drawn distribution to within 1 / STEPS, no luck involved."""
    grid = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    ids = draw(logits.expand(STEPS, -1), grid, SamplingTensors.of([sampler] * STEPS)).ids
    return torch.bincount(ids, minlength=logits.shape[-1]) / STEPS


def reference(logits: torch.Tensor, s: SamplingParams) -> torch.Tensor:
    """The distribution that transformers' generate would draw from."""
    warpers = LogitsProcessorList()
    if s.temperature != 1:
        warpers.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        warpers.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        warpers.append(TopPLogitsWarper(s.top_p))
    if s.min_p:
        warpers.append(MinPLogitsWarper(s.min_p))
    return torch.softmax(warpers(torch.zeros(1, 1, dtype=torch.long), logits[None].double()), -1)[0]


samplers = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.6]),
    top_k=st.sampled_from([0, 1, 3, 20, 10_000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(
    sampler=samplers,
    size=st.sampled_from([2, 7, 31, 96, 1009, 1280]),
    spread=st.sampled_from([0.5, 3.0, 8.0]),
    seed=st.integers(0, 10**6),
)
def test_same_distribution_as_transformers(sampler: SamplingParams, size: int, spread: float, seed: int) -> None:
    logits = torch.from_numpy(generator(seed).normal(0, spread, size)).float()
    got, want = frequencies(logits, sampler), reference(logits, sampler)
    assert (got - want).abs().max() <= 1.5 / STEPS + 1e-6


def test_top_nsigma_keeps_exactly_the_logits_within_n_deviations() -> None:
    logits = torch.from_numpy(generator(3).normal(0, 2, 500)).float()
    for n in (0.5, 1.0, 2.0):
        got = frequencies(logits, SamplingParams(top_nsigma=n))
        kept = logits >= logits.max() - n * logits.std(correction=0)
        want = torch.softmax(torch.where(kept, logits, -torch.inf), -1)
        assert (got - want).abs().max() <= 1.5 / STEPS + 1e-6


def test_forbidden_tokens_are_never_drawn_and_do_not_count_for_top_nsigma() -> None:
    logits = torch.from_numpy(generator(4).normal(0, 2, 320)).float()
    logits[::2] = -torch.inf
    for sampler in (
        SamplingParams(),
        SamplingParams(temperature=5.0),
        SamplingParams(top_k=200),
        SamplingParams(top_p=0.99),
    ):
        assert frequencies(logits, sampler)[::2].sum() == 0
    allowed = logits[1::2]
    kept = allowed >= allowed.max() - allowed.std(correction=0)
    assert bool((frequencies(logits, SamplingParams(top_nsigma=1.0))[1::2] > 0).eq(kept).logical_or(~kept).all())
    assert frequencies(logits, SamplingParams(top_nsigma=1.0))[1::2][~kept].sum() == 0


def test_greedy_takes_the_first_largest_whatever_the_uniform() -> None:
    logits = torch.tensor([0.0, 5.0, 5.0, 1.0] * 8)
    assert frequencies(logits, SamplingParams(temperature=0.0))[1] == 1


def test_logprob_is_the_untruncated_models() -> None:
    logits = torch.from_numpy(generator(5).normal(0, 3, (6, 640))).float()
    drawn = draw(
        logits, uniforms(range(6), 1)[:, 0], SamplingTensors.of([SamplingParams(top_k=5, temperature=0.5)] * 6)
    )
    ids, logprobs = drawn.ids, drawn.logprobs
    want = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs, want, atol=1e-5, rtol=0)


def test_a_row_does_not_see_its_neighbours() -> None:
    """Mixed samplers in one batch: bit for bit what each row draws alone."""
    rng = generator(6)
    kinds = [SamplingParams(min_p=0.1), SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(temperature=0), SamplingParams(top_k=3),
             SamplingParams(top_nsigma=1.0), SamplingParams(temperature=3.0), SamplingParams(top_p=0.999, temperature=2.0)]  # fmt: skip
    logits = torch.from_numpy(rng.normal(0, 2, (len(kinds), 2560))).float()
    logits[4] *= 5
    uniform = uniforms(range(len(kinds)), 1)[:, 0]
    together = draw(logits, uniform, SamplingTensors.of(kinds)).ids
    for i, kind in enumerate(kinds):
        alone = draw(logits[i : i + 1], uniform[i : i + 1], SamplingTensors.of([kind])).ids
        assert alone.item() == together[i].item()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinite_logits_are_refused(bad: float) -> None:
    logits = torch.zeros(3, 64)
    logits[1, 5] = bad
    with pytest.raises(NumericsError, match="NaN or infinite"):
        draw(logits, torch.zeros(3, dtype=torch.float64), SamplingTensors.of([SamplingParams()] * 3))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_k": 1.5},
     {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 2}, {"top_nsigma": -1}, {"temperature": "hot"},
     {"top_p": math.nan}, {"top_k": True}],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_uniforms_are_the_seeds_own(global_state_untouched: None) -> None:
    a = uniforms([5, 6, 7], 40)
    assert torch.equal(a[1], uniforms([6], 40)[0]), "depends on neighbours"
    assert torch.equal(a[:, :9], uniforms([5, 6, 7], 9)), "a shorter draw must be a prefix"
    assert torch.equal(a[:, 11:], uniforms([5, 6, 7], 29, drawn=[11] * 3)), "what was drawn before is passed over"
    assert not torch.equal(uniforms([0], 8), uniforms([2**32], 8)), "all 64 bits of a seed count"
    assert not torch.equal(uniforms([-1], 8), uniforms([1], 8))
    assert a.min() >= 0 and a.max() < 1 and a.dtype == torch.float64


@pytest.mark.parametrize("temperature", [1e-9, 1e-30, 1e-37, 1e-39, 1e-45, 5e-324])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 50}, {"top_nsigma": 1.0}])
def test_however_small_a_temperature_is_it_is_greedy(temperature: float, more: dict[str, Any]) -> None:
    x = torch.randn(16, 997, generator=torch.Generator().manual_seed(0)) * 4
    sampler = SamplingTensors.of([SamplingParams(temperature=temperature, **more)] * 16)
    drawn = draw(x, torch.rand(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64), sampler)
    assert torch.equal(drawn.ids, x.argmax(1)) and torch.isfinite(drawn.logprobs).all()
