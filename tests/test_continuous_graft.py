"""Thoughts of a graft and plain rows in one running batch: each as alone, and the plain ones as without a graft."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from decoding import Row, decode
from graftland import base, grafted
from test_continuous import call_of, same, scheduled, some_call
from test_decoding import lm

from thoughtmix.engine import SamplingParams
from thoughtmix.engine.row_state import RowLora, stack_row_loras
from thoughtmix.engine.shared import SharedEngine

KINDS: dict[str, dict[str, Any]] = {
    "held": {"noise": "held"},
    "quiet": {"noise": "none"},
    "tail": {"noise": "held", "tail": 3},
    "fresh": {"noise": "fresh"},
    "prompt": {"router": "prompt"},
}
STANDING = {"held", "quiet", "tail"}


def model_of(kind: str) -> tuple[Any, Any]:
    """The base model, and the same with a graft whose branches do something."""
    made = grafted("llama", **{"combiner": "router", "router": "prior", **KINDS[kind]})
    return lm(base("llama")), lm(made.get_base_model().eval())


def thought_call(model: Any, number: int) -> dict[str, Any]:
    """A decode of thoughts, by its number alone; the state is made anew for each use."""
    dice = random.Random(number)
    n = dice.choice([1, 3, 5])
    seeds = [dice.randrange(2**40) for _ in range(n)]
    graft = next(m.thought_graft for m in model.model.modules() if getattr(m, "thought_graft", None) is not None)
    row_state = graft.row_state(seeds, [dice.choice([0.0, 1.0, 1.7]) for _ in seeds], torch.device("cpu"))
    return {
        "prompts": [[dice.randrange(3, 60) for _ in range(dice.choice([1, 2, 9, 30]))]],
        "rows": [Row(seed=s, sampling=SamplingParams(temperature=dice.choice([0.0, 1.0])), offset=dice.choice([None, dice.random()]),
                     max_new_tokens=dice.choice([None, 4])) for s in seeds],
        "max_new_tokens": dice.choice([6, 14]),
        "end_ids": frozenset({2, 50, 51}),
        "row_state": row_state,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_law_5_thoughts_and_plain_rows_side_by_side(kind: str) -> None:
    plain, model = model_of(kind)
    thoughts = range(10)
    want = {n: decode(model, weights="native", **thought_call(model, n)) for n in thoughts}
    bare = {n: decode(plain, weights="native", **some_call(n)) for n in range(100, 106)}
    routes: dict[int, Any] = {}
    ticks: list[Any] = []
    with scheduled(model, rows=12, chunk=16, observe=ticks.append) as scheduler, ThreadPoolExecutor(8) as pool:

        def one(number: int) -> Any:
            call = some_call(number) if number >= 100 else thought_call(model, number)
            done = call_of(SharedEngine(scheduler), call)
            if number < 100:
                routes[number] = call["row_state"].routes(len(call["rows"]))
            return done

        numbers = [n for pair in zip([*thoughts], [*bare, *bare], strict=False) for n in pair]
        got = dict(zip(numbers, pool.map(one, numbers), strict=True))
    for number, alone in {**want, **bare}.items():
        same(got[number], alone)
        if number in want and kind in STANDING:
            assert got[number].computed == alone.computed
    drawn = sum(tick.tokens for tick in ticks)
    theirs = {n: sum(len(r.token_ids) for r in got[n].outputs) for n in numbers}
    joined = numbers if kind in STANDING else [n for n in numbers if n >= 100]
    assert drawn == sum(theirs[n] for n in joined), "those whose routes stand share the steps, others take turns"
    for number in thoughts:
        call = thought_call(model, number)
        decode(model, weights="native", **call)
        assert routes[number] == call["row_state"].routes(len(call["rows"]))


def test_the_branches_are_at_work() -> None:
    """The comparison above would pass if nothing was row_state."""
    _, model = model_of("tail")
    call = thought_call(model, 0)  # of creativities 1.7, 0 and 1.7
    with scheduled(model) as scheduler:
        moved = call_of(SharedEngine(scheduler), {**call, "rows": [Row(seed=5)] * len(call["rows"])})
        still = call_of(
            SharedEngine(scheduler),
            {k: v for k, v in {**call, "rows": [Row(seed=5)] * len(call["rows"])}.items() if k != "row_state"},
        )  # fmt: skip
    assert [r.logprobs for r in moved.outputs] != [r.logprobs for r in still.outputs]


def test_ranks_beside_each_other() -> None:
    one, other = RowLora(torch.ones(2, 1, 4), None), RowLora(torch.full((1, 3, 4), 2.0), torch.full((1, 3, 4), 5.0))
    made = stack_row_loras([one, None, other], [2, 3, 1])
    assert made is not None and made.shift is not None
    assert made.scale[:, :, 0].tolist() == [[1] * 3] * 2 + [[0] * 3] * 3 + [[2] * 3]
    assert made.shift[:, :, 0].tolist() == [[0] * 3] * 5 + [[5] * 3]
    assert stack_row_loras([None, None], [1, 2]) is None
    alone = stack_row_loras([one, None], [2, 1])
    assert alone is not None and alone.shift is None and alone.scale.shape == (3, 1, 4)
