"""A graft as PEFT, transformers and the decoding engine see it."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import Row, decode
from graftland import base, grafted, inputs, stirred
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from scipy import stats
from tiny import tokenizer
from transformers import AutoModelForCausalLM, DynamicCache, Trainer, TrainingArguments

from thoughtmix import InputError, Pipeline
from thoughtmix.engine import SamplingParams
from thoughtmix.graft import MoTConfig, MoTLayer, export_lora, graft_of, routed, save_graft, thoughts
from thoughtmix.graft.blocks import find_blocks
from thoughtmix.graft.config import FORMAT_VERSION
from thoughtmix.graft.route import dense_weights, draw_routes, held_noise, radical_inverse
from thoughtmix.mixture.state import state_of_cache
from thoughtmix.models import load_model, wrap_model
from thoughtmix.models.grafted import GraftedModule, GraftHooks

DATA = Path(__file__).parent / "data"


def said(model: Any, given: Any = None, **asked: Any) -> torch.Tensor:
    with torch.no_grad(), thoughts(model, **asked):
        return model(**(given or inputs("llama"))).logits


# --- routes ---


def test_neighbouring_seeds_fall_evenly_over_the_odds() -> None:
    u = radical_inverse(torch.arange(-40, 24))
    for m in range(7):
        for start in range(0, 64 - 2**m):
            hit = (u[start : start + 2**m] * 2**m).long()
            assert sorted(hit.tolist()) == list(range(2**m))
    first = draw_routes(torch.zeros(16, 1, 8).log_softmax(-1), torch.arange(3, 19), 1, 1)[0][:, 0, 0]
    assert torch.bincount(first).tolist() == [2] * 8
    odds = torch.tensor([0.6, 0.2, 0.15, 0.05])
    first = draw_routes(odds.log().expand(256, 1, 4), torch.arange(3, 259), 1, 1)[0][:, 0, 0]
    assert float((torch.bincount(first) - 256 * odds).abs().max()) <= 2


@pytest.mark.parametrize("stratified", [True, False])
def test_branches_are_drawn_in_proportion_to_the_odds(stratified: bool) -> None:
    """Chi-square of the first branch and of the unordered pair; a right draw fails one in 10,000 times."""
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    n = 20_000
    seeds = torch.arange(n) * 7919 + 5
    branch, log_weight = draw_routes(p.log().float().expand(n, 1, 4), seeds, 2, 2, stratified)
    first, second = branch[:, 0, 0], branch[:, 0, 1]
    assert stats.chisquare(torch.bincount(first), n * p).pvalue > 1e-4
    pair = torch.tensor([[p[i] * p[j] / (1 - p[i]) if i != j else 0 for j in range(4)] for i in range(4)])
    expected = (pair + pair.T).triu(1)
    found = torch.zeros(4, 4).index_put(
        (torch.minimum(first, second), torch.maximum(first, second)), torch.ones(n), accumulate=True
    )
    assert stats.chisquare(found[expected > 0], n * expected[expected > 0]).pvalue > 1e-4
    torch.testing.assert_close(log_weight.exp()[:, 0, 0] / log_weight.exp()[:, 0, 1], (p[first] / p[second]).float())


def test_how_many_branches_and_their_weights() -> None:
    odds = torch.zeros(3000, 2, 8).log_softmax(-1).requires_grad_()
    branch, log_weight = draw_routes(odds, torch.arange(3000), 1, 3)
    count = (log_weight > -torch.inf).sum(-1)
    assert stats.chisquare(torch.bincount(count[:, 0])[1:]).pvalue > 1e-4
    weight = dense_weights(branch, log_weight, 8)
    torch.testing.assert_close(weight.sum(-1), torch.ones(3000, 2))
    assert torch.equal((weight > 0).sum(-1), count)
    weight[..., 0].sum().backward()
    assert odds.grad is not None and bool(odds.grad.isfinite().all()) and bool(odds.grad.any())
    noise = held_noise(torch.arange(50), torch.arange(4), 8, 16)
    assert stats.kstest(noise.flatten(), "norm").pvalue > 1e-4
    assert torch.equal(held_noise(torch.tensor([7]), torch.tensor([2]), 8, 16)[0, 0], noise[7, 2])


def test_a_layer_of_its_own_draws_otherwise() -> None:
    model = grafted("llama", route="layer", branches_max=1, num_branches=8)
    with torch.no_grad(), thoughts(model, seed=0):
        cache = DynamicCache()
        model(**inputs("llama"), past_key_values=cache)
    branch = state_of_cache(cache).cache["branch"]  # type: ignore[union-attr]
    assert branch.shape == (3, 3, 1) and len({tuple(row) for row in branch[..., 0].T.tolist()}) > 1


# --- what creativity, noise and the combiner do ---


def test_creativity_is_a_distance() -> None:
    """Of one layer, exactly: twice as far at 2; weights that are given act as they are."""
    model = grafted("llama", layers=[2], noise="none")
    assert sum(isinstance(m, MoTLayer) for m in model.modules()) == 1
    layer = graft_of(model).layers[0]  # type: ignore[union-attr]
    seen: dict[float, torch.Tensor] = {}
    for c in (0.0, 1.0, 2.0):
        out: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda m, a, o, out=out: out.append(o))
        said(model, creativity=c, seed=1)
        handle.remove()
        seen[c] = out[0]
    torch.testing.assert_close(seen[2.0] - seen[0.0], 2 * (seen[1.0] - seen[0.0]), atol=1e-4, rtol=1e-4)
    a, b = layer.mot_A["default"], layer.mot_B["default"]
    w = torch.tensor([[0.3, 0.0, 0.7, 0.0], [0.0, 2.0, 0.0, 0.0]])
    plan_rows: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda m, args, o: plan_rows.extend([args[0], o]))
    with torch.no_grad(), routed(model, w, creativity=[1.0, 3.0]):
        model(input_ids=inputs("llama", rows=2)["input_ids"])
    handle.remove()
    h, y = plan_rows
    for row, c in ((0, 1.0), (1, 3.0)):
        by_hand = layer.base_layer(h[row]) + c * sum(w[row, k] * (h[row] @ a[k].T @ b[k]) for k in range(4))
        torch.testing.assert_close(y[row], by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("noise", ["held", "fresh", "none"])
@pytest.mark.parametrize("combiner", ["router", "attention"])
def test_noise_and_combiner(noise: str, combiner: str) -> None:
    settings: dict[str, Any] = {"noise": noise, "combiner": combiner, "branches_min": 2}
    model = grafted("llama", **settings)
    assert torch.equal(said(model, seed=3), said(model.train(), seed=3)), "train or eval mode changes nothing"
    model.eval()
    still = grafted("llama", **{**settings, "noise": "none"})
    assert torch.allclose(said(model, seed=3), said(still, seed=3), atol=1e-3) == (noise == "none")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mot_query" in name:
                parameter.zero_()
    plain = grafted("llama", **{**settings, "combiner": "router"})
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(said(model, seed=3), said(plain, seed=3), atol=1e-4, rtol=1e-4)
    if combiner == "attention":  # and it moves the shares of two branches once it asks
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "mot_query" in name:
                    parameter.fill_(2.0)
        assert not torch.allclose(said(model, seed=3), said(plain, seed=3), atol=1e-3)


def test_padding_changes_nothing() -> None:
    model = grafted("llama", router="prompt")
    ids = inputs("llama", rows=1)["input_ids"]
    wide = {
        "input_ids": torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1),
        "attention_mask": torch.tensor([[0] * 3 + [1] * 8]),
    }
    positions = {"position_ids": torch.tensor([[0, 0, 0, *range(8)]])}
    want = said(model, {"input_ids": ids}, seed=6, prompt_lengths=4)
    torch.testing.assert_close(
        said(model, {**wide, **positions}, seed=6, prompt_lengths=4)[:, 3:], want, atol=1e-4, rtol=1e-4
    )
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with thoughts(model, 2.0, 6, "shared"):
        got = model.generate(**wide, **settings)
        assert torch.equal(got[:, 11:], model.generate(input_ids=ids, **settings)[:, 8:])


def test_a_router_that_reads_the_prompt() -> None:
    model = grafted("llama", router="prompt", branches_max=1, noise="none", num_branches=8)
    graft = graft_of(model)
    assert graft is not None
    seen = set()
    for shift in range(12):
        ids = (inputs("llama", rows=1)["input_ids"] + 11 * shift) % 150 + 3
        cache = DynamicCache()
        with torch.no_grad(), thoughts(model, seed=1, read="shared"):
            for part in (ids[:, :4], ids[:, 4:]):
                model(input_ids=part, past_key_values=cache)
        seen.add(int(state_of_cache(cache).cache["branch"]))  # type: ignore[union-attr]
    assert len(seen) > 1, "one seed, other prompts, other branches"


# --- outside of any context ---


def test_a_plain_forward() -> None:
    """eval: every row thought 0 at the config's creativity. train: new draws each time, none of them from global state."""
    model = grafted("llama", creativity_default=0.8)
    given = inputs("llama")
    assert torch.equal(model(**given).logits, said(model, creativity=0.8, seed=[0, 0, 0]))
    model.train()
    before = torch.get_rng_state()
    first, second = model(**given).logits, model(**given).logits
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(first, said(model, creativity=0.8, seed=0)) and torch.equal(
        second, said(model, creativity=0.8, seed=3)
    )
    assert torch.equal(before, torch.get_rng_state())


def test_generation_settings() -> None:
    model = grafted("llama", task_type="CAUSAL_LM")
    settings: dict[str, Any] = {**inputs("llama", rows=1), "max_new_tokens": 6, "do_sample": False}
    with thoughts(model, 2.0, seed=5):
        want = model.generate(**settings)
    assert torch.equal(model.generate(creativity=2.0, thought_seed=5, **settings), want)
    inner = model.get_base_model()
    inner.generation_config.creativity, inner.generation_config.thought_seed = 2.0, 5
    assert torch.equal(model.generate(**settings), want)
    assert torch.equal(inner.generate(**settings), want)


def test_beams_keep_their_thoughts() -> None:
    """Scores of beam search, beside forwards of the finished sequences under the same seeds."""
    model = grafted("llama")
    with thoughts(model, 1.5, seed=4):
        out = model.generate(
            **inputs("llama", rows=1),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=5,
            min_new_tokens=5,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            length_penalty=0.0,
        )
    # A beam's first token comes of beam 0 (all start alike), and its rows' thoughts move with it.
    best = []
    for seed in range(4, 7):
        with torch.no_grad(), thoughts(model, 1.5, seed=[seed] * 3):
            log_p = model(input_ids=out.sequences).logits.log_softmax(-1)
        best.append(log_p[:, 7:-1].gather(-1, out.sequences[:, 8:, None]).sum((1, 2)))
    each = torch.stack(best)  # (seeds, sequences)
    # Every finished beam descends from one of the rows that began; only rows' own seeds can explain its score.
    assert bool(((each - out.sequences_scores).abs().min(0).values < 2e-3).all())


def test_code_below_knows_a_graft_by_its_protocol() -> None:
    graft = graft_of(grafted("llama"))
    assert isinstance(graft, GraftHooks) and graft.thought_hooks
    layer = graft.layers[1]  # type: ignore[union-attr]
    assert isinstance(layer, GraftedModule) and layer.thought_graft is graft
    number, a, b = layer.thought_update()  # type: ignore[misc]
    assert number == 1 and a.shape == (12, layer.in_features) and b.shape == (layer.out_features, 12)
    assert not isinstance(layer.base_layer, GraftedModule)


# --- PEFT's verbs ---


def test_peft_surface(tmp_path: Path) -> None:
    model = grafted("llama")
    with pytest.raises(InputError, match="export_lora"):
        model.merge_and_unload()
    with pytest.raises(InputError, match="export_lora"):
        model.merge_adapter()
    want = said(model, seed=3)
    twin = copy.deepcopy(model)
    stirred(model, 0.5)
    assert torch.equal(said(twin, seed=3), want) and not torch.equal(said(model, seed=3), want)
    model.add_adapter("other", MoTConfig(num_branches=2, r=2))
    assert torch.equal(said(model, seed=3), said(stirred(twin, 0.5), seed=3)), "the first one is still at work"
    model.set_adapter("other")
    assert torch.equal(said(model, seed=3), base("llama")(**inputs("llama")).logits)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert not torch.equal(said(model, seed=3), base("llama")(**inputs("llama")).logits)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 1


def test_transformers_own_adapters(tmp_path: Path) -> None:
    """add_adapter, load_adapter and AutoModelForCausalLM on a folder."""
    base("llama").save_pretrained(tmp_path / "base")
    model = grafted("llama", model=AutoModelForCausalLM.from_pretrained(tmp_path / "base"), task_type="CAUSAL_LM")
    model.save_pretrained(tmp_path / "graft")
    want = said(model, seed=2)
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "graft").eval()
    assert torch.equal(said(one, seed=2), want)
    two = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "graft").eval()
    assert torch.equal(said(two, seed=2), want)
    three = base("llama")
    three.load_adapter(str(tmp_path / "graft"))
    assert torch.equal(said(three.eval(), seed=2), want)
    three.disable_adapters()
    assert torch.equal(three(**inputs("llama")).logits, base("llama")(**inputs("llama")).logits)
    four = base("llama")
    four.add_adapter(MoTConfig(num_branches=4, r=3))
    assert graft_of(four) is not None


def test_bfloat16() -> None:
    model = grafted("llama", model=base("llama").bfloat16())
    assert graft_of(model).layers[0].mot_A["default"].dtype == torch.float32  # type: ignore[union-attr]
    out = said(model, seed=1)
    assert out.dtype == torch.bfloat16 and bool(out.isfinite().all())
    assert torch.equal(said(model, creativity=0.0), base("llama").bfloat16()(**inputs("llama")).logits)


def test_trainer_and_trl(tmp_path: Path) -> None:
    """Only branches learn, and they do."""
    rows = [{"input_ids": [5, 9, 5, 9, 5, 9, 5, 9], "labels": [5, 9, 5, 9, 5, 9, 5, 9]}] * 8
    model = get_peft_model(base("llama"), MoTConfig(num_branches=4, r=3, task_type="CAUSAL_LM"))
    before = {n: p.clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        first = float(model(**{k: torch.tensor([v]) for k, v in rows[0].items()}).loss)
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "max_steps": 12,
        "learning_rate": 0.05,
        "report_to": [],
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": True,
    }
    trainer = Trainer(model, TrainingArguments(**settings), train_dataset=rows)  # type: ignore[arg-type]
    trainer.train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".mot_" in n for n in moved) and any("mot_B" in n for n in moved)
    with torch.no_grad():
        assert float(model.eval()(**{k: torch.tensor([v]) for k, v in rows[0].items()}).loss) < first - 0.5
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"input_ids": r["input_ids"]} for r in rows])
    sft = trl.SFTTrainer(
        base("llama"),
        trl.SFTConfig(**settings, bf16=False),
        train_dataset=data,
        processing_class=tokenizer(),
        peft_config=MoTConfig(num_branches=4, r=3, task_type="CAUSAL_LM"),
    )
    sft.train()
    assert any(bool(p.any()) for n, p in sft.model.named_parameters() if "mot_B" in n)


# --- refusals ---


def test_refusals() -> None:
    model = grafted("llama")
    given = inputs("llama")
    for asked, hint in (
        ({"creativity": -1.0}, "Pass 0 or more"),
        ({"creativity": float("nan")}, "Pass 0 or more"),
        ({"seed": [1, 2]}, "one a row"),
        ({"read": "once"}, "shared or each"),
        ({"read": "shared"}, "prompt_lengths"),
    ):
        with pytest.raises(InputError, match=hint):
            said(model, {**given, "use_cache": False}, **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Pass \(3, 4\)"), routed(model, torch.ones(3, 5)):
        model(**given)
    with pytest.raises(InputError, match="get_peft_model"), thoughts(base("llama")):
        pass
    for wrong in (
        {"route": "x"},
        {"branches_max": 9},
        {"r": 0},
        {"noise_scale": -1.0},
        {"format_version": FORMAT_VERSION + 1},
    ):
        with pytest.raises(InputError):
            MoTConfig.from_peft_type(**MoTConfig.check_kwargs(peft_type="MOT", **wrong))
    with pytest.raises(InputError, match=r"Pass 0 to 2 \(layers=\)"):
        get_peft_model(base("llama"), MoTConfig(layers=[7]))
    with pytest.raises(InputError, match="target_modules="):
        find_blocks(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="Call generate"):
        model.model.model(input_ids=given["input_ids"], block_table=torch.zeros(1))


def test_other_blocks_by_name() -> None:
    """Beside whole blocks of a dense model, and refused where nothing can be."""
    from torch import nn

    model = grafted("llama", target_modules=["mlp"])
    assert {m.out_features for m in model.modules() if isinstance(m, MoTLayer)} == {48}
    assert torch.equal(said(model, creativity=0.0), base("llama")(**inputs("llama")).logits)
    assert not torch.allclose(said(model, seed=1), said(model, seed=2), atol=1e-2)
    with pytest.raises(InputError, match="target_modules="):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), MoTConfig())
    with pytest.raises(InputError, match="cannot be grafted"):
        get_peft_model(base("llama"), MoTConfig(target_modules=["embed_tokens"]))


# --- saved forms ---


def test_an_adapter_of_format_1_loads() -> None:
    """Made by the first version (tests/data/graft-format-1): its logits are what they were."""
    model = PeftModel.from_pretrained(base("llama"), DATA / "graft-format-1").eval()
    want = torch.tensor(json.loads((DATA / "graft-format-1" / "logits.json").read_text()))
    torch.testing.assert_close(said(model, seed=3)[:, -1, :8], want, atol=1e-3, rtol=1e-3)


def test_another_process_loads_it_with_stock_peft(tmp_path: Path) -> None:
    """Law 7, and `import thoughtmix` alone imports neither torch nor PEFT."""
    base("llama").save_pretrained(tmp_path / "base")
    model = grafted("llama", model=AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "graft")
    code = f"""
import sys, thoughtmix
assert not {{"torch", "peft"}} & set(sys.modules)
from peft import PeftModel
from transformers import AutoModelForCausalLM
import torch
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({str(tmp_path / "base")!r}), {str(tmp_path / "graft")!r}).eval()
torch.save(model(torch.tensor({inputs("llama")["input_ids"].tolist()})).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(**inputs("llama")).logits)


# --- the engine ---


@pytest.fixture
def lm() -> Any:
    return wrap_model(grafted("llama"), tokenizer(), name="tiny-graft")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("read", ["shared", "each"])
def test_the_engine_gives_the_thoughts_of_the_model(family: str, read: Any) -> None:
    """Greedy rows on every path that the model can take, ended rows leaving, beside full forwards under `thoughts`."""
    lm = wrap_model(grafted(family), tokenizer())
    graft = graft_of(lm.model)
    assert graft is not None
    prompts = [[5, 9, 77, 33, 12], [8, 8, 20]]
    seeds, creativity = [3, 4, 5, 9, 3], [1.5, 1.0, 0.0, 2.0, 1.5]
    rows = [
        Row(seed=s, sampling=SamplingParams(temperature=0.0), prompt=p, max_new_tokens=m)
        for s, p, m in zip(seeds, (0, 0, 0, 1, 1), (6, 3, 6, 5, 6), strict=True)
    ]
    for path in ("auto", "shared", "expanded") if read == "shared" and family not in {"opt", "gpt2"} else ("auto",):
        row_state = graft.row_state(seeds, creativity, lm.device)
        done = decode(
            lm, prompts, rows, max_new_tokens=6, path=path, row_state=row_state, read=read, end_ids=frozenset()
        )  # type: ignore[arg-type]
        if read == "shared" and path == "auto":
            assert done.path == {"llama": "fused", "qwen3": "fused"}.get(family, done.path)
        for row, c, seed, spec in zip(done.outputs, creativity, seeds, rows, strict=True):
            prompt = prompts[spec.prompt]
            ids = torch.tensor([prompt + row.token_ids])
            tail = min(row_state.unshared_suffix, min(map(len, prompts)) - 1)  # what rows read for themselves
            at = len(prompt) - tail if read == "shared" else 0
            log_p = said(lm.model, {"input_ids": ids}, creativity=c, seed=seed, prompt_lengths=at).log_softmax(-1)[0]
            got = log_p[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
            torch.testing.assert_close(got, torch.tensor(row.logprobs), atol=0.02, rtol=0.02)
        assert len({tuple(r.token_ids) for r in done.outputs[:3]}) > 1


def test_fused_steps_are_exact(lm: Any) -> None:
    """Native weights, float32; also with routes by layer, with given weights, and after the branches were trained on."""
    graft = graft_of(lm.model)
    assert graft is not None
    rows = [Row(seed=s, sampling=SamplingParams(temperature=0.0)) for s in range(4)]
    weights = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 2]])
    for given in (None, weights):
        ran = {
            path: decode(
                lm,
                [[5, 9, 77]],
                rows,
                max_new_tokens=8,
                path=path,
                weights="native",
                end_ids=frozenset(),
                row_state=graft.row_state(range(4), [1.5] * 4, lm.device, given),
            )
            for path in ("fused", "shared")
        }
        assert ran["fused"].path == "fused"
        for a, b in zip(ran["fused"].outputs, ran["shared"].outputs, strict=True):
            assert a.token_ids == b.token_ids
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4, rtol=1e-4)
    old = ran["fused"].outputs[0].logprobs
    stirred(lm.model, 0.4)
    new = decode(lm, [[5, 9, 77]], rows, max_new_tokens=8, path="fused", end_ids=frozenset(),
                 row_state=graft.row_state(range(4), [1.5] * 4, lm.device, weights))  # fmt: skip
    assert new.outputs[0].logprobs != old, "weights that changed are packed again"


def test_each_row_reads_the_prompt_on_the_fused_path(lm: Any) -> None:
    """One prompt, rows that end early, beside the model's own forward (expanded); several prompts go there."""
    graft = graft_of(lm.model)
    assert graft is not None
    rows = [Row(seed=s, sampling=SamplingParams(temperature=0.0), max_new_tokens=3 + s % 3) for s in range(5)]
    ran = {
        path: decode(
            lm,
            [[5, 9, 77, 14]],
            rows,
            max_new_tokens=8,
            path=path,
            weights="native",
            end_ids=frozenset(),
            read="each",
            row_state=graft.row_state(range(5), [1.5, 0.0, 1.0, 2.0, 1.5], lm.device),
        )
        for path in ("fused", "expanded")
    }
    assert ran["fused"].path == "fused"
    for a, b in zip(ran["fused"].outputs, ran["expanded"].outputs, strict=True):
        assert a.token_ids == b.token_ids
        torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4, rtol=1e-4)
    two = [Row(seed=s, prompt=s) for s in range(2)]
    row_state = graft.row_state(range(2), [1.0] * 2, lm.device)
    done = decode(lm, [[5, 9], [7, 8, 9]], two, max_new_tokens=3, read="each", row_state=row_state)
    assert done.path == "expanded"


def test_what_the_fused_path_leaves_to_others() -> None:
    """Attention, fresh noise, a router that reads: no fused steps. Branches elsewhere than on down projections: never."""
    rows = [Row(seed=1, sampling=SamplingParams(temperature=0.0))]
    for settings in (
        {"combiner": "attention"},
        {"noise": "fresh"},
        {"router": "prompt"},
        {"target_modules": ["o_proj"]},
    ):
        lm = wrap_model(grafted("llama", **settings), tokenizer())
        row_state = graft_of(lm.model).row_state([1], [1.0], lm.device)  # type: ignore[union-attr]
        done = decode(lm, [[5, 9, 77]], rows, max_new_tokens=4, row_state=row_state, end_ids=frozenset())
        assert done.path == "shared", settings
        ids = torch.tensor([[5, 9, 77, *done.outputs[0].token_ids]])
        tail = min(row_state.unshared_suffix, 2)
        log_p = said(lm.model, {"input_ids": ids}, seed=1, prompt_lengths=3 - tail).log_softmax(-1)[0, 2:-1]
        got = log_p.gather(1, ids[0, 3:, None])[:, 0]
        torch.testing.assert_close(got, torch.tensor(done.outputs[0].logprobs), atol=1e-3, rtol=1e-3)


def test_sampling_on_a_graft_is_the_base_model(lm: Any) -> None:
    plain = wrap_model(base("llama"), tokenizer())
    for path in ("fused", "shared", "expanded"):
        made, want = (
            Pipeline(x, path=path, weights="native")("w5 w9", 3, "sampling", measure=False, max_new_tokens=6)
            for x in (lm, plain)
        )
        assert made.texts == want.texts


def test_the_mixture_thinker(lm: Any) -> None:
    think = Pipeline(lm)
    made = think(
        "w5 w9 w20", n=4, thinker="mixture", seed=3, temperature=0.0, creativity=1.5, max_new_tokens=6, measure=False
    )
    alone = think(
        "w5 w9 w20", n=1, thinker="mixture", seed=5, temperature=0.0, creativity=1.5, max_new_tokens=6, measure=False
    )
    assert made[2].text == alone[0].text and made.run["path"] == "fused"
    assert len(made[0].origin["branches"]) == 1 and sum(made[0].origin["weights"][0]) == pytest.approx(1, abs=1e-3)
    assert (
        think("w5", n=3, thinker="mixture", creativity=0, measure=False, max_new_tokens=4).texts
        == [
            Pipeline(wrap_model(base("llama"), tokenizer()))(
                "w5", n=1, temperature=0.0, measure=False, max_new_tokens=4
            )[0].text
        ]
        * 3
    )
    with pytest.raises(InputError, match="thoughtmix graft"):
        Pipeline(wrap_model(base("llama"), tokenizer()))("w5", thinker="mixture")


# --- folders, exports, the command line ---


def put(tmp_path: Path, model: Any = None, half: bool = False, family: str = "llama", **settings: Any) -> Path:
    """A graft's folder, its base model beside it."""
    base(family).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    made = model or grafted(family, task_type="CAUSAL_LM", **settings)
    save_graft(made, tmp_path / "graft", str(tmp_path / "base"), half)
    return tmp_path / "graft"


def test_load_model_takes_adapter_folders(tmp_path: Path) -> None:
    folder = put(tmp_path)
    lm = load_model(str(folder), dtype="float32")
    assert lm.name == "graft"
    assert torch.equal(said(lm.model, seed=2), said(grafted("llama"), seed=2))
    put(tmp_path, half=True)
    near = load_model(str(folder), dtype="float32")
    torch.testing.assert_close(said(near.model, seed=2), said(lm.model, seed=2), atol=0.05, rtol=0.05)
    config = json.loads((folder / "adapter_config.json").read_text())
    for broken, hint in (
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"format_version": 99}, "pip install"),
        ({"peft_type": "NONE"}, "Save it again"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **broken}))
        with pytest.raises(Exception, match=hint):
            load_model(str(folder), dtype="float32")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(Exception, match="Cannot put the adapter"):
        load_model(str(folder), dtype="float32")


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_an_exported_thought_is_the_thought(family: str, tmp_path: Path) -> None:
    """Exactly, without noise; with it as near as the file says, measured here again."""
    given = inputs(family)
    model = grafted(family, noise="none", branches_min=1)
    facts = export_lora(
        model, tmp_path / "lora", thoughts=3, seed=5, creativity=1.3, prompts=given["input_ids"].tolist()
    )
    assert facts["exact"]
    for i, entry in enumerate(facts["thoughts"]):
        lora = PeftModel.from_pretrained(base(family), tmp_path / "lora" / f"thought-{i}").eval()
        assert isinstance(lora.peft_config["default"], LoraConfig)
        want = said(model, given, creativity=1.3, seed=[5 + i] * 3)
        torch.testing.assert_close(lora(**given).logits, want, atol=1e-4, rtol=1e-5)
        assert entry["kl"] < 1e-6 < entry["kl_of_base"] and entry["max_logit_difference"] < 1e-3
    noisy = export_lora(grafted(family), tmp_path / "noisy", thoughts=1, prompts=given["input_ids"].tolist())
    assert not noisy["exact"] and noisy["thoughts"][0]["kl"] > 1e-5


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target_modules="):
        export_lora(grafted("mixtral"), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="Name a new folder"):
        export_lora(grafted("llama"), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


def test_the_command_line(tmp_path: Path, capsys: Any) -> None:
    from thoughtmix import cli

    put(tmp_path)
    folder, lora = str(tmp_path / "made"), str(tmp_path / "lora")
    assert (
        cli.main(
            ["graft", str(tmp_path / "base"), "--out", folder, "--branches", "4", "--rank", "2", "--blocks", "1,2"]
        )
        == 0
    )
    assert "4 branches of rank 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "made" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "base"
    )
    words = ["think", "w5 w9", "--thinker", "mixture", "-n", "2", "--max-new-tokens", "4", "--no-measure", "--json"]
    assert cli.main([*words, "--model", folder]) == 0
    assert len(json.loads(capsys.readouterr().out)["thoughts"]) == 2
    assert cli.main(["export", str(tmp_path / "graft"), "--lora", lora, "-n", "2", "--dtype", "float32"]) == 0
    assert (
        "thought-1" in capsys.readouterr().out and (tmp_path / "lora" / "thought-1" / "adapter_config.json").is_file()
    )
    served = tmp_path / "served"
    words = ["export", str(tmp_path / "graft"), "--vllm", str(served), "-n", "2", "--dtype", "float32"]
    assert cli.main([*words, "--no-measure"]) == 0
    command = shlex.split(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("vllm serve ")))
    given = dict(itertools.pairwise(command))
    modules = dict(word.split("=", 1) for word in command[command.index("--lora-modules") + 1 :])
    assert given["serve"] == str(tmp_path / "base") and "--enable-lora" in command and given["--max-loras"] == "3"
    assert list(modules) == ["thought-0", "thought-1"]
    for adapter in modules.values():  # what vLLM reads of them: PEFT's form, within its limits
        config = LoraConfig.from_pretrained(adapter)
        assert config.r <= int(given["--max-lora-rank"]) == 8 and config.bias == "none" and not config.modules_to_save
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(given["serve"]), adapter)
    script = served / "serve.sh"
    assert os.access(script, os.X_OK) and shlex.split(script.read_text().splitlines()[1])[1:-1] == command
    for wrong in (
        ["export", str(tmp_path / "graft")],
        ["export", str(tmp_path / "graft"), "--lora", lora, "--vllm", lora],
        ["graft", str(tmp_path / "base"), "--out", folder, "--travelled", "x"],
        ["graft", str(tmp_path / "base"), "--out", str(tmp_path / "base")],
        ["graft", str(tmp_path / "base"), "--out", folder, "--blocks", "99"],
        ["export", str(tmp_path / "base"), "--lora", lora],
        ["export", str(tmp_path / "graft"), "--lora", lora, "-n", "0"],
    ):
        assert cli.main(wrong) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("thoughtmix: ")
