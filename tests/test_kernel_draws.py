"""Draws by the C functions of thoughtmix.kernels beside those by torch, and law 5 of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_packing import some
from torch import Tensor

from thoughtmix import kernels
from thoughtmix.core.errors import NumericsError
from thoughtmix.engine import sampling
from thoughtmix.engine.sampling import Drawn, SamplingTensors
from thoughtmix.engine.sampling_params import SamplingParams

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=f"no kernels here: {kernels.why_not()}")


def by_torch(x: Tensor, uniform: Tensor, sampler: SamplingTensors, allowed: Tensor | None = None) -> Drawn:
    open = x if allowed is None else x.masked_fill(~allowed, -torch.inf)
    return sampling._draw_by_torch(sampling._blocks(open), x, uniform, sampler)


def logits(rows: int, vocabulary: int, seed: int = 0) -> Tensor:
    """A few likely tokens and a long tail, as a model's."""
    x = some(rows, vocabulary, seed=seed) * 2.2
    x[:, 5:vocabulary:97] += 9
    x[-1, ::3] = -torch.inf
    return x


SAMPLERS = (
    SamplingParams(), SamplingParams(0.7), SamplingParams(1.6), SamplingParams(0), SamplingParams(min_p=0.1),
    SamplingParams(top_k=1), SamplingParams(top_k=40), SamplingParams(1.3, top_k=3000), SamplingParams(top_p=0.9),
    SamplingParams(1.5, top_p=0.95), SamplingParams(top_p=1e-9), SamplingParams(top_nsigma=1.0),
    SamplingParams(1.2, top_k=200, top_p=0.8, min_p=0.02), SamplingParams(1e-30), SamplingParams(1e30),
    SamplingParams(2.0, min_p=0.05, top_nsigma=1.5),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(SAMPLERS)))
def test_the_same_tokens_as_torchs(number: int) -> None:
    """Of 2,560 uniforms over two vocabularies, one of which has blocks that are no multiple of a vector."""
    for vocabulary in (4096, 77 * 61):
        x = logits(40, vocabulary, number)
        sampler = SamplingTensors.of([SAMPLERS[number]] * len(x))
        for turn in range(32):
            uniform = numbers_in_unit(len(x), turn)
            got, want = sampling.draw(x, uniform, sampler), by_torch(x, uniform, sampler)
            assert torch.equal(got.ids, want.ids)
            for one, other in ((got.logprobs, want.logprobs), (got.share, want.share)):
                torch.testing.assert_close(one, other, atol=3e-6, rtol=3e-5)
            assert ((got.rest >= 0) & (got.rest < 1)).all()
            likely = want.share > 1e-2
            torch.testing.assert_close(got.rest[likely], want.rest[likely], atol=2e-4, rtol=0)


def numbers_in_unit(rows: int, turn: int) -> Tensor:
    drawn = torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(turn))
    drawn[0], drawn[1] = 0.0, 1 - 2**-53
    return drawn


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_floors_are_those_of_the_definition(data: st.DataObject) -> None:
    """What may be drawn: nothing under torch's floor is, with ties and forbidden tokens."""
    size = data.draw(st.sampled_from([32, 160, 1024]))
    x = (some(6, size, seed=data.draw(st.integers(0, 99))) * 8).round() / data.draw(st.sampled_from([1, 4, 64]))
    x[:, data.draw(st.integers(0, size - 1))] = -torch.inf
    sampler = SamplingTensors.of([
        SamplingParams(
            data.draw(st.sampled_from([0.3, 1.0, 2.5])),
            data.draw(st.sampled_from([0, 1, 2, 7, size, 2 * size])),
            data.draw(st.sampled_from([1.0, 0.999, 0.6, 0.2, 1e-6])),
            data.draw(st.sampled_from([0.0, 0.05, 1.0])),
            data.draw(st.sampled_from([0.0, 0.5, 2.0])),
        )
    ] * 6)  # fmt: skip
    uniform = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, want = sampling.draw(x, uniform, sampler), by_torch(x, uniform, sampler)
    assert torch.equal(got.ids, want.ids)
    assert torch.isfinite(sampling.truncated(x, sampler).gather(1, got.ids[:, None])).all()


def test_law_5_a_row_draws_the_same_at_any_height_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = logits(64, 4096)
    uniform = numbers_in_unit(64, 7)
    sampler = SamplingTensors.of([SAMPLERS[row % len(SAMPLERS)] for row in range(64)])

    def numbers(drawn: Drawn) -> Tensor:
        return torch.stack([x.double() for x in (drawn.ids, drawn.logprobs, drawn.share, drawn.rest)])

    want = numbers(sampling.draw(x, uniform, sampler))
    for threads in (1, 2, 3):
        monkeypatch.setattr(sampling.torch, "get_num_threads", lambda threads=threads: threads)
        for height in (1, 2, 7, 16, 33, 64):
            for first in (0, 64 - height):
                rows = slice(first, first + height)
                assert torch.equal(numbers(sampling.draw(x[rows], uniform[rows], sampler.rows(rows))), want[:, rows])


def test_what_a_grammar_forbids_is_not_drawn_and_counts_in_probabilities() -> None:
    x = logits(5, 4096)[:4]
    allowed = torch.zeros(4, 4096, dtype=torch.bool)
    allowed[:, 100:120] = True
    sampler = SamplingTensors.of([SamplingParams(), SamplingParams(0), SamplingParams(top_k=2), SamplingParams(0.5)])
    uniform = torch.full((4,), 0.6, dtype=torch.float64)
    got, want = sampling.draw(x, uniform, sampler, allowed), by_torch(x, uniform, sampler, allowed)
    assert torch.equal(got.ids, want.ids) and bool(((got.ids >= 100) & (got.ids < 120)).all())
    torch.testing.assert_close(got.logprobs, want.logprobs, atol=3e-6, rtol=3e-6)
    x[2, 3000] = torch.nan
    with pytest.raises(NumericsError):
        sampling.draw(x, uniform, sampler, allowed)
    with pytest.raises(NumericsError):
        sampling.draw(logits(4, 4096), uniform, sampler, torch.zeros_like(allowed))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_nothing_can_be_drawn_from(bad: float) -> None:
    x = logits(3, 4096)
    x[1, slice(None) if bad == -torch.inf else 4000] = bad
    with pytest.raises(NumericsError):
        sampling.draw(x, torch.zeros(3, dtype=torch.float64), SamplingTensors.of([SamplingParams()] * 3))
