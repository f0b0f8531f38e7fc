"""Random command lines and mutated files never crash, never hang, and are answered by one line.

The command line runs in this process, in a scratch folder; no path that is passed leads out of it, since a fuzzer that
runs as root could else replace devices. THOUGHTMIX_FUZZ_SECONDS=3600 searches longer, THOUGHTMIX_FUZZ_SEED elsewhere.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tiny import language_model

import thoughtmix.models
from thoughtmix.cli import main
from thoughtmix.core.errors import ModelError

pytest_plugins = ["tinyland"]

SECONDS = float(os.environ.get("THOUGHTMIX_FUZZ_SECONDS", "50"))
SEED = int(os.environ.get("THOUGHTMIX_FUZZ_SEED", "0"))
PATIENCE = 60  # seconds an input may take, on a machine that is busy with other things

TEXT = "The red cat went to the sea.\nThe old dog went to the hill.\n" * 20
WEIRD: list[Any] = [
    None, True, -1, 0, 1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), 2**70, -(2**63), "", "x", "é🧱", "\ud83d", "\x00",
    "1", "x" * 2000, "../..", "{}", [], {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": [1]}},
]  # fmt: skip
VALUES = [
    "", "x", "-1", "0", "1", "2", "3", "0.5", "1.5", "1,2", "0.1,0.9", ",", "nan", "inf", "-inf", "1e-9", "1e400", "é🧱", "\udcff",
    "\x00", "a=1", "a=b=c", "{", "[1", "x" * 300, "none", "auto", "all", "cpu", "float32", "sampling", "mixture", "random",
    "confidence", "likelihood=1", "likelihood=nan", "judge=1", "best", "--", "-", "99999999999999999999",
]  # fmt: skip
FLAGS = {
    "think": "-n --seed --temperature --top-k --top-p --min-p --top-nsigma --stop --creativity --select --thinker --option "
    "--weights --path --dtype --device --html --json --raw --no-measure --no-stream --system --judge --branches --block --draft",
    "search": "-n --seed --temperature --top-p --stop --seconds --step --width --batch --rollouts --exploration --evaluators "
    "--rubric --proposal --apart --no-tree --save --resume --html --json --judge",
    "noise": "-n --seed --families --directions --strength --language --order --file --holes --mask --list --json --html --prompt",
    "diffuse": "--branches --steps --policy --remask --temperature --at --keep --score --sharpness --merge --block --top-p --json",
    "renoise": "--level --lock --mask -n --seed --steps --policy --json",
    "show": "--select --html --out --json",
    "cost": "--json --list --gpu --pretrain-tokens --tune-tokens --batch-size --context --gpus --branches --rank --price --mfu --tflops -n",
    "metrics": "--json",
    "thinkers": "--json",
    "bench": "--list --thinkers --tasks --prompts --grids --pairs --limit --development --out",
    "train": "--data --out --context --layers --hidden-size --heads --routes --modes --segment --noise --optimizer --resume --ema",
    "graft": "--out --branches --rank --route --router --noise --combiner --target --blocks --travelled",
    "tune": "--objective --prompts --limit --contexts --corpus --samples --own --resume --reach",
    "export": "--lora -n --seed --creativity --no-measure",
    "experts": "map think --html --out --json --force --exclude",
    "experiment": "--limit --ablations -n",
}  # fmt: skip
"""Names that may be flags of a command, others too: a wrong name is an input like any other."""
SMALL = {  # what keeps a command that runs small
    "think": ["--max-new-tokens", "2"],
    "search": ["--max-new-tokens", "4", "--budget", "16"],
    "noise": ["--max-new-tokens", "2"],
    "diffuse": ["--max-new-tokens", "4", "--model", "missing"],
    "renoise": ["--model", "missing"],
    "bench": ["--model", "missing"],
    "train": ["--steps", "1", "--batch-size", "2", "--minutes", "0.01"],
    "experiment": ["--data", "missing", "--out", "experiment"],
}


class Hang(BaseException):
    """No handler of the program's takes it for an error of its own."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- files and what happens to them -----------------------------------------------------------------------------------


def originals() -> dict[str, tuple[Any, list[list[str]]]]:
    """Good files by name, as JSON or text, and the commands that read them."""
    thought = {
        "text": "w5 w6", "token_ids": [5, 6], "seed": 1, "logprob": -1.5, "finish": "stop", "token_logprobs": [-1.0, -0.5],
        "origin": {"thinker": "search", "path": [1]}, "scores": {"likelihood": -1.0},
    }  # fmt: skip
    stage = {"stage": "sampling", "texts": 2, "tokens": 4, "quality": {"nll": 1.0}, "diversity": {"vendi": 1.5}}
    thought_set = {
        "schema": "thoughtmix/thoughtset", "version": 1, "prompt": "w5", "thoughts": [thought, {**thought, "text": "w9"}],
        "messages": [{"role": "user", "content": "w5"}], "thinker": "sampling", "model": "m", "settings": {"n": 2},
        "metrics": {"vendi": 1.5}, "distances": [[0.0, 0.5], [0.5, 0.0]],
        "run": {"tokens": 4, "seconds": 0.1, "tokens_per_second": 40.0, "path": "fused", "stages": [stage, stage]},
    }  # fmt: skip
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 90,
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    context = '[[context]]\nname = "a"\nexamples = [["w1", "w2"]]\n'
    direction = '[[direction]]\nname = "odd"\nfamily = "own"\nen = "In an odd way."\nfr = "Autrement."\n'
    prompts = "".join(f'{{"id": "{i}", "prompt": "w{i} w5"}}\n' for i in range(12))
    bench = ["bench", "--tasks", "none", "--model", "missing"]
    tiny = ["--steps", "1", "--layers", "1", "--hidden-size", "8", "--heads", "1", "--context", "4"]
    return {
        "set.json": (thought_set, [["show"], ["show", "--select", "1"], ["show", "--html", "page.html"]]),
        "tree.json": (None, [["search", "--budget", "40", "-n", "2", "--resume"]]),
        "config.json": (config, [["cost"], ["cost", "--json"]]),
        "grids.json": ({"sampling": [{"temperature": 0.5}]}, [[*bench, "--thinkers", "sampling", "--grids"]]),
        "profiles.json": ({"a": ["w1 w2", "w3"], "b": ["w5"]}, [["experts", "map", "missing", "--texts"]]),
        "prompts.jsonl": (prompts, [[*bench, "--prompts"], ["tune", "graft", "--prompts"]]),
        "contexts.toml": (context, [["tune", "graft", "--contexts"]]),
        "pairs.jsonl": ('{"a": "x", "b": "y", "same": true}\n' * 4, [[*bench, "--tasks", "coverage", "--pairs"]]),
        "directions.toml": (direction, [["noise", "w5", "--list", "--file"], ["noise", "w5", "-n", "1", "--file"]]),
        "text.txt": (TEXT, [["train", "baseline", "--out", "{out}", *tiny, "--data"]]),
    }  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with some of its parts replaced, removed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(list(places(value)))
        if not path:
            value = rng.choice(WEIRD) if rng.random() < 0.2 else value
            continue
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        if rng.random() < 0.3:
            del inner[path[-1]]
        elif isinstance(inner, list) and rng.random() < 0.3:
            inner.append(inner[path[-1]])
        else:
            inner[path[-1]] = copy.deepcopy(rng.choice(WEIRD))
    return value


def damaged(body: bytes, rng: random.Random) -> bytes:
    """Bytes as a disk, an editor or a foe may leave them."""
    at = rng.randrange(len(body) + 1)
    kinds: list[Callable[[], bytes]] = [
        lambda: body[:at],
        lambda: body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :],
        lambda: body[:at] + rng.randbytes(8) + body[at:],
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + body,
        lambda: body.decode(errors="replace").encode("utf-16"),
        lambda: b"[" * 50_000,
        lambda: body.replace(b"\n", b"\r\n"),
        lambda: body * 3,
        lambda: body.replace(b"1", b"1" * 5000, 1),
    ]
    return rng.choice(kinds)()


def file_case(rng: random.Random, files: dict[str, tuple[Any, list[list[str]]]], turn: int) -> list[str]:
    name = rng.choice(sorted(files))
    content, commands = files[name]
    plain = isinstance(content, str)
    body = (content if plain else json.dumps(mutated(content, rng) if rng.random() < 0.85 else content)).encode()
    where = Path("config.json" if name == "config.json" else f"mutated-{name}")
    where.write_bytes(damaged(body, rng) if plain or rng.random() < 0.25 else body)
    return [word.format(out=f"out-{turn}") for word in rng.choice(commands)] + [str(where)]


def line_case(rng: random.Random) -> list[str]:
    command = rng.choice(sorted(FLAGS))
    words = [command]
    flags = FLAGS[command].split()
    for _ in range(rng.randrange(6)):
        word = rng.choice(flags if rng.random() < 0.9 else ["--nothing", "--n", "-h", "--model", "--help"])
        if word == "--model":
            words += [word, rng.choice(["missing", "no/where", "", "x" * 300, "set.json"])]
        elif word in {
            "--html",
            "--save",
            "--resume",
            "--out",
            "--file",
            "--lora",
            "--data",
            "--prompts",
            "--grids",
            "--pairs",
        }:
            words += [
                word,
                rng.choice(["made", "no/folder/x", "x" * 300, "", ".", "set.json", "tree.json", "text.txt"]),
            ]
        else:
            words += [word, rng.choice(VALUES)] if rng.random() < 0.85 else [word]
    if rng.random() < 0.8 and command not in {"thinkers", "metrics", "experiment"}:
        words.insert(
            rng.randrange(1, len(words) + 1), rng.choice(["w5 w9", "w5", "", "-", "set.json", "baseline", "missing"])
        )
    return [*words, *(SMALL.get(command, []) if "--" not in words else [])]


# --- the search -------------------------------------------------------------------------------------------------------


def verdict(code: int, err: str) -> str:
    """What is wrong with an answer; "" when nothing is."""
    said = [line for line in err.splitlines() if line.startswith("thoughtmix: ")]
    if code not in {0, 1, 2, 130} or "Traceback" in err or "internal error" in err:
        return f"exit code {code}"
    if code in {1, 2} and (len(said) != 1 or not err.rstrip().endswith(said[0])):
        return "not one line"
    if code in {1, 2} and not re.search(r"[.?!:)'…] \S", said[0].removeprefix("thoughtmix: ")):
        return "nothing to type next"
    return ""


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(what is wrong, what was said)"""
    capsys.readouterr()
    began = time.monotonic()
    try:
        with alarm(PATIENCE):
            code = main(words)
    except Hang:
        return f"hangs ({time.monotonic() - began:.0f} s)", ""
    except BaseException as error:
        return f"raises {error!r}", ""
    out, err = capsys.readouterr()
    if "Usage:" in out and not err:  # a group of commands without one says which there are
        return "", err
    return verdict(code, err), err


def test_no_input_crashes_hangs_or_is_left_without_an_answer(
    tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tiny_model = thoughtmix.models.load_model

    def load_model(name: str | None = None, **how: Any) -> Any:
        if name not in (None, "llama"):
            raise ModelError(f"There is no model {name}.", "Choose another model (--model).")
        return tiny_model(name, **how)

    monkeypatch.setattr(thoughtmix.models, "load_model", load_model, raising=False)
    language_model("llama")
    files = originals()
    ask = ["search", "w5 w9", "-n", "2", "--max-new-tokens", "8", "--step", "2", "--budget", "60"]
    assert main([*ask, "--save", "tree.json"]) == 0
    files["tree.json"] = (json.loads(Path("tree.json").read_text()), files["tree.json"][1])
    Path("set.json").write_text(json.dumps(files["set.json"][0]))
    Path("text.txt").write_text(TEXT)
    Path("graft").mkdir()
    Path("graft/adapter_config.json").write_text("{}")
    ends, turn, found = time.monotonic() + SECONDS, 0, []
    while time.monotonic() < ends and len(found) < 20:
        rng = random.Random(f"{SEED} {turn}")
        words = file_case(rng, files, turn) if turn % 2 else line_case(rng)
        monkeypatch.setattr(sys, "stdin", io.StringIO(rng.choice(["w5", "", "w5 \ud83d", "w5\n" * 50])))
        wrong, said = run(words, capsys)
        if wrong:
            found.append(f"{turn}: {words}: {wrong}: {said[-400:]}")
        turn += 1
    assert not found, f"{len(found)} of {turn} inputs (seed {SEED}):\n" + "\n".join(found)
    assert turn > 20
