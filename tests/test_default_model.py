"""The default model itself: fetched as a newcomer's would be, then the laws once more on real weights."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import Row, decode

from thoughtmix import Pipeline, ThoughtSet, models
from thoughtmix.engine import SamplingParams
from thoughtmix.models.hardware import packs, packs_bf16

pytestmark = pytest.mark.model
README = (Path(__file__).parents[1] / "README.md").read_text()
PROMPT = "Name a use for a brick."


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Who asks for the same model gets the same: it is loaded, probed and packed once, not by each test."""
    load = functools.cache(models.load_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            models, "load_model", lambda name=None, *, dtype, device, **_: load(name, dtype=dtype, device=device)
        )
        yield


@pytest.fixture(scope="module")
def exact() -> Pipeline:
    """float32 throughout, weights as loaded: what the laws are stated for."""
    return Pipeline(dtype="float32", device="cpu", weights="native")


@pytest.fixture(scope="module")
def eight(exact: Pipeline) -> ThoughtSet:
    return exact(PROMPT, n=8, max_new_tokens=24)


def test_eight_sampled_answers(eight: ThoughtSet) -> None:
    assert eight.model == "SmolLM2-135M-Instruct"
    assert len({t.text for t in eight}) == 8, "eight different answers"
    assert sum("brick" in t.text.lower() for t in eight) >= 5, "about the prompt"
    assert -3 < sum(t.mean_logprob for t in eight) / 8 < -0.5, "fluent, not memorised"
    assert 1.5 < eight.metrics["vendi"] < 8
    assert eight.metrics["relevance"] > 0.4


def test_law_5_on_real_weights(exact: Pipeline, eight: ThoughtSet) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "measure": False}
    want = [t.token_ids[:12] for t in eight]
    assert [t.token_ids for t in exact(PROMPT, n=32, **settings)][:8] == want
    assert exact(PROMPT, n=1, seed=5, **settings)[0].token_ids == want[5]


def test_law_6_greedy_equals_generate(exact: Pipeline) -> None:
    lm = exact.model
    ids = lm.encode(PROMPT)
    prompt = torch.tensor([ids])
    mask = torch.ones_like(prompt)  # said outright: generate would hide the turn ends, which are its padding token
    want = lm.model.generate(
        prompt, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2
    )[0, len(ids) :].tolist()
    for path in ("fused", "shared", "expanded"):
        row = Row(seed=0, sampling=SamplingParams(temperature=0))
        got = decode(lm, [ids], [row], max_new_tokens=12, end_ids=frozenset(), path=path, weights="native")  # type: ignore[arg-type]
        assert got.outputs[0].token_ids == want, path


@pytest.mark.parametrize(("kind", "single", "mean"), [("fp16", 0.02, 0.005), ("bf16", 0.25, 0.03)])
def test_packed_weights_keep_the_likelihood(exact: Pipeline, kind: Any, single: float, mean: float) -> None:
    """The same tokens scored by both: how far 16-bit weights move a token's log-probability at most, and on average, in
    nats."""
    if not (packs() if kind == "fp16" else packs_bf16()):
        pytest.skip(f"this processor has no packed {kind} products")
    lm = exact.model
    ids = lm.encode(PROMPT)
    rows = [Row(seed=s, sampling=SamplingParams(min_p=0.1)) for s in range(4)]
    packed = decode(lm, [ids], rows, max_new_tokens=12, weights=kind)
    assert packed.weights.partition("-")[0] == kind
    off = []
    for row in packed.outputs:
        logits = lm.model(torch.tensor([ids + row.token_ids])).logits[0, len(ids) - 1 : -1]
        want = logits.log_softmax(-1).gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        off.append(torch.tensor(row.logprobs) - want)
    assert torch.cat(off).abs().max() < single and abs(torch.cat(off).mean()) < mean


@pytest.mark.skipif(not packs_bf16(), reason="this processor does not multiply bfloat16")
def test_law_5_in_bfloat16_at_any_number_of_rows(exact: Pipeline) -> None:
    """Log-probabilities are equal bit for bit, whatever the number of rows."""
    lm = exact.model
    rows = [Row(seed=s, sampling=SamplingParams(min_p=0.1)) for s in range(33)]
    runs = [
        decode(lm, [lm.encode(PROMPT)], some, max_new_tokens=8, weights="bf16") for some in (rows, rows[:5], rows[:1])
    ]
    assert {run.weights.partition("-")[0] for run in runs} == {"bf16"}
    for run in runs[1:]:
        for got, want in zip(run.outputs, runs[0].outputs, strict=False):
            assert (got.token_ids, got.logprobs) == (want.token_ids, want.logprobs)


def test_readme_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        shorter = block.replace("max_new_tokens=48", "max_new_tokens=12")  # proves the same in a quarter of the time
        shorter = shorter.replace("n=4)", "n=2, max_new_tokens=8)")
        exec(compile(shorter, "README.md", "exec"), {})
    assert len(ThoughtSet.from_json(tmp_path / "thoughts.json")) == 8
