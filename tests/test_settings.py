"""Where settings come from: flag, environment, config file, default; profiles of endpoints; completion; quiet."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai  # noqa: F401  importing its transport may move the global random state
import pytest
from badserver import answer, serving

from thoughtmix import cli
from thoughtmix.core.config import read_config

pytest_plugins = ["tinyland"]
PROMPT = "w5 w9 w77 w33"
SHORT = ("--max-new-tokens", "4", "--no-measure", "--json")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own" / "config.toml"
    monkeypatch.setenv("THOUGHTMIX_CONFIG", str(path))
    for name in ("THOUGHTMIX_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return path


def run(*words: str) -> int:
    return cli.main(list(words))


def thoughts(capsys: Any, *words: str) -> dict[str, Any]:
    assert run(*words) == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_flag_then_environment_then_config_then_default(
    tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    def seed_and_n(*words: str) -> tuple[int, int]:
        made = thoughts(capsys, "think", PROMPT, *SHORT, *words)
        return made["settings"]["seed"], len(made["thoughts"])

    assert seed_and_n() == (0, 8)
    write(file, "n = 3\nseed = 11\n[think]\nseed = 12\n")
    assert seed_and_n() == (12, 3), "a command's own table goes before the top of the file"
    monkeypatch.setenv("THOUGHTMIX_SEED", "13")
    assert seed_and_n() == (13, 3)
    monkeypatch.setenv("THOUGHTMIX_THINK_SEED", "14")
    assert seed_and_n() == (14, 3)
    assert seed_and_n("-s", "15", "-n", "2") == (15, 2)


def test_the_thinker_and_its_options_may_stand_in_the_file(
    tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    write(file, '[think]\nthinker = "search"\nwidth = 3\nbudget = 60\n')
    made = thoughts(capsys, "think", PROMPT, "-n", "2", *SHORT)
    assert made["thinker"] == "search" and made["settings"]["options"] == {"budget": 60, "width": 3}
    monkeypatch.setenv("THOUGHTMIX_THINK_WIDTH", "2")
    assert thoughts(capsys, "think", PROMPT, "-n", "2", *SHORT)["settings"]["options"]["width"] == 2
    monkeypatch.setenv("THOUGHTMIX_THINKER", "sampling")
    monkeypatch.delenv("THOUGHTMIX_THINK_WIDTH")
    write(file, "")
    assert thoughts(capsys, "think", PROMPT, *SHORT, "-o", "draws=arithmetic")["thinker"] == "sampling"
    made = thoughts(capsys, "think", PROMPT, "-n", "2", "-t", "search", "-o", "budget=60", *SHORT)
    assert made["thinker"] == "search", "short flags"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n = ", "Cannot read"),
        ("sead = 3", "Unknown setting of the config file: 'sead'. Did you mean 'seed'?"),
        ("[think]\nn = 1\n[serve]\nporte = 1", "Unknown setting of [serve]: 'porte'. Did you mean 'port'?"),
        ("[thinc]\nn = 1", "Did you mean 'think'?"),
        ('n = "many"', "Invalid value for '-n' / '--n'"),
    ],
)
def test_mistakes_in_the_file_are_one_line(tinyland: Any, capsys: Any, file: Path, text: str, says: str) -> None:
    write(file, text)
    assert run("think", PROMPT, *SHORT) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and "Traceback" not in err
    assert run("config", "path") == 0, "which a broken file does not keep from working"


def test_config_shows_sets_and_unsets(capsys: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("config", "show") == 0 and "(nothing is set)" in capsys.readouterr().out
    for words in (("n", "4"), ("think.thinker", "noise"), ("model", "org/name"), ("endpoints.big.url", "https://h/v1"),
                  ("endpoints.big.api_key", "sk-secret"), ("endpoints.big.prices", "[0.15, 0.6]")):  # fmt: skip
        assert run("config", "set", *words) == 0
    file.write_text(f"# mine\n{file.read_text()}")
    assert run("config", "set", "n", "5") == 0
    assert file.read_text().startswith("# mine\n") and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_config()["endpoints"]["big"]["prices"] == [0.15, 0.6] and read_config()["n"] == 5
    capsys.readouterr()
    assert run("config", "show") == 0
    out = capsys.readouterr().out
    assert "think.thinker = " in out and "secret" not in out and str(file) in out
    assert run("config", "show", "--json") == 0 and "secret" not in (out := capsys.readouterr().out)
    assert json.loads(out)["settings"]["n"] == 5
    assert run("config", "unset", "n") == 0 and "n" not in read_config()
    for words, says in (
        (("set", "sead", "1"), "Did you mean"),
        (("set", "endpoints.big", "1"), "no setting of a profile"),
        (("set", "endpoints.big.urll", "x"), "Did you mean 'url'?"),
        (("set", "endpoints.big.prices", "[1]"), "endpoints.big.prices is [1]"),
        (("unset", "seed"), "seed is not set"),
        (("edit",), "No editor is named"),
    ):
        monkeypatch.delenv("EDITOR", raising=False)
        monkeypatch.delenv("VISUAL", raising=False)
        capsys.readouterr()
        assert run("config", *words) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1
    monkeypatch.setenv("EDITOR", f'{sys.executable} -c \'import sys; open(sys.argv[1], "a").write("seed = 9\\n")\'')
    file.write_text("n = 2\n")
    assert run("config", "edit") == 0 and read_config() == {"n": 2, "seed": 9}


def test_a_profile_is_an_endpoint_by_name(
    tinyland: Any, capsys: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIG_KEY", "big")
    with serving(lambda number, body: "n") as server:
        write(file, f'model = "local/one"\n[endpoints.big]\nurl = "{server.url}"\nmodel = "big-1"\n'
              'api_key_env = "BIG_KEY"\nprices = [1, 2]\nretries = 0\n')  # fmt: skip
        for words in (("-e", "@big"), ("--profile", "big"), ("--profile", "@big")):
            made = thoughts(capsys, "think", PROMPT, "-n", "2", *words, *SHORT)
            assert made["model"].startswith("big-1 at ")
        assert made["run"]["endpoint"]["cost_usd"] > 0
        thoughts(capsys, "think", PROMPT, "-n", "1", "-e", "@big", "-m", "big-2", *SHORT)
    assert set(server.keys) == {"Bearer big"}
    assert [body["model"] for body in server.seen] == ["big-1"] * 3 + ["big-2"]
    for words, says in (
        (("-e", "@bgi"), "Unknown profile 'bgi'. Did you mean 'big'?"),
        (("-e", "@big", "--profile", "big"), "Both --endpoint and --profile"),
        (("-e", server.url, "--prices", "cheap"), "--prices is 'cheap'"),
        (("-e", server.url, "--api-key-env", "NOBODY"), "NOBODY holds no key"),
    ):
        assert run("think", PROMPT, *SHORT, *words) == 2
        assert says in capsys.readouterr().err


def test_a_key_that_is_named_goes_to_no_other_endpoint_of_the_call(
    tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "mine")
    monkeypatch.setenv("THOUGHTMIX_API_KEY", "ours")
    for words, key in (((), "Bearer ours"), (("--api-key-env", "MINE"), "Bearer mine")):
        with serving(lambda number, body: "n") as writer, serving(lambda number, body: "says Yes") as other:
            made = thoughts(capsys, "think", PROMPT, "-n", "2", "--json", "-e", writer.url, "--judge-endpoint", other.url,
                            "--embed-endpoint", other.url, *words)  # fmt: skip
        assert set(writer.keys) == {key} and set(other.keys) == {None}
        assert made["metrics"]["judge_yes"] == pytest.approx(0.75) and "vendi" in made["metrics"]
    assert not tinyland["models"], "nothing was loaded here"


def test_thinking_elsewhere_by_the_command(tinyland: Any, capsys: Any) -> None:
    words = ("think", "A question?", "-n", "3", "--no-measure", "--retries", "1")
    with serving(lambda number, body: "no temperature" if "temperature" in body else "ok") as server:
        assert run(*words, "-e", server.url, "-s", "4") == 0
        out, err = capsys.readouterr()
        assert out.count("?noitseuq A") == 3 and "takes no temperature: left out" in err
        assert run(*words, "-e", server.url, "-q") == 0 and capsys.readouterr().err == ""
    assert {answer(body) for body in server.seen} == {"?noitseuq A"}
    with serving(lambda number, body: "400" if body["seed"] == 1 else "ok") as server:
        assert run(*words, "-e", server.url) == 1
        err = capsys.readouterr().err
    assert "1 of 3 thoughts failed, the first: it refuses the request (400)" in err and "-n 1 --seed 1" in err
    assert run(*words, "-e", "localhost:1") == 2 and "no http address" in capsys.readouterr().err
    assert run(*words, "-e", "http://127.0.0.1:9") == 1 and "lists no model: no connection" in capsys.readouterr().err


def test_completion_knows_flags_and_thinkers() -> None:
    def complete(words: str, at: int) -> str:
        env = {**os.environ, "_THOUGHTMIX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        code = "from thoughtmix.cli import run; run()"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout

    assert "think" in complete("thoughtmix th", 1).split()
    assert "--endpoint" in complete("thoughtmix think --end", 2).split()
    assert complete("thoughtmix think -t sam", 3).split() == ["sampling"]


def test_the_log_shows_what_an_endpoint_does(tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda number, body: "500" if number == 0 else "ok") as server:
        monkeypatch.setenv("THOUGHTMIX_LOG", "info")
        out = subprocess.run(
            [sys.executable, "-m", "thoughtmix", "think", "A?", "-n", "1", "-e", server.url, "--no-measure"],
            capture_output=True,
            text=True,
        )
    assert out.returncode == 0 and "INFO thoughtmix.endpoint: " in out.stderr and "the server fails (500)" in out.stderr
    monkeypatch.setenv("THOUGHTMIX_LOG", "loud")
    assert run("thinkers") == 2 and "Known: debug, error, info, warning" in capsys.readouterr().err
