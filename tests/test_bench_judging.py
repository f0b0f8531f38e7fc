"""What is said of open prompts with a judge, with a reward model, and with neither; and what may count as the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from badserver import serving
from benchland import OPEN, bench_config
from tinyland import HashEmbedder

from thoughtmix import InputError, ModelError, Thought, ThoughtSet, UnknownName
from thoughtmix.bench import report, study
from thoughtmix.bench.config import BenchConfig, Models
from thoughtmix.bench.judging import Scorers, word_classes
from thoughtmix.bench.scoring import open_axes, score
from thoughtmix.bench.systems import get_system
from thoughtmix.bench.tasks import Item, read_prompts
from thoughtmix.bench.trials import TrialStore
from thoughtmix.metrics.soundness import is_complete, is_sound, parses

pytest_plugins = ["tinyland"]


@pytest.mark.parametrize(
    ("text", "finish", "whole"),
    [
        ("He left.", "length", True), ("He left", "length", False), ("Paris", "stop", True), ("  ", "stop", False),
        ('She said "no."', "length", True), ("**All of it!**", "length", True), ("这是一个答案。", "length", True),
        ("هل هذا جواب؟", "length", True), ("यह उत्तर है।", "length", True), ("Well…", "length", True),
        ("Done 👍", "length", True), ("One idea:\n1. Bricks.\n2.", "length", False), ("First, take a", "cancelled", False),
        ("```python\nx = 1\n```", "length", True), ("It costs 5", "length", False), ("Here are some ideas:", "length", False),
    ],
)  # fmt: skip
def test_complete_is_ended_by_the_model_or_as_a_sentence(text: str, finish: str, whole: bool) -> None:
    assert is_complete(text, finish) is whole


def test_sound_is_complete_no_loop_and_of_the_form_asked_for() -> None:
    assert is_sound("A brick can hold a door.", "length")
    assert not is_sound("and so it goes " * 20 + ".", "stop"), "a loop"
    assert is_sound('Here:\n```json\n{"use": "door stop"}\n```', "stop", "json")
    for text, form, right in (
        ('{"a": 1}', "json", True), ("{a: 1}", "json", False), ("", "json", False), ("[" * 100_000, "json", False),
        ("x = [1, 2]", "python", True), ("x = = 1", "python", False), ("```py\nprint(1)\n```", "python", True),
    ):  # fmt: skip
        assert parses(text, form) is right, text[:20]


def record(texts: Sequence[str], **more: Any) -> dict[str, Any]:
    made = ThoughtSet("q", tuple(Thought(t, (), i, 0.0, "stop") for i, t in enumerate(texts)))
    n = len(texts)
    return {"key": "k", "set": {**made.to_dict(), "distances": np.ones((n, n)).tolist()}, **more}


def test_open_answers_are_scored_without_a_model() -> None:
    item = Item("open/1", "open", "q", (), {"format": "json"})
    got = score(record(['{"a": 1}', "no object"]), item, 4)
    assert (got["complete"], got["sound"], got["parseable"], got["missing"]) == (0.5, 0.25, 0.25, 0.5)
    assert "judge_loglik" not in got


def test_three_ways_to_tell_what_is_the_same() -> None:
    base = "a brick can hold a door open in the wind"
    texts = [base, base.upper() + "!", "a door is held open in wind by a brick", "use it as a paperweight on your desk"]
    assert word_classes(texts) == [0, 0, 0, 1]
    item, made = Item("open/1", "open", "q"), record(texts, classes=[0, 0, 0, 0])
    by = {name: score(made, item, 4, equivalence=name)["distinct_k"] for name in ("embedder", "words", "some/model")}
    assert by == {"embedder": 4.0, "words": 2.0, "some/model": 1.0}
    graded = score({**made, "rewards": [-9.0, 1.0, 1.0, 1.0], "grades": [-5.0, 0.0]}, item, 4, equivalence="words")
    assert graded["utility_k"] == pytest.approx(0.2 / (1 - 0.8**4) * (1 + 0.8**3 * 3)), "grades 1 and 3, of new classes"


def run(tmp_path: Path, systems: tuple[str, ...] = ("sampling",), **more: Any) -> dict[str, Any]:
    config = bench_config(systems, seeds=1, **more)
    store = TrialStore(tmp_path, config.to_dict())
    out = study.run_bench(config, store, resamples=49)
    return {**out, "records": store.records}


def test_without_a_judge_the_report_says_what_it_cannot_claim(tinyland: Any, tmp_path: Path) -> None:
    got = run(tmp_path)
    body = got["kinds"]["open"]
    assert got["judge"] is None and body["axes"]["quality"] == "sound" and body["axes"]["diversity"] == "vendi"
    (says,) = report.limits(got)
    assert "nothing here says that an answer is true" in says and says in report.page(got).replace("&#39;", "'")
    assert {name for name, *_ in tinyland["models"]} == {None}, "no model was loaded to judge"
    assert {"sound", "complete", "repetition", "relevance"} <= set(body["rates"]["sampling"])


def test_who_chose_by_the_embedder_is_not_measured_by_it(tinyland: Any, tmp_path: Path) -> None:
    grid = [
        {"stages": "sampling>select", "drafts": 6, "keep": 3, "by": "difference", "temperature": t} for t in (0.5, 1, 2)
    ]
    grids = {"temperature": get_system("temperature").grid(3), "hybrid": grid}
    got = run(tmp_path / "a", ("temperature", "hybrid"), grids=grids)
    body = got["kinds"]["open"]
    assert body["chose_by_embedder"] == ["hybrid"] and body["equivalence"] == "words"
    assert body["axes"]["diversity"] == "distinct_k" and "words" in body["axes"]["diversity_says"]
    assert any("hybrid asked the embedder" in says for says in report.limits(got))
    for key, trial in got["records"].items():
        assert ("chose_by" in trial) == key.startswith("hybrid|")
    flattered = run(tmp_path / "b", ("temperature", "hybrid"), grids=grids, models=Models(equivalence="embedder"))
    assert flattered["kinds"]["open"]["axes"]["diversity"] == "vendi", "as it was asked for"
    assert any("its diversity is no finding" in says for says in report.limits(flattered))


class Longest:
    """Prefers the answer with more characters in a comparison, and by its rubric what holds w9."""

    name = "longest"

    def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[Any]:
        if words[0] == "first":
            parts = [q.partition("First answer: ")[2].partition("\n\nSecond answer: ") for q in questions]
            return [(1.0, 0.0) if len(a) >= len(b.partition("\n\n")[0]) else (0.0, 1.0) for a, _, b in parts]
        return [(1.0, 0.0) if "w9" in q.partition("Answer: ")[2] else (0.0, 1.0) for q in questions]


@pytest.mark.parametrize(("by", "name"), [("rubric", "judge_yes"), ("pairs", "judge_wins")])
def test_a_judge_by_verdicts(
    tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, name: str
) -> None:
    monkeypatch.setattr(Scorers, "judge", Longest())
    got = run(tmp_path, models=Models(judge="gpt2", judge_by=by))
    body = got["kinds"]["open"]
    assert got["judge"] == "longest" and body["axes"]["quality"] == name
    assert not any("Nobody judged" in says for says in report.limits(got))
    for trial in got["records"].values():
        metrics, texts = trial["set"]["metrics"], [t["text"] for t in trial["set"]["thoughts"]]
        assert 0 <= metrics[name] <= 1 and metrics["judge_silent"] == 0
        if by == "rubric":
            assert metrics[name] == pytest.approx(sum("w9" in t for t in texts) / len(texts), abs=1e-6)
    assert len({t["set"]["metrics"][name] for t in got["records"].values()}) > 1


def test_a_judge_at_an_endpoint_who_goes_by_place_ties_everything(tinyland: Any, tmp_path: Path) -> None:
    script = lambda number, body: "no logprobs" if "logprobs" in body else "says First"  # noqa: E731
    with serving(script) as server:
        got = run(tmp_path, models=Models(judge="m", judge_endpoint=server.url, judge_by="pairs"))
    assert got["judge"].startswith("m at 127.0.0.1") and got["kinds"]["open"]["axes"]["quality"] == "judge_wins"
    assert {trial["set"]["metrics"]["judge_wins"] for trial in got["records"].values()} == {0.5}
    assert got["kinds"]["open"]["rates"]["sampling"]["judge_ties"] == 1
    assert any("asked in both orders" in says for says in report.limits(got))


def test_a_judge_who_never_answers_ends_the_run(tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        name = "silent"

        def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[Any]:
            return [None] * len(questions)

    monkeypatch.setattr(Scorers, "judge", Silent())
    with pytest.raises(ModelError, match="silent gave no verdict on any answer to open/"):
        run(tmp_path, models=Models(judge="gpt2", judge_by="rubric"))


def test_models_that_tell_quality_and_sameness(tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward model is the axis of quality; a second embedder or a classifier tells what is the same."""
    from thoughtmix.models import classifier

    class Fake:
        name, grades = "rewarder", ()

        def __call__(self, prompt: str, texts: Sequence[str]) -> Any:
            return np.array([float(len(t)) - 10 for t in texts])

        def same(self, a: str, b: str) -> bool:
            return True

    monkeypatch.setattr(classifier, "load_reward", lambda *how: Fake())
    monkeypatch.setattr(classifier, "load_sameness", lambda *how: Fake())
    got = run(tmp_path / "a", models=Models(reward="novelty-bench", equivalence="novelty-bench"), max_new_tokens=8)
    body = got["kinds"]["open"]
    assert got["reward"] == "rewarder" and body["axes"]["quality"] == "reward_quality"
    assert {c["measure"] for c in body["comparisons"]} == set() and "Reward model: rewarder" in report.page(got)
    assert all(set(trial["classes"]) == {0} for trial in got["records"].values() if len(trial["classes"])), (
        "all the same"
    )
    monkeypatch.setattr(classifier, "is_classifier", lambda name: False)
    monkeypatch.setattr("thoughtmix.models.load_embedder", lambda name=None, *how, **more: HashEmbedder())
    got = run(tmp_path / "b", models=Models(equivalence="other/embedder"))
    for trial in got["records"].values():
        assert len(trial["classes"]) == len(trial["set"]["thoughts"])


def test_axes_follow_who_judges() -> None:
    assert open_axes(Models(judge="x"), "embedder", False).quality == "judge_loglik"
    assert open_axes(Models(judge_endpoint="http://x"), "embedder", False).quality == "judge_yes"
    assert open_axes(Models(judge="x", reward="y"), "embedder", False).quality == "reward_quality"
    chose = open_axes(Models(), "words", True)
    assert (chose.diversity, chose.reference) == ("distinct_k", (0.0, 0.0))
    assert open_axes(Models(), "words", False).diversity == "vendi"


def test_a_run_of_before_is_continued() -> None:
    """What is new stands in run.json only where it is used."""
    assert set(bench_config().to_dict()["models"]) == {"model", "judge", "embedder", "dtype", "device"}
    assert Models(reward="r").to_dict()["reward"] == "r"


@pytest.mark.parametrize(
    ("how", "says", "kind"),
    [
        ({"judge_by": "rubric"}, "Nobody was named", InputError),
        ({"judge": "x", "judge_by": "rubrik"}, "Did you mean 'rubric'", UnknownName),
        ({"judge_endpoint": "http://x", "judge_by": "likelihood"}, "no likelihood", InputError),
    ],
)
def test_bad_ways_to_judge(how: dict[str, Any], says: str, kind: Any) -> None:
    with pytest.raises(kind, match=says):
        Models(**how)


def test_a_prompt_may_name_the_form_of_its_answers(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "Give JSON.", "format": "json"}))
    assert read_prompts(file)[0].data == {"format": "json"}
    file.write_text(json.dumps({"prompt": "Give YAML.", "format": "yaml"}))
    with pytest.raises(InputError, match="no format 'yaml'"):
        read_prompts(file)


def test_the_config_is_still_checked() -> None:
    assert isinstance(bench_config(development=OPEN[:1], held_out=OPEN[1:]), BenchConfig)
