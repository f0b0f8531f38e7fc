"""Prompts in the C functions of thoughtmix.kernels: their ends, read at once, and what they have in common (law 5)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graftland import grafted
from test_packing import small
from tiny import tiny
from torch import Tensor

from thoughtmix import kernels
from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.fused_kernels import KernelWeights
from thoughtmix.engine.prefill import ChunkedPrefill

pytestmark = pytest.mark.skipif(bool(kernels.why_not("amx")), reason=f"no kernels here: {kernels.why_not('amx')}")


@pytest.mark.parametrize("graft", [False, True])
def test_law_5_tokens_that_rows_read_at_once_are_those_that_they_read_step_by_step(graft: bool) -> None:
    """Of one prompt, which is read in the same pass, and of two, where some rows read six tokens and others one."""
    made = grafted("llama", combiner="router", router="prior", noise="held") if graft else None
    model = tiny("llama") if made is None else made.get_base_model().eval()
    weights, tail = KernelWeights(model), [[7 * i + j + 1 for j in range(6)] for i in range(21)]

    def path(rows: range = range(21)) -> Any:
        if not graft:
            return weights.path()
        branches = next(m.thought_graft for m in model.modules() if getattr(m, "thought_graft", None) is not None)
        return weights.path(branches.row_state(list(rows), [i % 3 for i in rows], torch.device("cpu")))

    def read(path: Any, rows: list[list[int]], first: int) -> Tensor:
        return torch.stack([path.step(torch.tensor([row[i] for row in rows])) for i in range(first, 6)])[-1]

    at_once, by_step, after = path(), path(), torch.arange(21) + 30
    at_once.start(Start([[5, 9, 11, 13]], [21], 9, reads_on=True))
    by_step.start(Start([[5, 9, 11, 13]], [21], 9))
    got = at_once.read_on(tail)
    assert torch.equal(got, read(by_step, tail, 0))
    for row in (1, 5):  # of one row alone, branches that it does not go through are not even read
        alone = path(range(row, row + 1))
        alone.start(Start([[5, 9, 11, 13]], [1], 9, reads_on=True))
        assert torch.equal(alone.read_on(tail[row : row + 1])[0], got[row])
    assert torch.equal(at_once.step(after), by_step.step(after))
    at_once, by_step = path(), path()
    for each in (at_once, by_step):
        each.start(Start([[5] * 70, [8]], [2, 19], 9))
    got = at_once.read_on([*tail[:2], *(row[:1] for row in tail[2:])])
    assert torch.equal(got[2:], by_step.step(torch.tensor([row[0] for row in tail]))[2:])
    by_step.row_state.reorder(by_step.drop(list(range(2, 21))))
    assert torch.equal(got[:2], read(by_step, tail[:2], 1))


@pytest.mark.parametrize("common", [9, 64, 70, 131])
def test_law_5_prompts_that_begin_alike_share_memory_and_have_the_bits_of_each_alone(common: int) -> None:
    """Also of one that comes again, of which nothing is read, and of one that goes on from two that are kept."""
    weights, start = KernelWeights(small()), [(7 * i) % 490 for i in range(common)]
    prompts = [[*start, *((11 * k + i) % 490 for i in range(k))] for k in (3, 1, 17, 80)]
    prompts += [[*prompts[2], 5, 6], list(prompts[0])]
    prefill = ChunkedPrefill(weights.path(), prompts)
    while not prefill.done:
        prefill.advance(33)
    together, counts = weights.path().empty(), [1, 2, 1, 1, 1, 3]
    together.join(prefill.read, counts, 4)
    roots = {place.root[0][0].data_ptr() for place in together.cache.places[1:]}
    assert len(roots) <= 2, "before and after the first was parted"
    got = [together.step(torch.arange(9) + 7 * i) for i in range(3)]
    first = 0
    for ids, count, logits in zip(prompts, counts, prefill.logits, strict=True):
        alone, rows = weights.path(), slice(first, first + count)
        begun, _ = alone.start(Start([ids], [count], 4))
        assert begun is not None and logits is not None and torch.equal(begun[0], logits)
        for i in range(3):
            assert torch.equal(alone.step(torch.arange(9)[rows] + 7 * i), got[i][rows])
        first += count
