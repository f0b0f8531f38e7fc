"""Thoughts by experts: each its own profile in one batch, its seed's alone, and nothing left on the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experts_map import lm, planted, words
from tiny import language_model
from tiny_moe import DECODERS, EXPERTS, tiny_moe

import thoughtmix
from thoughtmix import Request
from thoughtmix.core.errors import InputError, ModelError, UnknownName
from thoughtmix.core.request import Prompt
from thoughtmix.engine.local import LocalEngine
from thoughtmix.experts import ExpertController, Profile, generate_thought_branches
from thoughtmix.experts.branches import NOISE, think_under
from thoughtmix.experts.hooks import _HOOKED
from thoughtmix.experts.profile import ROUTER, save_profiles

PROMPT = [5, 17, 40, 9, 77, 23]
TEXT = Prompt(" ".join(f"w{i}" for i in PROMPT), raw=True)
GREEDY = {"temperature": 0.0, "max_new_tokens": 8}
THINKER = thoughtmix.get_thinker("experts")


def tokens(family: str, profiles: list[Profile], seeds: range, **more: Any) -> list[tuple[int, ...]]:
    settings = {"n": len(profiles), "seed": seeds[0], "max_new_tokens": 8, **more}
    read, path = settings.pop("read", "shared"), settings.pop("path", "auto")
    engine = LocalEngine(lm(family), path)
    return [t.token_ids for t in think_under(engine, TEXT, Request(**settings), profiles, read=read)[0]]


def by_hand(family: str, profile: Profile, steps: int, read: str) -> list[int]:
    """Greedy, one full forward a token; read "shared": the prompt's positions keep the model's own routing, which a full
    forward cannot do, so the cache of the prompt is made first."""
    model, ids = tiny_moe(family), torch.tensor([PROMPT])
    with torch.no_grad(), ExpertController(model) as c:
        c.set(profile if read == "each" else ROUTER)
        out = model(input_ids=ids, use_cache=True)
        c.set(profile)
        made: list[int] = []
        for _ in range(steps):
            made.append(int(out.logits[0, -1].argmax()))
            out = model(input_ids=torch.tensor([made[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return made


@pytest.mark.parametrize("read", ["shared", "each"])
@pytest.mark.parametrize("family", DECODERS)
def test_each_thought_follows_its_own_profile(family: str, read: str) -> None:
    kinds = [ROUTER, Profile("one", force={0: {1: 1.0}, 1: {2: 1.0}}), Profile("b", bias={0: {3: 6.0}}), ROUTER]
    got = tokens(family, kinds, range(4), read=read, temperature=0.0)
    assert [list(t) for t in got] == [by_hand(family, p, 8, read) for p in kinds]
    assert len(set(got)) > 1 and got[0] == got[3]
    assert not _HOOKED


@pytest.mark.parametrize("path", ["shared", "expanded"])
def test_law_5_a_thought_is_its_seeds_own(path: str, global_state_untouched: None) -> None:
    """Among others, with rows that end early and leave, at other places in the batch."""
    kinds = [NOISE, ROUTER, Profile("f", force={0: {1: 1.0}}), Profile("b", bias={1: {0: 3.0}})]
    request = Request(n=8, seed=10, max_new_tokens=10, creativity=0.8, stop=("w42", "w7", "w9", "w100"))
    engine = LocalEngine(lm("mixtral"), path)  # type: ignore[arg-type]
    together, _ = think_under(engine, TEXT, request, kinds * 2)
    assert len({len(t.token_ids) for t in together}) > 1, "some must leave early"
    for i, thought in enumerate(together):
        alone = Request(n=1, seed=10 + i, max_new_tokens=10, creativity=0.8, stop=request.stop)
        assert think_under(engine, TEXT, alone, [kinds[i % 4]])[0][0].token_ids == thought.token_ids
    pipe = thoughtmix.Pipeline(lm("mixtral"), path=path)  # type: ignore[arg-type]
    eight = pipe("w5 w17 w40", 8, "experts", profiles="noise,router,all", measure=False, max_new_tokens=6)
    for thought in eight:
        again = pipe(
            "w5 w17 w40", 1, "experts", seed=thought.seed, profiles="noise,router,all", measure=False, max_new_tokens=6
        )
        assert again[0].token_ids == thought.token_ids and again[0].origin == thought.origin
    assert [t.origin["profile"] for t in eight][:4] == ["noise", "router", "all", "noise"]


def test_creativity_0_is_the_model_itself() -> None:
    pipe = thoughtmix.Pipeline(lm("mixtral"))
    plain = pipe("w5 w17 w40", 2, temperature=0.0, measure=False, max_new_tokens=8)
    still = pipe("w5 w17 w40", 4, "experts", creativity=0, profiles="noise,all", measure=False, max_new_tokens=8)
    assert {t.token_ids for t in still} == {plain[0].token_ids}
    bold = pipe("w5 w17 w40", 6, "experts", creativity=2, temperature=0.0, measure=False, max_new_tokens=8)
    assert len({t.token_ids for t in bold}) > 1, "noise alone must make thoughts differ"


def test_all_experts_at_once_is_the_dense_mixture() -> None:
    """Every expert by the router's probabilities: what the model gives when it may use all of them."""
    from tiny_moe import fresh_moe

    wide = fresh_moe("mixtral")
    for layer in wide.model.layers:
        layer.mlp.gate.top_k = EXPERTS
    want = wide.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    got = generate_thought_branches(lm("mixtral"), "w5 w17 w40 w9 w77 w23", ["all"], **GREEDY)
    turned = generate_thought_branches("w5 w17 w40 w9 w77 w23", lm("mixtral"), ["all"], **GREEDY)
    assert [t.text for t in turned] == [t.text for t in got], "the prototype's order: prompt, model"
    with pytest.raises(InputError, match="no loaded model"):
        generate_thought_branches("w5", "w6")
    assert list(got[0].token_ids) == want[0, 6:].tolist()


def test_branches_by_default_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.experts import analyze_expert_specialization, branches

    model = planted()
    texts = {"low": words(1, 3, 80, 12), "high": words(2, 80, 159, 12)}
    found = analyze_expert_specialization(model, texts, permutations=199)
    monkeypatch.setitem(branches._FOUND, model.model, found)
    made = generate_thought_branches(model, "w5 w17", max_new_tokens=6, seed=3)
    assert [t.origin["profile"] for t in made] == ["router", "all", "low", "high", "noise"]
    assert [t.seed for t in made] == [3, 4, 5, 6, 7]
    got = thoughtmix.Pipeline(model)("w5 w17", 2, "experts", profiles="discovered", measure=False, max_new_tokens=4)
    assert got.run["profiles"] == ["low", "high"]


def test_refusals(tmp_path: Path) -> None:
    pipe = thoughtmix.Pipeline(lm("mixtral"))

    def think(**options: Any) -> Any:
        return pipe("w5", 2, "experts", measure=False, max_new_tokens=3, **options)

    with pytest.raises(InputError, match=r"LlamaForCausalLM has no mixture-of-experts layers.*--thinker"):
        thoughtmix.Pipeline(language_model("llama"))("w5", 1, "experts", measure=False)
    with pytest.raises(UnknownName, match="Did you mean 'noise'"):
        think(profiles="noize")
    with pytest.raises(InputError, match="Cannot read profiles"):
        think(profiles=str(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"No expert of tiny-mixtral is used for.*profiles=noise"):
        think(profiles="discovered")
    with pytest.raises(InputError, match="boost is 'big'"):
        think(boost="big")
    with pytest.raises(InputError, match="nothing would be left to disturb"):
        think(head=2)
    with pytest.raises(InputError, match="Unknown read 'never'"):
        think(read="never")
    save_profiles(tmp_path / "far.json", [Profile("far", bias={9: {0: 1.0}})], {})
    with pytest.raises(InputError, match="'far' names layer 9"):
        think(profiles=str(tmp_path / "far.json"))
    assert not _HOOKED, "a refusal leaves nothing attached"
    with pytest.raises(ModelError, match="does not choose by its largest logits"):
        thoughtmix.Pipeline(lm("deepseek_v3"))("w5", 2, "experts", head=1, measure=False)


# --- the command line ---


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    import thoughtmix.models
    from thoughtmix.cli import main

    monkeypatch.setattr(
        thoughtmix.models, "load_model", lambda name=None, **_: planted() if name == "planted" else lm(name)
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["experts", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_map_then_think(shell: Any, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"low": words(1, 3, 80, 12), "high": words(2, 80, 159, 12)}))
    made, page = tmp_path / "profiles.json", tmp_path / "map.html"
    code, out, err = shell(
        "map", "planted", "--texts", str(texts), "--permutations", "99", "--save", str(made), "--html", str(page)
    )
    assert code == 0, err
    assert "p = 0.01" in out and "low: " in out and "Wrote" in err
    assert page.read_text().startswith("<!doctype html>")
    code, out, err = shell(
        "think",
        "planted",
        "w5 w6",
        "--profiles",
        f"{made},all",
        "-n",
        "3",
        "--max-new-tokens",
        "4",
        "--no-measure",
        "--json",
    )
    assert code == 0, err
    body = json.loads(out)
    assert [t["origin"]["profile"] for t in body["thoughts"]] == ["low", "high", "all"]
    code, out, err = shell(
        "think", "planted", "w5 w6", "--profiles", f"{made},all", "-n", "3", "--max-new-tokens", "4", "--no-measure"
    )
    assert code == 0, err
    said = [line.split(": ")[1].split(" · ")[0] for line in out.splitlines() if line.startswith("thought ")]
    assert said == ["low", "high", "all"], "each thought says its profile"
    code, out, _ = shell("map", "planted", "--texts", str(texts), "--permutations", "19", "--json")
    assert json.loads(out)["labels"] == ["low", "high"]


def test_mistakes_are_one_line(shell: Any, tmp_path: Path) -> None:
    for arguments, says in (
        (["map", "planted", "--texts", str(tmp_path / "no.json")], "Cannot read texts"),
        (["map", "mixtral", "--permutations", "3"], "make no test"),
        (["map", "mixtral", "--permutations", "19", "--save", str(tmp_path / "p.json")], "No label has a profile"),
        (["think", "mixtral", " "], "prompt is empty"),
        (["think", "mixtral", "w5", "--profiles", "loud", "--no-measure"], "Unknown profile 'loud'"),
        (["map"], "Missing argument"),
    ):
        code, _, err = shell(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("thoughtmix:")]
        assert code == 2 and len(lines) == 1 and says in lines[0], err
    assert not (tmp_path / "p.json").exists()


def test_the_thinker_needs_no_torch_to_be_listed() -> None:
    import subprocess
    import sys

    code = (
        "import sys, thoughtmix, thoughtmix.experts; thoughtmix.get_thinker('experts'); print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
