"""What experts are for: statistics against their definitions, honest when there is nothing to find, found when there is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from test_report import Tags
from tiny import VOCABULARY, tokenizer
from tiny_moe import EXPERTS, fresh_moe, tiny_moe

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.engine.rng import generator
from thoughtmix.experts import Profile, Specialization, analyze_expert_specialization
from thoughtmix.experts.analysis import PROMPTS
from thoughtmix.experts.association import (
    mutual_information,
    nearest_mean_accuracy,
    one_hot,
    p_value,
    permuted,
    risk_difference,
    risk_difference_std,
)
from thoughtmix.experts.profile import all_experts, load_profiles, save_profiles
from thoughtmix.models import wrap_model
from thoughtmix.report.experts import experts_page, experts_plain


def lm(family: str = "mixtral", model: Any = None) -> Any:
    return wrap_model(model or tiny_moe(family), tokenizer(), name=f"tiny-{family}")


def words(seed: int, low: int, high: int, count: int, length: int = 14) -> list[str]:
    rng = generator(seed)
    return [" ".join(f"w{i}" for i in rng.integers(low, high, length)) for _ in range(count)]


def planted() -> Any:
    """A model whose layer 0 sends low words to expert 0 and high ones to expert 3: its router reads a planted feature."""
    model = fresh_moe("mixtral")
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = torch.where(torch.arange(VOCABULARY) < 80, 6.0, -6.0)
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.gate.weight.zero_()
        layer.mlp.gate.weight[0, 0], layer.mlp.gate.weight[3, 0] = 5.0, -5.0
        layer.mlp.gate.weight[1:3].normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return lm(model=model)


@pytest.fixture(scope="module")
def found() -> Specialization:
    texts = {"low": words(1, 3, 80, 12), "high": words(2, 80, 159, 12)}
    return analyze_expert_specialization(planted(), texts, permutations=199)


@pytest.fixture(scope="module")
def nothing() -> Specialization:
    texts = {"a": words(3, 3, 159, 10), "b": words(4, 3, 159, 10), "c": words(5, 3, 159, 10)}
    return analyze_expert_specialization(lm(), texts, permutations=199)


def test_a_list_of_prompts_gives_each_ones_usage() -> None:
    prompts = words(1, 3, 80, 2) + words(2, 80, 159, 1)
    got = analyze_expert_specialization(planted(), prompts)
    assert list(got) == prompts and json.loads(json.dumps(got)) == got
    first = next(iter(got[prompts[0]]))
    assert got[prompts[0]][first][0] == 1 == got[prompts[2]][first][3], "low words go to expert 0, high ones to 3"
    with pytest.raises(InputError, match="missing or empty"):
        analyze_expert_specialization(planted(), [])


def test_mutual_information_is_the_textbooks() -> None:
    rng = generator(0)
    labels = rng.integers(0, 3, 40)
    choice = rng.integers(0, 5, (40, 2))
    usage = np.eye(5)[choice]  # one use a text: then it is the plain mutual information of two variables
    got = mutual_information(usage, one_hot(labels, 3))
    want = [mutual_info_score(labels, choice[:, i]) for i in range(2)]
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert mutual_information(np.full((40, 1, 5), 0.2), one_hot(labels, 3))[0] == pytest.approx(0, abs=1e-12)
    perfect = mutual_information(np.eye(3)[labels][:, None], one_hot(labels, 3))[0]
    share = np.bincount(labels) / 40
    assert perfect == pytest.approx(-(share * np.log(share)).sum())


def test_risk_difference_and_its_scale() -> None:
    rng = generator(1)
    rates, labels = rng.random((12, 2, 3)), np.array([0] * 4 + [1] * 8)
    hot = one_hot(labels, 2)
    got = risk_difference(rates, hot)
    np.testing.assert_allclose(got[0], rates[:4].mean(0) - rates[4:].mean(0))
    np.testing.assert_allclose(got[1], -got[0])
    shuffled = permuted(hot, lambda h: risk_difference(rates, h), 4000, 0)
    np.testing.assert_allclose(shuffled.std(0), risk_difference_std(rates, hot), rtol=0.06)
    assert np.isinf(risk_difference_std(np.ones((12, 1, 1)), hot)).all()


def test_recovery_by_the_nearest_mean_leaves_the_text_out() -> None:
    rng = generator(2)
    usage, labels = rng.random((15, 2, 4)), np.repeat([0, 1, 2], 5)
    x = usage.reshape(15, -1)
    x = (x - x.mean(0)) / x.std(0)
    right = 0
    for i in range(15):
        means = [x[[j for j in range(15) if labels[j] == c and j != i]].mean(0) for c in range(3)]
        right += int(np.argmin([((x[i] - m) ** 2).sum() for m in means]) == labels[i])
    assert nearest_mean_accuracy(usage)(one_hot(labels, 3)) == right / 15


def test_p_values() -> None:
    assert p_value(5.0, np.arange(99.0)) == (1 + 94) / 100
    assert p_value(200.0, np.arange(99.0)) == 0.01
    rng = generator(3)
    usage, labels = rng.random((20, 1, 4)), one_hot(np.repeat([0, 1], 10), 2)
    usage /= usage.sum(-1, keepdims=True)
    ps = []
    for trial in range(60):  # under no effect p is even: labels of another trial are as good as these
        hot = labels[generator(100 + trial).permutation(20)]
        chance = permuted(hot, lambda h: mutual_information(usage, h)[..., 0], 99, trial)
        ps.append(p_value(float(mutual_information(usage, hot)[0]), chance))
    assert 0.35 < np.mean(ps) < 0.65 and min(ps) >= 0.01


def test_what_was_planted_is_found(found: Specialization) -> None:
    assert found.total_p == 0.005 and found.accuracy == 1.0 and found.accuracy_p == 0.005
    assert (found.information_p <= 0.05)[0]
    assert (0, 0) in [x[:2] for x in found.experts_of("low")]
    assert (0, 3) in [x[:2] for x in found.experts_of("high")]
    assert (0, 3) not in [x[:2] for x in found.experts_of("low")]
    low = found.profile("low")
    assert low.bias[0][0] > 1 and low.bias[0][3] < -1
    assert found.profile("low", strength=2.0).bias[0][0] == pytest.approx(2 * low.bias[0][0])
    assert found.forced("low", 1).force[0] == [0]
    most, least = found.typical(0, 0)
    assert all(found.text_labels[i] == 0 for i in most) and all(found.text_labels[i] == 1 for i in least)
    with pytest.raises(UnknownName, match="Did you mean 'high'"):
        found.profile("hihg")


def test_figures_add_up(found: Specialization) -> None:
    np.testing.assert_allclose(found.load.sum(1), found.top_k)
    np.testing.assert_allclose(found.usage.mean(0), found.load)
    np.testing.assert_allclose(np.diagonal(found.together, axis1=1, axis2=2), found.load, atol=1e-12)
    np.testing.assert_allclose(found.together.sum((1, 2)), 4)  # two of two experts: 2 x 2 ordered pairs
    assert (found.entropy >= 0).all() and (found.entropy <= math.log(EXPERTS) + 1e-9).all()
    assert found.imbalance.min() >= 1
    assert found.tokens.tolist() == [14] * 24


def test_nothing_is_found_where_nothing_is(nothing: Specialization) -> None:
    assert nothing.total_p > 0.05 and nothing.accuracy < 0.7
    assert not nothing.significant.any() and nothing.profiles() == []
    assert "None. Expert numbers mean nothing here" in experts_page(nothing)


def test_the_built_in_prompts() -> None:
    assert list(PROMPTS) == ["analytical", "creative", "practical", "critical"]
    every = [p for group in PROMPTS.values() for p in group]
    assert all(len(group) == 16 for group in PROMPTS.values()) and len(set(every)) == 64
    assert analyze_expert_specialization(lm("deepseek_v3"), permutations=19).labels == tuple(PROMPTS)


def test_the_page_and_the_json(found: Specialization, tmp_path: Path) -> None:
    import dataclasses

    nasty = dataclasses.replace(found, model="<b>x</b>", texts=("</script><img src=x onerror=1>", *found.texts[1:]))
    text = experts_page(nasty)
    tags = [t for t, _ in Tags(text).tags]
    assert "img" not in tags and "script" not in tags and "<b>x</b>" not in text
    assert "http" not in text.replace("application/json", "")
    assert tags.count("svg") == 4 and tags.count("rect") == 4 + 3 * 3 * EXPERTS + EXPERTS * (EXPERTS - 1)
    body = json.loads(found.to_json(tmp_path / "map.json"))
    assert body == json.loads((tmp_path / "map.json").read_text())
    assert body["mutual_information_p"] == 0.005 and len(body["by_layer"]) == 3
    assert "low: " in experts_plain(found)


def test_profiles_on_disk(tmp_path: Path, found: Specialization) -> None:
    kinds = [
        found.profile("low"),
        all_experts([4, 4]),
        Profile("x", force={1: {2: 0.5}}, exclude={0: [1]}),
        found.forced("low"),
    ]
    save_profiles(tmp_path / "p.json", kinds, found.facts())
    assert load_profiles(tmp_path / "p.json") == kinds
    for wrong in ('{"schema": 1}', "no", '{"schema":"thoughtmix/experts-profiles","version":1,"profiles":[{"name":"a","froce":{}}]}',
                  '{"schema":"thoughtmix/experts-profiles","version":1,"profiles":[{"name":"a","bias":{"x":{}}}]}'):  # fmt: skip
        (tmp_path / "bad.json").write_text(wrong)
        with pytest.raises(InputError) as caught:
            load_profiles(tmp_path / "bad.json")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("texts", "more", "says"),
    [({"a": ["x"] * 3}, {}, "only one label"), ({"a": ["w5"] * 3, "b": ["w6"] * 2}, {}, "'b' has 2 texts"),
     ({"a": ["w5"] * 3, "b": ["w6", " ", "w7"]}, {}, "text is empty"), (None, {"permutations": 3}, "make no test"),
     (None, {"alpha": 1.5}, "make no test")],
)  # fmt: skip
def test_bad_requests(texts: Any, more: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        analyze_expert_specialization(lm(), texts, **more)
    assert caught.value.hint
