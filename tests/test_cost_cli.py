"""`thoughtmix cost`, through its real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_cli import one_line, run
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config

from thoughtmix.cost import estimate, load_machines
from thoughtmix.report.cost import count, duration, gigabytes, money, render

PARTS = ["pretraining", "full fine-tuning", "graft tuning", "calibration", "no training"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and nothing else."""
    GPT2Config().save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_a_table_with_its_assumptions_below(folder: Path, capsys: Any) -> None:
    assert run("cost", str(folder)) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    assert out.startswith("small: 124.4 M parameters, 12 layers")
    assert all(part in out for part in PARTS)
    machine = load_machines()["h100"]
    for said in (machine.dated.isoformat(), "40% of the peak", "Hoffmann et al. 2022", "teacher's answers", "money"):
        assert said in out, said
    assert max(map(len, out.splitlines())) <= 110


def test_json_is_the_cost_and_nothing_else(folder: Path, capsys: Any) -> None:
    words = [
        "--gpu",
        "a100",
        "--gpus",
        "8",
        "--pretrain-tokens",
        "1e10",
        "--mfu",
        "0.6",
        "--price",
        "1.75",
        "--context",
        "1024",
    ]
    assert run("cost", str(folder), *words, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    asked = {"gpu": "a100", "gpus": 8, "tokens": 1e10, "mfu": 0.6, "price": 1.75, "sequence": 1024}
    there = estimate(GPT2Config(), title="small", **asked).to_dict()
    assert body == json.loads(json.dumps(there))
    assert [way["name"] for way in body["ways"]] == PARTS


def test_a_file_a_folder_and_every_option(folder: Path, capsys: Any) -> None:
    words = ["--tune-tokens", "1e6", "--tune-context", "128", "--batch-size", "4", "--branches", "4", "--rank", "16", "-n", "32",
             "--checkpointing", "--no-master-weights", "--tflops", "100", "--memory-gb", "16", "--json"]  # fmt: skip
    assert run("cost", str(folder / "config.json"), *words) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["model"] == "small"
    assert body["machine"]["tflops"] == 100 and body["machine"]["memory"] == 16
    named = ("tune_tokens", "tune_sequence", "batch", "branches", "rank", "thoughts", "checkpointing", "master")
    assert [body["assumptions"][name] for name in named] == [1e6, 128, 4, 4, 16, 32, True, False]
    (folder / "config.json").rename(folder / "other.json")
    assert run("cost", str(folder / "other.json")) == 0
    assert capsys.readouterr().out.startswith("other: ")


def test_what_does_not_fit_is_said(folder: Path, capsys: Any) -> None:
    assert run("cost", str(folder), "--memory-gb", "1", "--gpus", "1", "--context", "128") == 0
    out = capsys.readouterr().out
    assert "Full fine-tuning needs 3 of these to fit." in out and "1 (needs 3)" in out
    assert run("cost", str(folder), "--batch-size", "100000") == 0
    assert "fits on no number of machines" in " ".join(capsys.readouterr().out.split())


def test_an_encoder_decoder(tmp_path: Path, capsys: Any) -> None:
    T5Config().save_pretrained(tmp_path / "t5")
    assert run("cost", str(tmp_path / "t5")) == 0
    assert "a token is one of the source and one of the target" in capsys.readouterr().out


def test_list_gpus(capsys: Any) -> None:
    assert run("cost", "--list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(load_machines())
    assert run("cost", "--list", "--json") == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(load_machines())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 1, "no model folder"), (["--gpu", "h10"], 2, "Did you mean 'h100'"), (["--mfu", "2"], 2, "mfu is 2"),
        (["--pretrain-tokens", "0"], 2, "(--pretrain-tokens)"), (["--pretrain-tokens", "many"], 2, "--pretrain-tokens"), (["--price", "-1"], 2, "price is -1"),
        (["--gpus", "0"], 2, "(--gpus)"), (["FOLDER", "--context", "4096"], 2, "over the model's 1024. Pass --context 1024"),
        (["BERT"], 1, "not a causal language model"), (["BROKEN"], 1, "Cannot load"), (["--tokns", "1"], 2, "--pretrain-tokens"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: Any, words: list[str], code: int, says: str
) -> None:
    BertConfig().save_pretrained(tmp_path / "bert")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    places = {"FOLDER": folder, "BERT": tmp_path / "bert", "BROKEN": tmp_path / "broken"}
    assert run("cost", *(str(places.get(word, word)) for word in words)) == code
    out, err = capsys.readouterr()
    assert out == "" and one_line(err), err
    assert says in err


def test_no_torch_before_it_is_needed() -> None:
    for words in (["cost", "--help"], ["cost", "--list"], ["cost", "--gpu", "x"], ["cost", "--mfu", "7"]):
        code = f"import sys; from thoughtmix.cli import main; main({words!r}); print([m for m in ('torch', 'transformers') if m in sys.modules])"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert out.stdout.splitlines()[-1] == "[]", words


def test_a_terminal_gets_a_table() -> None:
    console = Console(width=120, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render(estimate(LlamaConfig(), title="llama")))
    text = console.export_text()
    assert all(part in text for part in PARTS) and "GPU-hours" in text


@pytest.mark.model
def test_the_default_model(capsys: Any) -> None:
    assert run("cost", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["model"] == "SmolLM2-135M-Instruct"
    assert body["parameters"]["total"] == 134_515_008
    assert body["parameters"]["graft_share"] < 0.05


def test_words_for_numbers() -> None:
    assert [count(v) for v in (0, 999, 36_864, 134_515_008, 6.738e9, 2e12, 3e15)] == [
        "0", "999", "36.86 k", "134.5 M", "6.74 B", "2.00 T", "3000 T",
    ]  # fmt: skip
    assert [duration(h) for h in (0, 1e-6, 0.01, 0.5, 5.55, 184_320)] == [
        "0",
        "0.1 s",
        "36 s",
        "30 min",
        "5.5 h",
        "184,320 h",
    ]
    assert [money(d) for d in (0, 0.001, 12.3, 255_000)] == ["0", "< $0.01", "$12.30", "$255,000"]
    assert [gigabytes(b) for b in (5e6, 4.2e9, 1.2e12)] == ["0.005", "4.2", "1,200"]
