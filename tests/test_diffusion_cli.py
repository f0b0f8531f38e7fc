"""`diffuse`, `renoise`, the thinker `diffusion`, and what they show: on a tiny model of random weights in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_diffusion_model import tiny_diffusion
from tinyland import tinyland  # noqa: F401  a fixture

from thoughtmix import InputError, Pipeline
from thoughtmix.cli import main
from thoughtmix.diffusion.branching import BranchingConfig, MultiBranchDiffusion
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.renoise import edit_distance, forget, renoise, token_confidence
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost
from thoughtmix.models import load_model
from thoughtmix.models.language import wrap_model
from thoughtmix.training.checkpoint import save_model

IDEA = "To be, or not to be: that is the question."
CONFIG = DenoisingConfig(Random(), steps=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("model") / "tiny"
    place.mkdir()
    dm = tiny_diffusion()
    save_model(dm.denoiser.model, dm.tokenizer, place)
    return str(place)


# --- noise an idea --------------------------------------------------------------------------------------


@given(
    st.floats(0.01, 1),
    st.sampled_from(["random", "span", "unsure"]),
    st.sampled_from([(), ("be",), ("not to", (0, 3))]),
)
@settings(max_examples=30, deadline=None)
def test_forgetting_is_exact_and_spares_what_is_locked(level: float, how: str, lock: Any) -> None:
    dm = tiny_diffusion()
    state = forget(dm, IDEA, level, [0, 1, 2], how=how, lock=lock, span=5)
    held = {
        i
        for s in lock
        for a, b in ([s] if isinstance(s, tuple) else [(m.start(), m.end()) for m in re.finditer(s, IDEA)])
        for i in range(a, b)
    }
    assert state.locked.sum(1).tolist() == [len(held)] * 3
    assert state.num_masked.tolist() == [max(1, round(level * (len(IDEA) - len(held))))] * 3
    assert not bool((state.masked & state.locked).any())
    done = renoise(dm, IDEA, level, 3, how=how, lock=lock, span=5, config=CONFIG)
    for row, text in enumerate(done.texts):
        assert len(text) == len(IDEA) and all(text[i] == IDEA[i] for i in range(len(IDEA)) if not state.masked[row, i])
    assert not done.state.masked.any() and done.distances == tuple(edit_distance(IDEA, t) for t in done.texts)


@pytest.mark.usefixtures("global_state_untouched")
def test_a_version_is_its_seeds_own() -> None:
    dm = tiny_diffusion()
    three = renoise(dm, IDEA, 0.5, 3, seed=4, config=CONFIG)
    assert len(set(three.texts)) == 3
    assert renoise(dm, IDEA, 0.5, 1, seed=5, config=CONFIG).texts[0] == three.texts[1]


def test_ways_of_forgetting() -> None:
    """Spans come in stretches; the least likely first is what it says, by the model's own probabilities."""
    dm, cost = tiny_diffusion(), ForwardCost()

    def runs(how: str) -> int:
        masked = forget(dm, IDEA, 0.4, list(range(20)), how=how, span=8).masked
        return int((masked[:, 1:] & ~masked[:, :-1]).sum() + masked[:, 0].sum())

    assert runs("span") < 0.6 * runs("random")
    state = forget(dm, IDEA, 0.4, [0, 1], how="unsure", cost=cost)
    assert cost.row_passes == 8 and torch.equal(state.masked[0], state.masked[1])
    whole = state.replace(ids=torch.tensor([dm.encode(IDEA)] * 2), masked=torch.zeros_like(state.masked)).select_rows(
        [0]
    )
    sure = token_confidence(dm, whole)[0]
    assert float(sure[state.masked[0]].max()) <= float(sure[~state.masked[0]].min())
    place = 11  # against one forward in which its eighth is hidden
    ids, hidden = whole.ids.clone(), torch.arange(len(IDEA)) % 8 == place % 8
    ids[0, hidden] = dm.fill
    logits = dm.denoiser(ids, whole.real, {})[0, place].detach()
    logits[list(dm.denoiser.forbidden)] = -torch.inf
    assert float(sure[place]) == pytest.approx(float(logits.softmax(0)[whole.ids[0, place]]), abs=1e-6)


def test_the_curve_rises() -> None:
    dm = tiny_diffusion()
    made = [renoise(dm, IDEA, level, 6, config=CONFIG) for level in (0.1, 0.5, 1.0)]
    means = [sum(r.distances) / 6 for r in made]
    assert means == sorted(means) and means[0] < 0.15 < 0.5 < means[-1]
    assert [r.forgotten for r in made] == pytest.approx([4 / 42, 0.5, 1.0])


@given(st.text("ab", max_size=7), st.text("abc", max_size=7))
@settings(max_examples=100, deadline=None)
def test_edit_distance(a: str, b: str) -> None:
    def slow(x: str, y: str) -> int:
        if not x or not y:
            return len(x) + len(y)
        return min(slow(x[1:], y) + 1, slow(x, y[1:]) + 1, slow(x[1:], y[1:]) + (x[0] != y[0]))

    if len(a) + len(b) < 10:
        assert edit_distance(a, b) == pytest.approx(slow(a, b) / max(1, len(a), len(b)))
    assert edit_distance(a, b) == edit_distance(b, a) and edit_distance(a, a) == 0


def test_renoising_errors() -> None:
    dm = tiny_diffusion()
    for settings_, said in (
        ({"level": 0.0}, "--level"),
        ({"lock": ["king"]}, "does not contain 'king'"),
        ({"lock": [IDEA]}, "Everything is locked"),
        ({"how": "spam"}, "Did you mean 'span'"),
        ({"span": 0}, "1 or more"),
    ):
        with pytest.raises(InputError, match=said):
            forget(dm, IDEA, **{"level": 0.5, "seeds": [0], **settings_})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not know '%'"):
        forget(dm, "be %", 0.5, [0])


# --- the thinker ----------------------------------------------------------------------------------------


@pytest.fixture
def pipeline() -> Pipeline:
    dm = tiny_diffusion()
    return Pipeline(wrap_model(dm.denoiser.model, dm.tokenizer, "tiny"))  # type: ignore[attr-defined]


@pytest.mark.usefixtures("global_state_untouched")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": "first-hitting"},
        {"branches": 3},
        {"branches": 4, "compete": "smc"},
        {"remask": "rescale", "block": 8},
    ],
)
def test_a_thought_is_its_seeds_own(pipeline: Pipeline, options: dict[str, Any]) -> None:
    """Law 5, with private branches too: they compete within their thought."""
    how: dict[str, Any] = {
        "thinker": "diffusion",
        "max_new_tokens": 20,
        "measure": False,
        **({} if "policy" in options else {"steps": 10}),
        **options,
    }
    many = pipeline("To be", n=4, seed=2, temperature=[1.0, 0.8, 1.0, 1.2], **how)
    assert len(set(many.texts)) == 4 and all(len(t.text) == 20 for t in many)
    one = pipeline("To be", n=1, seed=3, temperature=0.8, **how)
    assert one[0].text == many[1].text and one[0].logprob == pytest.approx(many[1].logprob, abs=1e-3)
    assert many[1].logprob == pytest.approx(sum(many[1].token_logprobs)) and many[1].finish == "length"
    assert ("ancestry" in many.run) == ("branches" in options)
    json.dumps(many.to_dict())


def test_the_thinkers_settings(pipeline: Pipeline) -> None:
    how: dict[str, Any] = {"thinker": "diffusion", "max_new_tokens": 20, "measure": False}
    greedy = pipeline("To be", n=3, creativity=0, **how)
    assert len(set(greedy.texts)) == 1, "creativity 0 is deterministic"
    seen: list[Any] = []
    plain = pipeline("To be", n=2, on_step=seen.append, **how)
    assert seen[-1].done == seen[-1].total == 40 and seen[-1].finished == [True, True]
    assert plain.run["row_passes"] == 2 * 20
    stop = plain[0].text[7:9]
    cut = pipeline("To be", n=2, stop=stop, **how)[0]
    assert cut.finish == "stop" and cut.text == plain[0].text[: plain[0].text.index(stop)]
    assert len(cut.token_ids) == len(cut.token_logprobs) == len(cut.text)
    for wrong, said in (
        ({"top_k": 5}, "no top_k"),
        ({"steps": 0}, "steps"),
        ({"policy": "randm"}, "Did you mean 'random'"),
        ({"branches": "x"}, "Pass branches=1"),
        ({"creativity": 0, "policy": "random"}, "draws positions"),
        ({"creativity": 1.0, "temperature": 1.0}, "only one"),
        ({"max_new_tokens": 5000}, "reads 1024"),
        ({"min_p": [0.1, 0.2]}, "one value"),
    ):
        with pytest.raises(InputError, match=said):
            pipeline("To be", n=2, **{**how, **wrong})


def test_interrupted_thoughts_are_kept(pipeline: Pipeline) -> None:
    from thoughtmix import Interrupted

    def stop(event: Any) -> None:
        if event.done > 15:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        pipeline("To be", n=2, thinker="diffusion", max_new_tokens=20, measure=False, on_step=stop)
    assert all(t.finish == "cancelled" and 0 < len(t.text) < 20 for t in caught.value.thoughts)


@pytest.mark.usefixtures("tinyland")
def test_models_of_the_other_kind_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="--model shakespeare-diffusion"):
        Pipeline()("w5 w6", thinker="diffusion", measure=False)
    with pytest.raises(InputError, match="--thinker diffusion"):
        pipeline("To be", n=1, thinker="sampling", measure=False)
    assert pipeline("To be", n=1, max_new_tokens=4, measure=False).thinker == "diffusion"  # what it is made for


def test_a_folder_is_loaded_as_what_it_is(folder: str) -> None:
    lm = load_model(folder, dtype="float32")
    assert not lm.causal and lm.decode(lm.encode("To be")) == "To be"


# --- the command line -----------------------------------------------------------------------------------


def test_diffuse(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "film.html"
    how = ["diffuse", "To be", "--model", folder, "--max-new-tokens", "20", "--steps", "10"]
    assert main([*how, "--html", str(page), "--merge", "2", "--live", "--compete", "best"]) == 0
    out = capsys.readouterr().out
    assert out.count("score") >= 4 and "merged (" in out and "├─" in out and "given up" in out and "row-passes" in out
    body = page.read_text()
    film = json.loads(re.search(r'id="film">(.*?)</script>', body, re.S)[1])  # type: ignore[index]
    assert film["steps"] == 10 and [f["cut"] for f in film["frames"]].count(True) == 2
    last = film["frames"][-1]
    texts = ["".join(film["pieces"][i] for i in ids) for _, ids, _ in last["rows"]]
    assert all(
        t.startswith("To be") and set(marks) <= set("abcdefghijz") and marks[:5] == "zzzzz"
        for t, (_, _, marks) in zip(texts, last["rows"], strict=True)
    )
    assert "http" not in body.replace("http://www.w3.org", ""), "nothing from elsewhere"
    assert main([*how, "--json", "--compete", "none", "--branches", "3"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["schema"] == "thoughtmix/branches" and len(made["branches"]) == 3 and made["row_passes"] == 30
    assert made["ancestry"]["rounds"] == [] and {b["seed"] for b in made["branches"]} == {0, 1, 2}
    assert main(["diffuse", "To <mask:8> not <mask:4>", "--model", folder, "--steps", "6", "--json"]) == 0
    assert all(
        re.fullmatch(r"To .{8} not .{4}", b["text"], re.S) for b in json.loads(capsys.readouterr().out)["branches"]
    )


def test_renoise_command(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["renoise", IDEA, "--model", folder, "--steps", "6", "-n", "2", "--lock", "question"]
    assert main([*how, "--level", "0.2,0.9"]) == 0
    out = capsys.readouterr().out
    assert out.count("seed") == 4 and out.count("question") == 4 and "mean distance" in out
    assert main([*how, "--json", "--mask", "unsure"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["original"] == IDEA and len(made["levels"][0]["texts"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["diffuse", "x", "--branches", "0"], "--branches"),
        (["diffuse", "x", "--compete", "divers"], "Did you mean 'diverse'"),
        (["diffuse", "x", "--at", "0.5,0.2"], "rising"),
        (["diffuse", "x", "--at", "half"], "--at 0.25,0.5"),
        (["diffuse", "x", "--keep", "9"], "--keep 1 to 4"),
        (["diffuse", "x", "--policy", "confidense"], "Did you mean 'confidence'"),
        (["diffuse", "x", "--remask", "cop"], "Did you mean 'cap'"),
        (["diffuse", "x", "--steps", "0"], "--steps"),
        (["diffuse", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["diffuse", "x", "--compete", "smc", "--policy", "confidence"], "--policy random"),
        (["diffuse", "x", "--html", "/nowhere/x.html"], "mkdir -p"),
        (["diffuse", "x", "--model", "/nowhere"], "no model folder"),
        (["renoise", ""], "thoughtmix renoise"),
        (["renoise", "x", "--level", "2"], "--level"),
        (["renoise", "x", "-n", "0"], "-n 4"),
    ],
)
def test_errors_of_the_command_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) != 0
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and said in told.err


def test_the_live_view(folder: str) -> None:
    """Brighter where surer; a branch that was given up fades and then makes room for the copy in its place."""
    from rich.console import Console

    from thoughtmix.report.branches import LiveBranches, _style

    assert _style(0.9, False, False) > _style(0.2, False, False) and _style(0.1, True, True) == "bold"
    dm = tiny_diffusion()
    console = Console(width=120, height=40, force_terminal=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    view, shown = LiveBranches(console, dm), []

    def see(frame: Any) -> None:
        view.show(frame)
        with console.capture() as got:
            console.print(view.render("now"))
        shown.append(got.get())

    how = BranchingConfig("best", (0.4,), keep=2)
    MultiBranchDiffusion(4, dm, branching=how, denoising=DenoisingConfig(Random(), steps=30)).generate_parallel(
        "To be", 30, on_frame=see
    )
    gone = [s.count("given up") for s in shown]
    assert gone[:12] == [0] * 12 and gone[12:22] == [2] * 10 and gone[22:] == [0] * 8
    assert re.search(r"─ \d[b-z] ", re.sub(r"\x1b\[[0-9;]*m", "", shown[-1]))
