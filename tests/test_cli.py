"""The command line, through its real entry point."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_thoughts import some

from thoughtmix import ThoughtSet, cli
from thoughtmix.core.request import StepEvent

pytest_plugins = ["tinyland"]
PROMPT = "w5 w9 w77 w33"
ROOT = Path(__file__).parents[1]


def run(*words: str) -> int:
    return cli.main(list(words))


def one_line(text: str) -> bool:
    return text.startswith("thoughtmix: ") and text.count("\n") == 1 and "Traceback" not in text


def test_think_into_a_pipe(tinyland: Any, capsys: Any) -> None:
    assert run("think", PROMPT, "-n", "3", "--max-new-tokens", "6") == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    for i in range(3):
        assert f"thought {i + 1} (seed {i})" in out
    assert "who differs from whom" not in out
    last = out.splitlines()[-1]
    assert re.match(r"3 answers by sampling, as varied as \d\.\d that have nothing in common\. Nearest", last), last
    assert err == ""
    assert run("think", PROMPT, "-n", "3", "--max-new-tokens", "6", "--details") == 0
    out = capsys.readouterr().out
    assert "who differs from whom" in out and "Vendi" in out.splitlines()[-1]


def test_think_as_json_is_the_set_and_nothing_else(tinyland: Any, capsys: Any) -> None:
    assert run("think", PROMPT, "-n", "3", "--json", "--temperature", "0.5,1,2", "--max-new-tokens", "5") == 0
    made = ThoughtSet.from_json(capsys.readouterr().out)
    assert [t.origin["temperature"] for t in made] == [0.5, 1, 2]


def test_think_reads_standard_input(tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the end of line that `echo` adds, and without: the same as the argument."""
    made = []
    for piped in ("w5 w6", "w5 w6\n", "w5 w6\r\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped, newline=""))
        assert run("think", "-" if piped else "w5 w6", "-n", "1", "--json", "--max-new-tokens", "4") == 0
        made.append(json.loads(capsys.readouterr().out))
    assert run("think", "w5 w6", "-n", "1", "--json", "--max-new-tokens", "4") == 0
    made.append(json.loads(capsys.readouterr().out))
    assert {one["prompt"] for one in made} == {"w5 w6"}
    assert len({one["thoughts"][0]["text"] for one in made}) == 1


def test_select_and_html_and_show(tinyland: Any, capsys: Any, tmp_path: Path) -> None:
    page, saved = tmp_path / "page.html", tmp_path / "set.json"
    assert run("think", PROMPT, "-n", "5", "--select", "2", "--html", str(page), "--json") == 0
    out = capsys.readouterr().out
    assert len(json.loads(out)["thoughts"]) == 2
    assert page.read_text().count('class="card"') == 2
    saved.write_text(out)
    assert run("show", str(saved)) == 0
    assert "thought 2" in capsys.readouterr().out
    again = tmp_path / "again.html"
    assert run("show", str(saved), "--html", str(again)) == 0
    assert again.read_text() == page.read_text()


def test_a_terminal_gets_colour_and_a_live_view(tinyland: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real pseudo-terminal, with the panels at the end."""
    import pty

    reader, writer = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # what Linux says when the other side is closed
            while part := os.read(reader, 65536):
                shown.extend(part)

    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    reading = threading.Thread(target=read)
    reading.start()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as here:
        here.setattr(sys, "stdout", terminal)
        here.setattr(sys, "stderr", terminal)
        assert run("think", PROMPT, "-n", "3") == 0
    reading.join()
    os.close(reader)
    text = shown.decode()
    assert "\x1b[" in text
    assert "reading the prompt" in text
    assert "3 of 3 done" in text
    assert "╭─ 1 · seed 0" in re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_ctrl_c_prints_what_is_there_and_exits_130(tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.engine.job import Job

    def stop(self: Any, gone: list[int]) -> None:
        if sum(len(r.token_ids) for r in self.outputs) >= 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "_report", stop)
    assert run("think", PROMPT, "-n", "3", "--max-new-tokens", "50") == 130
    out, err = capsys.readouterr()
    assert "interrupted" in out
    assert "thought 3" in out
    assert one_line(err)
    assert "0 of 3 thoughts are complete" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["think"], "There is no prompt"), (["think", ""], "prompt is empty"), (["think", " "], "prompt is empty"),
        (["think", PROMPT, "-n", "0"], "n is 0"), (["think", PROMPT, "-n", "x"], "-n"),
        (["think", PROMPT, "--thinker", "sampel"], "Did you mean 'sampling'?"), (["thimk"], "think"),
        (["think", PROMPT, "--temprature", "1"], "--temperature"), (["think", PROMPT, "--temperature", "warm"], "not a number"),
        (["think", PROMPT, "--top-p", "7"], "top_p is 7"), (["think", PROMPT, "--select", "9"], "Cannot select 9 of 8"),
        (["think", PROMPT, "--no-measure", "--select", "2"], "Drop one of the two"),
        (["think", PROMPT, "--select", "2", "--quality-floor", "2"], "quality_floor is 2"),
        (["think", PROMPT, "--option", "x"], "KEY=VALUE"), (["think", PROMPT, "--option", "a=1"], "option of thinker"),
        (["think", PROMPT, "--html", "/nowhere/page.html"], "no folder /nowhere"), (["show", "missing.json"], "Cannot read"),
        (["think", PROMPT, "--system", "w3"], "no chat template"), (["think", "w5 " * 400], "over the model's 256"),
        (["think", PROMPT, "--weights", "int3"], "Unknown weights"), (["think", PROMPT, "--path", "x"], "Unknown decoding path"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_a_code(tinyland: Any, capsys: Any, words: list[str], says: str) -> None:
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert one_line(err), err
    assert says in err


def test_a_bug_is_one_line_too(tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import thoughtmix.api

    def broken(*a: Any, **k: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(thoughtmix.api.Pipeline, "__call__", broken)
    assert run("think", PROMPT) == 70
    err = capsys.readouterr().err
    assert one_line(err)
    assert "THOUGHTMIX_DEBUG=1" in err
    monkeypatch.setenv("THOUGHTMIX_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("think", PROMPT)


_word = st.sampled_from(
    ["think", "show", "thinkers", "metrics", "w5", "", "-", "--", "-n", "--n", "3", "0", "-1", "1e9", "nan", "--json", "--seed",
     "99999999999999999999", "--temperature", "0.5,1", "--top-k", "--top-p", "--min-p", "--stop", "--creativity", "--select",
     "--html", "/dev/null/x", "--thinker", "sampling", "--max-new-tokens", "2", "--raw", "--option", "a=b", "\x00", "é🧱", "--help"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(_word, max_size=7))
def test_no_command_line_makes_a_traceback(tinyland: Any, capsys: Any, monkeypatch: Any, words: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("w5"))
    if "1e9" in words and "-n" in words:
        return  # a billion thoughts would be tried
    code = run(*words, *(["--max-new-tokens", "2"] if words[:1] == ["think"] and "--" not in words else []))
    err = capsys.readouterr().err
    assert code in {0, 2}, (code, err)
    assert code == 0 or not words or one_line(err)


def test_help_needs_no_torch() -> None:
    commands = [
        ["--help"],
        ["think", "--help"],
        ["bench", "--help"],
        ["bench", "--list"],
        ["bench", "--thinkers", "x"],
        ["thinkers"],
        ["--version"],
        ["think", "", "-n", "2"],
    ]
    code = (
        "import sys\n"
        "from thoughtmix.cli import main\n"
        f"for words in {commands!r}:\n"
        "    main(words)\n"
        "    print('loaded', words, [m for m in ('torch', 'transformers', 'rich.live') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [line for line in out.splitlines() if line.startswith("loaded ")] == [f"loaded {c} []" for c in commands]


def test_lists_need_no_numpy() -> None:
    """Help, `thinkers` and `metrics` answer in a quarter of a second: numpy alone is a tenth."""
    code = (
        "import sys\n"
        "from thoughtmix.cli import main\n"
        "for words in (['--help'], ['thinkers'], ['metrics']):\n"
        "    main(words)\n"
        "print('loaded', [m for m in ('torch', 'transformers', 'numpy', 'scipy', 'openai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "loaded []"


def test_help_in_the_docs_is_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.cli.helptext import helptext

    assert (ROOT / "docs" / "cli.md").read_text() == helptext(), "Type: python -m thoughtmix.cli.helptext > docs/cli.md"


def test_the_thinkers_in_the_docs_are_the_thinkers() -> None:
    from thoughtmix.cli.helptext import thinkers_page

    made, type_this = thinkers_page(), "Type: python -m thoughtmix.cli.helptext thinkers > docs/thinkers.md"
    assert (ROOT / "docs" / "thinkers.md").read_text() == made, type_this
    noise = made[made.index("## noise") :]
    assert noise.index("`idea`") < noise.index("`families`"), "own options first, inherited ones after"


def test_every_command_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for words in ("", " think", " renoise", " export", " experts map", " experts think", " doctor"):
        assert f"\n## thoughtmix{words}\n" in text


# --- the options of thinkers -----------------------------------------------------------------------------------------


def test_a_thinkers_options_are_flags_too(tinyland: Any, capsys: Any) -> None:
    asked = ("think", PROMPT, "-n", "2", "--max-new-tokens", "6", "--no-measure", "--json", "--thinker", "search")
    assert run(*asked, "--width", "3", "--rollouts", "--step=2", "--budget", "90") == 0
    by_flags = json.loads(capsys.readouterr().out)
    assert by_flags["settings"]["options"] == {"width": 3, "rollouts": True, "step": 2, "budget": 90}
    pairs = ("width=3", "rollouts=true", "step=2", "budget=90")
    assert run(*asked, *(word for pair in pairs for word in ("--option", pair))) == 0
    assert json.loads(capsys.readouterr().out)["thoughts"] == by_flags["thoughts"]
    command = ("search", PROMPT, "-n", "2", "--max-new-tokens", "6", "--no-measure", "--json")
    assert run(*command, "--width", "3", "--rollouts", "--step=2", "--budget", "90") == 0
    assert json.loads(capsys.readouterr().out)["thoughts"] == by_flags["thoughts"]
    assert run("think", "--thinker=search", "--help") == 0
    assert "--exploration" in capsys.readouterr().out
    assert run("think", "--help") == 0
    assert "--exploration" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--width", "3", "--option", "width=4"], "given twice"), (["--width", "0"], "width is 0"),
        (["--width", "3.5"], "--width"), (["--widht", "3"], "--width"), (["--apart", "word"], "Did you mean 'words'?"),
    ],
)  # fmt: skip
def test_mistakes_in_flags_of_a_thinker(capsys: Any, words: list[str], says: str) -> None:
    assert run("think", PROMPT, "--thinker", "search", *words) == 2
    err = capsys.readouterr().err
    assert one_line(err) and says in err, err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("temprature", "'temperature'"), ("max_tokens", "'max_new_tokens'"), ("select", "think(...).select(k), or --select k"),
        ("num_return_sequences", "'n'"), ("widht", "'width'"), ("do_sample", "temperature=0"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_right_one(tinyland: Any, capsys: Any, name: str, says: str) -> None:
    import thoughtmix

    keywords: list[dict[str, Any]] = [{name: 1}, {"options": {name: 1}}]
    for asked in keywords:
        with pytest.raises(thoughtmix.InputError) as caught:
            thoughtmix.think(PROMPT, thinker="search", measure=False, **asked)
        assert says in caught.value.hint
    assert run("think", PROMPT, "--thinker", "search", "--option", f"{name}=1") == 2
    err = capsys.readouterr().err
    assert one_line(err) and says in err
    if name == "select":
        return
    assert run("think", PROMPT, "--thinker", "search", f"--{name.replace('_', '-')}", "1") == 2
    err = capsys.readouterr().err
    assert one_line(err) and says.strip("'").replace("_", "-") in err


def test_a_setting_is_no_option(capsys: Any) -> None:
    assert run("think", PROMPT, "--thinker", "sampling", "--option", "max_new_tokens=3") == 2
    assert "Pass it beside the options: max_new_tokens=... (--max-new-tokens)." in capsys.readouterr().err


def test_a_shared_option_is_the_same_everywhere() -> None:
    """Same flags and help in every command that has it, and the same default but where a command's task asks for
    another."""
    import typer

    from thoughtmix.cli.app import app

    commands: Any = typer.main.get_command(app)
    shared = {p.name: p for p in commands.commands["think"].params}
    for command in ("noise", "search"):
        for p in commands.commands[command].params:
            if p.name not in {*shared} - {"prompt", "thinker", "option"}:
                continue
            assert p.opts == shared[p.name].opts
            if (command, p.name) not in {("search", "seed")}:
                assert p.help == shared[p.name].help
            if (command, p.name) not in {("search", "n"), ("noise", "max_new_tokens")}:
                assert p.default == shared[p.name].default


def test_lists(capsys: Any) -> None:
    assert run("thinkers") == 0
    out = capsys.readouterr().out
    assert "sampling" in out and "thoughtmix thinkers list" in out and "--width" not in out
    assert run("thinkers", "search") == 0
    out = capsys.readouterr().out
    assert "--width <whole number, 1 or more>\n      Children drawn at a leaf (default 4)." in out
    assert "--apart <words | embedding>" in out
    assert run("thinkers", "serch") == 2 and "'search'" in capsys.readouterr().err
    assert run("thinkers", "--json") == 0
    found = json.loads(capsys.readouterr().out)["search"]
    assert found["options"]["width"] == "Children drawn at a leaf (default 4)."
    assert found["schema"]["properties"]["width"]["minimum"] == 1
    assert run("metrics") == 0
    out = capsys.readouterr().out
    assert "self_bleu" in out and "cannot see" not in out
    assert run("metrics", "vendi") == 0 and "cannot see" in capsys.readouterr().out
    assert run("metrics", "vendy") == 2 and "'vendi'" in capsys.readouterr().err
    assert run("metrics", "--json") == 0
    assert {m["name"] for m in json.loads(capsys.readouterr().out)} >= {"vendi", "ead"}


def test_doctor(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THOUGHTMIX_CACHE", str(tmp_path / "cache"))
    assert run("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"].startswith(__import__("torch").__version__)
    assert report["cache"]["folder"] == str(tmp_path / "cache")
    assert report["device"]["device"] in {"cpu", "cuda"}
    from importlib import metadata

    requires = metadata.requires("thoughtmix") or []
    monkeypatch.setattr(metadata, "requires", lambda name: [*requires, "no-such-package>=3", "torch>=99"])
    assert run("doctor") == 1
    out = capsys.readouterr().out
    assert "Type: pip install 'no-such-package>=3'" in out
    assert "Type: pip install --upgrade 'torch>=99'" in out


def test_a_closed_pipe_is_quiet() -> None:
    code = "import sys; from thoughtmix.cli import main; sys.exit(main(['metrics']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_progress_events_are_plain_data() -> None:
    event = StepEvent(["a"], 1, 2, [False])
    assert (event.done, event.total) == (1, 2)
    assert some(1)[0].mean_logprob == some(1)[0].logprob
