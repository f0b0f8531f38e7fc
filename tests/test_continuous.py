"""Rows that join a running batch: the same thoughts as alone, whoever comes, goes, fails or is cancelled."""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from decoding import Row, decode, requests
from test_decoding import PATHS, lm
from tiny import VOCABULARY, fresh, tiny, tiny_mixture

from thoughtmix.core.errors import InputError, NumericsError
from thoughtmix.engine import SamplingParams
from thoughtmix.engine import loop as loop_module
from thoughtmix.engine import scheduler as scheduler_module
from thoughtmix.engine.backends.fused_torch import TorchPath
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.caller import Caller, Cancelled, TimedOut
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.job import Job, PromptGroups
from thoughtmix.engine.loop import Batch
from thoughtmix.engine.prefill import ChunkedPrefill, Pace, advance
from thoughtmix.engine.prefix_cache import PrefixCache
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.mixture.state import BranchRowState

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
            sampling=SamplingParams(temperature=dice.choice([0.0, 0.7, 1.3]), top_k=dice.choice([0, 9]), min_p=dice.choice([0.0, 0.1])),
            prompt=dice.randrange(len(prompts)),
            stop=dice.choice([(), ("w7", "w10 w")]),
            max_new_tokens=dice.choice([None, 1, 5]),
            offset=dice.choice([None, None, dice.random()]),
        )
        for _ in range(dice.choice([1, 4, 6]))
    ]  # fmt: skip
    return {
        "prompts": prompts,
        "rows": rows,
        "max_new_tokens": dice.choice([1, 8, 20]),
        "end_ids": frozenset({2, 50, 51}),
        "top_logprobs": dice.choice([0, 3]),
    }


def same(got: Any, want: Any) -> None:
    assert [r.token_ids for r in got.outputs] == [r.token_ids for r in want.outputs]
    assert [(r.text, r.finish) for r in got.outputs] == [(r.text, r.finish) for r in want.outputs]
    for one, other in zip(got.outputs, want.outputs, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=2e-4, rtol=1e-4)
        assert [ids for ids, _ in one.top] == [ids for ids, _ in other.top]


@pytest.mark.parametrize("family", JOINING)
def test_law_5_a_thought_is_its_own_whoever_joins(family: str) -> None:
    """Jobs join at any step, their prompts read in pieces of five tokens; the path is the one that runs alone."""
    model = lm(tiny(family))
    calls = [some_call(n) for n in range(12)]
    want = [decode(model, weights="native", **call) for call in calls]
    batch, dice = Batch(), random.Random(family)
    jobs = [job_of(model, call) for call in calls]
    left = list(jobs)
    while left or batch.jobs:
        for _ in range(dice.choice([0, 0, 1, 3])):
            if left:
                job = left.pop(0)
                path: Any = choose(model.model, "auto", "native", prompts=len(job.groups.prompts))
                prefill = ChunkedPrefill(path, job.groups.prompts)
                while not prefill.done:
                    assert 1 <= prefill.advance(5) <= 5
                batch.join(job, prefill)
        batch.step()
    for job, alone in zip(jobs, want, strict=True):
        done = job.result.result(0)
        same(done, alone)
        assert done.path == PATHS[family] == alone.path
    assert batch.rows == 0


def scheduled(model: Any, **limits: Any) -> Scheduler:
    return Scheduler(model, weights="native", **limits)


def call_of(engine: SharedEngine, call: dict[str, Any], **more: Any) -> Any:
    how = {**call, **more}
    sequences = requests(how.pop("prompts"), how.pop("rows"), how.pop("max_new_tokens"), how.pop("end_ids", None))
    return engine.generate(sequences, **how)


def job_of(model: Any, call: dict[str, Any]) -> Job:
    sequences = requests(call["prompts"], call["rows"], call["max_new_tokens"], call["end_ids"])
    groups = PromptGroups.of_equal([s.prompt for s in sequences], sequences)  # type: ignore[misc]
    return Job(model, groups, top_logprobs=call["top_logprobs"])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mixture"])
def test_law_5_under_load_from_many_threads(family: str, global_state_untouched: None) -> None:
    """Whatever the timing. Bloom cannot join and takes turns; so does every third call, whose rows read for
    themselves: they are one each, so that the result is the same."""
    model = lm(tiny_mixture() if family == "mixture" else tiny(family))
    calls = [some_call(100 + n) for n in range(16)]
    want = [decode(model, weights="native", **call) for call in calls]
    ticks: list[Any] = []
    with scheduled(model, rows=8, chunk=16, observe=ticks.append) as scheduler, ThreadPoolExecutor(6) as pool:

        def one(number: int) -> Any:
            time.sleep(random.Random(number).random() / 50)
            more = {"read": "each"} if number % 3 == 0 and family != "mixture" else {}
            return call_of(SharedEngine(scheduler), calls[number], **more)

        got = list(pool.map(one, range(16)))
    for done, alone in zip(got, want, strict=True):
        same(done, alone)
    assert max((t.rows for t in ticks), default=0) <= 8 + 2 and (ticks or family == "bloom")
    assert all(t.read <= 16 for t in ticks if t.rows > 8)


@pytest.mark.parametrize("routed_first", [False, True])
def test_law_5_rows_of_a_mixture_without_a_state(routed_first: bool) -> None:
    """They draw nothing at their places in the batch, and whoever had the paths tried first has no say in it."""
    model = lm(tiny_mixture.__wrapped__())  # nothing is known of it yet
    prompts = [[5, 9, 77], [30, 31, 32, 33]]
    if routed_first:
        state = BranchRowState([3], [1.0], torch.device("cpu"))
        decode(model, prompts[:1], [Row(seed=3)], max_new_tokens=2, weights="native", row_state=state)
    rows = [Row(seed=s, prompt=s % 2, sampling=SamplingParams(temperature=1.3)) for s in range(6)]
    together = decode(model, prompts, rows, max_new_tokens=12, weights="native")
    for row, got in zip(rows, together.outputs, strict=True):
        alone = decode(model, prompts, [row], max_new_tokens=12, weights="native")
        assert alone.path == together.path == "shared"
        assert alone.outputs[0].token_ids == got.token_ids


def test_prompts_are_read_in_pieces_while_rows_run() -> None:
    """A long prompt keeps nobody waiting for more than a piece, and steps go on in between."""
    model, ticks = lm(tiny("llama")), list[Any]()
    with scheduled(model, chunk=8, observe=ticks.append) as scheduler, ThreadPoolExecutor(2) as pool:
        started = threading.Event()
        rows = [Row(seed=s) for s in range(3)]
        first = pool.submit(
            call_of, SharedEngine(scheduler), {"prompts": [[5, 6]], "rows": rows, "max_new_tokens": 60},
            on_step=lambda event: started.set() or time.sleep(0.002),
        )  # fmt: skip
        started.wait(10)
        call_of(SharedEngine(scheduler), {"prompts": [[7] * 100], "rows": rows[:1], "max_new_tokens": 1})
        assert not first.done()
    pieces = [t.read for t in ticks[1:] if t.read]
    assert sum(pieces) == 100 and max(pieces) == 8


def test_more_is_read_while_more_rows_wait_than_run() -> None:
    model, ticks = lm(tiny("llama")), list[Any]()
    with scheduled(model, chunk=8, observe=ticks.append) as scheduler, ThreadPoolExecutor(5) as pool:
        one = {"prompts": [[5, 6]], "rows": [Row(seed=0)], "max_new_tokens": 60}
        many = [
            {"prompts": [[7 + i] * 20], "rows": [Row(seed=s) for s in range(5)], "max_new_tokens": 2} for i in range(4)
        ]
        with scheduler.turns:  # so that all stand in line together
            waiting = [pool.submit(call_of, SharedEngine(scheduler), one)]
            waiting += [pool.submit(call_of, SharedEngine(scheduler), each) for each in many]
            while scheduler.waiting < 5:
                time.sleep(0.001)
        for future in waiting:
            future.result(20)
    assert sum(t.read for t in ticks) == 2 + 4 * 20 and max(t.read for t in ticks[1:]) <= 32
    assert any(t.read > 8 for t in ticks[1:])


def test_a_prompt_that_comes_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands between: nothing goes through the model before the first token."""
    model = lm(tiny("llama"))
    calls = [{"prompts": [[5 + n, 6, 7, 8]], "rows": [Row(seed=n)], "max_new_tokens": 3} for n in range(5)]
    with scheduled(model) as scheduler:
        first = [call_of(SharedEngine(scheduler), call) for call in calls]
        monkeypatch.setattr(TorchPath, "prefill_packed", None)
        again = [call_of(SharedEngine(scheduler), call) for call in calls]
    for one, other in zip(first, again, strict=True):
        same(one, other)
        assert other.computed == one.computed - 4


def test_an_answer_of_few_tokens_does_not_wait_for_long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it another answer than alone; a longer one takes part in the batch."""
    model, ticks, wide = lm(tiny("llama")), list[Any](), list[Any]()
    quick = {"prompts": [[8, 9, 11]], "rows": [Row(seed=7), Row(seed=8)], "max_new_tokens": 4}
    want = [decode(model, weights="native", **{**quick, "max_new_tokens": n}) for n in (4, 5)]
    with scheduled(model, observe=ticks.append, pause=0.0) as scheduler, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(scheduler._batch, "step", lambda step=scheduler._batch.step: (time.sleep(0.01), step())[1])
        started = threading.Event()
        many = {"prompts": [[5, 6]], "rows": [Row(seed=s) for s in range(30)], "max_new_tokens": 100}
        first = pool.submit(
            call_of, SharedEngine(scheduler), many, on_step=lambda e: (wide.append(e.done), started.set())
        )
        started.wait(10)
        before = len(wide)
        same(call_of(SharedEngine(scheduler), quick), want[0])
        assert len(wide) - before <= 2 and not first.done()
        same(call_of(SharedEngine(scheduler), {**quick, "max_new_tokens": 5}), want[1])
        assert len(wide) - before >= 5
        first.result(30)
    assert sum(t.tokens for t in ticks) == 30 * 100 + 2 * 4 + 2 * 5 and max(t.rows for t in ticks) == 32


def test_one_who_wants_many_rows_is_one_who_waits() -> None:
    """Beside a small chat no more than a chunk is read a turn, however many rows the next job wants."""
    model, ticks = lm(tiny("llama")), list[Any]()
    with scheduled(model, chunk=8, observe=ticks.append) as scheduler, ThreadPoolExecutor(2) as pool:
        chat = {"prompts": [[5, 6]], "rows": [Row(seed=0)], "max_new_tokens": 60}
        rows = [Row(seed=s, prompt=s) for s in range(12)]
        hybrid = {"prompts": [[7 + i] * 20 for i in range(12)], "rows": rows, "max_new_tokens": 2}
        with scheduler.turns:
            waiting = [pool.submit(call_of, SharedEngine(scheduler), chat)]
            while scheduler.waiting < 1:
                time.sleep(0.001)
            waiting.append(pool.submit(call_of, SharedEngine(scheduler), hybrid))
            while scheduler.waiting < 2:
                time.sleep(0.001)
        for future in waiting:
            future.result(20)
    assert sum(t.read for t in ticks) == 2 + 12 * 20 and max(t.read for t in ticks[1:]) == 8


def test_who_cancels_leaves_at_once_and_hurts_nobody() -> None:
    model = lm(tiny("llama"))
    call = {"prompts": [[5, 9, 77]], "rows": [Row(seed=s) for s in range(4)], "max_new_tokens": 40}
    want = decode(model, weights="native", **call)
    with scheduled(model) as scheduler, ThreadPoolExecutor(4) as pool:
        leaving, staying = SharedEngine(scheduler), SharedEngine(scheduler)
        steps = threading.Semaphore(0)
        long = {**call, "max_new_tokens": 250, "rows": [Row(seed=s) for s in range(9)]}
        gone = pool.submit(call_of, leaving, long, on_step=lambda event: steps.release() or time.sleep(0.005))
        for _ in range(3):
            steps.acquire(timeout=10)
        kept = pool.submit(call_of, staying, call)
        scheduler.cancel(leaving.caller)
        with pytest.raises(Cancelled):
            gone.result(10)
        same(kept.result(10), want)
        assert scheduler.rows == 0 and scheduler.waiting == 0
        with pytest.raises(Cancelled):
            call_of(leaving, call)


@pytest.mark.parametrize("read", ["shared", "each"])
def test_a_late_request_ends_with_what_it_has(read: str) -> None:
    model = lm(tiny("llama"))
    call = {"prompts": [[5, 9, 77]], "rows": [Row(seed=s) for s in range(2)], "max_new_tokens": 250, "read": read}
    with scheduled(model) as scheduler:
        engine = SharedEngine(scheduler, Caller(time.monotonic() + 0.15))
        done = call_of(engine, call, on_step=lambda event: time.sleep(0.01))
        assert all(1 <= len(r.token_ids) < 250 for r in done.outputs)
        assert {r.finish for r in done.outputs} == ({"length"} if read == "shared" else {"cancelled"})
        assert done.interrupted == (read == "each") and engine.caller.late
        with pytest.raises(TimedOut):
            call_of(engine, call)


def test_a_listeners_error_is_its_own() -> None:
    model = lm(tiny("gpt2"))
    call = {"prompts": [[5, 9, 77]], "rows": [Row(seed=s) for s in range(3)], "max_new_tokens": 30}
    want = decode(model, weights="native", **call)

    def refuse(event: Any) -> None:
        if event.done >= 6:
            raise ZeroDivisionError

    def stop(event: Any) -> None:
        if event.done >= 6:
            raise KeyboardInterrupt

    with scheduled(model) as scheduler, ThreadPoolExecutor(3) as pool:
        broken, stopped, fine = (
            pool.submit(call_of, SharedEngine(scheduler), call, on_step=listener) for listener in (refuse, stop, None)
        )
        with pytest.raises(ZeroDivisionError):
            broken.result(10)
        assert [len(r.token_ids) for r in stopped.result(10).outputs] == [2, 2, 2] and stopped.result().interrupted
        same(fine.result(10), want)


def test_bad_numbers_and_bad_input_are_their_own() -> None:
    """A prompt that makes NaN fails alone; so does one that cannot be continued."""
    broken = fresh("llama")
    with torch.no_grad():
        broken.model.embed_tokens.weight[7] = torch.nan
        broken.lm_head.weight[7] = 0.0
    model = lm(broken)
    call = {
        "prompts": [[5, 9, 77]],
        "rows": [Row(seed=s, sampling=SamplingParams(top_k=5)) for s in range(3)],
        "max_new_tokens": 30,
    }
    want = decode(model, weights="native", **call)
    assert all(7 not in r.token_ids for r in want.outputs)
    with scheduled(model) as scheduler, ThreadPoolExecutor(3) as pool:
        good, bad = pool.submit(call_of, SharedEngine(scheduler), call), pool.submit(
            call_of, SharedEngine(scheduler), {**call, "prompts": [[5, 7]]}
        )  # fmt: skip
        with pytest.raises(NumericsError):
            bad.result(10)
        same(good.result(10), want)
        with pytest.raises(InputError, match="is empty"):
            call_of(SharedEngine(scheduler), {**call, "prompts": [[]]})
        for more in ({"rows": [Row(seed=0)] * 1000}, {"max_new_tokens": 2**19, "read": "each"}):
            with pytest.raises(InputError, match="more than this server holds"):
                call_of(SharedEngine(scheduler), {**call, **more})


def test_a_model_that_fails_fails_who_is_there_and_nobody_after(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm(tiny("llama"))
    call = {"prompts": [[5, 9, 77]], "rows": [Row(seed=s) for s in range(3)], "max_new_tokens": 10}
    want = decode(model, weights="native", **call)
    real = loop_module.draw
    with scheduled(model) as scheduler:
        monkeypatch.setattr(loop_module, "draw", lambda *a: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            call_of(SharedEngine(scheduler), call)
        monkeypatch.setattr(loop_module, "draw", real)
        same(call_of(SharedEngine(scheduler), call), want)


def test_closing_answers_everybody() -> None:
    model = lm(tiny("llama"))
    call = {"prompts": [[5, 9]], "rows": [Row(seed=0)], "max_new_tokens": 250}
    scheduler = scheduled(model, rows=1)
    with ThreadPoolExecutor(2) as pool:
        with scheduler:
            on_step = lambda event: time.sleep(0.005)  # noqa: E731
            waiting = [pool.submit(call_of, SharedEngine(scheduler), call, on_step=on_step) for _ in range(2)]
            time.sleep(0.1)
        for future in waiting:
            with pytest.raises(Cancelled):
                future.result(10)
    with pytest.raises(Cancelled):
        call_of(SharedEngine(scheduler), call)


def test_turns_are_given_in_order() -> None:
    turns, seen = FairLock(), list[int]()

    def take(number: int) -> None:
        with turns:
            seen.append(number)

    with turns:
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
        turns.pass_on()  # all five, before the holder goes on
        assert seen == [0, 1, 2, 3, 4]
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("most", [512, 36])
def test_a_beginning_that_prompts_share_is_read_once(most: int) -> None:
    model = tiny("llama")
    dice = random.Random(5)
    shared = [dice.randrange(3, VOCABULARY) for _ in range(20)]
    ways = [
        [*shared, 7, 9, 30],
        [*shared, 11],
        shared[:15],
        shared,
        [8] * 9,
        [*shared, 7, 9, 31],
        [8] * 9,
        [*shared, 11],
    ]
    known = PrefixCache(most)
    new = []
    for ids in ways:
        path: Any = choose(model, "fused")
        prefill, alone = ChunkedPrefill(path, [ids], known), ChunkedPrefill(path, [ids])
        left = prefill.left
        new.append(prefill.advance(100))
        assert alone.advance(100) == len(ids) and prefill.done and left == new[-1]
        torch.testing.assert_close(prefill.logits[0], alone.logits[0], atol=1e-3, rtol=1e-3)
        got, want = prefill.read[0], alone.read[0]
        assert got.length == want.length == len(ids)
        torch.testing.assert_close(got.keys[-1], want.keys[-1], atol=1e-3, rtol=1e-3)
        assert known.tokens <= most
    assert new == ([23, 1, 1, 1, 9, 1, 0, 0] if most == 512 else [23, 1, 1, 1, 9, 3, 9, 1])
    assert known.longest(shared, object()) is None, "other weights"


@pytest.mark.parametrize("family", JOINING)
def test_a_packed_prefill_is_each_prompts_own(family: str) -> None:
    """Prompts of several jobs in one pass, cut anywhere: logits, keys and values are those of a prompt read alone."""
    model, dice = tiny(family), random.Random(family)
    prompts = [[dice.randrange(3, VOCABULARY) for _ in range(dice.choice([1, 4, 9, 30]))] for _ in range(7)]
    prompts.append([*prompts[0], 5, 6])
    path: Any = choose(model, "auto", "native", prompts=2)
    known = PrefixCache()
    some = [ChunkedPrefill(path, prompts[:3], known), *(ChunkedPrefill(path, [ids], known) for ids in prompts[3:])]
    while not all(prefill.done for prefill in some):
        assert 1 <= advance([prefill for prefill in some if not prefill.done], 13) <= 13
    read = [kv for prefill in some for kv in prefill.read]
    logits = [each for prefill in some for each in prefill.logits]
    for ids, kv, last in zip(prompts, read, logits, strict=True):
        alone = ChunkedPrefill(path, [ids])
        assert alone.advance(100) == len(ids) == kv.length
        torch.testing.assert_close(last, alone.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kv.keys[-1], alone.read[0].keys[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kv.values[0], alone.read[0].values[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bad", [None, 3])
def test_prompts_that_wait_together_are_read_together(bad: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of sixteen jobs take two passes, as the first one's beginning may be theirs. One that cannot be read fails
    alone."""
    model = lm(tiny("llama"))
    calls = [{"prompts": [[5, 6, 7, 8, 9 + n]], "rows": [Row(seed=n)], "max_new_tokens": 4} for n in range(16)]
    want = [decode(model, weights="native", **call).outputs[0].token_ids for call in calls]
    passes: list[int] = []
    packed = TorchPath.prefill_packed

    def counted(self: TorchPath, pieces: Any) -> Any:
        if bad is not None and any(9 + bad in piece.ids for piece in pieces):
            raise RuntimeError("no memory")
        passes.append(len(pieces))
        return packed(self, pieces)

    monkeypatch.setattr(TorchPath, "prefill_packed", counted)
    jobs = [job_of(model, {"end_ids": None, "top_logprobs": 0, **call}) for call in calls]
    scheduler = scheduled(model, pause=math.inf)
    for job in jobs:
        scheduler._waiting.append((Caller(), job))
    with scheduler:
        got: list[Any] = [job.result.exception(30) or job.result.result().outputs[0].token_ids for job in jobs]
    if bad is None:
        assert passes == [1, 15]
    else:
        assert str(got.pop(bad)) == "no memory"
        del want[bad]
    assert got == want


def test_rows_whose_length_nobody_named_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run together though all of them to their ends would not fit, and the longest end where it gets short: with
    what they would have said first."""
    monkeypatch.setattr(scheduler_module, "EXPECTED", 4)
    model = lm(tiny("llama"))
    calls = [{"prompts": [[5, 6, 7 + n]], "rows": [Row(seed=n)], "max_new_tokens": 40} for n in range(8)]
    want = [decode(model, weights="native", **call).outputs[0].token_ids for call in calls]
    memory, rows = 8 * (3 + 4 + 2), [0]
    with scheduled(model, tokens=memory, observe=lambda tick: rows.append(tick.rows)) as scheduler:
        step, held = scheduler._batch.step, [0]

        def counted() -> int:
            drawn = step()
            held.append(sum(3 + job.step for job in scheduler._batch.jobs))  # who ended holds nothing any more
            return drawn

        scheduler._batch.step = counted  # type: ignore[method-assign]
        with ThreadPoolExecutor(8) as pool:
            engines = [SharedEngine(scheduler, Caller(open_ended=True)) for _ in calls]
            with scheduler.turns:  # nobody begins before all have come
                coming = [pool.submit(call_of, *both) for both in zip(engines, calls, strict=True)]
                while scheduler.waiting < 8:
                    time.sleep(0.001)
            got = [one.result(60).outputs[0] for one in coming]
        assert max(held) <= memory and max(rows) == 8  # two fit with all that they may hold
        assert len({len(output.token_ids) for output in got}) > 1
        for output, whole in zip(got, want, strict=True):
            assert output.token_ids == whole[: len(output.token_ids)] and len(output.token_ids) >= 4
            assert output.finish == "length"


def test_a_chunk_of_a_prompt_takes_about_a_fixed_time() -> None:
    """What the last chunks took says how many tokens are read next: no seconds of this machine are looked at."""
    pace = Pace(0.06, least=16)
    assert pace.at_most(128) == 128  # nothing is known yet
    seconds, tokens = 0.0, 128
    for _ in range(8):  # 400 tokens a second
        seconds = tokens / 400
        pace.took(tokens, seconds)
        tokens = pace.at_most(128)
    assert tokens == 24 and seconds == pytest.approx(0.06, rel=0.02)
    for _ in range(8):  # the prompt grows long: each token costs four times as much
        pace.took(tokens, tokens / 100)
        tokens = pace.at_most(128)
    assert tokens == 16  # smaller ones would cost as much
    pace.took(3, 10.0)  # the end of a prompt says nothing
    assert pace.at_most(8) == 8 and pace.at_most(128) == 16
    for _ in range(12):
        pace.took(tokens, tokens / 1e6)
        tokens = pace.at_most(128)
    assert tokens == 128  # quick devices read whole chunks
    slow = Pace(math.inf)
    slow.took(128, 100.0)
    assert slow.at_most(128) == 128  # where nobody waits
