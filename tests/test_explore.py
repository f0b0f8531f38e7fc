"""Exploratory sampling: its laws, its mathematics, and that it is the same on every path and in every company."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from test_decoding import PATHS, lm
from tiny import fresh, language_model, tiny

from thoughtmix.core.errors import InputError
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine import SamplingParams, SequenceRequest
from thoughtmix.engine.backends.base import DecodingPath
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.job import Job, PromptGroups
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.loop import Batch
from thoughtmix.engine.prefill import ChunkedPrefill
from thoughtmix.engine.row_state import LogitsAdjuster
from thoughtmix.engine.sampling import SamplingTensors, candidates, draw, truncated
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.explore.distiller import Distiller, rms
from thoughtmix.explore.head import OutputHead
from thoughtmix.explore.row_state import ExploringRows
from thoughtmix.thinkers.registry import get_thinker

PROMPT = Prompt.from_user("w5 w6 w7 w8", raw=True)


def think(engine: Any, thinker: str = "explore", n: int = 5, seed: int = 3, **settings: Any) -> tuple[Any, Any]:
    """Thoughts and facts. What is no field of `Request` is an option of the thinker."""
    kind = get_thinker(thinker)
    options = {k: settings.pop(k) for k in list(settings) if k in kind.Options.model_fields}
    how: dict[str, Any] = {"max_new_tokens": 12, "min_p": 0.02, **settings}
    return kind.think(engine, PROMPT, Request(n=n, seed=seed, options=kind.Options(**options), **how))


def texts(found: tuple[Any, Any]) -> list[tuple[int, ...]]:
    return [thought.token_ids for thought in found[0]]


def local(family: str = "llama", path: Any = "auto") -> LocalEngine:
    return LocalEngine(language_model(family), path=path, weights="native" if path != "auto" else "auto")


def hooks_of(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [{"beta": 0.0}, {"creativity": 0.0}])
def test_law_1_without_beta_it_is_plain_sampling_bit_for_bit(off: dict[str, float]) -> None:
    want, got = think(local(), "sampling", temperature=1.0), think(local(), **off)
    assert texts(got) == texts(want)
    assert [t.token_logprobs for t in got[0]] == [t.token_logprobs for t in want[0]]


def test_law_9_a_set_depends_on_its_prompt_settings_and_seeds_alone() -> None:
    state = torch.get_rng_state()
    first = think(local(), beta=2.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert think(local(), beta=2.0)[0] == first[0]
    assert texts(think(local(), beta=2.0, seed=4)) != texts(first)


def test_law_9_who_else_shares_the_batch_changes_nothing() -> None:
    """Sets of other layers, plain sampling, and one that is cancelled, all on one scheduler."""
    model = language_model("llama")
    asked = [{"seed": s, "beta": 1.5, "layer": 1 + s % 2, "n": 2 + s % 3} for s in range(4)]
    want = [think(LocalEngine(model, weights="native"), **how) for how in asked]
    plain = think(LocalEngine(model, weights="native"), "sampling", n=6, max_new_tokens=20)
    got: dict[int, Any] = {}
    with Scheduler(model, chunk=3, weights="native") as scheduler:
        leaver = Caller()

        def ask(number: int) -> None:
            engine = SharedEngine(scheduler, leaver if number == 9 else Caller())
            try:
                if number < 4:
                    got[number] = think(engine, **asked[number])
                else:
                    got[number] = think(engine, "sampling", n=6, max_new_tokens=20)
            except Exception as error:
                got[number] = error

        threads = [threading.Thread(target=ask, args=(number,)) for number in (8, 9, 0, 1, 2, 3)]
        for thread in threads:
            thread.start()
        scheduler.cancel(leaver)
        for thread in threads:
            thread.join()
    assert [texts(got[i]) for i in range(4)] == [texts(w) for w in want]
    assert texts(got[8]) == texts(plain)


def test_rows_that_come_and_go_leave_a_set_as_it_was() -> None:
    """Jobs that join between steps of a set, are removed, or have NaN for logits."""
    model = lm(tiny("llama"))
    head = OutputHead.of(model.model)

    def job(n: int, explores: bool, budget: int) -> Job:
        rows = [
            SequenceRequest((5, 6, 7), s, SamplingParams(min_p=0.02), budget, end_ids=frozenset()) for s in range(n)
        ]
        state: Any = {"row_state": ExploringRows(head, n, 2.0, 1, 16, 100.0, 0)} if explores else {}
        return Job(model, PromptGroups.of_equal([r.prompt for r in rows], rows), **state)  # type: ignore[misc]

    def join(batch: Batch, one: Job) -> None:
        prefill = ChunkedPrefill(choose(model.model, weights="native"), one.heads)  # type: ignore[arg-type]
        while not prefill.done:
            prefill.advance(100)
        batch.join(one, prefill)

    alone, batch = job(3, True, 10), Batch()
    join(batch, alone)
    while batch.jobs:
        batch.step()
    before, mine, after, batch = job(2, False, 4), job(3, True, 10), job(2, True, 9), Batch()
    join(batch, before)
    batch.step()
    join(batch, mine)
    for step in range(12):
        if step == 2:
            join(batch, after)
        if step == 4:
            batch._logits = batch._logits.clone()
            batch._logits[batch.rows - 1] = torch.nan  # the last row of `after`
        if batch.jobs:
            batch.step()
        if step == 1:
            batch.remove(before)
    same = [o.token_ids for o in mine.result.result().outputs]
    assert same == [o.token_ids for o in alone.result.result().outputs]
    assert after.result.exception() is not None


def test_law_8_bad_input() -> None:
    with pytest.raises(InputError, match=r"layer is 3, and tiny-llama has 3 layers.*Pass layer=1 to 2"):
        think(local(), layer=3)
    engine, head = local(), OutputHead.of(tiny("llama"))
    row, state = SequenceRequest((5,), 0), ExploringRows(head, 1, 1.0, 1, 8, 10.0, 0)
    with pytest.raises(InputError, match="without replacement"):
        engine.generate([row], row_state=state, without_replacement=True)
    odd = fresh("llama")
    whole = odd.forward
    odd.forward = lambda *a, **k: _halved(whole(*a, **k))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="more than its head"):
        OutputHead.of(odd)


def _halved(out: Any) -> Any:
    out.logits = out.logits / 2
    return out


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*PATHS, "mixture"])
def test_every_family_gives_the_same_set_twice_and_is_left_as_it_was(family: str) -> None:
    engine = local(family)
    model = engine.model.model
    hooks = hooks_of(model)
    found, facts = think(engine, beta=2.0, width=16, n=3, max_new_tokens=6)
    assert hooks_of(model) == hooks
    assert facts["path"] == choose(model).name
    assert texts((found, facts)) == texts(think(engine, beta=2.0, width=16, n=3, max_new_tokens=6))
    assert all(0 < t.origin["novelty"] < 10 for t in found if len(t.token_ids) > 2)


def test_every_path_gives_the_same_set() -> None:
    want = think(local(path="fused"), beta=2.0)
    for path in ("shared", "expanded", "recompute"):
        got = think(local(path=path), beta=2.0)
        assert got[1]["path"] == path
        assert texts(got) == texts(want)
        for one, other in zip(got[0], want[0], strict=True):
            assert one.origin["novelty"] == pytest.approx(other.origin["novelty"], abs=2e-3)


@pytest.mark.parametrize("path", ["fused", "shared", "expanded", "recompute"])
def test_a_path_shows_what_the_model_has_between_its_layers(path: Any) -> None:
    model: Any = tiny("llama")
    way: DecodingPath = choose(model, path, "native")
    from thoughtmix.engine.backends.base import Start

    way.start(Start([[5, 6, 7]], [2], 4))
    way.note = frozenset({1, 2})
    way.step(torch.tensor([8, 9]))
    with torch.no_grad():
        for row, last in enumerate((8, 9)):
            out = model(torch.tensor([[5, 6, 7, last]]), output_hidden_states=True)
            for key, layer in ((1, 1), (2, 2), (-1, -1)):
                torch.testing.assert_close(way.hidden[key][row], out.hidden_states[layer][0, -1], atol=1e-4, rtol=1e-4)
    way.close()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom"])
def test_the_head_gives_the_models_logits(family: str) -> None:
    """Gemma 2 caps them."""
    model: Any = tiny(family)
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0][:, -1]))
        logits = model(torch.tensor([[5, 6, 7]])).logits[:, -1]
        hook.remove()
    ids = torch.tensor([[3, 99, 41]])
    torch.testing.assert_close(OutputHead.of(model).logits(ids, seen[0]), logits.gather(1, ids), atol=1e-4, rtol=1e-4)


# --- mathematics ------------------------------------------------------------------------------------------------


def test_the_distiller_is_the_ridge_regression_over_all_it_has_seen() -> None:
    dice = torch.Generator().manual_seed(0)
    x, t = torch.randn(40, 12, generator=dice), torch.randn(40, 7, generator=dice)
    distiller = Distiller(12, 7, width=5, ridge=3.0, seed=1)
    assert not distiller.predict(distiller.features(x)).any(), "nothing is known yet"
    for some in (slice(0, 1), slice(1, 9), slice(9, 40)):
        distiller.learn(distiller.features(x[some]), t[some])
    z = distiller.features(x).double()
    shrunk = torch.diag(torch.tensor([3.0] * 5 + [1e-3], dtype=torch.float64))
    want = torch.linalg.solve(z.T @ z + shrunk, z.T @ t.double())
    torch.testing.assert_close(distiller.predict(z.float()), (z @ want).float(), atol=1e-4, rtol=1e-4)
    assert torch.equal(Distiller(12, 7, 5, 3.0, seed=1).projection, distiller.projection)


def test_what_was_seen_is_no_longer_new() -> None:
    dice = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, 48, generator=dice), torch.randn(4, 32, generator=dice)
    distiller = Distiller(48, 32, 32, ridge=1.0, seed=0)
    for _ in range(50):
        distiller.learn(distiller.features(x), t / rms(t))
    seen = (distiller.predict(distiller.features(x)) - t / rms(t)).square().mean()
    other = torch.randn(4, 48, generator=dice)
    new = (distiller.predict(distiller.features(other)) - t / rms(t)).square().mean()
    assert seen < 0.1 < new


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(min_p=0.1),
        SamplingParams(top_k=5),
        SamplingParams(top_p=0.7, temperature=1.4),
        SamplingParams(),
        SamplingParams(temperature=0.0),
    ],
)
def test_candidates_are_the_likeliest_that_survive(params: SamplingParams) -> None:
    logits = torch.randn(3, 160, generator=torch.Generator().manual_seed(1)) * 3
    logits[0, 20:] = -torch.inf
    how = SamplingTensors.of([params] * 3)
    found, want = candidates(logits, how, 12), truncated(logits, how)
    assert torch.equal(found.ids, found.ids.sort(1).values)
    valid = found.logits.isfinite()
    for row in range(3):
        best = want[row].topk(int(min(12, want[row].isfinite().sum())))
        assert set(found.ids[row][valid[row]].tolist()) == set(best.indices.tolist())
    assert torch.equal(found.logits[valid], logits.gather(1, found.ids)[valid])
    few = int(want.isfinite().sum(1).max()) <= 12
    assert found.rest is None if few else torch.equal(found.rest, want)
    uniform = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    got, drawn = found.draw(uniform, how.temperature, logits), draw(logits, uniform, how)
    assert torch.equal(got.ids, drawn.ids), "nothing was adjusted"
    torch.testing.assert_close(got.logprobs, drawn.logprobs)
    torch.testing.assert_close((got.share, got.rest), (drawn.share, drawn.rest), atol=1e-5, rtol=1e-5)


def test_logits_move_away_from_the_distilled_and_no_mass_is_lost() -> None:
    model: Any = tiny("llama")
    head, dice = OutputHead.of(model), torch.Generator().manual_seed(2)
    how = SamplingTensors.of([SamplingParams(temperature=t, min_p=0.001) for t in (1.0, 0.6, 0.0)])
    rows = ExploringRows(head, 3, beta=0.7, shallow_layer=1, width=8, ridge=1.0, seed=0)
    for step in range(2):
        shallow, deep = torch.randn(3, 48, generator=dice), torch.randn(3, 48, generator=dice)
        logits = head.logits(torch.arange(160).expand(3, -1), deep)
        expected = None if rows.distiller is None else rows.distiller.predict(rows.distiller.features(shallow))
        found = rows.adjust(shallow, deep, logits, how)
        got = found.rest if found.rest is not None else torch.full((3, 160), -torch.inf)
        got = got.scatter(1, found.ids, found.logits)
        survive = truncated(logits, how)
        assert torch.equal(got.isfinite(), survive.isfinite())
        if step == 0:
            assert torch.equal(got, survive), "nothing was expected yet"
    assert expected is not None
    assert torch.equal(got[2], survive[2]), "a greedy row stays greedy"
    distilled = head.logits(torch.arange(160).expand(3, -1), expected / rms(expected) * rms(deep))
    for row, temperature in ((0, 1.0), (1, 0.6)):
        best = survive[row].topk(min(64, int(survive[row].isfinite().sum()))).indices
        moved = got[row, best] - (1.7 * logits[row, best] - 0.7 * distilled[row, best])
        assert float(moved.max() - moved.min()) < 1e-3, "up to a constant"
        before, after = ((x[row] / temperature).logsumexp(0) for x in (survive, got))
        assert float(after) == pytest.approx(float(before), abs=1e-4)


def test_a_row_alone_is_another_row_but_for_its_first_token() -> None:
    """Law 5 holds of the set, not of its thoughts: rows learn from each other."""
    engine = local()
    whole, alone = texts(think(engine, beta=3.0, n=5)), texts(think(engine, beta=3.0, n=1))
    assert whole[0] != alone[0]
    plain = texts(think(engine, "sampling", temperature=1.0))
    assert [t[0] for t in whole] == [t[0] for t in plain]
    assert whole != plain


def test_log_probabilities_are_the_models_own() -> None:
    engine = local()
    thought = think(engine, beta=3.0)[0][1]
    model: Any = engine.model.model
    ids = [*engine.encode(PROMPT), *thought.token_ids]
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(thought.token_ids)
    want = [float(whole[start + i - 1, token]) for i, token in enumerate(thought.token_ids)]
    assert list(thought.token_logprobs) == pytest.approx(want, abs=0.05)


def test_with_arithmetic_draws_and_truncations() -> None:
    engine = local()
    apart = think(engine, beta=1.0, draws="arithmetic", n=8, top_k=3)
    assert texts(apart) == texts(think(engine, beta=1.0, draws="arithmetic", n=8, top_k=3))
    plain = texts(think(engine, "sampling", temperature=1.0, draws="arithmetic", n=8, top_k=3))
    assert [t[0] for t in texts(apart)] == [t[0] for t in plain]


def test_only_a_state_that_adjusts_is_one() -> None:
    from thoughtmix.engine.row_state import NO_ROW_STATE

    assert not isinstance(NO_ROW_STATE, LogitsAdjuster)
    assert isinstance(ExploringRows(OutputHead.of(tiny("llama")), 1, 1.0, 1, 8, 1.0, 0), LogitsAdjuster)
