"""Sampling without replacement, and prefixes that prompts of one call share, on tiny models."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from decoding import Row, decode, language_model_of
from tiny import VOCABULARY, tiny

from thoughtmix.core.errors import InputError
from thoughtmix.engine import Excluded, SamplingParams

PROMPT = [5, 9, 77, 33, 12, 8, 100, 41]


def run(family: str, prompts: list[list[int]], rows: list[Row], tokens: int, **more: Any) -> Any:
    lm = language_model_of(tiny(family))
    return decode(lm, prompts, rows, max_new_tokens=tokens, weights="native", **more)


def likely(family: str, ids: list[int], k: int = 3) -> tuple[list[int], list[float]]:
    """The k likeliest next tokens and their probabilities among these."""
    top = tiny(family)(torch.tensor([ids])).logits[0, -1].topk(k)
    return top.indices.tolist(), top.values.double().softmax(-1).tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_rows_of_one_prompt_draw_every_token_once(family: str) -> None:
    rows = [Row(seed, SamplingParams(top_k=40)) for seed in range(45)]
    got = run(family, [PROMPT], rows, 1, exclude=[()]).outputs
    tokens = [row.token_ids[0] for row in got]
    want, shares = likely(family, PROMPT, 40)
    assert sorted(tokens[:40]) == sorted(want), "all that survives the truncation, each once"
    assert len(set(tokens[40:])) <= 5 and set(tokens) == set(want), "then nothing is left, and rows draw freely"
    said = dict(zip(want, shares, strict=True))
    assert [row.shares[0] for row in got] == pytest.approx([said[t] for t in tokens], rel=1e-4)
    assert run(family, [PROMPT], rows[:1], 1).outputs[0].shares == [], "only when asked"
    free = run(family, [PROMPT], rows, 1).outputs
    assert len({row.token_ids[0] for row in free}) < 35, "free draws repeat themselves"
    assert tokens[0] == free[0].token_ids[0], "the first draw is the free one"


def test_what_is_taken_is_drawn_no_more_and_the_rest_as_likely_as_before() -> None:
    """Two tokens from the three likeliest each; two of the nine pairs are taken. Frequencies against the product of
    conditional probabilities, renormalised; 1,000 draws, four standard deviations."""
    firsts, p = likely("llama", PROMPT)
    pairs = {}
    for token, share in zip(firsts, p, strict=True):
        seconds, q = likely("llama", [*PROMPT, token])
        pairs.update({(token, s): (share, r) for s, r in zip(seconds, q, strict=True)})
    gone = [
        max(pairs, key=lambda k: pairs[k][0] * pairs[k][1]),
        (firsts[2], likely("llama", [*PROMPT, firsts[2]])[0][1]),
    ]
    taken = [Excluded(pair, pairs[pair]) for pair in gone]
    count: Counter[tuple[int, ...]] = Counter()
    for seed in range(1000):  # each in a call of its own, so that rows do not avoid each other
        got = run("llama", [PROMPT], [Row(seed, SamplingParams(top_k=3))], 2, exclude=[taken]).outputs
        count.update(tuple(row.token_ids) for row in got)
    left = {pair: a * b for pair, (a, b) in pairs.items() if pair not in gone}
    whole = sum(left.values())
    assert set(count) <= set(left)
    for pair, share in left.items():
        p_ = share / whole
        assert abs(count[pair] - 1000 * p_) < 4 * (1000 * p_ * (1 - p_)) ** 0.5 + 1, pair


def test_a_first_token_whose_every_continuation_is_taken_is_left_out() -> None:
    firsts, p = likely("llama", PROMPT)
    seconds, q = likely("llama", [*PROMPT, firsts[0]])
    taken = [Excluded((firsts[0], s), (p[0], r)) for s, r in zip(seconds, q, strict=True)]
    rows = [Row(seed, SamplingParams(top_k=3)) for seed in range(60)]
    got = run("llama", [PROMPT], rows, 2, exclude=[taken]).outputs
    assert {row.token_ids[0] for row in got} == set(firsts[1:])


def test_offsets_are_refused() -> None:
    with pytest.raises(InputError, match="without replacement") as caught:
        run("llama", [PROMPT], [Row(0, offset=0.5)], 2, exclude=[()])
    assert caught.value.hint


@pytest.mark.parametrize(("family", "spared"), [("llama", 20 + 15), ("gpt2", 20 + 15), ("bloom", 0)])
def test_a_beginning_that_prompts_of_one_call_share_is_read_once(family: str, spared: int) -> None:
    """The same tokens and log-probabilities as each prompt by itself; fewer tokens computed."""
    shared = [(7 * i + 5) % (VOCABULARY - 3) + 3 for i in range(20)]
    prompts = [[*shared, 7, 9, 30], [*shared, 11], [*shared[:15], 4], [8] * 9]
    rows = [Row(seed, prompt=p) for p, seed in itertools.product(range(4), range(2))]
    got = run(family, prompts, rows, 6)
    for prompt in range(4):
        mine = [Row(row.seed) for row in rows if row.prompt == prompt]
        alone = run(family, [prompts[prompt]], mine, 6).outputs
        for row, want in zip(got.outputs[2 * prompt :], alone, strict=False):
            assert row.token_ids == want.token_ids
            assert row.logprobs == pytest.approx(want.logprobs, abs=1e-3)
    assert got.computed == sum(map(len, prompts)) - spared + 8 * 5
