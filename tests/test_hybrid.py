"""Hybrid: its laws, what selects and what reports, equal budgets, the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx  # noqa: F401  its own import moves the global random state
import numpy as np
import pytest
from badserver import serving
from noiseland import NAMES, chat_model, directions
from tiny import language_model
from tinyland import HashEmbedder

from thoughtmix import Interrupted, Pipeline, cli
from thoughtmix.bench.systems import get_system
from thoughtmix.bench.tasks import Item
from thoughtmix.bench.trials import TrialRequest
from thoughtmix.core.errors import InputError, ModelError, UnknownName
from thoughtmix.engine import LocalEngine
from thoughtmix.engine.endpoint import EndpointEngine
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.thinkers.hybrid import SCORERS, HybridThinker, Stages
from thoughtmix.thinkers.hybrid import _likelihood as likelihood

pytest_plugins = ["tinyland"]
PROMPT = "w9 w10 w11"
SHORT: dict[str, Any] = {"max_new_tokens": 6, "measure": False}


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    return {"file": directions(tmp_path), "directions": NAMES}


@pytest.fixture
def pipeline(tinyland: Any) -> Pipeline:
    return Pipeline(chat_model(), embedder=HashEmbedder())


@pytest.mark.parametrize(
    "stages",
    ["sampling>select>noise", "sampling>noise", "sampling", "noise>select>noise", "sampling>select>noise>select>noise"],
)
@pytest.mark.parametrize("by", ["likelihood", "both"])
def test_a_thought_depends_on_its_own_seed_alone(
    stages: str, by: str, pipeline: Pipeline, own: dict[str, Any], global_state_untouched: None
) -> None:
    how = {**SHORT, **own, "stages": stages, "by": by, "drafts": 4, "report": False}
    many = pipeline(PROMPT, 5, "hybrid", seed=11, **how)
    assert [t.seed for t in many] == [11, 12, 13, 14, 15]
    for i in (0, 4):
        alone = pipeline(PROMPT, 1, "hybrid", seed=11 + i, **how)[0]
        assert (alone.token_ids, alone.origin) == (many[i].token_ids, many[i].origin)
    assert {t.origin["thinker"] for t in many} == {"hybrid"}


def test_ending_in_a_selection(pipeline: Pipeline) -> None:
    """The kept drafts are the likeliest ones, judged anew, and they are sampling's own."""
    drafts = pipeline(PROMPT, 6, "sampling", seed=20, **SHORT)
    how = {**SHORT, "stages": "sampling>select", "drafts": 6, "keep": 3, "draft": 20}
    kept = pipeline(PROMPT, 3, "hybrid", **how)
    values = likelihood(pipeline.model, pipeline.model.encode(PROMPT), drafts.texts)
    assert kept.texts == [drafts.texts[i] for i in np.argsort(np.negative(values), kind="stable")[:3]]
    assert pipeline(PROMPT, 1, "hybrid", seed=2, **how).texts == kept.texts[2:]
    with pytest.raises(InputError, match="4 thoughts of 3 selected"):
        pipeline(PROMPT, 4, "hybrid", **how)


def test_difference_keeps_what_differs(pipeline: Pipeline) -> None:
    how = {**SHORT, "stages": "sampling>select", "drafts": 8, "keep": 3, "temperature": 0.4, "report": False}
    spread = pipeline(PROMPT, 3, "hybrid", by="difference", **how)
    likely = pipeline(PROMPT, 3, "hybrid", by="likelihood", **how)
    measured = [Pipeline(pipeline.model, embedder=HashEmbedder()).embedder.encode(s.texts) for s in (spread, likely)]
    far = [float(1 - (v @ v.T)[np.triu_indices(3, 1)].mean()) for v in measured]
    assert far[0] > far[1]


@pytest.mark.parametrize("by", list(SCORERS))
def test_what_selects_never_reports(by: str, pipeline: Pipeline, own: dict[str, Any]) -> None:
    got = pipeline(PROMPT, 4, "hybrid", by=by, drafts=4, **own, **SHORT)
    uses = {"relevance": "embedder", "distance": "embedder", "likelihood": "generator", "distinct_2": "wording"}
    assert [row["stage"] for row in got.run["stages"]] == ["sampling", "select", "noise"]
    for row in got.run["stages"]:
        told = {*row["quality"], *row["diversity"]}
        assert {uses[name] for name in told} == {"embedder", "generator", "wording"} - SCORERS[by]
    free = pipeline(PROMPT, 4, "hybrid", stages="sampling>noise", drafts=4, **own, **SHORT)
    assert {*free.run["stages"][0]["quality"], *free.run["stages"][0]["diversity"]} == set(uses)


def test_a_judge_reports_and_the_counts_add_up(pipeline: Pipeline, own: dict[str, Any]) -> None:
    got = pipeline(PROMPT, 5, "hybrid", drafts=4, keep=2, judge="gpt2", **own, **SHORT)
    rows = got.run["stages"]
    assert [row["texts"] for row in rows] == [4, 2, 5]
    assert sum(row["tokens"] for row in rows) == got.run["tokens"]
    assert rows[2]["tokens"] == sum(len(t.token_ids) for t in got)
    want = likelihood(
        language_model("gpt2"),
        language_model("gpt2").encode(PROMPT),
        got.texts,
    )
    assert rows[2]["quality"]["judge"] == pytest.approx(np.mean(want), abs=1e-3)
    assert {t.origin["idea"] for t in got} <= {d.text for d in pipeline(PROMPT, 4, "sampling", **SHORT)}


def test_creativity_0_is_the_generators(pipeline: Pipeline, own: dict[str, Any]) -> None:
    got = pipeline(PROMPT, 3, "hybrid", creativity=0, drafts=3, **own, **SHORT)
    assert got.texts == pipeline(PROMPT, 3, "sampling", creativity=0, **SHORT).texts


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"stages": "sampling>noise", "drafts": 3},
        {"stages": "sampling"},
        {"stages": "sampling>select", "drafts": 8, "keep": 8},
        {"stages": "noise>select>noise", "drafts": 2},
        {"stages": "sampling>noise>select>noise", "drafts": 3},
    ],
)
def test_the_bench_gives_everyone_the_same_budget(
    setting: dict[str, Any], pipeline: Pipeline, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows actually decoded, and tokens, against what `rows` says and the budget."""
    decoded: list[int] = []
    generate = LocalEngine.generate

    def counted(engine: LocalEngine, sequences: Any, **how: Any) -> Any:
        decoded.append(len(sequences))
        return generate(engine, sequences, **how)

    monkeypatch.setattr(LocalEngine, "generate", counted)
    request = TrialRequest(Item("open/x", "open", PROMPT), 8, 0, 9)
    made = get_system("hybrid").answer(pipeline, request, {**own, "report": False, **setting})
    assert sum(decoded) == Stages.parse(HybridThinker.Options(**setting)).texts(8)
    assert len(made) == 8 and made.run["tokens"] <= 8 * 9
    decoded.clear()
    made = get_system("noise").answer(pipeline, request, {**own, "creativity": 1.0})
    assert sum(decoded) == 9 and made.run["tokens"] <= 8 * 9


def test_bad_pipelines_are_one_line(pipeline: Pipeline) -> None:
    for bad, says in (
        ({"stages": "samplin>noise"}, "Did you mean 'sampling'"),
        ({"stages": "sampling>slect"}, "Did you mean 'select'"),
        ({"stages": "hybrid>noise"}, "Unknown first stage"),
        ({"stages": "sampling>sampling"}, "Unknown later stage"),
        ({"stages": ""}, "stages is ''"),
        ({"stages": 3}, "stages is 3"),
        ({"drafts": 0}, "drafts is 0"),
        ({"keep": 9}, "keep is 9 of 8"),
        ({"by": "luck"}, "Unknown by"),
        ({"level": 2}, "is 2"),
        ({"temperature": [0.5] * 2}, "one temperature"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            pipeline(PROMPT, 2, "hybrid", **SHORT, **bad)
        assert caught.value.hint
    with pytest.raises(UnknownName):
        Stages.parse(HybridThinker.Options(stages="x"))


def test_ctrl_c_in_any_stage(pipeline: Pipeline, own: dict[str, Any]) -> None:
    seen: list[Any] = []
    pipeline(PROMPT, 3, "hybrid", drafts=3, on_step=seen.append, **own, **SHORT)
    assert [e.done for e in seen] == sorted(e.done for e in seen) and {e.total for e in seen} == {36}
    for after in (3, 20):

        def stop(event: Any, after: int = after) -> None:
            if event.done >= after:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted) as caught:
            pipeline(PROMPT, 3, "hybrid", drafts=3, on_step=stop, **own, **SHORT)
        assert len(caught.value.thoughts) == 3 and all(t.finish == "cancelled" for t in caught.value.thoughts)


def test_renoising_drafts(tinyland: Any) -> None:
    from thoughtmix.diffusion.load import load_diffusion
    from thoughtmix.models import wrap_model

    dm = load_diffusion()
    masks = Pipeline(wrap_model(dm.denoiser.model, dm.tokenizer, "shakespeare-diffusion"), embedder=HashEmbedder())
    how: dict[str, Any] = {
        "stages": "diffusion>select>renoise",
        "by": "difference",
        "drafts": 3,
        "max_new_tokens": 16,
        "measure": False,
    }
    got = masks("ROMEO:", 3, "hybrid", level=0.3, seed=5, **how)
    assert masks("ROMEO:", 1, "hybrid", level=0.3, seed=7, **how).texts == got.texts[2:]
    assert all(len(t.text) == len(t.origin["idea"]) and t.text != t.origin["idea"] for t in got)
    assert [row["stage"] for row in got.run["stages"]] == ["diffusion", "select", "renoise"]
    words = Pipeline(chat_model(), embedder=HashEmbedder())
    with pytest.raises(InputError, match="mask_model"):  # "w12" has digits, which Shakespeare's letters lack
        words(PROMPT, 2, "hybrid", stages="sampling>renoise", **SHORT)


@pytest.mark.parametrize("by", ["difference", None])
def test_on_an_endpoint(by: str | None, own: dict[str, Any]) -> None:
    """What needs only text runs there: drafts, selection by an embedding (relevance, unless named), rewriting."""
    with serving(lambda number, body: "ok") as server:
        there = Pipeline(engine=EndpointEngine(Endpoint(server.url)), embedder=HashEmbedder())
        got = there("A question?", 3, "hybrid", drafts=4, keep=2, seed=2, **({"by": by} if by else {}), **own, **SHORT)
        plain = there("A question?", 2, "sampling", seed=8, **SHORT)
    drafts, rewritings = server.seen[:4], server.seen[4:7]
    assert sorted(body["seed"] for body in drafts) == [0, 1, 2, 3]
    assert sorted(body["seed"] for body in rewritings) == [2, 3, 4]
    assert all([m["role"] for m in body["messages"]] == ["user", "assistant", "user"] for body in rewritings)
    assert [row["stage"] for row in got.run["stages"]] == ["sampling", "select", "noise"]
    assert [row["texts"] for row in got.run["stages"]] == [4, 2, 3]
    assert all("likelihood" not in row["quality"] for row in got.run["stages"])
    assert [t.origin["direction"] for t in got] == ["blue", "red", "green"] and [t.seed for t in got] == [2, 3, 4]
    assert plain.texts == ["A question?"[::-1]] * 2 and sorted(body["seed"] for body in server.seen[7:]) == [8, 9]


def test_an_endpoint_that_fails_for_some_drafts(own: dict[str, Any]) -> None:
    with serving(lambda number, body: "500" if body["seed"] in {1, 3} else "ok") as server:
        there = Pipeline(engine=EndpointEngine(Endpoint(server.url, tries=1)), embedder=HashEmbedder())
        got = there("A question?", 2, "hybrid", stages="sampling>noise", drafts=4, seed=4, **own, **SHORT)
        assert got.run["stages"][0]["texts"] == 2 and all(t.origin["idea"] for t in got)
        with pytest.raises(ModelError, match="gave no thought"):
            there("A question?", 2, "hybrid", stages="sampling>noise", drafts=1, draft=3, **own, **SHORT)


@pytest.mark.parametrize(
    ("thinker", "options", "needs"),
    [
        ("hybrid", {"by": "likelihood"}, "by=likelihood needs"),
        ("hybrid", {"by": "both"}, "by=both needs"),
        ("hybrid", {"stages": "mixture>noise"}, "The stage mixture needs"),
        ("sampling", {"draws": "arithmetic"}, "draws=arithmetic needs"),
        ("search", {"proposal": "mixture"}, "proposal=mixture needs"),
        ("mixture", {}, "The thinker mixture needs"),
        ("experts", {}, "The thinker experts needs"),
        ("diffusion", {}, "The thinker diffusion needs"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_before_anything_is_asked(
    thinker: str, options: dict[str, Any], needs: str
) -> None:
    with serving(lambda number, body: "ok") as server:
        there = Pipeline(engine=EndpointEngine(Endpoint(server.url, "tiny-1")), embedder=HashEmbedder())
        with pytest.raises(InputError, match=needs) as caught:
            there("A question?", 2, thinker, **options, **SHORT)
    assert "Use a local model" in caught.value.hint and "\n" not in str(caught.value)
    assert not server.seen


def test_the_table_is_printed(tinyland: Any, capsys: Any) -> None:
    words = ["think", PROMPT, "--thinker", "hybrid", "-n", "3", "--max-new-tokens", "5", "--option", "drafts=2"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("what each stage added")
    assert lines[at + 1].split() == ["stage", "texts", "tokens", "relevance", "distinct_2", "distance"]
    assert [line.split()[0] for line in lines[at + 2 : at + 5]] == ["sampling", "select", "noise"]
    assert "(+" in lines[at + 4] or "(-" in lines[at + 4]
