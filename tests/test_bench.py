"""The bench: trials, resuming, choosing and comparing, baselines, the page and the command, on a tiny model."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchland import OPEN, Counting, Failing, bench_config

from thoughtmix import InputError, Pipeline, UnknownName
from thoughtmix.bench import frontier, report, statistics, study
from thoughtmix.bench.baselines import STYLES
from thoughtmix.bench.config import split_items
from thoughtmix.bench.grids import check_equal_lengths
from thoughtmix.bench.judging import Scorers
from thoughtmix.bench.statistics import Curve
from thoughtmix.bench.systems import equal_budget, get_system, system_names
from thoughtmix.bench.trials import Stopped, Trial, TrialRequest, TrialStore, run_trials
from thoughtmix.cli import bench as command

pytest_plugins = ["tinyland"]
TRIALS = [Trial("a", s, f"i{i}", k) for k in range(3) for i in range(2) for s in range(2)]


class TestTrials:
    def test_each_trial_is_on_disk_before_the_next(self, tmp_path: Path) -> None:
        store = TrialStore(tmp_path / "run", {"x": 1})
        seen: list[int] = []
        run_trials(
            TRIALS,
            Counting(),
            store,
            on_progress=lambda p: seen.append(len((tmp_path / "run/cells.jsonl").read_text().splitlines())),
        )
        assert seen == list(range(1, len(TRIALS) + 1))
        again = TrialStore(tmp_path / "run", {"x": 1})
        assert again.records == store.records and not again.torn
        run_trials(TRIALS, lambda: pytest.fail("nothing is left to do"), again)

    def test_ctrl_c_keeps_what_is_done_and_continuing_gives_the_same(self, tmp_path: Path) -> None:
        store = TrialStore(tmp_path / "a", {})
        with pytest.raises(Stopped, match="4 of 12 trials are kept") as caught:
            run_trials(TRIALS, Failing(), store)
        assert caught.value.exit_code == 130
        assert len(TrialStore(tmp_path / "a", {}).records) == 4
        run_trials(TRIALS, Counting(), TrialStore(tmp_path / "a", {}))
        assert set(TrialStore(tmp_path / "a", {}).records) == {c.key for c in TRIALS}

    def test_a_half_written_line_loses_that_trial_alone(self, tmp_path: Path) -> None:
        run_trials(TRIALS, Counting(), TrialStore(tmp_path, {}))
        file = tmp_path / "cells.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-9])
        store = TrialStore(tmp_path, {})
        assert store.torn and len(store.records) == len(TRIALS) - 1
        run_trials(TRIALS, Counting(), store)
        assert set(TrialStore(tmp_path, {}).records) == {c.key for c in TRIALS}
        file.write_bytes(b"{}\n" + whole)
        with pytest.raises(InputError, match="line 1 is damaged"):
            TrialStore(tmp_path, {})

    def test_another_run_is_refused(self, tmp_path: Path) -> None:
        TrialStore(tmp_path, {"n": 8})
        with pytest.raises(InputError, match=r"other settings \(n\)"):
            TrialStore(tmp_path, {"n": 9})
        with pytest.raises(InputError, match="Cannot make the folder"):
            TrialStore(Path("/dev/null/x"), {})

    def test_a_folder_of_the_first_version_is_continued(self, tmp_path: Path) -> None:
        """Names of that version: `thinkers` and `ladders` in run.json, a line of `cells.jsonl` for each trial."""
        config = bench_config(("temperature",), seeds=1)
        assert set(config.to_dict()) == {
            "thinkers", "ladders", "development", "held_out", "n", "max_new_tokens", "seeds", "keep", "seed",
            "threshold", "models",
        }  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps(config.to_dict()))
        (tmp_path / "cells.jsonl").write_text('{"key":"temperature|2|open/1|0","made":"then"}\n')
        store = TrialStore(tmp_path, config.to_dict())
        assert Trial("temperature", 2, "open/1", 0).key in store.records
        run_trials(config.development_trials(), Counting(), store)
        assert len(store.records) == 9 and store.records["temperature|2|open/1|0"]["made"] == "then"

    def test_processes_do_the_same(self, tmp_path: Path) -> None:
        one, two = TrialStore(tmp_path / "1", {}), TrialStore(tmp_path / "2", {})
        run_trials(TRIALS, Counting(), one)
        run_trials(TRIALS, Counting(), two, workers=2)
        made = [{k: r["made"] for k, r in sorted(s.records.items())} for s in (one, two)]
        assert made[0] == made[1]
        assert not {r["pid"] for r in one.records.values()} & {r["pid"] for r in two.records.values()}

    def test_ray_does_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        one, two = TrialStore(tmp_path / "1", {}), TrialStore(tmp_path / "2", {})
        run_trials(TRIALS, Counting(), one)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # so that its workers find this test's helpers
        try:
            run_trials(TRIALS, Counting(), two, workers=2, ray=True)
        finally:
            ray.shutdown()
        assert {k: r["made"] for k, r in one.records.items()} == {k: r["made"] for k, r in two.records.items()}

    def test_workers_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="0 workers"):
            run_trials(TRIALS, Counting(), TrialStore(tmp_path, {}), workers=0)


class TestChoosing:
    def test_the_kept_settings_are_those_of_largest_hypervolume(self) -> None:
        quality, diversity = np.tile([-1.0, -2.0, -2.1, -3.0], (5, 1)), np.tile([2.0, 4.0, 3.0, 5.0], (5, 1))
        own = Curve(quality, diversity)
        assert frontier.choose_settings(own, 1, (-4, 1)) == [1]
        assert frontier.choose_settings(own, 3, (-4, 1)) == [0, 1, 3], "the dominated one is left out"
        assert frontier.choose_settings(own, 4, (-4, 1)) == [0, 1, 2, 3]
        with pytest.raises(InputError, match="Cannot keep 5 of 4"):
            frontier.choose_settings(own, 5, (-4, 1))
        assert frontier.best_setting(own, [0, 1, 3], -2.5) == 1
        assert frontier.best_setting(own, [0, 1, 3], 0.0) == 0
        assert frontier.quality_levels([own, own], 3) == pytest.approx([-2.325, -2.05, -1.75])

    def test_the_split_is_by_seed_and_shares_nothing(self) -> None:
        a, b = split_items(OPEN, 0.4, seed=1)
        assert {i.id for i in a} & {i.id for i in b} == set() and len(a) + len(b) == len(OPEN)
        assert split_items(OPEN, 0.4, seed=1) == (a, b) != split_items(OPEN, 0.4, seed=2)
        assert sum(map(len, split_items(OPEN, 0.5, limit=4))) == 4
        with pytest.raises(InputError, match="too few"):
            split_items(OPEN[:2])
        with pytest.raises(InputError, match="development share"):
            split_items(OPEN, 1.0)


class TestSystems:
    @pytest.mark.parametrize(
        "name",
        ["sampling", "arithmetic", "temperature", "top-k", "top-p", "top-nsigma", "paraphrase", "styles", "examples",
         "list", "beam", "gaussian"],
    )  # fmt: skip
    def test_each_answers_within_the_budget_and_again_the_same(
        self, tinyland: Any, name: str, global_state_untouched: None
    ) -> None:
        pipeline, request = Pipeline(), TrialRequest(OPEN[0], 4, 2000, 6)
        who = get_system(name)
        grid = who.grid(3)
        assert len(grid) == 3 and len({json.dumps(s) for s in grid}) == 3
        assert len(who.grid(1)) == 1
        made = who.answer(pipeline, request, grid[1])
        assert 1 <= len(made) <= 4
        assert len(made) == 4 or name == "list"
        assert made.prompt == OPEN[0].prompt
        assert 0 < made.run["tokens"] <= 24
        assert who.answer(pipeline, request, grid[1]).texts == made.texts
        if name not in {"beam", "list"}:
            assert [t.seed for t in made] == [2000, 2001, 2002, 2003]
            other = who.answer(pipeline, TrialRequest(OPEN[0], 4, 3000, 6), grid[2])
            assert other.texts != made.texts

    def test_beams_avoid_each_other_by_the_penalty(self, tinyland: Any) -> None:
        pipeline, request = Pipeline(), TrialRequest(OPEN[0], 4, 0, 6)
        who = get_system("beam")
        assert len(set(who.answer(pipeline, request, {"penalty": 0.0}).texts)) == 1, "no penalty: greedy, four times"
        firsts = {t.token_ids[0] for t in who.answer(pipeline, request, {"penalty": 100.0})}
        assert len(firsts) == 4
        greedy = pipeline(OPEN[0].prompt, 1, temperature=0.0, max_new_tokens=6, measure=False)[0]
        assert who.answer(pipeline, request, {"penalty": 100.0})[0].token_ids == greedy.token_ids

    def test_noise_is_held_scaled_and_gone_afterwards(self, tinyland: Any) -> None:
        import torch

        from thoughtmix.bench.baselines import added_noise, middle_layer

        model = Pipeline().model.model
        ids = torch.tensor([[5, 9, 77, 33]])
        states: list[Any] = []

        def note(module: Any, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        before = model(ids).logits
        for seed, strength in ((1, 0.0), (1, 0.5), (1, 0.5), (2, 0.5)):
            with added_noise(model, seed, strength):
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
        pipeline, request = Pipeline(), TrialRequest(OPEN[0], 4, 0, 4)
        made = get_system("paraphrase").answer(pipeline, request, {"temperature": 1.0})
        assert [t.origin["asked"] for t in made] == [OPEN[0].prompt, *OPEN[0].paraphrases, OPEN[0].prompt]
        styled = get_system("styles").answer(pipeline, request, {"temperature": 1.0})
        assert [t.origin["asked"].rpartition("\n\n")[2] for t in styled] == list(STYLES[:4])
        shown = get_system("examples").answer(pipeline, request, {"temperature": 1.0})
        assert [t.origin["way"] for t in shown] == [0, 1, 2, 3]
        assert all(t.origin["asked"].endswith(f"\n\n{OPEN[0].prompt}") for t in shown)
        assert len(set(shown.texts)) > 1
        with pytest.raises(InputError, match="no paraphrases"):
            get_system("paraphrase").answer(pipeline, TrialRequest(type(OPEN[0])("open/x", "open", "w5"), 2, 0, 4), {})

    def test_same_kl(self, tinyland: Any) -> None:
        from thoughtmix.bench.grids import kl_divergence, own_logits, same_kl_grid, same_kl_temperature
        from thoughtmix.engine import SamplingParams

        lm = Pipeline().model
        logits = own_logits(lm, [OPEN[0].prompt, OPEN[1].prompt])
        assert kl_divergence(logits, SamplingParams())[0] == pytest.approx(0, abs=1e-6)
        for t in (0.6, 1.7):
            assert same_kl_temperature(logits, SamplingParams(temperature=t)) == pytest.approx(t, abs=1e-4), "itself"
        for sampler in (SamplingParams(min_p=0.1), SamplingParams(top_p=0.8), SamplingParams(top_k=5, temperature=0.9)):
            t = same_kl_temperature(logits, sampler)
            assert t < 1, "truncation is careful"
            assert kl_divergence(logits, SamplingParams(temperature=t))[0] == pytest.approx(
                kl_divergence(logits, sampler)[0], rel=1e-3
            )
        kept = logits.log_softmax(-1)
        k5 = kept.exp().topk(5).values.sum(-1)
        assert kl_divergence(logits, SamplingParams(top_k=5))[0] == pytest.approx(float(-k5.log().mean()), rel=1e-4), (
            "-log of the mass kept"
        )
        assert len(same_kl_grid(lm, [OPEN[0].prompt], [{"temperature": 1.0}, {"top_p": 0.5, "temperature": 1.0}])) == 2

    def test_every_thinker_has_the_same_budget(self) -> None:
        """What a thinker of another package declares counts, and one that declares nothing draws a text a thought."""
        from thoughtmix import Thinker, get_thinker, thinker_names
        from thoughtmix.core.options import ThinkerOptions, option

        class Plain(Thinker):
            name, summary = "plain", "Says nothing of itself."

            def think(self, engine: Any, prompt: Any, request: Any) -> Any:
                raise NotImplementedError

        class Own(Plain):
            class Options(ThinkerOptions):
                tries: int = option(1, "How often.")

            def texts(self, n: int, options: Any) -> int:
                return n * int(options.tries)

        class Capped(Plain):
            token_budget_option = "most"

        request = TrialRequest(OPEN[0], 4, 0, 9)
        assert equal_budget(get_thinker("noise"), {}, request) == {"max_new_tokens": 36 // 5}
        assert equal_budget(get_thinker("noise"), {"idea": "w5"}, request) == {"max_new_tokens": 9, "idea": "w5"}
        assert equal_budget(get_thinker("search"), {"budget": 999}, request) == {"max_new_tokens": 9, "budget": 36}
        assert equal_budget(Plain(), {"creativity": 1.0}, request) == {"max_new_tokens": 9, "creativity": 1.0}
        assert equal_budget(Own(), {"tries": 3}, request) == {"max_new_tokens": 3, "tries": 3}
        assert equal_budget(Capped(), {}, request) == {"max_new_tokens": 9, "most": 36}
        assert set(thinker_names()) <= set(system_names())

    def test_names(self) -> None:
        for name in system_names():
            assert get_system(name).summary
        with pytest.raises(UnknownName, match="Did you mean 'styles'"):
            get_system("style")
        with pytest.raises(InputError, match="a has 2, b has 3"):
            check_equal_lengths({"a": [{}, {}], "b": [{}, {}, {}]})


def test_a_whole_run_is_the_same_again_and_when_interrupted(
    tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bench_config(("temperature", "top-p", "styles"))
    first = study.run_bench(config, TrialStore(tmp_path / "a", config.to_dict()), resamples=199)
    json.dumps(first, allow_nan=False)
    trials = 3 * 3 * 3 * 2 + 3 * 2 * 5 * 2  # systems x settings x prompts x seeds: development, then held out
    assert first["cells"] == trials == config.trial_count
    calls = 0
    whole = Scorers.measured

    def stop(*a: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {7, 60}:
            raise KeyboardInterrupt
        return whole(*a)

    monkeypatch.setattr(Scorers, "measured", stop)
    for says in ("6 of 114", "58 of 114"):  # of both phases: in the development trials, then in the held-out ones
        with pytest.raises(Stopped, match=says):
            study.run_bench(config, TrialStore(tmp_path / "b", config.to_dict()), resamples=199)
    second = study.run_bench(config, TrialStore(tmp_path / "b", config.to_dict()), resamples=199)
    assert second["kinds"] == first["kinds"]
    assert second["examples"] == first["examples"]
    assert first["judge"] is None, "nobody was named, and the generator is no judge of itself"
    kind = first["kinds"]["open"]
    assert {len(c) for c in kind["chosen"].values()} == {2}
    assert all(kind["best"][t] in kind["chosen"][t] for t in config.systems)
    assert {c["thinker"] for c in kind["comparisons"]} == {"top-p", "styles"}
    assert all(c["adjusted"] is None for c in kind["comparisons"]), "5 prompts show nothing"
    ratio = next(c for c in kind["comparisons"] if c["measure"] == "hypervolume ratio")["interval"]
    assert ratio["low"] is None or ratio["low"] <= ratio["value"] <= ratio["high"]


def bench(*words: str) -> int:
    from thoughtmix import cli

    return cli.main(["bench", *words])


def prompt_file(folder: Path, count: int = 6) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"w{i + 5} w9", "paraphrases": ["w7 <b>"]}) for i in range(count)))
    return file


SMALL = ("-n", "2", "--budget", "8", "--seeds", "1", "--settings", "2", "--keep", "1")


def test_the_command_writes_a_page_and_a_record_and_continues(tinyland: Any, capsys: Any, tmp_path: Path) -> None:
    out, pairs = tmp_path / "out", tmp_path / "pairs.jsonl"
    pairs.write_text('{"a": "w5 w6", "b": "w5 w6", "same": true}\n{"a": "w5 w6", "b": "w80 w90", "same": false}')
    words = ("--thinkers", "sampling,same-kl:top-p,list", "--prompts", str(prompt_file(tmp_path)), "--tasks", "puzzles,countdown",
             "--limit", "5", "--pairs", str(pairs), "--out", str(out), *SMALL)  # fmt: skip
    assert bench(*words) == 0
    printed, err = capsys.readouterr()
    assert "hypervolume ratio" not in printed and "p (Holm)" not in printed, "3 held-out prompts show nothing"
    assert printed.count("Nothing can be seen between thinkers on 3 held-out prompts") == 3
    assert "Wrote" in err and "100% of 2 pairs" in err
    result = json.loads((out / "result.json").read_text())
    assert list(result["kinds"]) == ["open", "coverage", "reasoning"]
    assert len(result["plan"]["ladders"]["same-kl:top-p"]) == 2
    assert result["environment"]["versions"]["numpy"] == np.__version__
    page = (out / "report.html").read_text()
    assert "Nobody judged the answers" in page and "Only 1 seed" in page and "Nobody judged the answers" in printed
    assert page.count('<svg viewBox="0 0 760') == 3
    assert "src=" not in page and "http" not in page.replace("http-equiv", ""), "self-contained"
    assert page.count("Nothing can be seen") == 3 and "p, Holm" not in page
    many = copy.deepcopy(result)
    for kind in many["kinds"].values():
        kind["needed"] = 0  # as a record of more prompts has it
    capsys.readouterr()
    command._print_result(many)
    printed = capsys.readouterr().out
    assert "hypervolume ratio" in printed and printed.count("p (Holm)") == 3
    stripped = report.page(many).partition("<style>")[2].partition("</style>")[2]
    for kind in result["kinds"].values():
        for row in kind["comparisons"]:
            assert row["measure"].replace("_", " ") in stripped
    before = (out / "cells.jsonl").read_bytes()
    assert bench(*words) == 0
    assert "Continuing" in capsys.readouterr().err
    assert (out / "cells.jsonl").read_bytes() == before
    again = json.loads((out / "result.json").read_text())
    assert again["kinds"] == result["kinds"]
    assert bench(*words[:-1], "2") == 2, "other settings"
    assert "holds a run with other settings (keep)" in capsys.readouterr().err


def test_prompts_of_a_file_are_all_that_is_asked_and_quick_is_quick(
    tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts of a file started 1,170 trials of other tasks."""
    seen: list[Any] = []
    monkeypatch.setattr(command, "_run", lambda config, *rest: seen.append(config))
    file = str(prompt_file(tmp_path, 20))
    assert bench("--prompts", file) == 0
    assert bench("--prompts", file, "--tasks", "puzzles", "--limit", "5") == 0
    assert bench("--limit", "5") == 0
    assert bench("--prompts", file, "--quick") == 0
    assert bench("--prompts", file, "--quick", "--seeds", "2", "--limit", "5") == 0
    alone, both, tasks, quick, named = seen
    assert alone.kinds == ["open"] and both.kinds == ["open", "coverage"] and tasks.kinds == ["coverage"]
    assert (alone.seeds, len(alone.items)) == (3, 20)
    assert (quick.seeds, len(quick.items), quick.keep, len(quick.grids["styles"])) == (1, 8, 2, 3)
    assert quick.trial_count < 60 and quick.max_new_tokens == 32
    assert (named.seeds, len(named.items)) == (2, 5), "what is named goes before"


def test_what_is_left_counts_both_phases(tinyland: Any, tmp_path: Path) -> None:
    config, seen = bench_config(("temperature",), seeds=1), list[Any]()
    study.run_bench(config, TrialStore(tmp_path, config.to_dict()), resamples=99, on_progress=seen.append)
    assert [p.done for p in seen] == list(range(1, config.trial_count + 1))
    assert {p.total for p in seen} == {config.trial_count}
    assert all(p.seconds_left > 0 for p in seen[:-1]) and seen[-1].seconds_left == 0


def test_the_fewest_prompts_that_can_show_a_difference() -> None:
    """`Interval.p` is at least 2^(1 - units), times the number of comparisons by Holm."""
    for comparisons in (1, 9, 18, 24, 40):
        units = statistics.least_units(comparisons)
        assert comparisons * 2.0 ** (1 - units) < 0.05 <= comparisons * 2.0 ** (2 - units)
    agreed = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02]  # signs and sizes agree: all that prompts could say
    for count in range(2, 8):
        p = statistics.mean_difference(agreed[:count], [0.0] * count, np.random.default_rng(0)).p
        assert (statistics.holm([p])[0] < 0.05) <= (count >= statistics.least_units(1)), count
    assert p < 0.05


def test_a_named_judge_takes_the_line_away_and_the_generator_as_its_own_is_marked(
    tinyland: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert (
        bench(
            "--thinkers",
            "sampling",
            "--prompts",
            str(prompt_file(tmp_path)),
            "--tasks",
            "none",
            "--judge",
            "gpt2",
            "--out",
            str(out),
            *SMALL,
        )
        == 0
    )
    result = json.loads((out / "result.json").read_text())
    assert (result["judge"], result["model"]) == ("tiny-gpt2", "tiny-llama")
    assert result["kinds"]["open"]["axes"]["quality"] == "judge_loglik"
    page = (out / "report.html").read_text()
    assert "The judge is the generator itself" not in page and "Nobody judged" not in page
    assert "The judge is the generator itself" in report.page({**result, "judge": result["model"]})


def test_what_a_model_writes_cannot_write_the_page(tinyland: Any, tmp_path: Path) -> None:
    from thoughtmix.bench.report import page

    config = bench_config(("temperature",), seeds=1)
    result = study.run_bench(config, TrialStore(tmp_path, config.to_dict()), resamples=99)
    result["examples"][0]["texts"]["temperature"] = ["<script>alert(1)</script>\x1b[2J"]
    made = page(result)
    assert "<script" not in made and "\x1b" not in made and "&lt;script&gt;" in made


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompts", "/missing"), "Cannot read the prompts"), (("--tasks", "none"), "nothing to ask"),
        (("--tasks", "covrage"), "Did you mean 'coverage'"), (("--thinkers", "sampel"), "Did you mean 'sampling'"),
        (("--thinkers", ""), "Unknown thinker"), (("--thinkers", "sampling,sampling"), "named twice"), (("-n", "0"), "n=0"),
        (("--budget", "3"), "0 tokens a thought"), (("--seeds", "0"), "0 seeds"), (("--settings", "0"), "0 settings"),
        (("--keep", "9"), "Cannot keep 9 of 5"), (("--limit", "2"), "too few"), (("--development", "1"), "share of 1"),
        (("--grids", "/missing"), "Cannot read the settings"), (("--workers", "0"), "0 workers"), (("--out", "/dev/null/x"), "Cannot make the folder"),
        (("--pairs", "/missing"), "Cannot read the labelled pairs"), (("--limit", "0"), "too few"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tinyland: Any, capsys: Any, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    assert bench("--out", str(tmp_path / "out"), *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("thoughtmix: "), err
    assert says in err


def test_grids_from_a_file(tinyland: Any, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "grids.json"
    file.write_text('{"sampling": [{"temperature": 0.5}, {"temperature": 1.5}]}')
    base = (
        "--prompts",
        str(prompt_file(tmp_path)),
        "--tasks",
        "none",
        "--grids",
        str(file),
        "--out",
        str(tmp_path / "out"),
        *SMALL,
    )
    assert bench("--thinkers", "sampling,top-p", *base) == 0
    made = json.loads((tmp_path / "out/result.json").read_text())["plan"]["ladders"]
    assert made["sampling"] == [{"temperature": 0.5}, {"temperature": 1.5}] and len(made["top-p"]) == 2
    assert bench("--thinkers", "top-p", *base) == 2
    assert "does not take part" in capsys.readouterr().err
    assert bench("--thinkers", "sampling,top-p", *base, "--settings", "3") == 2
    assert "Unequal numbers of settings" in capsys.readouterr().err
    file.write_text('{"sampling": 3}')
    assert bench("--thinkers", "sampling", *base) == 2
    assert "no JSON object with a list" in capsys.readouterr().err
    assert bench("--thinkers", "paraphrase", "--tasks", "puzzles", "--out", str(tmp_path / "o"), *SMALL) == 0
