"""The plugin for `llm`, through llm's own command and its Python interface."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

llm = pytest.importorskip("llm")

from click.testing import CliRunner  # noqa: E402

import thoughtmix  # noqa: E402
from thoughtmix import ThoughtSet, llm_plugin  # noqa: E402

pytest_plugins = ["tinyland"]
PROMPT = "w5 w9 w77"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As `llm` loads it by its entry point, with a folder of its own for what it keeps."""
    from llm.plugins import load_plugins, pm

    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    load_plugins()
    here = pm.register(llm_plugin, "thoughtmix-under-test") if not pm.is_registered(llm_plugin) else None
    yield
    if here is not None:
        pm.unregister(llm_plugin)


def ask(*words: str) -> Any:
    from llm.cli import cli

    return CliRunner().invoke(cli, list(words))


def test_the_command_gives_n_numbered_thoughts(tinyland: Any, plugin: None) -> None:
    made = ask("-m", "thoughtmix", PROMPT, "-o", "n", "3", "-o", "max_tokens", "5", "-o", "seed", "7", "--no-log")
    assert made.exit_code == 0, made.output
    want = thoughtmix.think(PROMPT, n=3, max_new_tokens=5, seed=7, measure=False)
    assert re.split(r"\s*\d\. ", made.output.strip())[1:] == [t.strip() for t in want.texts]
    one = ask("-m", "thoughtmix", PROMPT, "-o", "n", "1", "-o", "max_tokens", "5", "-o", "seed", "8", "--no-log")
    assert one.output.strip() == want.texts[1].strip(), "one thought is itself"
    assert "thoughtmix" in ask("models").output
    assert "--option" in ask("models", "--options").output or "creativity" in ask("models", "--options").output


def test_mistakes_are_its_one_line(tinyland: Any, plugin: None) -> None:
    for words, says in (
        (("-o", "thinker", "sampel"), "Did you mean 'sampling'?"),
        (("-o", "select", "9", "-o", "n", "2"), "Cannot select 9 of 2"),
        (("-o", "n", "0"), "greater than or equal to 1"),
    ):
        made = ask("-m", "thoughtmix", PROMPT, "-o", "max_tokens", "4", *words, "--no-log")
        assert made.exit_code != 0 and says in made.output and "Traceback" not in made.output, made.output


def test_in_python_with_a_system_message_and_what_was_said_before(tinyland: Any, plugin: None) -> None:
    model = llm.get_model("thoughtmix")
    response = model.prompt(PROMPT, n=4, select=2, max_tokens=6)
    assert response.text().count("\n\n") == 1
    kept = ThoughtSet.from_dict(response.response_json)
    assert len(kept) == 2 and kept.run["selected"]["of"] == 4 and response.usage().output == kept.run["tokens"]
    seen: list[Any] = []

    def record(self: Any, prompt: Any, *more: Any, **how: Any) -> ThoughtSet:
        seen.append(prompt)
        return ThoughtSet.from_texts(["an answer"], measure=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoughtmix.pipeline.Pipeline.__call__", record)
        talk = model.conversation()
        talk.prompt("first", system="be brief", n=1).text()
        talk.prompt("second", n=1).text()
    assert seen[0] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "first"}]
    assert [m["content"] for m in seen[1]][-3:] == ["first", "an answer", "second"]


def test_it_is_registered_and_light() -> None:
    body = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert body["project"]["entry-points"]["llm"] == {"thoughtmix": "thoughtmix.llm_plugin"}
    code = "import sys, json, thoughtmix.llm_plugin; print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [], "every start of llm imports it"
