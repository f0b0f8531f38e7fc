"""What branches serve: found where texts differ, not found where they do not; and its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_mixture import build, ids
from tiny import tokenizer

from thoughtmix.core.errors import InputError
from thoughtmix.engine.rng import generator
from thoughtmix.mixture.analysis import analyze_thought_patterns, router_probabilities, visualize_branch_activity


def texts(seed: int, low: int, high: int) -> list[str]:
    rng = generator(seed)
    return [" ".join(f"w{i}" for i in rng.integers(low, high, 12)) for _ in range(10)]


@pytest.mark.parametrize("kind", ["whole", "modes"])
def test_routes_tell_different_words_apart_and_not_like_ones(kind: str) -> None:
    model = build(kind)
    told = analyze_thought_patterns(
        model, tokenizer(), {"a": texts(1, 3, 7), "b": texts(2, 100, 104)}, shuffles=99, seed=1
    )
    assert told.p.min() == 0.01 and told.information.max() > 0.001
    like = analyze_thought_patterns(
        model, tokenizer(), {"a": texts(3, 3, 157), "b": texts(4, 3, 157)}, shuffles=99, seed=1
    )
    assert like.p.min() > 0.02 and like.information.max() < told.information.max() / 2
    np.testing.assert_allclose(told.affinity.sum(-1), 1, rtol=1e-5)
    assert told.affinity.shape == (3, 2, 8) and told.entropy.shape == (3, 20)


def test_the_prototypes_call_reads_pairs_of_text_and_ids() -> None:
    model, x = build("whole"), ids(1, 9)
    got = analyze_thought_patterns(model, [("one", x), ("two", x[0, :5].tolist())])
    assert [g["text"] for g in got] == ["one", "two"] and got[0]["metrics"] == model(x).metrics
    json.dumps(got)
    for bad in ([], [("one", [])], ["one"], [("one", [0.5])], [(x, "one")]):
        with pytest.raises(InputError):
            analyze_thought_patterns(model, bad)


def test_where_routes_follow_the_text_probabilities_are_means_over_it() -> None:
    model = build("modes")
    x = ids(1, 9)
    text = " ".join(tokenizer().convert_ids_to_tokens(x[0].tolist()))
    assert tokenizer()(text, add_special_tokens=False)["input_ids"] == x[0].tolist()
    found = router_probabilities(model, tokenizer(), [text])[:, 0]
    seen: list[np.ndarray] = []  # type: ignore[type-arg]
    hooks = [
        block.mixture.router.proj.register_forward_hook(
            lambda m, _, y, t=block.mixture.router: seen.append((y / t.log_temperature.exp()).softmax(-1).mean(1)[0])
        )
        for block in model.layers
    ]
    model(x, creativity=0.0)
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(found, np.stack([p.detach().numpy() for p in seen]), atol=1e-5)  # type: ignore[attr-defined]


def test_what_cannot_be_analysed_is_said() -> None:
    model = build("whole")
    with pytest.raises(InputError, match="two labels"):
        analyze_thought_patterns(model, tokenizer(), {"a": ["w5"]})
    with pytest.raises(InputError, match="is empty"):
        analyze_thought_patterns(model, tokenizer(), {"a": ["w5"], "b": [""]})
    with pytest.raises(InputError, match="one branch"):
        router_probabilities(build("standard"), tokenizer(), ["w5"])


def test_activity_as_bars_and_as_a_picture(tmp_path: Path) -> None:
    words = visualize_branch_activity(build("modes")(ids(2, 12)).metrics, tmp_path / "usage.svg")
    assert words.count("layer ") == 3 and words.count("branch ") == 3 * 8 and "2.0 branches a token" in words
    assert "<svg" in (tmp_path / "usage.svg").read_text()
    with pytest.raises(InputError, match="no metrics"):
        visualize_branch_activity([])
