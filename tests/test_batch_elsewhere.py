"""Batches past one process, and out of and into other people's tables: Ray, pandas, Hugging Face datasets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny import language_model, tiny, tokenizer

import thoughtmix
from thoughtmix.batch.over_ray import answer_over_ray
from thoughtmix.batch.records import SEED_STRIDE
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.pipeline import Pipeline

pytest_plugins = ["tinyland"]


def exact(line: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on who shares a step: all but timings and the rounding of likelihoods."""
    out = {name: value for name, value in line.items() if name != "run"}
    out["thoughts"] = [{k: v for k, v in t.items() if "logprob" not in k} for t in line["thoughts"]]
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def ray_for_tests(monkeypatch: pytest.MonkeyPatch) -> Any:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'ray[data]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(thoughtmix.__file__).parents[1])]))
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if ray.is_initialized():
        ray.shutdown()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield ray
    ray.shutdown()


def test_two_ray_workers_give_what_one_process_gives(ray_for_tests: Any, tmp_path: Path) -> None:
    folder, source = tmp_path / "model", tmp_path / "in.jsonl"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    prompts = [{"prompt": f"w{3 + i} w5", "number": i} for i in range(11)] + [{"prompt": "w4 " * 300}, {"none": 1}]
    source.write_text("".join(json.dumps(p) + "\n" for p in prompts))
    words = ["think", "-m", str(folder), "--prompts", str(source), "--no-measure", "-n", "2", "--max-new-tokens", "5"]
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert main([*words, "--ordered", "--out", str(here)]) == 1  # two prompts fail
    there.write_bytes(b"".join(here.read_bytes().splitlines(keepends=True)[:2]))  # where one process was stopped
    assert main([*words, "--ordered", "--out", str(there), "--ray-workers", "2"]) == 1
    assert [exact(line) for line in lines(there)] == [exact(line) for line in lines(here)]


def test_ray_needs_a_worker() -> None:
    with pytest.raises(InputError, match="--ray-workers 2"):
        next(answer_over_ray([], lambda: lambda records: iter(()), 0))


def test_answers_are_read_by_pandas_and_datasets(tinyland: Any, tmp_path: Path) -> None:
    import datasets
    import pandas

    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("prompt,who\n" + "".join(f"w{3 + i},{i}\n" for i in range(5)) + "w4 " * 300 + ",9\n")
    words = ["--prompts", str(source), "--out", str(out), "--ordered", "-n", "3", "--max-new-tokens", "4"]
    assert main(["think", *words]) == 1
    table = pandas.read_json(out, lines=True)
    assert list(table.who) == [0, 1, 2, 3, 4, 9] and list(table.error != "") == [False] * 5 + [True]
    assert len(table.thoughts.explode().dropna()) == 15
    loaded = datasets.load_dataset("json", data_files=str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(loaded["index"]) == list(range(6))
    assert [t["text"] for t in loaded[0]["thoughts"]] == [t["text"] for t in table.thoughts[0]]


def test_a_dataset_gets_thoughts(tinyland: Any) -> None:
    import datasets

    pipe = Pipeline(language_model("llama"))
    prompts = [f"w{3 + i}" for i in range(7)] + ["w4 " * 300]
    rows = datasets.Dataset.from_dict({"question": prompts, "who": list(range(8))})
    made = thoughtmix.map_dataset(pipe, rows, "question", 2, max_new_tokens=4, batch_size=3)
    alone = pipe(prompts[5], 2, max_new_tokens=4, seed=5 * SEED_STRIDE)
    assert made[5]["thoughts"] == alone.texts and made[5]["seeds"] == [t.seed for t in alone]
    assert made[5]["metrics"]["vendi"] == alone.metrics["vendi"] and list(made["who"]) == list(range(8))
    assert made[7]["thoughts"] == [] and "300 tokens" in made[7]["error"]
    lazy = thoughtmix.map_dataset(pipe, rows.to_iterable_dataset(), "question", 2, max_new_tokens=4, measure=False)
    assert [row["thoughts"] for row in lazy] == list(made["thoughts"])
    with pytest.raises(InputError, match="column="):
        thoughtmix.map_dataset(pipe, rows)


def test_an_endpoint_is_asked_for_many_prompts_within_its_concurrency(tmp_path: Path) -> None:
    import threading
    import time

    from badserver import serving

    lock, now, most = threading.Lock(), 0, 0

    def script(number: int, body: dict[str, Any]) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        said = body["messages"][-1]["content"]
        return "400" if said == "bad" else "429" if number == 3 else "n"

    prompts = [f"prompt {i}" for i in range(12)]
    with serving(script) as server:
        endpoint = Endpoint(server.url, None, concurrency=3, first_wait=0.01, timeout=5, tries=3)
        sets = Pipeline(endpoint=endpoint)([*prompts, "bad"], 2, max_new_tokens=9, measure=False)
    assert 1 < most <= 3
    for i, (prompt, made) in enumerate(zip(prompts, sets, strict=False)):
        assert made.texts == [f"{prompt[::-1]} {i * SEED_STRIDE % 2**31 + j}" for j in range(2)]
        assert made.run["endpoint"]["failed"] == 0
    assert len(sets[-1]) == 0 and sets[-1].run["error"]
    with pytest.raises(thoughtmix.ModelError, match="lists no model"):  # nobody there: said once, not for each prompt
        Pipeline(endpoint=Endpoint("http://localhost:9", tries=1))(prompts, 2)
