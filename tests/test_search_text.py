"""Tree search where an engine has only text to give: the model is asked to go on with what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai  # noqa: F401  importing its transport may move the global random state
import pytest
from badserver import serving
from tinyland import HashEmbedder

from thoughtmix import Pipeline, cli
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.engine.endpoint import EndpointEngine
from thoughtmix.engine.engine import SequenceOutput
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.search import mcts
from thoughtmix.search.writers import GO_ON, _new_text, joined

pytest_plugins = ["tinyland"]
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "step": 6, "width": 2, "batch": 2, "budget": 400}


def there(url: str, **how: Any) -> Pipeline:
    return Pipeline(engine=EndpointEngine(Endpoint(url, "m", first_wait=0.01, **how)), embedder=HashEmbedder())


def test_a_tree_of_texts_grows_by_going_on() -> None:
    with serving(lambda number, body: "words") as server:
        got = there(server.url)("Tell me.", 3, "search", seed=4, **SETTINGS)
        again = there(server.url, concurrency=1)("Tell me.", 3, "search", seed=4, **SETTINGS)
        other = there(server.url)("Tell me.", 3, "search", seed=5, **SETTINGS)
    assert again.texts == got.texts != other.texts, "the set depends on prompt, settings and seed alone"
    assert len(set(got.texts)) == 3 and all(t.finish in {"stop", "length"} for t in got)
    assert all(t.logprob is None and not t.token_ids for t in got)
    assert any(len(t.origin["path"]) > 1 for t in got), "deeper than one request"
    first, later = server.seen[0], [b for b in server.seen if len(b["messages"]) > 1]
    assert first["messages"] == [{"role": "user", "content": "Tell me."}] and first["max_tokens"] == 6
    for body in later:
        question, said, asked = body["messages"]
        assert (question["content"], said["role"], asked["content"]) == ("Tell me.", "assistant", GO_ON)
    facts = got.run["endpoint"]
    assert facts["requests"] > 4 and got.run["tokens"] <= 400 and facts["failed"] == 0
    assert got.run["evaluators"] == {"relevance": 1.0, "repetition": 1.0, "substance": 1.0} and "vendi" in got.metrics


def test_seconds_are_kept_while_a_server_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own, which runs while it is silent: what is not there in time is not waited for, and what is
    there is the answer."""
    now = [0.0]
    monkeypatch.setattr(mcts.time, "perf_counter", lambda: now[0])
    silent: list[int] = []

    def told(self: Any, event: Any) -> None:
        assert event.pieces == ["", "", "", ""][: len(event.pieces)] or event.done
        now[0] += 0.0 if any(event.pieces) else 100.0
        silent.append(not any(event.pieces))

    real = EndpointEngine.generate

    def generate(self: Any, sequences: Any, *, on_step: Any = None, **how: Any) -> Any:
        def step(event: Any) -> None:
            told(self, event)
            on_step(event)

        return real(self, sequences, on_step=None if on_step is None else step, **how)

    monkeypatch.setattr(EndpointEngine, "generate", generate)
    with serving(lambda number, body: "words" if number < 4 else "slow") as server:
        got = there(server.url)("Tell me.", 2, "search", **{**SETTINGS, "budget": 10**5, "seconds": 90.0})
    assert any(silent) and len(got) == 2 and all(got.texts)


def test_what_fails_is_left_out_of_the_tree() -> None:
    with serving(lambda number, body: "500" if number % 3 == 1 else "words") as server:
        got = there(server.url, tries=1)("Tell me.", 2, "search", **SETTINGS)
    assert len(got) == 2 and all(got.texts) and got.run["endpoint"]["failed"] > 0
    with (
        serving(lambda number, body: "500") as server,
        pytest.raises(ModelError, match="gave nothing: the server fails"),
    ):
        there(server.url, tries=1)("Tell me.", 2, "search", **SETTINGS)


def test_what_needs_more_than_text_is_refused_by_name() -> None:
    with serving(lambda number, body: "words") as server:
        for options, says in (
            ({"evaluators": "likelihood=1"}, "likelihood needs log-probabilities"),
            ({"proposal": "mixture"}, "proposal=mixture needs per-row model state"),
            ({"evaluators": "judge=1"}, "judge needs a model"),
        ):
            with pytest.raises(InputError, match=says):
                there(server.url)("Tell me.", 2, "search", **{**SETTINGS, **options})
    assert not server.seen


def test_stretches_of_a_text_are_joined_as_it_is_written() -> None:
    assert joined("A cat", "sat.") == "A cat sat." and joined("A cat", ", which") == "A cat, which"
    assert joined("A cat\n", "sat") == "A cat\nsat" and joined("", "A") == "A" and joined("A", "") == "A"

    def new(before: str, text: str, finish: Any = "stop") -> str:
        return _new_text(before, SequenceOutput(text=text, finish=finish))

    assert new("", "A cat sat on the m", "length") == "A cat sat on the", "a word that may be cut is left"
    assert new("", "Antidisestabl", "length") == "Antidisestabl"
    assert new("A cat sat on", "A cat sat on the mat.") == "the mat.", "repeated from the beginning"
    assert new("Once a cat sat on", "a cat sat on the mat.") == "the mat.", "or from the middle"
    assert new("A cat", "...sat.") == "sat." and new("A cat", " sat.") == "sat."


def test_the_command_and_going_on_with_a_saved_tree(tinyland: Any, capsys: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    words = ["-n", "2", "--max-new-tokens", "12", "--no-measure"]
    with serving(lambda number, body: "words") as server:
        there = ["-e", server.url, "-m", "m", "--save", str(tree), *words]
        asked = ["--step", "4", "--width", "2", "--budget", "80"]
        assert cli.main(["search", "Tell me.", *asked, *there]) == 0
        assert "nodes" in capsys.readouterr().out
        before = len(json.loads(tree.read_text())["nodes"])
        assert cli.main(["search", "--resume", str(tree), "--budget", "300", *there]) == 0
    assert len(json.loads(tree.read_text())["nodes"]) > before
    assert not tinyland["models"], "nothing was loaded here"
