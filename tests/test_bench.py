"""The bench: cells, resuming, choosing and comparing, baselines, the page and the command, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchland import OPEN, Counting, Failing, plan

from thoughtmix import InputError, Pipeline, UnknownName
from thoughtmix.bench import frontier, study
from thoughtmix.bench.baselines import STYLES, numbered
from thoughtmix.bench.cells import Cell, Store
from thoughtmix.bench.contestants import Ask, check_settings, contestant, contestant_names
from thoughtmix.bench.plan import split
from thoughtmix.bench.runner import Stopped, run_cells
from thoughtmix.bench.statistics import Curve

pytest_plugins = ["tinyland"]
CELLS = [Cell("a", s, f"i{i}", k) for k in range(3) for i in range(2) for s in range(2)]


class TestCells:
    def test_each_cell_is_on_disk_before_the_next(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "run", {"x": 1})
        seen: list[int] = []
        run_cells(
            CELLS,
            Counting(),
            store,
            on_progress=lambda p: seen.append(len((tmp_path / "run/cells.jsonl").read_text().splitlines())),
        )
        assert seen == list(range(1, len(CELLS) + 1))
        again = Store(tmp_path / "run", {"x": 1})
        assert again.records == store.records and not again.torn
        run_cells(CELLS, lambda: pytest.fail("nothing is left to do"), again)

    def test_ctrl_c_keeps_what_is_done_and_continuing_gives_the_same(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "a", {})
        with pytest.raises(Stopped, match="4 of 12 cells are kept") as caught:
            run_cells(CELLS, Failing(), store)
        assert caught.value.exit_code == 130
        assert len(Store(tmp_path / "a", {}).records) == 4
        run_cells(CELLS, Counting(), Store(tmp_path / "a", {}))
        assert set(Store(tmp_path / "a", {}).records) == {c.key for c in CELLS}

    def test_a_half_written_line_loses_that_cell_alone(self, tmp_path: Path) -> None:
        run_cells(CELLS, Counting(), Store(tmp_path, {}))
        file = tmp_path / "cells.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-9])
        store = Store(tmp_path, {})
        assert store.torn and len(store.records) == len(CELLS) - 1
        run_cells(CELLS, Counting(), store)
        assert set(Store(tmp_path, {}).records) == {c.key for c in CELLS}
        file.write_bytes(b"{}\n" + whole)
        with pytest.raises(InputError, match="line 1 is damaged"):
            Store(tmp_path, {})

    def test_another_run_is_refused(self, tmp_path: Path) -> None:
        Store(tmp_path, {"n": 8})
        with pytest.raises(InputError, match=r"other settings \(n\)"):
            Store(tmp_path, {"n": 9})
        with pytest.raises(InputError, match="Cannot make the folder"):
            Store(Path("/dev/null/x"), {})

    def test_processes_do_the_same(self, tmp_path: Path) -> None:
        one, two = Store(tmp_path / "1", {}), Store(tmp_path / "2", {})
        run_cells(CELLS, Counting(), one)
        run_cells(CELLS, Counting(), two, workers=2)
        made = [{k: r["made"] for k, r in sorted(s.records.items())} for s in (one, two)]
        assert made[0] == made[1]
        assert not {r["pid"] for r in one.records.values()} & {r["pid"] for r in two.records.values()}

    def test_ray_does_the_same(self, tmp_path: Path) -> None:
        ray = pytest.importorskip("ray")
        one, two = Store(tmp_path / "1", {}), Store(tmp_path / "2", {})
        run_cells(CELLS, Counting(), one)
        try:
            run_cells(CELLS, Counting(), two, workers=2, ray=True)
        finally:
            ray.shutdown()
        assert {k: r["made"] for k, r in one.records.items()} == {k: r["made"] for k, r in two.records.items()}

    def test_workers_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="0 workers"):
            run_cells(CELLS, Counting(), Store(tmp_path, {}), workers=0)


class TestChoosing:
    def test_the_kept_settings_are_those_of_largest_hypervolume(self) -> None:
        quality, diversity = np.tile([-1.0, -2.0, -2.1, -3.0], (5, 1)), np.tile([2.0, 4.0, 3.0, 5.0], (5, 1))
        own = Curve(quality, diversity)
        assert frontier.choose(own, 1, (-4, 1)) == [1]
        assert frontier.choose(own, 3, (-4, 1)) == [0, 1, 3], "the dominated one is left out"
        assert frontier.choose(own, 4, (-4, 1)) == [0, 1, 2, 3]
        with pytest.raises(InputError, match="Cannot keep 5 of 4"):
            frontier.choose(own, 5, (-4, 1))
        assert frontier.best_setting(own, [0, 1, 3], -2.5) == 1
        assert frontier.best_setting(own, [0, 1, 3], 0.0) == 0
        assert frontier.levels(own, 3) == pytest.approx([-2.5, -2.0, -1.5])

    def test_the_split_is_by_seed_and_shares_nothing(self) -> None:
        a, b = split(OPEN, 0.4, seed=1)
        assert {i.id for i in a} & {i.id for i in b} == set() and len(a) + len(b) == len(OPEN)
        assert split(OPEN, 0.4, seed=1) == (a, b) != split(OPEN, 0.4, seed=2)
        assert sum(map(len, split(OPEN, 0.5, limit=4))) == 4
        with pytest.raises(InputError, match="too few"):
            split(OPEN[:2])
        with pytest.raises(InputError, match="development share"):
            split(OPEN, 1.0)


class TestContestants:
    @pytest.mark.parametrize(
        "name",
        ["sampling", "temperature", "top-k", "top-p", "top-nsigma", "paraphrase", "styles", "list", "beam", "gaussian"],
    )
    def test_each_answers_within_the_budget_and_again_the_same(
        self, tinyland: Any, name: str, global_state_untouched: None
    ) -> None:
        pipeline, ask = Pipeline(), Ask(OPEN[0], 4, 2000, 6)
        who = contestant(name)
        ladder = who.ladder(3)
        assert len(ladder) == 3 and len({json.dumps(s) for s in ladder}) == 3
        assert len(who.ladder(1)) == 1
        made = who.answer(pipeline, ask, ladder[1])
        assert 1 <= len(made) <= 4
        assert len(made) == 4 or name == "list"
        assert made.prompt == OPEN[0].prompt
        assert 0 < made.run["tokens"] <= 24
        assert who.answer(pipeline, ask, ladder[1]).texts == made.texts
        if name not in {"beam", "list"}:
            assert [t.seed for t in made] == [2000, 2001, 2002, 2003]
            other = who.answer(pipeline, Ask(OPEN[0], 4, 3000, 6), ladder[2])
            assert other.texts != made.texts

    def test_beams_avoid_each_other_by_the_penalty(self, tinyland: Any) -> None:
        pipeline, ask = Pipeline(), Ask(OPEN[0], 4, 0, 6)
        who = contestant("beam")
        assert len(set(who.answer(pipeline, ask, {"penalty": 0.0}).texts)) == 1, "no penalty: greedy, four times"
        firsts = {t.token_ids[0] for t in who.answer(pipeline, ask, {"penalty": 100.0})}
        assert len(firsts) == 4
        greedy = pipeline(OPEN[0].prompt, 1, temperature=0.0, max_new_tokens=6, measure=False)[0]
        assert who.answer(pipeline, ask, {"penalty": 100.0})[0].token_ids == greedy.token_ids

    def test_noise_is_held_scaled_and_gone_afterwards(self, tinyland: Any) -> None:
        import torch

        from thoughtmix.bench.gaussian import middle_layer, noise

        model = Pipeline().model.model
        ids = torch.tensor([[5, 9, 77, 33]])
        states: list[Any] = []

        def note(module: Any, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        before = model(ids).logits
        for seed, strength in ((1, 0.0), (1, 0.5), (1, 0.5), (2, 0.5)):
            with noise(model, seed, strength):
                handle = middle_layer(model).register_forward_hook(note)
                model(ids)
                handle.remove()
        plain, first, again, other = states
        assert torch.equal(first, again) and not torch.equal(first, other)
        added = (first - plain)[0]
        assert torch.allclose(added, added[0].expand_as(added), atol=1e-5), "the same at every position"
        assert float(added[0].norm() / plain[0].norm(dim=-1).median()) == pytest.approx(0.5, rel=1e-4)
        assert torch.equal(model(ids).logits, before)

    def test_paraphrases_and_styles_are_what_is_asked(self, tinyland: Any) -> None:
        pipeline, ask = Pipeline(), Ask(OPEN[0], 4, 0, 4)
        made = contestant("paraphrase").answer(pipeline, ask, {"temperature": 1.0})
        assert [t.origin["asked"] for t in made] == [OPEN[0].prompt, *OPEN[0].paraphrases, OPEN[0].prompt]
        styled = contestant("styles").answer(pipeline, ask, {"temperature": 1.0})
        assert [t.origin["asked"].rpartition("\n\n")[2] for t in styled] == list(STYLES[:4])
        with pytest.raises(InputError, match="no paraphrases"):
            contestant("paraphrase").answer(pipeline, Ask(type(OPEN[0])("open/x", "open", "w5"), 2, 0, 4), {})

    def test_lists_are_taken_apart(self) -> None:
        assert numbered("Sure!\n1. Red\n2) Blue,\n   dark\n**3.** Green") == ["Red", "Blue,\n   dark", "Green"]
        assert numbered("red\n\nblue") == ["red", "blue"]
        assert numbered("") == [""]

    def test_same_kl(self, tinyland: Any) -> None:
        from thoughtmix.bench.kl import divergence, own_logits, same_divergence, same_kl_ladder
        from thoughtmix.decoding import Sampler

        lm = Pipeline().model
        logits = own_logits(lm, [OPEN[0].prompt, OPEN[1].prompt])
        assert divergence(logits, Sampler())[0] == pytest.approx(0, abs=1e-6)
        for t in (0.6, 1.7):
            assert same_divergence(logits, Sampler(temperature=t)) == pytest.approx(t, abs=1e-4), "itself"
        for sampler in (Sampler(min_p=0.1), Sampler(top_p=0.8), Sampler(top_k=5, temperature=0.9)):
            t = same_divergence(logits, sampler)
            assert t < 1, "truncation is careful"
            assert divergence(logits, Sampler(temperature=t))[0] == pytest.approx(
                divergence(logits, sampler)[0], rel=1e-3
            )
        kept = logits.log_softmax(-1)
        k5 = kept.exp().topk(5).values.sum(-1)
        assert divergence(logits, Sampler(top_k=5))[0] == pytest.approx(float(-k5.log().mean()), rel=1e-4), (
            "-log of the mass kept"
        )
        assert (
            len(same_kl_ladder(lm, [OPEN[0].prompt], [{"temperature": 1.0}, {"top_p": 0.5, "temperature": 1.0}])) == 2
        )

    def test_names(self) -> None:
        for name in contestant_names():
            assert contestant(name).summary
        with pytest.raises(UnknownName, match="Did you mean 'styles'"):
            contestant("style")
        with pytest.raises(InputError, match="a has 2, b has 3"):
            check_settings({"a": [{}, {}], "b": [{}, {}, {}]})


def test_a_whole_run_is_the_same_again_and_when_interrupted(
    tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    the_plan = plan(("temperature", "top-p", "styles"))
    first = study.run(the_plan, Store(tmp_path / "a", the_plan.about()), resamples=199)
    json.dumps(first, allow_nan=False)
    cells = 3 * 3 * 3 * 2 + 3 * 2 * 5 * 2  # thinkers x settings x prompts x seeds: development, then held out
    assert first["cells"] == cells
    from thoughtmix.bench import plan as planned

    calls = 0
    whole = planned._measured

    def stop(*a: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {7, 60}:
            raise KeyboardInterrupt
        return whole(*a)

    monkeypatch.setattr(planned, "_measured", stop)
    for done in (6, 59 - 1):
        with pytest.raises(Stopped, match=f"{min(done, 54) if done < 54 else done - 54} of"):
            study.run(the_plan, Store(tmp_path / "b", the_plan.about()), resamples=199)
    second = study.run(the_plan, Store(tmp_path / "b", the_plan.about()), resamples=199)
    assert second["kinds"] == first["kinds"]
    assert second["examples"] == first["examples"]
    assert first["judge"] == first["model"], "nobody else was named"
    kind = first["kinds"]["open"]
    assert {len(c) for c in kind["chosen"].values()} == {2}
    assert all(kind["best"][t] in kind["chosen"][t] for t in the_plan.thinkers)
    assert {c["thinker"] for c in kind["comparisons"]} == {"top-p", "styles"}
    assert all(c["adjusted"] is None or c["adjusted"] >= c["interval"]["p"] for c in kind["comparisons"])
    ratio = next(c for c in kind["comparisons"] if c["measure"] == "hypervolume ratio")["interval"]
    assert ratio["low"] is None or ratio["low"] <= ratio["value"] <= ratio["high"]
