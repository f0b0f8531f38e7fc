"""Thought sets: their JSON, what a broken file gives, and choosing the most different ones."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.core.selection import repetition, select_diverse, select_good
from thoughtmix.core.types import SCHEMA_VERSION, Thought, ThoughtSet
from thoughtmix.report.text import plain as plain_text
from thoughtmix.report.text import selection_line

finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
facts = st.dictionaries(st.text(max_size=8), plain, max_size=3)
thought = st.builds(
    Thought,
    text=st.text(max_size=30),
    token_ids=st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
    seed=st.integers(-(2**63), 2**63 - 1),
    logprob=finite,
    finish=st.sampled_from(["stop", "length", "cancelled"]),
    token_logprobs=st.lists(finite, max_size=5).map(tuple),
    origin=facts,
    scores=st.dictionaries(st.text(max_size=8), finite, max_size=3),
)


@st.composite
def thought_sets(draw: Any) -> ThoughtSet:
    thoughts = tuple(draw(st.lists(thought, max_size=4)))
    n = len(thoughts)
    row = st.lists(finite, min_size=n, max_size=n).map(tuple)
    return ThoughtSet(
        prompt=draw(st.text(max_size=30)),
        thoughts=thoughts,
        messages=tuple(
            draw(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2), max_size=2))
        ),
        thinker=draw(st.text(max_size=8)),
        model=draw(st.text(max_size=8)),
        settings=draw(facts),
        metrics=draw(st.dictionaries(st.text(max_size=8), finite, max_size=3)),
        distances=draw(st.just(()) | st.lists(row, min_size=n, max_size=n).map(tuple)),
        run=draw(facts),
    )


@settings(max_examples=150, deadline=None)
@given(made=thought_sets())
def test_json_round_trip(made: ThoughtSet) -> None:
    assert ThoughtSet.from_json(made.to_json()) == made
    assert made.to_dict()["version"] == SCHEMA_VERSION


@settings(max_examples=300, deadline=None)
@given(body=plain)
def test_garbage_gives_one_clear_line(body: Any) -> None:
    with pytest.raises(InputError) as caught:
        ThoughtSet.from_dict(body)
    assert "\n" not in str(caught.value)
    assert "Type" in str(caught.value) or "thoughtmix think" in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(made=thought_sets(), data=st.data())
def test_a_damaged_file_gives_an_input_error_or_a_valid_set(made: ThoughtSet, data: Any) -> None:
    body = json.loads(made.to_json())
    place: Any = body
    while True:  # walk to a random place and put something else there
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(plain)
        break
    try:
        again = ThoughtSet.from_json(json.dumps(body))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert ThoughtSet.from_json(again.to_json()) == again


@pytest.mark.parametrize("text", ["", "{", "[1]", "nonsense", '{"schema": 3}', "{" * 100_000, '{"a": NaN}'])
def test_broken_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    file.write_text(text)
    with pytest.raises(InputError):
        ThoughtSet.from_json(file)


def test_a_newer_version_says_how_to_upgrade() -> None:
    body = ThoughtSet("p", ()).to_dict() | {"version": SCHEMA_VERSION + 1}
    with pytest.raises(InputError, match="pip install --upgrade thoughtmix"):
        ThoughtSet.from_dict(body)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "set.json"
    ThoughtSet("first", ()).to_json(file)
    import os

    def full(*a: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ThoughtmixError, match=r"Cannot write .*no space left"):
        ThoughtSet("second", ()).to_json(file)
    assert ThoughtSet.from_json(file).prompt == "first"
    assert list(tmp_path.iterdir()) == [file], "something half-written was left"
    with pytest.raises(InputError, match="Cannot write"):
        ThoughtSet("x", ()).to_json(tmp_path / "missing" / "set.json")


def test_nan_never_reaches_a_file() -> None:
    with pytest.raises(InputError, match="not finite"):
        ThoughtSet("p", (Thought("t", (), 0, math.nan),)).to_json()


def some(n: int, seed: int = 0, d: int = 12) -> ThoughtSet:
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n, d))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    return ThoughtSet(
        prompt="p",
        thoughts=tuple(Thought(f"t{i}", (1,), i, float(rng.normal())) for i in range(n)),
        distances=tuple(map(tuple, (1 - e @ e.T).round(6).tolist())),
        metrics={"vendi": 1.0},
    )


def test_a_set_is_a_sequence() -> None:
    made = some(5)
    assert len(made) == 5
    assert [t.seed for t in made] == [0, 1, 2, 3, 4]
    assert made[-1].seed == 4
    part = made[1:3]
    assert [t.seed for t in part] == [1, 2]
    assert part.distances == tuple(row[1:3] for row in made.distances[1:3])
    assert part.metrics == {}, "the whole's metrics do not describe a part"
    assert made[:] == made


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 10), seed=st.integers(0, 999), data=st.data())
def test_selection_is_sound(n: int, seed: int, data: Any) -> None:
    made = some(n, seed)
    k = data.draw(st.integers(1, n))
    picked = made.select(k)
    seeds = [t.seed for t in picked]
    assert len(set(seeds)) == k
    assert seeds[0] == max(made, key=lambda t: t.mean_logprob).seed, "alone, the best comes first"
    turn = np.random.default_rng(seed).permutation(n)
    turned = made._subset(turn.tolist()).select(k)
    assert {t.seed for t in turned} == set(seeds), "order must not matter"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 3))
def test_greedy_selection_maximises_each_step(seed: int, k: int) -> None:
    """Against determinants computed outright."""
    made = some(7, seed)
    d = np.array(made.distances)
    kernel = 1 - d
    picked = select_diverse(made.distances, [0.0] * 7, k)
    chosen: list[int] = []
    for item in picked:
        best = max(np.linalg.det(kernel[np.ix_([*chosen, j], [*chosen, j])]) for j in range(7) if j not in chosen)
        mine = np.linalg.det(kernel[np.ix_([*chosen, item], [*chosen, item])])
        assert mine == pytest.approx(best, rel=1e-6, abs=1e-9)
        chosen.append(item)


def test_copies_come_last() -> None:
    rng = np.random.default_rng(1)
    e = rng.normal(size=(4, 8))
    e = np.repeat(e / np.linalg.norm(e, axis=1, keepdims=True), 2, axis=0)  # 0=1, 2=3, 4=5, 6=7
    picked = select_diverse((1 - e @ e.T).tolist(), list(range(8)), 6)
    assert {i // 2 for i in picked[:4]} == {0, 1, 2, 3}
    assert picked[4:] == sorted(picked[4:], reverse=True), "among copies, the better first"
    assert len(set(picked)) == 6


def test_the_floor_parts_quality_from_difference() -> None:
    made = some(8, 3)
    ranked = sorted(range(8), key=lambda i: -made[i].mean_logprob)
    assert [t.seed for t in made.select(3, quality_floor=1.0)] == ranked[:3], "the likeliest alone"
    kernel = 1 - np.array(made.distances)
    for floor, among in ((0.0, range(8)), (0.5, ranked[:4])):
        got = [t.seed for t in made.select(3, quality_floor=floor)]
        assert got[0] == ranked[0] and set(got) <= set(among)
        dets = {c: np.linalg.det(kernel[np.ix_(c, c)]) for c in combinations(sorted(among), 3) if ranked[0] in c}
        assert dets[tuple(sorted(got))] >= 0.8 * max(dets.values())  # type: ignore[index]


def test_selection_leaves_out_what_is_not_good_enough() -> None:
    """The likeliest is a loop, the farthest a blank, the next a copy: none is picked while there are others."""
    loop = "we go on and " * 12
    texts = [loop, "", "Paris is a city of light.", "paris is a  city of light.", "Snow fell on the old mill.", "zx qv"]
    quality = [-0.1, -0.2, -1.0, -1.1, -1.2, -9.0]
    far = (1 - np.eye(6)).tolist()
    assert select_good(texts, far, quality, 2) == [2, 4]
    assert select_good(texts, far, quality, 3, 0.0) == [2, 4, 5], "difference alone"
    assert select_good(texts, far, quality, 6) == [2, 4, 5, 0, 3, 1], "then the others, blank ones last"
    assert select_good([""] * 3, np.zeros((3, 3)).tolist(), [0.0] * 3, 2) == [0, 1]
    assert repetition(loop) > 0.8 and repetition("再说一遍" * 9) > 0.8 and repetition("ha ha") == 0
    assert repetition("今天天气很好我们一起去公园玩明天再去海边看日出") == 0


def test_a_selection_says_what_it_gained() -> None:
    made = some(8, 3)
    said = made.select(3).run["selected"]
    d = np.array(made.distances)
    assert (said["k"], said["of"], said["quality"], said["quality_floor"]) == (3, 8, "mean_logprob", 0.5)
    assert said["random_distance"] == pytest.approx(d[np.triu_indices(8, 1)].mean(), abs=1e-6)
    seeds = [t.seed for t in made.select(3)]
    assert said["distance"] == pytest.approx(d[np.ix_(seeds, seeds)].sum() / 6, abs=1e-6)
    assert (
        said["kept_quality"] > said["mean_quality"] == pytest.approx(np.mean([t.mean_logprob for t in made]), abs=1e-6)
    )
    line = selection_line(made.select(3))
    assert line.startswith("3 of 8 selected · mean distance") and "(3 at random:" in line and "nats/token (all:" in line
    assert line in plain_text(made.select(3)) and selection_line(made) == ""
    assert ThoughtSet.from_json(made.select(3).to_json()).run["selected"] == said


def test_selecting_what_is_not_there() -> None:
    made = some(3)
    for k in (0, 4, -1):
        with pytest.raises(InputError, match="between 1 and 3"):
            made.select(k)
    for floor in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="quality_floor is"):
            made.select(2, quality_floor=floor)
    with pytest.raises(InputError, match="no score 'beauty'"):
        made.select(1, quality="beauty")
    with pytest.raises(InputError, match="no distances"):
        ThoughtSet("p", made.thoughts).select(2)
    with pytest.raises(InputError, match="3 x 3"):
        ThoughtSet("p", made.thoughts, distances=((0.0,),))
