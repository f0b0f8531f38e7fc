"""The kernels for processors without a matrix unit (AVX-512, AVX2): the same laws, and float32's numbers."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from decoding import decode
from graftland import grafted
from hypothesis import given, settings
from hypothesis import strategies as st
from test_continuous import call_of, some_call
from test_decoding import lm
from test_kernels import FAMILIES, alike, attention, product, reads_alike_in_any_pieces, steps, threads
from test_packing import small
from tiny import tiny
from torch import Tensor

from thoughtmix import kernels
from thoughtmix.engine.backends import fused_kernels
from thoughtmix.engine.backends.agreement import agrees
from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.fused_kernels import KernelWeights
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine

LEVELS = [level for level in ("avx512", "avx2") if not kernels.why_not(level)]
pytestmark = pytest.mark.skipif(not LEVELS, reason=f"no kernels here: {kernels.why_not('avx2')}")
each_level = pytest.mark.parametrize("level", LEVELS or ["avx2"])


@each_level
@pytest.mark.parametrize("family", FAMILIES)
def test_law_4_what_the_model_says(family: str, level: str) -> None:
    assert agrees(tiny(family), KernelWeights(tiny(family), level).path(), 0.02)


@each_level
def test_law_5_a_row_has_the_same_bits_at_any_height_and_number_of_threads(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, prompt = KernelWeights(small(), level), [(7 * i) % 490 for i in range(70)]
    want = steps(weights, prompt, 64)
    for n in (*range(1, 10), 15, 16, 17, 33, 63):
        assert torch.equal(steps(weights, prompt, n), want[:, :n]), n
        assert torch.equal(steps(weights, prompt, n, 64 - n), want[:, 64 - n :]), "its place among the rows"
    for count in (2, 5):
        threads(monkeypatch, count)
        assert torch.equal(KernelWeights(small(), level) and steps(weights, prompt, 64), want), count


@each_level
def test_law_5_a_prompt_has_the_same_bits_in_any_pieces(level: str) -> None:
    reads_alike_in_any_pieces(KernelWeights(small(), level))


@each_level
def test_law_5_in_a_batch_that_others_join(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THOUGHTMIX_KERNELS", level)
    model, numbers = lm(tiny("qwen3")), range(200, 210)
    want = {n: decode(model, weights="fp16", **some_call(n)) for n in numbers}
    assert {(done.path, done.weights) for done in want.values()} == {("fused", f"fp16-{level}")}
    threads(monkeypatch, 2)
    with Scheduler(model, weights="fp16", rows=12, chunk=16) as scheduler, ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda n: call_of(SharedEngine(scheduler), some_call(n)), numbers)
        for number, got in zip(numbers, made, strict=True):
            alike(got, want[number])


@each_level
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_branches_do_what_they_do_in_float32(level: str, rows: int) -> None:
    model = lm(grafted("llama", combiner="router", router="prior", noise="held").get_base_model().eval())
    graft = next(m.thought_graft for m in model.model.modules() if getattr(m, "thought_graft", None) is not None)
    seen: list[Tensor] = []
    for weights in ("native", level):
        state = graft.row_state(list(range(rows)), [1.0] * rows, torch.device("cpu"))
        path: Any = (
            choose(model.model, "fused", "native", state)  # type: ignore[arg-type]
            if weights == "native"
            else KernelWeights(model.model, level).path(state)  # type: ignore[arg-type]
        )
        path.start(Start([[5, 9, 11]], [rows], 2))
        seen.append(path.step(torch.arange(rows)))
    assert (seen[0] - seen[1]).abs().max() < 0.02 * seen[0].std()


@each_level
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_are_those_of_their_numbers(level: str, data: st.DataObject) -> None:
    got, x, weight, kind = product(data, level)
    kept = (weight if kind else weight.half()).double()
    assert ((got - x @ kept.T).abs() <= 1e-5 * (x.abs() @ kept.abs().T) + 1e-6).all()


@each_level
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_attention_is_that_of_the_model(level: str, data: st.DataObject) -> None:
    got, want = attention(data, level, torch.float16)
    assert (got - want).abs().max() <= 1e-4 * want.std()


def test_draws_of_all_levels_are_alike() -> None:
    """Nearly the same sums: the same tokens, but where a draw falls upon an edge."""
    from thoughtmix.engine import SamplingParams, SequenceRequest

    requests = [SequenceRequest((5, 6, 7), seed, SamplingParams(temperature=1.2, top_p=0.9), 8) for seed in range(6)]
    texts = set()
    for level in (*LEVELS, "none"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("THOUGHTMIX_KERNELS", level)
            done = decode_all(lm(tiny("llama")), requests)
            texts.add(tuple(tuple(output.token_ids) for output in done))
    assert len(texts) == 1


def decode_all(model: Any, requests: Any) -> Any:
    from thoughtmix.engine import LocalEngine

    return LocalEngine(model, weights="native").generate(requests).outputs


def test_a_level_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THOUGHTMIX_KERNELS", "none")
    assert kernels.library() is None and "THOUGHTMIX_KERNELS" in kernels.why_not() and not kernels.best()
    monkeypatch.setenv("THOUGHTMIX_KERNELS", "avx2")
    assert kernels.best() == "avx2" and kernels.why_not("amx") and not kernels.why_not()
    assert fused_kernels.level_of("fp16-avx2") == "avx2" and not fused_kernels.level_of("fp16")
    assert os.environ["THOUGHTMIX_KERNELS"] == "avx2"
