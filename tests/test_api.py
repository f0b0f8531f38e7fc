"""think() and Pipeline: the whole program on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import thoughtmix
from thoughtmix import InputError, Interrupted, Pipeline, ThoughtSet, UnknownName, think

pytest_plugins = ["tinyland"]
PROMPT = "w5 w9 w77 w33"


def test_think(tinyland: Any, global_state_untouched: None) -> None:
    got = think(PROMPT, n=5, seed=7, max_new_tokens=9)
    assert isinstance(got, ThoughtSet)
    assert [t.seed for t in got] == [7, 8, 9, 10, 11]
    assert all(0 < len(t.token_ids) <= 9 and t.text for t in got)
    assert {"vendi", "self_bleu", "relevance"} <= set(got.metrics)
    assert len(got.distances) == 5
    assert got.run["path"] == "fused"
    assert got.settings["n"] == 5
    assert got.model == "tiny-llama"
    assert len(got.select(2)) == 2
    assert ThoughtSet.from_json(got.to_json()) == ThoughtSet.from_json(got.to_json(indent=None))


def test_law_5_through_the_front_door(tinyland: Any) -> None:
    """Thought i of seed s is the only thought of seed s + i."""
    many = think(PROMPT, n=6, seed=40, measure=False)
    for thought in many:
        alone = think(PROMPT, n=1, seed=thought.seed, measure=False)[0]
        assert (alone.text, alone.token_ids) == (thought.text, thought.token_ids)


def test_the_saved_settings_repeat_the_run(tinyland: Any) -> None:
    first = think(PROMPT, n=3, seed=5, temperature=[0.5, 1.0, 2.0], top_k=20, stop="w9", max_new_tokens=12)
    settings = dict(first.settings)
    options = settings.pop("options")
    again = think(first.prompt, thinker=first.thinker, **settings, **options)
    assert again.texts == first.texts


def test_creativity_is_the_temperature_of_sampling(tinyland: Any) -> None:
    cold = think(PROMPT, n=3, creativity=0, measure=False)
    assert len(set(cold.texts)) == 1, "creativity 0 is deterministic"
    assert think(PROMPT, n=4, creativity=1.7).texts == think(PROMPT, n=4, temperature=1.7).texts
    with pytest.raises(InputError, match="both were given"):
        think(PROMPT, creativity=1.0, temperature=1.0)


def test_the_model_is_loaded_once(tinyland: Any) -> None:
    think(PROMPT, n=1, measure=False)
    think(PROMPT, n=2, measure=False)
    think(PROMPT, n=1, measure=False, model="gpt2")
    assert [m[0] for m in tinyland["models"]] == [None, "gpt2"]
    pipeline = Pipeline("qwen3")
    assert think(PROMPT, n=2, model=pipeline).texts == pipeline(PROMPT, n=2).texts
    assert [m[0] for m in tinyland["models"]] == [None, "gpt2", "qwen3"]
    with pytest.raises(InputError, match="beside a Pipeline"):
        think(PROMPT, model=pipeline, judge="gpt2")


def test_a_judge_is_named_in_the_result(tinyland: Any) -> None:
    got = think(PROMPT, n=2, judge="gpt2", max_new_tokens=5)
    assert got.run["judge"] == "tiny-gpt2"
    assert all("judge_nll" in t.scores for t in got)


def test_interrupting_keeps_what_is_complete(tinyland: Any) -> None:
    def stop(event: Any) -> None:
        if event.done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        think(PROMPT, n=3, on_step=stop, max_new_tokens=30)
    assert [len(t.token_ids) for t in caught.value.thoughts] == [2, 2, 2]
    assert caught.value.exit_code == 130


@pytest.mark.parametrize(
    ("prompt", "more", "says"),
    [
        ("", {}, "prompt is empty"), ("  \n", {}, "prompt is empty"), (PROMPT, {"n": 0}, "n is 0"),
        (PROMPT, {"n": -3}, "n is -3"), (PROMPT, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ("w5 " * 300, {}, "over the model's 256"), (PROMPT, {"thinker": "samplin"}, "Did you mean 'sampling'"),
        (PROMPT, {"temperature": -1.0}, "temperature is -1"), (PROMPT, {"creativity": -1}, "creativity is -1"),
        (PROMPT, {"creativity": float("nan")}, "creativity is nan"), (PROMPT, {"seed": 2**63}, "64 bits"),
        (PROMPT, {"top_p": [0.5, 0.9]}, "top_p has 2 values for 8"), (PROMPT, {"stop": ""}, "stop string is empty"),
        (PROMPT, {"colour": "red"}, "option of thinker 'sampling': 'colour'"), ([], {}, "conversation is empty"),
        ([{"role": "user", "content": "w5"}], {}, "no chat template"), ([{"role": "user"}], {}, "lacks role or content"),
    ],
)  # fmt: skip
def test_law_8_bad_input_is_one_line_with_a_way_out(tinyland: Any, prompt: Any, more: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        think(prompt, **more)
    line = str(caught.value)
    assert says in line
    assert "\n" not in line
    assert caught.value.hint, "says what to type next"


def test_names() -> None:
    assert thoughtmix.__all__ == sorted(thoughtmix.__all__)
    for name in thoughtmix.__all__:
        assert getattr(thoughtmix, name) is not None
    assert set(thoughtmix.__all__) - {"__version__"} == set(thoughtmix._HOME)
    assert dir(thoughtmix) == thoughtmix.__all__
    with pytest.raises(AttributeError, match="no attribute 'thinkk'"):
        _ = thoughtmix.thinkk
    assert issubclass(UnknownName, LookupError)


def test_importing_needs_no_torch() -> None:
    code = "import sys, thoughtmix, thoughtmix.models, thoughtmix.metrics, thoughtmix.cli; from thoughtmix import ThoughtSet; thoughtmix.get_thinker('sampling'); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_thinker_of_another_package(monkeypatch: pytest.MonkeyPatch, tinyland: Any) -> None:
    """Found by its entry point, listed, used, and its options checked."""
    from importlib.metadata import EntryPoint

    from thoughtmix.core.options import ThinkerOptions, option
    from thoughtmix.core.types import Thought
    from thoughtmix.thinkers import registry

    class Echo(thoughtmix.Thinker):
        name, summary = "echo", "Says the prompt again."

        class Options(ThinkerOptions):
            times: int = option(1, "How often.", ge=1)

        def think(self, engine: Any, prompt: Any, request: Any) -> Any:
            text = prompt.text * request.options.times
            return [Thought(text, (), s, 0.0, "stop") for s in request.seeds], {}

    monkeypatch.setitem(sys.modules, "echo_plugin", type(sys)("echo_plugin"))
    sys.modules["echo_plugin"].THINKER = Echo()  # type: ignore[attr-defined]
    points = [EntryPoint("echo", "echo_plugin:THINKER", registry.GROUP), EntryPoint("sampling", "echo_plugin:THINKER", registry.GROUP),
              EntryPoint("broken", "no_such_module:x", registry.GROUP)]  # fmt: skip
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert {"echo", "sampling", "broken"} <= set(thoughtmix.thinker_names())
    assert think("w5 w6", n=2, thinker="echo", times=2).texts == ["w5 w6w5 w6"] * 2
    assert think("w5 w6", n=1, thinker="sampling").thinker == "sampling", "a built-in one is never shadowed"
    with pytest.raises(UnknownName, match="Did you mean 'times'"):
        think("w5", thinker="echo", tims=2)
    with pytest.raises(thoughtmix.ThoughtmixError, match="'broken' .* does not load"):
        think("w5", thinker="broken")
