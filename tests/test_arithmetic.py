"""Arithmetic sampling: every thought distributed as the model says, neighbouring seeds far apart, each by its seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding import Row, decode
from scipy import stats
from tiny import language_model

import thoughtmix
from thoughtmix.core.errors import InputError
from thoughtmix.engine import SamplingParams
from thoughtmix.engine.rng import arithmetic_offset
from thoughtmix.engine.sampling import SamplingTensors, draw
from thoughtmix.models import LanguageModel


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return language_model("llama")


@pytest.mark.parametrize("truncation", [{}, {"top_k": 4}], ids=["dense", "sparse"])
def test_rest_and_share_are_the_interval_of_the_token(truncation: dict[str, Any]) -> None:
    logits = torch.randn(1, 160, generator=torch.Generator().manual_seed(0)) * 3
    uniform = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]
    drawn = draw(logits.expand(4000, -1), uniform, SamplingTensors.of([SamplingParams(**truncation)] * 4000))
    for token in drawn.ids.unique():
        mine = drawn.ids == token
        share = drawn.share[mine]
        assert torch.allclose(share, share[0].expand_as(share), rtol=1e-9)
        assert abs(float(mine.double().mean()) - float(share[0])) < 1e-3
        slope = drawn.rest[mine] - uniform[mine] / share[0]  # the rest rises by 1 / share with the uniform
        assert float(slope.max() - slope.min()) < 1e-4
    assert bool(((drawn.rest >= 0) & (drawn.rest < 1)).all())


@pytest.mark.parametrize("routed", [False, True])
def test_codes_of_neighbours_fill_equal_parts(routed: bool) -> None:
    for first, m in ((0, 3), (8, 3), (1008, 4), (2**40 - 4, 2)):
        places = sorted(arithmetic_offset(first + i, [1, 2], routed) for i in range(2**m))
        steps = [(b - a) % 1 for a, b in zip(places, [*places[1:], places[0] + 1], strict=True)]
        assert max(steps) < 2 * 2**-m and min(steps) > 0
        aligned = [int(((p - arithmetic_offset(0, [1, 2], routed)) % 1) * 2**m) for p in places]
        assert sorted(aligned) == list(range(2**m))
    assert arithmetic_offset(3, [1], routed) != arithmetic_offset(3, [2], routed)
    some = torch.randint(0, 2**62, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert stats.kstest([arithmetic_offset(seed, [7], routed) for seed in some], "uniform").pvalue > 1e-3


def test_every_route_meets_every_part() -> None:
    """64 seeds, the first coordinate choosing one of 8 routes, the second one of 8 parts: each pair once."""
    pairs = {
        (int((arithmetic_offset(s, []) - arithmetic_offset(0, [])) % 1 * 8), int((arithmetic_offset(s, [], True) - arithmetic_offset(0, [], True)) % 1 * 8))
        for s in range(64)
    }  # fmt: skip
    assert len(pairs) == 64


def test_a_thought_depends_on_its_seed_alone(lm: LanguageModel) -> None:
    prompt = [5, 6, 7]

    def rows(seeds: Any) -> list[Row]:
        return [Row(s, SamplingParams(), offset=c) for s, c in ((s, arithmetic_offset(s, prompt)) for s in seeds)]

    together = decode(lm, [prompt], rows(range(8)), max_new_tokens=40).outputs
    for i in (0, 3, 7):
        alone = decode(lm, [prompt], rows([i]), max_new_tokens=40).outputs[0]
        assert alone.token_ids == together[i].token_ids
    mixed = decode(lm, [prompt], [*rows([2]), Row(2)], max_new_tokens=12).outputs
    assert mixed[0].token_ids == together[2].token_ids[:12]
    assert mixed[1].token_ids == decode(lm, [prompt], [Row(2)], max_new_tokens=12).outputs[0].token_ids


def test_sequences_are_as_likely_as_the_model_says_and_further_apart(lm: LanguageModel) -> None:
    """Two tokens over the four likeliest: counts of 4,096 codes against enumeration (systematic: off by a few at most),
    and 16 neighbouring seeds give more different pairs than independent ones."""
    prompt, sampler = [9, 4], SamplingParams(top_k=4)
    seeds = range(4096)
    made = [tuple(r.token_ids) for r in decode(
        lm, [prompt], [Row(s, sampler, offset=c) for s, c in ((s, arithmetic_offset(s, prompt)) for s in seeds)],
        max_new_tokens=2, end_ids=frozenset()).outputs]  # fmt: skip
    with torch.no_grad():
        first = lm.model(torch.tensor([prompt])).logits[0, -1].double().topk(4)
        for p, a in zip(first.values.softmax(0), first.indices.tolist(), strict=True):
            second = lm.model(torch.tensor([[*prompt, a]])).logits[0, -1].double().topk(4)
            for q, b in zip(second.values.softmax(0), second.indices.tolist(), strict=True):
                assert abs(made.count((a, b)) - 4096 * float(p * q)) < 4
    apart = sum(len(set(made[at : at + 16])) for at in range(0, 1024, 16))
    free = decode(lm, [prompt], [Row(s, sampler) for s in range(1024)], max_new_tokens=2, end_ids=frozenset()).outputs
    independent = sum(len({tuple(r.token_ids) for r in free[at : at + 16]}) for at in range(0, 1024, 16))
    assert apart > 1.2 * independent


def test_long_codes_run_out_and_the_seed_goes_on(lm: LanguageModel) -> None:
    code = arithmetic_offset(4, [3])
    sampler = SamplingParams(temperature=0.3)  # few bits a token
    one, other = (
        decode(lm, [[3]], [Row(s, sampler, offset=code)], max_new_tokens=60).outputs[0].token_ids for s in (4, 5)
    )
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 60)
    assert 2 <= same < 60  # as long as the code lasts the seed's own stream does not matter, then it alone does


def test_bad_input_is_one_line(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="arithmetic_offset"):
        decode(lm, [[3]], [Row(0, offset=1.0)], max_new_tokens=2)
    with pytest.raises(InputError, match="Unknown draws 'x'"):
        thoughtmix.think("w3 w4", n=2, model=thoughtmix.Pipeline(lm), measure=False, max_new_tokens=2, draws="x")
