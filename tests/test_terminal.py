"""How the terminal treats people: help in groups, one meaning a name, one rule for files, nothing long in silence."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import thoughtmix
from thoughtmix import InputError, ThoughtSet, cli
from thoughtmix.cli import reporting
from thoughtmix.cli.app import app
from thoughtmix.cli.guide import GUIDES
from thoughtmix.cli.renamed import RENAMED, flag
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import RenamedWarning
from thoughtmix.thinkers.registry import get_thinker, thinker_names

pytest_plugins = ["tinyland"]
PROMPT = "w5 w9 w77 w33"
COMMAND: Any = typer.main.get_command(app)


def run(*words: str) -> int:
    return cli.main(list(words))


def commands(group: Any = COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


# --- help ------------------------------------------------------------------------------------------------------------


def test_every_command_has_a_line_and_two_examples_that_parse() -> None:
    for path, _ in commands():
        guide = GUIDES[path]
        assert len(guide.says) <= 60, "one line at 80 columns"
        if path[:1] == ("config",) and len(path) == 2:
            continue
        assert len(guide.examples) == 2, path
        for typed, says in guide.examples:
            assert says.endswith((".", "mine", "4000", "@big")) and len(typed) <= 100
            for words in typed.split(" && "):
                program, *rest = shlex.split(words)
                assert program == "thoughtmix"
                context = COMMAND.make_context("thoughtmix", rest, resilient_parsing=False)
                while hasattr(context.command, "commands"):
                    _, below, left = context.command.resolve_command(context, [*context._protected_args, *context.args])
                    context = below.make_context(below.name, left, parent=context)
                assert context.command_path.split()[1:][: len(path)] == list(path)


def test_every_option_says_what_happens_without_it() -> None:
    for path, command in commands():
        context = typer.Context(command, info_name=" ".join(["thoughtmix", *path]))
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if (
                record is None
                or parameter.param_type_name == "argument"
                or not re.search(r"(?<=\w )[A-Z,=]+$", record[0])
            ):
                continue  # hidden, or a flag
            assert re.search(r"\[(default: [^\]]+|required)\]$", record[1]), (path, record)
            assert "Default" not in record[1] and "(default" not in record[1], "said once, in the same place"


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_and_stands_in_groups(columns: int, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    for path, _ in commands():
        assert run(*path, "--help") == 0
        out = capsys.readouterr().out
        long = [line for line in out.splitlines() if len(line) > columns and "  thoughtmix " not in line]
        assert not long and "\x1b" not in out
        assert out.count("Show this message and exit") == 1
    assert run("think", "--thinker", "search", "--help") == 0
    out = capsys.readouterr().out
    heads = re.findall(r"^(\w[\w' ]+):$", out, re.M)
    assert heads[:4] == ["Examples", "Arguments", "Options", "What the thinker search takes"]
    assert {"How tokens are drawn", "How the model runs", "Models elsewhere", "Many prompts"} < set(heads)
    common = out[out.index("\nOptions:") : out.index("\nWhat the thinker")]
    assert common.index("-n, --n") < common.index("--select") < common.index("--out") and len(common.splitlines()) < 40


# --- names -----------------------------------------------------------------------------------------------------------

_TWO_KINDS = {
    "--resume": "a file of `search`; else the folder is named already",
    "--top-p": "several, with commas, where thoughts may differ",
    "--temperature": "several, with commas, where thoughts may differ",
}


def test_a_name_has_one_kind_of_value_everywhere() -> None:
    """`--select 3` beside `--select best`, `--prompts FILE` beside `--prompts 24`: what people cannot keep apart."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for _, command in commands():
        for p in command.params:
            if p.param_type_name == "option" and not p.hidden:
                kind = str(p.type_descriptor.annotation)
                kind = "a path" if "Path" in kind or (p.name, kind) == ("prompts", "<class 'str'>") else kind
                kinds[p.opts[-1]].add(kind.replace("<class 'float'>", "<class 'int'>"))
    mixed = {name: found for name, found in kinds.items() if len(found) > 1}
    assert mixed.keys() <= _TWO_KINDS.keys(), mixed
    assert "--strength" in kinds and "--tokens" not in kinds, "the latter had four meanings"


def test_old_names_are_nobodys_own_and_go_on_working(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    by_path = dict(commands())
    for path, old in RENAMED.items():
        now = {opt for p in by_path[path].params for opt in (*p.opts, *p.secondary_opts)}
        assert {flag(name) for name in old.values()} <= now, path
        assert not {flag(name) for name in old} & now, path
    assert run("cost", "--list") == 0
    listed = capsys.readouterr()
    assert run("cost", "--list-gpus") == 0
    out, err = capsys.readouterr()
    assert out == listed.out and err == "thoughtmix: --list-gpus is --list now.\n" and listed.err == ""
    assert run("-q", "cost", "--list-gpus") == 0 and run("renoise", "x", "--how=no", "-q", "-n", "0") == 2
    assert "is --mask now" not in capsys.readouterr().err
    monkeypatch.setenv("THOUGHTMIX_EXPERIMENT_PROMPTS", "3")
    assert run("experiment", "--data", "x", "--out", str(tmp_path / "x")) == 2
    assert "3 prompts are too few. Pass --limit 12" in capsys.readouterr().err
    monkeypatch.delenv("THOUGHTMIX_EXPERIMENT_PROMPTS")
    config = tmp_path / "config.toml"
    config.write_text("[experiment]\nprompts = 4\n")
    monkeypatch.setenv("THOUGHTMIX_CONFIG", str(config))
    assert run("experiment", "--data", "x", "--out", str(tmp_path / "x")) == 2
    assert "4 prompts are too few" in capsys.readouterr().err


def test_old_names_of_a_thinkers_options(tinyland: Any, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    short = ("think", PROMPT, "-n", "1", "--max-new-tokens", "4", "--no-measure", "--json", "-t", "search")
    assert run(*short, "--budget", "60") == 0
    now = json.loads(capsys.readouterr().out)
    for words in (("--tokens", "60"), ("-o", "tokens=60"), ("-o", "budget=60")):
        assert run(*short, *words) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["settings"]["options"] == now["settings"]["options"] == {"budget": 60}
        assert ("now" in err) is ("budget" not in words[1])
    config = tmp_path / "config.toml"
    config.write_text("[think]\ntokens = 60\n")
    monkeypatch.setenv("THOUGHTMIX_CONFIG", str(config))
    assert run(*short) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["options"] == {"budget": 60}


def test_old_names_of_options_in_a_program(tinyland: Any) -> None:
    pipeline = thoughtmix.Pipeline()
    how: dict[str, Any] = {"max_new_tokens": 4, "measure": False}
    with pytest.warns(RenamedWarning, match="tokens is budget now"):
        made = pipeline(PROMPT, 1, "search", tokens=40, **how)
    assert made.settings["options"] == {"budget": 40}
    with pytest.raises(InputError, match="budget is given twice, also as tokens"):
        pipeline(PROMPT, 1, "search", tokens=40, budget=40, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_thinker("diffusion").Options(**{"select": "smc"}).given() == {"compete": "smc"}, "what was saved"
    for name in thinker_names():
        kind = get_thinker(name).Options
        assert not kind.old_names().keys() & kind.model_fields.keys()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("think", PROMPT, "--max-new-tokens", "4", "-n", "2"), ("noise", PROMPT, "--max-new-tokens", "4", "-n", "2"),
              ("search", PROMPT, "--max-new-tokens", "4", "-n", "2", "--budget", "30"), ("show", "SET"), ("measure", "LINES")],
)  # fmt: skip
def test_out_html_and_json_mean_the_same_everywhere(
    tinyland: Any, capsys: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "set.json").write_text(ThoughtSet.from_texts(["w1 w2", "w3"], "w4", measure=False).to_json())
    (tmp_path / "lines.txt").write_text("w1 w2\nw3\n")
    places = {"SET": str(tmp_path / "set.json"), "LINES": str(tmp_path / "lines.txt")}
    words = tuple(places.get(word, word) for word in words)
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    out.write_text("what was there")
    assert run(*words, "--out", str(out), "--html", str(page)) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [f"Wrote {out}", f"Wrote {page}"]
    assert "thought 1" in said.out and page.read_text().startswith("<!doctype html>")
    assert len(ThoughtSet.from_json(out)) == 2, "a file that is there is replaced"

    assert run(*words, "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == "" and _timeless(printed.out) == _timeless(out.read_text())
    assert run(*words, "--out", "-") == 0
    assert _timeless(capsys.readouterr().out) == _timeless(out.read_text())
    assert run(*words, "--html", "-") == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert run(*words, "-q", "--out", str(out)) == 0
    assert capsys.readouterr().err == ""

    for more, says in (
        (("--json", "--html", "-"), "Two results were sent to standard output"),
        (("--out", str(tmp_path)), "is a folder. Name a file in it"),
        (("--out", str(tmp_path / "no" / "x.json")), "Type: mkdir -p"),
        (("--html", str(tmp_path / "no" / "x.html")), "Type: mkdir -p"),
    ):
        assert run(*words, *more) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1, err


def _timeless(text: str) -> Any:
    body = json.loads(text)
    return {name: value for name, value in body.items() if name != "run"}


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_work_says_so_in_a_pipe_and_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for(text: str, stream: io.StringIO) -> str:
        for _ in range(2000):
            if text in stream.getvalue():
                return stream.getvalue()
            time.sleep(0.005)
        raise AssertionError(f"{text!r} is not in {stream.getvalue()!r}")

    monkeypatch.setattr(reporting, "EVERY", 0.01)
    monkeypatch.setattr(reporting, "REDRAWN", 0.01)
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    report = Reporter()
    with report.work("Loading") as say:
        wait_for("Loading (0 s)\n", pipe)
        say("Writing: 3 tokens")
        wait_for("Writing: 3 tokens (", pipe)
        report.note("a line that stays")
        with report.work("Measuring"):
            pass
    assert "\r" not in pipe.getvalue() and "a line that stays\n" in pipe.getvalue()
    ended = pipe.getvalue()
    time.sleep(0.05)
    assert pipe.getvalue() == ended, "nothing goes on speaking"

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with report.work("Loading"):
        wait_for("Loading · 0 s", terminal)
        report.note("a line that stays")
        wait_for("a line that stays\n\r\x1b[2K", terminal)
    shown = terminal.getvalue()
    assert "\r\x1b[2Ka line that stays\n" in shown and shown.endswith("\r\x1b[2K"), "the line vanishes in the end"

    with report.work("Fetching"):
        report.step("Converting")
        wait_for("Converting · 0 s", terminal)
    assert "Converting ..." not in terminal.getvalue(), "the line says it"

    monkeypatch.setattr(sys, "stderr", quiet := io.StringIO())
    with Reporter(quiet=True).work("Loading") as say:
        say("Writing")
        time.sleep(0.05)
    Reporter(quiet=True).note("a note")
    assert quiet.getvalue() == ""
    Reporter(quiet=True).warn("went wrong")
    assert quiet.getvalue() == "thoughtmix: went wrong\n"


@pytest.mark.parametrize(
    "words",
    [("search", PROMPT, "--budget", "90", "-n", "1", "--step=2", "--width=2"), ("think", PROMPT, "-n", "2", "--json")],
)
def test_commands_say_how_far_they_are(
    tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(reporting._Line, "say", lambda self, words: said.append(words))
    assert run(*words, "--max-new-tokens", "6") == 0
    assert any(re.match(r"(Searching|Writing): \d+ of (at most )?\d+ tokens", line) for line in said), said
    assert said[-1] == "Measuring how different they are" or words[0] == "search"
    said.clear()
    assert run(*words, "--max-new-tokens", "6", "--quiet") == 0
    assert not said


def test_training_tells_each_step_and_leaves_a_line_an_evaluation(capsys: Any) -> None:
    from thoughtmix.cli.training import duration, training_words
    from thoughtmix.training.trainer import TrainingProgress

    said: list[str] = []
    step = training_words(Reporter(), said.append)
    step(TrainingProgress(1, 2000, 4.25, 900.0, 3725.0, {}))
    step(TrainingProgress(250, 2000, 3.5, 900.0, 61.0, {"val_loss": 3.25}))
    step(TrainingProgress(251, 2000, 3.5, 900.0, 60.0, {"val_loss": 3.25}))
    assert said[0] == "Training: step 1 of 2,000, loss 4.250, 1 h 02 min left" and len(said) == 3
    assert capsys.readouterr().err == "step 250 of 2,000: validation loss 3.2500, 900 tokens/s\n"
    assert [duration(s) for s in (-1, 0.4, 59.6, 3600)] == ["0 s", "0 s", "1 min 00 s", "1 h 00 min"]


# --- what a set looks like -------------------------------------------------------------------------------------------


def test_a_set_prints_as_a_screenful(tinyland: Any) -> None:
    made = thoughtmix.think(PROMPT, n=20, max_new_tokens=60)
    shown = str(made)
    assert len(shown) < 3000 and len(shown.splitlines()) <= 14
    assert "and 8 more: thoughts.texts" in shown and shown.splitlines()[-1].startswith("20 answers by sampling")
    assert len(repr(made)) < 200 and repr(made).startswith("ThoughtSet(20 thoughts by sampling, prompt='w5 w9")
    assert str(made[0]) == made[0].text and len(repr(made[0])) < 120
    loud = ThoughtSet.from_texts(["<script>alert(1)</script>", "\x1b[31mred"], measure=False)
    assert "\x1b" not in str(loud)
    html = loud._repr_html_() or ""
    assert "<script>alert" not in html and len(html) < 30_000


# --- mistakes of newcomers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"max_tokens": 10}, "Did you mean 'max_new_tokens'?"), ({"n_thoughts": 3}, "Did you mean 'n'?"),
        ({"temp": 1}, "Did you mean 'temperature'?"), ({"temperatur": 1}, "Did you mean 'temperature'?"),
        ({"n": "3"}, "n is '3', which is no whole number"), ({"n": 2.5}, "Pass n=8"), ({"n": True}, "n is True"), ({"n": 0}, "n is 0"),
        ({"seed": None}, "seed is None"), ({"seed": 1.5}, "seed is 1.5"), ({"max_new_tokens": "9"}, "no whole number"),
        ({"creativity": "high"}, "creativity is 'high'"), ({"landing": "x"}, "landing is 'x'"), ({"stop": 3}, "stop is 3"),
        ({"stop": [1]}, "stop is (1,)"), ({"on_step": 3}, "takes a StepEvent"), ({"options": "a=1"}, "options={'width': 6}"),
        ({"model": 5}, "A model is a name"), 
        ({"endpoint": 3}, "An endpoint is an address"), ({"prompt": None}, "not NoneType"), ({"prompt": b"x"}, "not bytes"),
        ({"prompt": " "}, "prompt is empty"), ({"thinker": "samplng"}, "Did you mean 'sampling'?"),
    ],
)  # fmt: skip
def test_wrong_values_in_a_program_are_one_line(tinyland: Any, how: dict[str, Any], says: str) -> None:
    how = {"prompt": PROMPT, "max_new_tokens": 3, "measure": False, **how}
    with pytest.raises(thoughtmix.ThoughtmixError) as caught:
        thoughtmix.think(**how)
    assert says in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_numbers_of_numpy_are_numbers(tinyland: Any) -> None:
    import numpy as np

    made = thoughtmix.think(PROMPT, n=np.int64(2), seed=np.int32(3), max_new_tokens=np.int64(3), creativity=np.float32(1), measure=False)  # fmt: skip
    assert ThoughtSet.from_json(made.to_json()).settings["seed"] == 3
    with pytest.raises(InputError, match="k is 'a'"):
        made.select("a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("think", PROMPT, "--max-tokens", "9"), "Did you mean --max-new-tokens?"), (("think", PROMPT, "--num", "3"), "Did you mean --n?"),
        (("think", "Name", "a", "fruit"), "goes in quotes"), (("think", PROMPT, "-n", "1e3"), "it is no whole number"),
        (("metrics", "--jsn"), "Did you mean --json?"), (("think", PROMPT, "--model", "NOTOK"), "no tokenizer (no tokenizer.json)"),
        (("diffuse", "x", "--model", "NOTOK"), "no tokenizer (no tokenizer.json)"), (("think", "--prompts", "gone.jsonl", "--out", "-"), "gone.jsonl: No such file"),
        (("measure", "gone.txt"), "Name a file of texts"), (("search", PROMPT, "--budget", "0"), "Pass --budget 1."),
        (("train", "mixture", "--data", "gone.txt", "--out", "m"), "There is no file gone.txt"), (("think", PROMPT, "--html", "NOTOK"), "is a folder"),
        (("show", "gone.json"), "gone.json: No such file or directory"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line_that_names_what_was_meant(
    capsys: Any, tmp_path: Path, monkeypatch: Any, words: tuple[str, ...], says: str
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    if "NOTOK" in words:
        config = LlamaConfig(
            vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        LlamaForCausalLM(config).save_pretrained("NOTOK")
        capsys.readouterr()
    assert run(*words) in {1, 2}
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("thoughtmix: ") and err.count("\n") == 1 and says in err, err


def test_a_file_where_a_prompt_is_asked_is_told(tinyland: Any, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w5.txt").write_text("w9")
    assert run("think", "w5.txt", "-n", "1", "--max-new-tokens", "3", "--no-measure") == 0
    assert capsys.readouterr().err == "thoughtmix: w5.txt is a file; what stands in it: thoughtmix think - < w5.txt\n"


def test_completion_knows_commands_flags_and_thinkers() -> None:
    def complete(*words: str) -> list[str]:
        typed = ["thoughtmix", *words]
        env = {
            **os.environ,
            "_THOUGHTMIX_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(typed),
            "COMP_CWORD": str(len(words)),
        }
        code = "from thoughtmix.cli import run; import sys; sys.argv = ['thoughtmix']; run()"
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.split()

    assert complete("thi") == ["think", "thinkers"]
    assert {"--select", "--seed", "--stop", "--stream"} <= set(complete("think", "--s"))
    assert complete("think", "--thinker", "sa") == ["sampling"]
    assert "--tokens" not in complete("cost", "--")
