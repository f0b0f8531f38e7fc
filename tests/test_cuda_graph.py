"""The recorded step without a GPU: its recorder runs the step again over the same memory, as a graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoding import Row, decode, language_model_of
from graftland import grafted
from tiny import tiny
from torch import Tensor

from thoughtmix.engine import SamplingParams
from thoughtmix.engine.backends import known, probe
from thoughtmix.engine.backends.agreement import agrees
from thoughtmix.engine.backends.cuda_graph import CudaGraphPath
from thoughtmix.engine.backends.fused_torch import TorchWeights
from thoughtmix.graft import graft_of

PROMPTS = [[5, 9, 77, 33, 12, 8, 100, 41], [44, 17, 3], [5, 9, 77, 33, 12, 8, 100, 41, 6]]


class Tape:
    """Records a step: it is run once for its output, whose memory every replay writes again. Memory that is another
    at a replay than it was at recording is an error, as on a GPU it would be silently wrong."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        path: Any = step.__self__  # type: ignore[attr-defined]
        out = step()

        def where() -> list[int]:
            tensors = [path._tokens, path.cache.positions()]
            for bucket in path.cache._buckets.values():
                tensors += [bucket.own_keys, bucket.own_values, *(bucket.seen or ())]
            return [x.data_ptr() for x in tensors]

        def shapes() -> list[Any]:
            return [bucket.shape for bucket in path.cache._buckets.values()]

        recorded = where(), shapes()

        def replay() -> Tensor:
            self.replayed += 1
            assert (where(), shapes()) == recorded, "a graph would read elsewhere"
            return out.copy_(step())

        return replay


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """Every fused path is recorded, as on a GPU."""
    made = Tape()

    def path_of(lm: Any, path: Any, weights: Any, row_state: Any, read: Any, prompts: int) -> Any:
        return CudaGraphPath(TorchWeights(lm.model, "native"), row_state, read, made)

    monkeypatch.setattr("thoughtmix.engine.local.path_of", path_of)
    return made


def rows(count: int, lengths: list[int]) -> list[Row]:
    sampling = SamplingParams(temperature=0.8)
    return [Row(i, sampling, i % len(PROMPTS), max_new_tokens=lengths[i % len(lengths)]) for i in range(count)]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("lengths", [[40], [3, 40, 7, 33, 1, 20, 12], [2, 2, 2, 2, 40]])
@pytest.mark.parametrize("prompts", [1, 3])
def test_a_recorded_step_is_the_fused_step(family: str, lengths: list[int], prompts: int, tape: Tape) -> None:
    """Whoever ends when, and past the powers of two at which steps are recorded anew."""
    model = language_model_of(tiny(family), 256, frozenset())
    asked = [row for row in rows(24, lengths) if row.prompt < prompts]
    got = decode(model, PROMPTS[:prompts], asked, max_new_tokens=40).outputs
    assert 0 < tape.recorded < tape.replayed
    fused = probe.choose(model.model, weights="native")
    assert type(fused).__name__ == "TorchPath"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoughtmix.engine.local.path_of", known.path_of)
        want = decode(model, PROMPTS[:prompts], asked, max_new_tokens=40, weights="native").outputs
    assert [x.token_ids for x in got] == [x.token_ids for x in want]
    assert len({tuple(x.token_ids) for x in got}) > len(asked) // 2


@pytest.mark.parametrize("read", ["shared", "each"])
def test_rows_keep_their_routes(read: str, tape: Tape) -> None:
    model = grafted("llama")
    lm = language_model_of(model.get_base_model(), 256, frozenset())
    asked = [Row(i, SamplingParams(temperature=0.8), max_new_tokens=2 + 5 * (i % 4)) for i in range(12)]

    def drawn() -> list[list[int]]:
        state = graft_of(model).row_state(range(12), [1.0] * 12, lm.device)
        done = decode(lm, PROMPTS[:1], asked, max_new_tokens=40, weights="native", row_state=state, read=read)
        return [x.token_ids for x in done.outputs]

    got = drawn()
    assert tape.replayed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoughtmix.engine.local.path_of", known.path_of)
        assert got == drawn()


def test_a_recorded_path_is_tried_before_use() -> None:
    model = tiny("llama")
    weights = TorchWeights(model, "native")
    assert agrees(model, CudaGraphPath(weights, recorder=Tape()))

    def wrong(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        out = step()
        return lambda: out  # what was recorded, again and again

    assert not agrees(model, CudaGraphPath(weights, recorder=wrong))
    if not torch.cuda.is_available():  # what a machine without one says is a reason, not a traceback
        assert probe._tried(model, CudaGraphPath(weights))
