"""Which laws hold in the real vLLM, on its CPU build and the default model: `make vllm` runs this in an environment of its
own and prints what was measured; elsewhere it is skipped. Order matters: one engine is loaded after the other.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakevllm
import pytest
import torch
from test_engines import rows as table
from tinyland import HashEmbedder

pytest.importorskip("vllm", reason="vLLM is not installed in this environment: make vllm")

from thoughtmix import Pipeline
from thoughtmix.core.errors import InputError, Interrupted
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import SequenceOutput, SequenceRequest
from thoughtmix.engine.row_state import AdapterRows
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.graft.branched import branch_rows

pytestmark = pytest.mark.model
PROMPTS = (
    "Name an unusual use for a brick.",
    "Write the first line of a poem about winter.",
    "Give me an idea for a birthday party.",
    "Tell me one surprising fact about rivers.",
)
SMALL = {"max_model_len": 1024, "kv_cache_memory_bytes": 2**29}
SEEDS = range(8)


@pytest.fixture(scope="module")
def said() -> Iterator[list[str]]:
    """What was measured, printed at the end."""
    lines: list[str] = []
    yield lines
    print("\n\nvLLM and our own loop\n" + "\n".join(f"  {line}" for line in lines))


@pytest.fixture(scope="module")
def here() -> Pipeline:
    """In the same numbers: nothing is packed in 16 bits."""
    return Pipeline(dtype="float32", weights="native", embedder=HashEmbedder())


@pytest.fixture(scope="module")
def there() -> Iterator[Pipeline]:
    made = Pipeline(engine="vllm", dtype="float32", engine_options=SMALL, embedder=HashEmbedder())
    yield made
    made.engine.close()  # type: ignore[attr-defined]


def outputs(
    pipeline: Pipeline, prompts: tuple[str, ...], tokens: int, seeds: Any = (0,), temperature: float = 0.0, **more: Any
) -> list[SequenceOutput]:
    draw = SamplingParams(temperature, min_p=0.1)
    asked = [SequenceRequest(Prompt(p), s, draw, tokens, **more) for p in prompts for s in seeds]
    return pipeline.engine.generate(asked).outputs


def test_the_stand_in_has_the_real_signatures() -> None:
    """What tests/test_vllm.py looks at is there in the real package, under the same names."""
    from vllm import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    for fake, real in (
        (fakevllm.EngineArgs, EngineArgs.__dataclass_fields__),
        (fakevllm.SamplingParams, SamplingParams.__struct_fields__),
        (fakevllm.LoRARequest, LoRARequest.__struct_fields__),
        (fakevllm.StructuredOutputsParams, StructuredOutputsParams.__dataclass_fields__),
    ):
        assert {f.name for f in dataclasses.fields(fake)} <= set(real)
    assert {kind.name for kind in fakevllm.RequestOutputKind} == {kind.name for kind in RequestOutputKind}


def test_greedy_is_our_own(here: Pipeline, there: Pipeline, said: list[str]) -> None:
    random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate()
    got, want = outputs(there, PROMPTS, 24), outputs(here, PROMPTS, 24)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    same = [g.token_ids == w.token_ids for g, w in zip(got, want, strict=True)]
    apart = max(
        abs(a - b)
        for g, w, s in zip(got, want, same, strict=True)
        if s
        for a, b in zip(g.logprobs, w.logprobs, strict=True)
    )
    said.append(
        f"greedy, float32: {sum(same)} of {len(same)} answers of 24 tokens equal; likelihoods within {apart:.1g}"
    )
    assert all(same) and apart < 1e-3
    assert [g.text for g in got] == [w.text for w in want] and [g.finish for g in got] == [w.finish for w in want]


def test_texts_end_as_our_own_do(here: Pipeline, there: Pipeline) -> None:
    for more in ({"stop": (" the", "e of")}, {"landing": 16}, {"landing": 8, "stop": ("zzz",)}):
        got, want = (outputs(one, PROMPTS[:2], 24, **more) for one in (there, here))
        assert [(g.text, g.finish, g.token_ids) for g in got] == [(w.text, w.finish, w.token_ids) for w in want], more


def test_draws_are_of_the_models_distribution(here: Pipeline, there: Pipeline, said: list[str]) -> None:
    """First tokens of 2,000 seeds at temperature 1, min-p 0.1. A right sampler fails once in 10,000 runs."""
    from scipy.stats import chisquare

    drawn = outputs(there, PROMPTS[:1], 1, range(2000), temperature=1.0)
    counts = Counter(o.token_ids[0] for o in drawn)
    local: Any = here.engine
    ids = torch.tensor([local.encode(Prompt(PROMPTS[0]))])
    with torch.no_grad():
        p = local.model.model(ids).logits[0, -1].double().softmax(-1)
    p = torch.where(p >= 0.1 * p.max(), p, 0.0)
    p /= p.sum()
    kept = p.nonzero()[:, 0].tolist()
    assert set(counts) <= set(kept), "nothing that min-p leaves out"
    found = chisquare([counts[i] for i in kept], [2000 * float(p[i]) for i in kept]).pvalue
    said.append(
        f"first tokens of 2000 seeds, {len(kept)} left by min-p: chi-square against our own loop, p = {found:.2g}"
    )
    assert found > 1e-4


def alone_and_beside(pipeline: Pipeline) -> tuple[int, int]:
    beside = outputs(pipeline, PROMPTS, 16, SEEDS, temperature=1.0)
    again = outputs(pipeline, PROMPTS, 16, SEEDS, temperature=1.0)
    alone = [outputs(pipeline, (p,), 16, (s,), temperature=1.0)[0] for p in PROMPTS for s in SEEDS]
    assert len({o.text for o in beside}) > len(beside) // 2, "seeds differ"
    return tuple(  # type: ignore[return-value]
        sum(a.token_ids == b.token_ids for a, b in zip(beside, other, strict=True)) for other in (again, alone)
    )


def test_seeds(there: Pipeline, said: list[str]) -> None:
    """Law 5 as far as it holds: the same call gives the same; alone or beside others, rounding decides."""
    again, alone = alone_and_beside(there)
    said.append(f"seeds, float32: of 32 thoughts {again} the same in the same batch again, {alone} the same alone")
    assert again == 32 and alone >= 28


def test_rows_share_their_prompt(there: Pipeline, said: list[str]) -> None:
    long = " ".join(f"Item {i} is a thing of use {i}." for i in range(40))
    made = there(f"{long} Name one.", 8, "sampling", max_new_tokens=8, measure=False)
    read = len(there.engine.encode(Prompt(f"{long} Name one.")))  # type: ignore[attr-defined]
    said.append(
        f"a prompt of {read} tokens, 8 rows: {made.run['cached_tokens']} of {8 * read} tokens read from the cache"
    )
    assert len(set(made.texts)) > 4 and made.run["cached_tokens"] > 6 * (read - 64)


def test_grammars(there: Pipeline) -> None:
    schema = {
        "type": "object",
        "properties": {"use": {"type": "string", "maxLength": 40}, "cost": {"type": "integer", "maximum": 99}},
        "required": ["use", "cost"],
    }
    made = there(PROMPTS[0] + " Answer in JSON.", 6, "sampling", max_new_tokens=96, json_schema=schema, measure=False)
    whole = [json.loads(t.text) for t in made if t.finish == "stop"]
    assert len(whole) >= 5 and all(set(w) == {"use", "cost"} and isinstance(w["cost"], int) for w in whole)
    dates = there("When?", 4, "sampling", regex=r"[0-9]{4}-[0-9]{2}", measure=False)
    assert all(re.fullmatch(r"[0-9]{4}-[0-9]{2}", t.text) for t in dates)


def test_ctrl_c(there: Pipeline) -> None:
    def on_step(event: Any) -> None:
        if event.done > 20:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        there(PROMPTS[0], 4, "sampling", max_new_tokens=200, on_step=on_step, measure=False)
    assert all(t.finish == "cancelled" and t.text for t in caught.value.thoughts)
    assert there(PROMPTS[0], 1, "sampling", max_new_tokens=4, measure=False).texts[0]


@pytest.mark.parametrize("thinker", sorted(set(table()) - {"mixture"}))
def test_every_thinker(there: Pipeline, thinker: str) -> None:
    said = table()[thinker][-2]
    if said.startswith("works"):
        made = there(PROMPTS[0], 3, thinker, max_new_tokens=16, measure=False)
        assert len(made) == 3 and all(made.texts)
        assert made.thinker == made.run.get("chosen", {"thinker": thinker})["thinker"]
        return
    with pytest.raises(InputError, match="--engine local"):
        there(PROMPTS[0], 3, thinker, max_new_tokens=8, measure=False)


def test_batches(there: Pipeline, tmp_path: Path, said: list[str]) -> None:
    """Greedy, so that rounding is all that may differ: prompts together, each with its own landing, and each alone."""
    how: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 12, "measure": False}
    prompts = [f"{p} ({i})" for i in range(3) for p in PROMPTS]
    together = list(there.stream(prompts, 1, "sampling", rows=8, **how))
    alone = [there(p, 1, "sampling", **how) for p in prompts]
    same = sum(a.texts == b.texts for a, b in zip(together, alone, strict=True))
    said.append(f"a batch of {len(prompts)} prompts, 8 at once, greedy, float32: {same} as alone")
    assert same >= len(prompts) - 1


def test_thoughts_of_a_graft_are_what_peft_says(there: Pipeline, here: Pipeline, said: list[str]) -> None:
    """In float32, greedily: PEFT reads what each row wrote; the share of tokens that are its own first choice."""
    from peft import PeftModel

    plain = outputs(there, PROMPTS[:2], 16)
    rows, how = branch_rows(there.engine, SEEDS, [1.0] * len(SEEDS))
    assert isinstance(rows, AdapterRows) and "mean 0" in how["noise"]
    mixed = AdapterRows([*rows.folders, None], rows.neutral, rows.rank, [{}] * 9)
    asked = [SequenceRequest(Prompt(PROMPTS[0]), s, SamplingParams(0.0), 16) for s in range(9)]
    made = there.engine.generate(asked, row_state=mixed).outputs
    base: Any = here.model.model
    ids = here.engine.encode(Prompt(PROMPTS[0]))  # type: ignore[attr-defined]
    first = []
    for folder, output in zip(rows.folders, made, strict=False):
        kind: Any = PeftModel
        peft = kind.from_pretrained(base, str(folder)).eval()
        with torch.no_grad():
            logits = peft(torch.tensor([ids + output.token_ids])).logits[0, len(ids) - 1 : -1]
        first += (logits.argmax(-1) == torch.tensor(output.token_ids)).tolist()
        base = peft.unload()
    share, distinct = sum(first) / len(first), len({o.text for o in made[:-1]})
    said.append(f"8 thoughts of the packaged graft, an adapter a row: {share:.1%} of {len(first)} tokens PEFT's; "
                f"{distinct} different")  # fmt: skip
    assert share >= 0.99 and distinct >= 4
    assert made[-1].token_ids == plain[0].token_ids, "the row without one, beside them, is the base model's"
    assert [o.token_ids for o in outputs(there, PROMPTS[:2], 16)] == [o.token_ids for o in plain]


def test_the_thinker_mixture(there: Pipeline, here: Pipeline) -> None:
    made = there(PROMPTS[0], 8, "mixture", max_new_tokens=16, measure=False)
    assert len(set(made.texts)) >= 6 and made.run["read"] == "each" and made.run["adapters"] >= 4
    assert all(t.origin["branches"] for t in made)
    still = there(PROMPTS[0], 2, "mixture", creativity=0, max_new_tokens=16, measure=False)
    base = here(PROMPTS[0], 2, "mixture", creativity=0, max_new_tokens=16, measure=False)
    assert still.texts == base.texts, "creativity 0 is the base model"
    assert len(there(PROMPTS[0], 3, "list", branches=True, max_new_tokens=16, measure=False)) == 3


def test_vllms_own_number_type(there: Pipeline, here: Pipeline, said: list[str]) -> None:
    there.engine.close()  # type: ignore[attr-defined]
    auto = Pipeline(engine="vllm", engine_options=SMALL)
    try:
        got, want = outputs(auto, PROMPTS, 24), outputs(here, PROMPTS, 24)
        equal = sum(g.token_ids == w.token_ids for g, w in zip(got, want, strict=True))
        again, alone = alone_and_beside(auto)
        dtype = auto.engine.environment()["dtype"]
    finally:
        auto.engine.close()  # type: ignore[attr-defined]
    said.append(f"greedy, {dtype} (vLLM's choice) against float32 here: {equal} of {len(got)} answers equal")
    said.append(f"seeds, {dtype}: of 32 thoughts {again} the same in the same batch again, {alone} the same alone")
    assert again == 32


def test_the_command_line() -> None:
    """Nothing but JSON on stdout."""
    words = [PROMPTS[0], "--engine", "vllm", "-n", "2", "--max-new-tokens", "8", "--no-measure", "--json"]
    words += [word for k, v in SMALL.items() for word in ("--engine-option", f"{k}={v}")]
    run = [sys.executable, "-m", "thoughtmix", "think", *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["thoughts"]) == 2
