"""Rows that join a running batch: the same thoughts as alone, whoever comes, goes, fails or is cancelled."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from test_decoding import PATHS, lm
from tiny import VOCABULARY, fresh, tiny, tiny_mixture, tokenizer

from thoughtmix.decoding import Row, Sampler, decode
from thoughtmix.decoding import continuous as continuous_module
from thoughtmix.decoding.continuous import Continuous, Job
from thoughtmix.decoding.probe import choose
from thoughtmix.decoding.reading import Reading
from thoughtmix.decoding.scheduler import Cancelled, Scheduler, Session, TimedOut
from thoughtmix.decoding.turns import Turns
from thoughtmix.errors import InputError, NumericsError

JOINING = [family for family, path in PATHS.items() if path != "expanded"]


def some_call(number: int) -> dict[str, Any]:
    """A decode of one to three prompts of any length, rows of any kind, by its number alone."""
    dice = random.Random(number)
    prompts = [
        [dice.randrange(3, VOCABULARY) for _ in range(dice.choice([1, 2, 7, 25, 60]))]
        for _ in range(dice.choice([1, 1, 3]))
    ]
    rows = [
        Row(
            seed=dice.randrange(2**40),
            sampler=Sampler(temperature=dice.choice([0.0, 0.7, 1.3]), top_k=dice.choice([0, 9]), min_p=dice.choice([0.0, 0.1])),
            prompt=dice.randrange(len(prompts)),
            stop=dice.choice([(), ("w7", "w10 w")]),
            max_new_tokens=dice.choice([None, 1, 5]),
            code=dice.choice([None, None, dice.random()]),
        )
        for _ in range(dice.choice([1, 4, 6]))
    ]  # fmt: skip
    return {
        "prompts": prompts,
        "rows": rows,
        "max_new_tokens": dice.choice([1, 8, 20]),
        "end_ids": frozenset({2, 50, 51}),
        "top": dice.choice([0, 3]),
    }


def same(got: Any, want: Any) -> None:
    assert [r.token_ids for r in got.rows] == [r.token_ids for r in want.rows]
    assert [(r.text, r.finish) for r in got.rows] == [(r.text, r.finish) for r in want.rows]
    for one, other in zip(got.rows, want.rows, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=2e-4, rtol=1e-4)
        assert [ids for ids, _ in one.top] == [ids for ids, _ in other.top]


@pytest.mark.parametrize("family", JOINING)
def test_law_5_a_thought_is_its_own_whoever_joins(family: str) -> None:
    """Jobs join at any step, their prompts read in pieces of five tokens; the path is the one that runs alone."""
    model = lm(tiny(family))
    calls = [some_call(n) for n in range(12)]
    want = [decode(model, weights="native", **call) for call in calls]
    batch, dice = Continuous(), random.Random(family)
    jobs = [Job(model, **call) for call in calls]
    left = list(jobs)
    while left or batch.jobs:
        for _ in range(dice.choice([0, 0, 1, 3])):
            if left:
                job = left.pop(0)
                route = choose(model.model, "auto", "native", prompts=len(job.prompts))
                reading = Reading(route, job.prompts, job.counts, max(job.budget))  # type: ignore[arg-type]
                while not reading.done:
                    assert 1 <= reading.advance(5) <= 5
                batch.join(job, reading)
        batch.step()
    for job, alone in zip(jobs, want, strict=True):
        done = job.result.result(0)
        same(done, alone)
        assert done.path == PATHS[family] == alone.path
    assert batch.rows == 0
