"""Many prompts: read from anything, thought about together, written line by line, gone on with after any death."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import language_model, tiny, tokenizer

import thoughtmix
from thoughtmix.batch.lines import AnswerFile, encoded, line_of
from thoughtmix.batch.records import SEED_STRIDE, PromptSource, Record
from thoughtmix.batch.run import run_batch
from thoughtmix.batch.summary import RunningMean
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.core.request import Prompt
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.core.waiting import NOTHING_YET, without_waiting
from thoughtmix.pipeline import Pipeline

pytest_plugins = ["tinyland"]
SETTINGS: dict[str, Any] = {"n": 3, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    from tinyland import HashEmbedder

    return Pipeline(language_model("llama"), embedder=HashEmbedder())


def some_prompts(count: int) -> list[str]:
    return [" ".join(f"w{3 + (7 * i + j) % 150}" for j in range(1 + i % 5)) for i in range(count)]


def exact(value: Any) -> Any:
    """What does not depend on who shares a step: all but timings, and the rounding of likelihoods."""
    if isinstance(value, dict):
        return {name: exact(v) for name, v in value.items() if name not in {"run", "logprob", "token_logprobs"}}
    return [exact(v) for v in value] if isinstance(value, list) else value


def same(got: ThoughtSet, want: ThoughtSet) -> None:
    assert exact(json.loads(got.to_json())) == exact(json.loads(want.to_json()))
    assert [t.logprob for t in got] == pytest.approx([t.logprob for t in want], rel=1e-5)


def lines(path: Path) -> list[dict[str, Any]]:
    body = path.read_bytes()
    assert body.endswith(b"\n") or not body
    return [json.loads(line) for line in body.splitlines()]


# --- prompts -------------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, body: str | bytes, name: str = "in.jsonl", **how: Any) -> list[Record]:
    file = tmp_path / name
    file.write_bytes(body if isinstance(body, bytes) else body.encode())
    source = PromptSource(str(file), **how)
    records = list(source.records())
    assert source.count() == len(records)
    return records


def test_a_prompt_is_a_column_messages_or_the_line_itself(tmp_path: Path) -> None:
    body = (
        '{"prompt": "a", "id": 7}\n\n"b"\n{"messages": [{"role": "user", "content": "c"}], "k": [1]}\n{"text": "d"}\n'
    )
    records = read(tmp_path, body)
    assert [r.prompt and r.prompt.text for r in records] == ["a", "b", "c", "d"]
    assert [r.index for r in records] == [0, 1, 2, 3] and records[0].fields["id"] == 7
    (named,) = read(tmp_path, '{"question": "q", "prompt": "p"}', column="question", system="be brief")
    assert named.prompt is not None and [m["content"] for m in named.prompt.messages] == ["be brief", "q"]
    table = 'prompt,who\n"one, ""two""\nthree",x\nfour,y\n'
    for name, text in (
        ("in.csv", table),
        ("in.tsv", table.replace(",w", "\tw").replace(",x", "\tx").replace(",y", "\ty")),
    ):
        records = read(tmp_path, "\ufeff" + text, name)
        assert [r.prompt and r.prompt.text for r in records] == ['one, "two"\nthree', "four"]
        assert [r.fields["who"] for r in records] == ["x", "y"]
    assert [r.prompt and r.prompt.text for r in read(tmp_path, '{"a"\r\nb\r\n', "in.txt")] == ['{"a"', "b"]


def test_a_record_that_cannot_be_asked_has_an_error_and_the_others_stand(tmp_path: Path) -> None:
    broken = [
        b"{",
        b'{"prompt": " "}',
        b'{"prompt": 3}',
        b'{"x": "y"}',
        b"[1]",
        b'"\\ud800"',
        b'"\xff"',
        b'{"messages": [3]}',
    ]
    records = read(tmp_path, b"\n".join([b'"first"', *broken, b'"last"']))
    assert [bool(r.error) for r in records] == [False, *[True] * len(broken), False]
    assert "it has x" in records[4].error and "UTF-8" in records[7].error
    rows = read(tmp_path, b"prompt\ngood\n\xff\nbetter\n", "in.csv")
    assert [bool(r.error) for r in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("body", "says"),
    [("", "no prompt"), ('{"question": "x"}', "--column question"), ("Name a fruit.", "--format lines")],
)
def test_a_file_in_the_wrong_form_is_refused_at_once(tmp_path: Path, body: str, says: str) -> None:
    (tmp_path / "in.jsonl").write_text(body)
    with pytest.raises(InputError, match=says):
        PromptSource(str(tmp_path / "in.jsonl")).check()
    with pytest.raises(InputError, match="Cannot read"):
        PromptSource(str(tmp_path / "none.jsonl")).check()


def test_a_seed_is_of_the_id_or_the_place() -> None:
    assert Record(0, Prompt("a")).seed(5) == 5 and Record(3, Prompt("a")).seed(5) == 5 + 3 * SEED_STRIDE
    first, moved = Record(0, Prompt("a"), {"id": "x"}), Record(9, Prompt("b"), {"id": "x"})
    assert first.seed(0) == moved.seed(0) < 2**53 and first.seed(0) != Record(0, Prompt("a"), {"id": "y"}).seed(0)


# --- thinking about many ---------------------------------------------------------------------------------------------------


def test_a_set_is_the_same_among_many_as_alone(pipeline: Pipeline) -> None:
    prompts = some_prompts(20)
    many = pipeline(prompts, **SETTINGS)
    for i in (0, 7, 19):
        alone = pipeline(prompts[i], **SETTINGS, seed=i * SEED_STRIDE)
        same(alone, many[i])
    few = list(pipeline.stream(iter(prompts), 3, max_new_tokens=6, ordered=False, rows=3))
    assert sorted(s.run["index"] for s in few) == list(range(20))
    for one in few:
        same(dataclasses.replace(one, settings=many[one.run["index"]].settings), many[one.run["index"]])


@pytest.mark.parametrize("thinker", ["mixture", "search", "noise", "hybrid"])
def test_other_thinkers_think_about_many(thinker: str, pipeline: Pipeline) -> None:
    there = Pipeline(language_model("mixture"), embedder=pipeline.embedder) if thinker == "mixture" else pipeline
    options = {"tokens": 60, "evaluators": "likelihood"} if thinker == "search" else {}
    prompts = some_prompts(3)
    many = there(prompts, 2, thinker, max_new_tokens=4, **options)
    alone = there(prompts[2], 2, thinker, max_new_tokens=4, seed=2 * SEED_STRIDE, **options)
    assert many[2].texts == alone.texts


def test_conversations_are_many_and_one_conversation_is_one(pipeline: Pipeline) -> None:
    said = [{"role": "user", "content": "w5"}]
    assert isinstance(pipeline("w5", 1, max_new_tokens=1), ThoughtSet)
    with pytest.raises(thoughtmix.ThoughtmixError, match="chat template"):  # one conversation, of a model without one
        pipeline(said, 1, max_new_tokens=1)
    with pytest.raises(ModelError, match="All 2 prompts failed"):
        pipeline([said, said], 1, max_new_tokens=1)


def test_a_prompt_that_fails_does_not_stop_the_rest(pipeline: Pipeline) -> None:
    sets = pipeline(["w5", "w4 " * 300, "", "w6"], **SETTINGS)
    assert [len(s) for s in sets] == [3, 0, 0, 3]
    assert "300 tokens" in sets[1].run["error"] and "empty" in sets[2].run["error"]
    with pytest.raises(InputError, match="max_new_tokens"):
        next(pipeline.stream(["w5"], max_new_tokens=0))
    with pytest.raises(InputError, match="rows"):
        next(pipeline.stream(["w5"], rows=0))
    with pytest.raises(InputError, match="on_step"):
        pipeline(["w5"], on_step=lambda event: None)


def test_prompts_are_taken_as_there_is_room_and_dropped_with_the_stream(pipeline: Pipeline) -> None:
    taken = []

    def prompts() -> Iterator[str]:
        for i in range(1000):
            taken.append(i)
            yield "w5"

    stream = pipeline.stream(prompts(), 4, max_new_tokens=3, rows=8, measure=False)
    next(stream)
    stream.close()
    assert len(taken) < 40
    assert not [t for t in threading.enumerate() if t.name == "thoughtmix-scheduler"]


def test_memory_does_not_grow_with_the_prompts(pipeline: Pipeline) -> None:
    from thoughtmix.engine.concurrent import ConcurrentEngines

    engines = ConcurrentEngines(4, lambda: pipeline.engine)

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in engines.map(lambda engine, i: ThoughtSet("p" * 1000 + str(i), ()), iter(range(count)), ordered=False):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(5000) < peak(500) + 2**18


def test_results_do_not_wait_for_the_next_prompt() -> None:
    """Of a pipe whose other end waits for the answer."""
    from thoughtmix.engine.concurrent import ConcurrentEngines

    answered = threading.Event()

    def typed() -> Iterator[int]:
        yield 1
        assert answered.wait(20), "the first answer waits for the second prompt"
        yield 2

    made = []
    for item, _ in ConcurrentEngines(4, lambda: None).map(lambda e, i: i, without_waiting(typed())):  # type: ignore[arg-type, return-value]
        made.append(item)
        answered.set()
    assert made == [1, 2] and NOTHING_YET not in made


# --- the file of answers -----------------------------------------------------------------------------------------------------


def a_set(text: str) -> ThoughtSet:
    return ThoughtSet(text, (Thought("one é", (1, 2), 0, -1.0),), metrics={"vendi": 1.5}, run={"batch": {"n": 1}})


def test_a_line_is_a_thought_set_with_what_the_input_said(tmp_path: Path) -> None:
    record = Record(4, Prompt("p"), {"prompt": "p", "id": "x", "model": "theirs", "index": 9})
    line = json.loads(encoded(line_of(record, a_set("p"))))
    assert next(iter(line)) == "index" and line["index"] == 4 and line["id"] == "x" and line["error"] == ""
    assert line["input_model"] == "theirs" and line["input_index"] == 9 and "input_prompt" not in line
    assert ThoughtSet.from_dict(line).texts == ["one é"]


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for body in ("my notes\n", "my notes", '{"index": 1}\n', '{"a": 1}'):
        out.write_text(body)
        with pytest.raises(InputError, match="no answer of a batch"), AnswerFile(str(out), {"n": 1}) as file:
            list(file.earlier())
        assert out.read_text() == body


def test_a_torn_line_is_cut_and_other_settings_or_prompts_are_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with AnswerFile(str(out), {"n": 1}) as file:
        assert list(file.earlier()) == []
        file.add(Record(0, Prompt("p")), a_set("p"))
        with pytest.raises(InputError, match="Another process"):
            AnswerFile(str(out), {"n": 1})
    whole = out.read_bytes()
    for cut in (1, 9, 12, 300):
        out.write_bytes(whole + whole.replace(b'"index": 0', b'"index": 1')[:cut])
        with AnswerFile(str(out), {"n": 1}) as file:
            assert [line["index"] for line in file.earlier()] == [0]
            assert file.skip(Record(0, Prompt("p"))) and not file.skip(Record(1, Prompt("p")))
            with pytest.raises(InputError, match="Prompt 0 of the input is not"):
                file.skip(Record(0, Prompt("q")))
        assert out.read_bytes() == whole
    with pytest.raises(InputError, match="n was 1, is 2"), AnswerFile(str(out), {"n": 2}) as file:
        list(file.earlier())
    out.write_bytes(whole * 2)
    with pytest.raises(InputError, match="twice"), AnswerFile(str(out), {"n": 1}) as file:
        list(file.earlier())


def test_running_means_are_those_of_all() -> None:
    import numpy as np
    from scipy import stats

    values = np.random.default_rng(0).normal(3, 2, 50)
    seen = RunningMean()
    for value in values:
        seen.add(float(value))
    low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=stats.sem(values))
    assert seen.mean == pytest.approx(values.mean()) and seen.margin == pytest.approx((high - low) / 2)


# --- the command ------------------------------------------------------------------------------------------------------------


def think(*arguments: str) -> int:
    return main(["think", "-n", "3", "--max-new-tokens", "6", *arguments])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "number": i}) + "\n" for i, p in enumerate(some_prompts(12))))
    return file


def test_a_file_in_a_file_out(tinyland: Any, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    command = ["--prompts", str(prompts), "--out", str(out), "--ordered", "--summary", str(summary)]
    assert think(*command) == 0 and capsys.readouterr().out == ""
    made = lines(out)
    assert [line["number"] for line in made] == list(range(12)) and all(line["metrics"] for line in made)
    total = json.loads(summary.read_text())
    assert total["prompts"] == 12 and total["thoughts"] == 36 and total["failed"] == 0
    means = [line["metrics"]["vendi"] for line in made]
    assert total["metrics"]["vendi"]["mean"] == pytest.approx(sum(means) / 12, abs=1e-6)
    assert think(*command) == 0 and lines(out) == made and tinyland["models"] == [(None, "auto", "auto")]
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:5]) + b'{"index": 5, "pro')
    assert think(*command) == 0
    assert [exact(line) for line in lines(out)] == [exact(line) for line in made]
    assert json.loads(summary.read_text()) == total
    capsys.readouterr()
    assert think(*command, "--creativity", "0.5") == 2
    assert "creativity was null, is 0.5" in capsys.readouterr().err


def test_a_selection_keeps_the_metrics_of_all(tinyland: Any, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert think("--prompts", str(prompts), "--out", str(out), "--select", "2") == 0
    assert all(len(line["thoughts"]) == 2 and line["metrics"] for line in lines(out))


def test_failed_prompts_are_lines_and_may_be_asked_again(
    tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    file.write_text("w5\n" + "w4 " * 300 + "\nw6\n")
    command = ["--prompts", str(file), "--out", str(out), "--no-measure"]
    assert think(*command) == 1
    assert "1 of 3 prompts failed" in capsys.readouterr().err
    errors = {line["index"]: line["error"] for line in lines(out)}
    assert errors[0] == errors[2] == "" and "300 tokens" in errors[1]
    before = lines(out)
    assert think(*command, "--retry-failed") == 1  # it still is too long
    assert sorted(line["index"] for line in lines(out)) == [0, 1, 2]
    good = [line for line in before if not line["error"]]
    assert lines(out)[:2] == good


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "IN"], "--out answers.jsonl"),
        (["a prompt", "--prompts", "IN", "--out", "x"], "Drop one"),
        (["a prompt", "--ordered"], "--prompts FILE"),
        (["--prompts", "IN", "--out", "IN"], "same file"),
        (["--prompts", "IN", "--out", "OUT", "--json"], "--json shows one set"),
        (["--prompts", "IN", "--out", "OUT", "--format", "xml"], "jsonl"),
        (["--prompts", "IN", "--out", "OUT", "--column", "nope"], "no 'nope'"),
        (["--prompts", "IN", "--out", "/no/such/folder/x"], "There is no folder"),
        (["--prompts", "IN", "--out", "OUT", "--rows", "0"], "--rows 64"),
        (["--prompts", "IN", "--out", "OUT", "-n", "0"], "-n 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], says: str, tinyland: Any, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"IN": str(prompts), "OUT": str(tmp_path / "out.jsonl")}
    assert think(*(files.get(word, word) for word in arguments)) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and not captured.out


# --- dying --------------------------------------------------------------------------------------------------------------------

_CHILD = """
import sys, time, random
from thoughtmix.batch.lines import AnswerFile
from thoughtmix.batch.records import PromptSource
from thoughtmix.batch.run import run_batch
from thoughtmix.core.types import Thought, ThoughtSet
source, out = sys.argv[1:3]
def answer(records):
    held = []
    for record in records:
        held.append(record)
        if len(held) == 5:  # they end in another order than they came
            random.shuffle(held)
            while len(held) > 2:
                yield one(held.pop())
    while held:
        yield one(held.pop())
def one(record):
    time.sleep(0.001)
    text = f"{record.prompt.text} " * random.Random(record.index).randrange(1, 4000)
    thoughts = (Thought(text, (1,), record.seed(0), -1.0),)
    return record, ThoughtSet(record.prompt.text, thoughts, run={"batch": {"n": 1}})
with AnswerFile(out, {"n": 1}) as file:
    run_batch(PromptSource(source), file, answer)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(thoughtmix.__file__).parents[1])])}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE)


def killed_until_done(begin: Any, out: Path, kills: int, dice: random.Random, most: int) -> int:
    """Kill -9 so many times, each when some more of the file is there, then let it end. How many kills struck."""
    struck = 0
    for _ in range(kills):
        size = out.stat().st_size if out.exists() else 0
        process = begin()
        until = size + dice.randrange(1, most)
        while process.poll() is None and not (out.exists() and out.stat().st_size >= until):
            time.sleep(0.0005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            struck += 1
        process.communicate()
    process = begin()
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return struck


def test_kill_9_loses_nothing_doubles_nothing_and_halves_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The file alone, without a model: large lines, many kills."""
    kills = max(5, request.config.getoption("kills"))
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"prompt {i}\n" for i in range(400)))
    begin = lambda: start(_CHILD, str(source), str(out))  # noqa: E731
    struck = killed_until_done(begin, out, kills, random.Random(1), 2 * 400 * 2000 * 12 // (3 * kills))
    assert struck >= kills // 2, "it ended before it could be killed"
    made = lines(out)
    assert sorted(line["index"] for line in made) == list(range(400))
    for line in made:
        text = f"prompt {line['index']} " * random.Random(line["index"]).randrange(1, 4000)
        assert line["thoughts"][0]["text"] == text


def test_the_command_killed_gives_what_it_would_have(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The whole program over a model."""
    kills = request.config.getoption("kills")
    folder, source, out = tmp_path / "model", tmp_path / "in.txt", tmp_path / "out.jsonl"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    source.write_text("".join(p + "\n" for p in some_prompts(60)))
    words = [
        "think",
        "--model",
        str(folder),
        "--prompts",
        str(source),
        "--no-measure",
        "-n",
        "2",
        "--max-new-tokens",
        "16",
    ]
    begin = lambda: start("from thoughtmix.cli import run; run()", *words, "--out", str(out))  # noqa: E731
    assert main([*words, "--out", str(tmp_path / "whole.jsonl")]) == 0
    whole = {line["index"]: exact(line) for line in lines(tmp_path / "whole.jsonl")}
    size = (tmp_path / "whole.jsonl").stat().st_size
    struck = killed_until_done(begin, out, kills, random.Random(2), max(2, size * 2 // (kills + 1)))
    assert struck
    made = lines(out)
    assert len(made) == len(whole) and {line["index"]: exact(line) for line in made} == whole


def test_standard_streams(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    words = ["think", "--model", str(folder), "--prompts", "-", "--out", "-", "--no-measure", "-n", "2", "-q"]
    process = subprocess.run(
        [sys.executable, "-m", "thoughtmix", *words, "--max-new-tokens", "4"],
        input=b'{"prompt": "w5 w6", "who": "me"}\n{"prompt": "w7"}\n',
        env={**os.environ, "PYTHONPATH": str(Path(thoughtmix.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    made = [json.loads(line) for line in io.BytesIO(process.stdout)]
    assert {line["prompt"] for line in made} == {"w5 w6", "w7"} and process.stderr == b""


def test_run_batch_is_imported_without_torch() -> None:
    code = "import sys, thoughtmix.batch.run, thoughtmix.batch.lines; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
    assert run_batch and AnswerFile
