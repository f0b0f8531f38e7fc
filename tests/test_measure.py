"""Texts that came from anywhere: measured, selected from and shown as thoughts are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import thoughtmix
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import measure

pytest_plugins = ["tinyland"]
TEXTS = ["a red fruit", "a red fruit", "a long river in the north", "two birds"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["measure", *arguments]) == code
    captured = capsys.readouterr()
    assert not captured.out if code else True
    return captured.err if code else captured.out


def test_texts_are_a_set(tinyland: Any) -> None:
    made = ThoughtSet.from_texts(TEXTS, "Name a thing.")
    assert made.texts == TEXTS and made.metrics["duplicate_rate"] == 0.25 and made.distances[0][1] == pytest.approx(0)
    assert len(made.select(3)) == 3 and {t.text for t in made.select(3)} == set(TEXTS)
    assert "red fruit" in str(made._repr_html_()) and ThoughtSet.from_json(made.to_json()) == made
    assert "relevance" in made.metrics and "relevance" in made[0].scores
    without = ThoughtSet.from_texts(iter(TEXTS))
    assert "relevance" not in without.metrics and "relevance" not in without[0].scores
    assert without.metrics["vendi"] == made.metrics["vendi"]
    assert not ThoughtSet.from_texts(TEXTS, measure=False).metrics
    assert len(ThoughtSet.from_texts("one text")) == 1
    for wrong in ([], [3], ["\ud800"]):
        with pytest.raises(InputError):
            ThoughtSet.from_texts(wrong)  # type: ignore[arg-type]


def test_a_set_is_a_table(tinyland: Any) -> None:
    table = ThoughtSet.from_texts(TEXTS, "p").to_pandas()
    assert list(table.text) == TEXTS and set(table.prompt) == {"p"} and "distance" in table.columns
    made = thoughtmix.think("w5", 3, max_new_tokens=4)
    table = made.to_pandas()
    assert list(table.seed) == [0, 1, 2] and list(table.logprob) == [t.logprob for t in made]
    assert list(table.tokens) == [len(t.token_ids) for t in made]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("in.txt", "\n".join(TEXTS)),
        ("in.jsonl", "\n".join(json.dumps({"text": t}) for t in TEXTS)),
        ("in.jsonl", "\n".join(json.dumps({"answer": t, "prompt": ""}) for t in TEXTS)),
        ("in.csv", "text\n" + "\n".join(TEXTS)),
    ],
)
def test_measure_prints_a_set(
    name: str, body: str, tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(body)
    assert "4 answers by texts" in run(capsys, str(file))
    made = ThoughtSet.from_json(run(capsys, str(file), "--json"))
    assert made == ThoughtSet.from_texts(TEXTS)
    page = tmp_path / "page.html"
    picked = ThoughtSet.from_json(
        run(capsys, str(file), "--json", "--select", "2", "--html", str(page), "--prompt", "P")
    )
    assert len(picked) == 2 and picked.prompt == "P" and "red fruit" in page.read_text()


def test_sets_are_told_apart_by_a_column(tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", t) for t in TEXTS] + [("b", t) for t in TEXTS[2:]]
    file, page = tmp_path / "in.jsonl", tmp_path / "page.html"
    file.write_text("".join(json.dumps({"prompt": p, "text": t, "who": p * 2}) + "\n" for p, t in rows))
    said = run(capsys, str(file), "--html", str(page))
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [["a", "4"], ["b", "2"]]
    assert "mean over sets" in said
    html = page.read_text()
    anchors = re.findall(r'id="(thought-[^"]+)"', html)
    assert len(anchors) == len(set(anchors)) == 6
    assert set(re.findall(r'href="#(thought-[^"]+)"', html)) == set(anchors)
    sets = [ThoughtSet.from_dict(json.loads(line)) for line in run(capsys, str(file), "--json").splitlines()]
    assert [s.prompt for s in sets] == ["a", "b"] and sets[1].texts == TEXTS[2:]
    named = run(capsys, str(file), "--json", "--sets", "who", "--column", "text")
    assert [json.loads(line)["prompt"] for line in named.splitlines()] == ["a", "b"]


def test_answers_of_a_batch_are_measured(tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("w5 w6\nw7\n" + "w4 " * 300)
    words = ["-n", "3", "--max-new-tokens", "6", "--no-measure", "--ordered"]
    assert main(["think", "--prompts", str(source), "--out", str(out), *words]) == 1
    capsys.readouterr()
    sets = [ThoughtSet.from_dict(json.loads(line)) for line in run(capsys, str(out), "--json").splitlines()]
    alone = thoughtmix.think("w5 w6", 3, max_new_tokens=6)
    assert len(sets) == 2 and sets[0].texts == alone.texts and sets[0].metrics == alone.metrics


@pytest.mark.parametrize(
    ("body", "arguments", "says"),
    [
        ("", [], "holds no text"),
        ('{"body": "x"}', [], "--column body"),
        ('{"text": "x"}', ["--sets", "who"], "--sets COLUMN"),
        ('{"text": "x"}', ["--select", "2"], "--select 1 to 1"),
        ("x", ["--format", "xml"], "jsonl"),
    ],
)
def test_what_cannot_be_measured(
    body: str, arguments: list[str], says: str, tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text(body)
    said = run(capsys, str(tmp_path / "in.jsonl"), *arguments, code=2)
    assert says in said and said.count("\n") == 1


def test_making_a_set_of_texts_needs_no_torch() -> None:
    code = (
        "import sys, thoughtmix; thoughtmix.ThoughtSet.from_texts(['a'], measure=False); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_an_empty_set_is_refused_as_before() -> None:
    with pytest.raises(InputError):
        measure(ThoughtSet("p", ()))
