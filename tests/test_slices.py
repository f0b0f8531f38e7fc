"""Work beside the batch is cut between any two of torch's operations, and computes the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from test_continuous import scheduled
from test_decoding import lm
from tiny import tiny
from torch import Tensor, nn

from thoughtmix.core.interruptible import interruptible
from thoughtmix.engine import slices as slices_module
from thoughtmix.engine.caller import Caller, Cancelled
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.engine.slices import TimeSlices
from thoughtmix.metrics.judge import ids_nll


def counted() -> tuple[list[int], Callable[[], None]]:
    pauses: list[int] = []
    return pauses, lambda: pauses.append(1)


@torch.no_grad()
def test_a_forward_is_cut_and_gives_the_same() -> None:
    model = tiny("llama")
    ids = torch.arange(5, 25)[None]
    whole = model(input_ids=ids).logits
    pauses, pause = counted()
    with TimeSlices(pause, 0.0), interruptible():
        cut = model(input_ids=ids).logits
    assert torch.equal(cut, whole) and len(pauses) > 50
    before = len(pauses)
    model(input_ids=ids)
    assert len(pauses) == before, "nothing is left of it"
    with TimeSlices(pause, 0.0):
        model(input_ids=ids)
    assert len(pauses) == before, "nobody said that it may be cut: a lock may be held"
    with TimeSlices(pause, 1e9), interruptible():
        model(input_ids=ids)
    assert len(pauses) == before, "no slice was spent"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40, 8), (3, 7, 8), (8,)])
def test_a_large_product_is_done_some_rows_at_a_time(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices_module, "_LARGEST", 5 * 8 * 6)  # five rows
    layer, x = nn.Linear(8, 6, bias), torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    pauses, pause = counted()
    with torch.inference_mode(), TimeSlices(pause, 0.0), interruptible():
        got = layer(x)
    rows = x.numel() // 8
    assert got.shape == (*shape[:-1], 6) and len(pauses) == (1 if rows <= 5 else -(-rows // 5) + 1)
    torch.testing.assert_close(got, layer(x).detach())
    with TimeSlices(pause, 0.0):
        assert layer(x).requires_grad, "training goes whole"


def test_other_threads_are_not_cut() -> None:
    pauses, pause = counted()
    out: list[Tensor] = []
    with TimeSlices(pause, 0.0), interruptible():
        other = threading.Thread(target=lambda: out.append(torch.ones(3) + torch.ones(3)))
        other.start()
        other.join()
    assert out[0].tolist() == [2.0, 2.0, 2.0] and not pauses


def test_within_one_forward_the_turn_is_passed_on_and_who_cancelled_stops() -> None:
    """A score of one text used to hold the turn as long as the text was."""
    model, text = lm(tiny("llama")), " ".join(f"w{i}" for i in range(5, 60))
    want, seen, forwards = ids_nll([5, 6], [text], model), list[str](), list[int]()
    with scheduled(model, pause=0.0) as scheduler:
        caller = Caller()
        engine = SharedEngine(scheduler, caller)
        real, stop = scheduler.turns.pass_on, 30

        def noted() -> None:
            seen.append("passed")
            if len(seen) == stop:
                scheduler.cancel(caller)
            real()

        scheduler.turns.pass_on = noted  # type: ignore[method-assign]
        hook = model.model.register_forward_pre_hook(lambda *_: forwards.append(1))
        try:
            with pytest.raises(Cancelled), engine.exclusive():
                ids_nll([5, 6], [text], model)
            assert len(seen) == stop and len(forwards) == 1
            caller.cancelled, stop = False, 0
            with engine.exclusive():
                assert ids_nll([5, 6], [text], model) == pytest.approx(want)
        finally:
            hook.remove()
        with scheduler.turns:  # it was given back
            pass


def test_a_prompt_read_beside_the_batch_is_cut_and_its_steps_are_not() -> None:
    from decoding import Row, decode
    from test_continuous import call_of

    model = lm(tiny("llama"))
    call = {"prompts": [[5, 9, 77] * 20], "rows": [Row(seed=3)], "max_new_tokens": 6}
    want = decode(model, weights="native", **call)
    with scheduled(model, pause=0.0) as scheduler:
        passed, reading = list[int](), list[int]()
        real = scheduler.turns.pass_on

        def noted() -> None:
            passed.append(1)
            real()

        scheduler.turns.pass_on = noted  # type: ignore[method-assign]
        got = call_of(SharedEngine(scheduler), call, read="each", on_step=lambda event: reading.append(len(passed)))
    assert [out.token_ids for out in got.outputs] == [out.token_ids for out in want.outputs]
    assert reading[0] > 50 and [b - a for a, b in pairwise(reading)] == [1] * (len(reading) - 1)


def test_a_prompt_read_through_a_models_own_forward_is_not_cut() -> None:
    """Its attention is held in place by a lock that the batch's step waits for: to be cut there was to hang for ever."""
    from decoding import Row
    from test_continuous import call_of

    model = lm(tiny("gpt2"))
    call = {"prompts": [[5, 9, 77] * 20], "rows": [Row(seed=3)], "max_new_tokens": 30}
    with scheduled(model, pause=0.0) as scheduler, ThreadPoolExecutor(6) as pool:
        some = [pool.submit(call_of, SharedEngine(scheduler), call, read=("each", "shared")[i % 2]) for i in range(12)]
        texts = [future.result(60).outputs[0].token_ids for future in some]
    assert all(text == texts[0] for text in texts)
