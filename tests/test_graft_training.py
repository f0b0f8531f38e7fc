"""A graft among other people's tools: resumed training, checkpointing, scores of texts, PEFT's Auto class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from graftland import grafted
from peft import AutoPeftModelForCausalLM, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import fresh, tiny_mixture
from transformers import Trainer, TrainingArguments

from thoughtmix import cli
from thoughtmix.core.errors import InputError
from thoughtmix.graft import MoTConfig, routed, thoughts
from thoughtmix.models import load_model

SMALL: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_branches": 4, "r": 2}
IDS = torch.randint(3, 150, (3, 9), generator=torch.Generator().manual_seed(2))


def learner(**more: Any) -> Any:
    return get_peft_model(fresh("llama"), MoTConfig(**SMALL, **more))


def train(model: Any, folder: Path, steps: int, resume: bool = False) -> dict[str, torch.Tensor]:
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(3, 150, (24, 8)).tolist()]
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=steps, save_steps=3, learning_rate=0.05, report_to=[], use_cpu=True,
        per_device_train_batch_size=4, disable_tqdm=True, seed=1, lr_scheduler_type="constant",
    )  # fmt: skip
    Trainer(model, settings, train_dataset=rows).train(resume_from_checkpoint=resume)  # type: ignore[arg-type]
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".mot_" in name}


@pytest.mark.parametrize("how", [{}, {"noise": "fresh", "router": "prompt"}])
def test_a_resumed_training_is_as_if_never_stopped(how: Any, tmp_path: Path) -> None:
    """Bit for bit: what each forward draws goes on where the checkpoint was made."""

    def seeded(steps: int, folder: str, resume: bool = False) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return train(learner(**how), tmp_path / folder, steps, resume)

    whole = seeded(6, "whole")
    seeded(3, "stopped")
    resumed = seeded(6, "stopped", resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    saved = load_file(tmp_path / "whole" / "checkpoint-6" / "adapter_model.safetensors")
    assert [int(value) for name, value in saved.items() if name.endswith("mot_drawn")] == [24]


def test_a_graft_without_a_count_loads(tmp_path: Path) -> None:
    model = grafted("llama", task_type="CAUSAL_LM")
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if "mot_drawn" not in name}, file)
    assert len(load_file(file)) == len(weights) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's way to say that weights are missing
        get_peft_model(fresh("llama"), MoTConfig(**SMALL)).load_adapter(tmp_path, "second")


def gradients(case: str, checkpointing: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    """Of a loss whose forward ran in a context that is left before the backward."""
    model = learner()
    if case == "another adapter":
        model.add_adapter("other", MoTConfig(**SMALL))
    draws = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".mot_" in name and parameter.ndim > 1:
            parameter.data.normal_(0, 0.2, generator=draws)
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
        model.enable_input_require_grads()
    model.train()
    if case == "given routes":
        with routed(model, torch.eye(4)[:3]):
            loss = model(IDS, labels=IDS).loss
    else:
        with thoughts(model, creativity=0.7, seed=5):
            loss = model(IDS, labels=IDS).loss
    if case == "another adapter":
        model.set_adapter("other")
        with thoughts(model, seed=50):
            loss = loss + model(IDS, labels=IDS).loss
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".mot_" in name)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", ["a thought", "given routes", "another adapter"])
def test_checkpointing_changes_no_gradient(case: str) -> None:
    want = gradients(case, None)
    got = gradients(case, {"use_reentrant": False})
    assert want and want.keys() == got.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name])


@pytest.mark.filterwarnings("ignore:.*use_reentrant")
def test_reentrant_checkpointing_works_or_says_why_not() -> None:
    want, got = gradients("given routes", None), gradients("given routes", {"use_reentrant": True})
    for name in want:
        torch.testing.assert_close(got[name], want[name])
    with pytest.raises(InputError, match=r"use_reentrant=True loses .*\{\"use_reentrant\": False\}\.$"):
        gradients("a thought", {"use_reentrant": True})
    model = learner(router="prompt", noise="none").train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(InputError, match="use_reentrant"), thoughts(model, prompt_lengths=4):
        model(IDS, labels=IDS)


def scored(model: Any, rows: list[list[int]], batch: int) -> list[float]:
    """Log-likelihoods of texts, padded on the right without a mask, as evaluation harnesses do."""
    out = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = max(map(len, part))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in part])
        with torch.no_grad():
            logprobs = model(ids).logits.log_softmax(-1)
        for i, row in enumerate(part):
            out.append(sum(float(logprobs[i, at, token]) for at, token in enumerate(row[1:])))
    return out


@pytest.mark.parametrize("kind", ["prior", "prompt", "fresh", "mixture", "mixture after training"])
def test_what_a_text_scores_does_not_depend_on_its_batch(kind: str) -> None:
    """Every row of a request without a cache is the same thought."""
    if kind.startswith("mixture"):
        model: Any = tiny_mixture()
        if "training" in kind:
            model.train()
            model(IDS)
            model.eval()
    elif kind == "fresh":
        model = grafted("llama", noise="fresh")
    else:
        model = grafted("llama", router=kind)
    rows = [IDS[i % 3, : 4 + i].tolist() for i in range(5)]
    alone = scored(model, rows, 1)
    for batch in (2, 5):
        assert scored(model, rows, batch) == pytest.approx(alone, abs=1e-3)
    assert scored(model, rows[::-1], 3)[::-1] == pytest.approx(alone, abs=1e-3)
    assert len({round(x, 4) for x in scored(model, [rows[4]] * 3, 3)}) == 1


def test_generate_still_makes_different_thoughts() -> None:
    model = grafted("llama", task_type="CAUSAL_LM")
    many: dict[str, Any] = {"num_return_sequences": 4, "do_sample": True, "top_k": 1, "max_new_tokens": 8}
    given = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1]), "pad_token_id": 0}
    with_cache, without = (model.generate(**given, **many, use_cache=cache) for cache in (True, False))
    assert torch.equal(with_cache, without)
    assert len({tuple(row) for row in with_cache.tolist()}) > 1


@pytest.mark.model
def test_peft_loads_a_graft_of_the_default_model_and_its_base_offline(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    assert cli.main(["graft", "default", "--out", str(tmp_path / "made"), "--branches", "2", "--rank", "2"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model: Any = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    ours = load_model(str(tmp_path / "made"), dtype="float32")
    ids = torch.tensor([ours.encode("Name a fruit.")])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, ours.model(ids).logits)
    model.save_pretrained(tmp_path / "again")  # notes a folder of this machine
    assert load_model(str(tmp_path / "again"), dtype="float32").name == "again"
