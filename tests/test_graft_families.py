"""The laws, on tiny models of the real classes of every family that a graft is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graftland import EXPERTS, FAMILIES, base, grafted, inputs
from peft import PeftModel
from transformers import DynamicCache, EncoderDecoderCache

from thoughtmix.graft import MoTLayer, routed, thoughts

pytestmark = pytest.mark.usefixtures("global_state_untouched")
every = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def logits(model: Any, given: Any, **asked: Any) -> torch.Tensor:
    if not asked:
        return model(**given).logits
    with thoughts(model, **asked):
        return model(**given).logits


@every
def test_creativity_0_is_the_base_model(family: str) -> None:
    """Law 1, bit for bit, also for one row of a batch; so are a fresh graft and a disabled one. And the graft works."""
    given = inputs(family)
    want = base(family)(**given).logits
    fresh, model = grafted(family, stir=0), grafted(family)
    assert torch.equal(logits(fresh, given, seed=5), want)
    assert torch.equal(logits(model, given, creativity=0.0), want)
    mixed = logits(model, given, creativity=[1.0, 0.0, 2.0], seed=5)
    if family not in EXPERTS:  # there a batch's other rows move the grouping of products, and so the rounding
        assert torch.equal(mixed[1], want[1])
    for row in (0, 2):
        assert not torch.allclose(mixed[row], want[row], atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(logits(model, given), want)


@every
def test_detaching_restores(family: str) -> None:
    """Law 2."""
    given = inputs(family)
    bare = base(family)
    want, names = bare(**given).logits, [n for n, _ in bare.named_modules()]
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in bare.modules()]  # transformers' own recorders
    back = grafted(family, model=bare).unload()
    assert back is bare and [n for n, _ in back.named_modules()] == names
    assert [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in back.modules()] == hooks
    assert torch.equal(back(**given).logits, want)


@every
def test_nothing_looks_ahead(family: str) -> None:
    """Law 3, also with the prompt read apart and a router that reads it."""
    given = inputs(family)
    model = grafted(family, router="prompt", noise="fresh")
    changed = dict(given)
    key = "decoder_input_ids" if family == "t5" else "input_ids"
    changed[key] = given[key].clone()
    changed[key][:, 5] = 77
    for asked in ({}, {"prompt_lengths": [3, 2, 4]}):
        before, after = (logits(model, x, seed=4, **asked) for x in (given, changed))
        torch.testing.assert_close(before[:, :5], after[:, :5], atol=2e-5, rtol=2e-5)
        assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-2)


@every
@pytest.mark.parametrize("read", ["each", "shared"])
def test_the_cache_changes_nothing(family: str, read: str) -> None:
    """Law 4, float32: a prompt of 4, then token by token, beside one forward."""
    given = inputs(family)
    model = grafted(family, route="layer", branches_max=3)
    key = "decoder_input_ids" if family == "t5" else "input_ids"
    whole = logits(model, given, seed=9, creativity=1.3, read="each", prompt_lengths=4 if read == "shared" else 0)
    rest = {k: v for k, v in given.items() if k != key}
    pieces: list[torch.Tensor] = []
    cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache()) if family == "t5" else DynamicCache()
    with torch.no_grad(), thoughts(model, 1.3, 9, read):  # type: ignore[arg-type]
        for start, end in ((0, 4), (4, 5), (5, 6), (6, 8)):
            out = model(**{key: given[key][:, start:end]}, **rest, past_key_values=cache, use_cache=True)
            pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-4, rtol=2e-4)


@every
def test_a_thought_depends_on_its_own_seed_alone(family: str) -> None:
    """Law 5: alone, or third of a batch, or in the other order."""
    given = inputs(family)
    model = grafted(family)
    batch = logits(model, given, seed=[7, 2, 9])
    alone = logits(model, {k: v[2:] for k, v in given.items()}, seed=9)
    turned = logits(model, {k: v.flip(0) for k, v in given.items()}, seed=[9, 2, 7])
    torch.testing.assert_close(batch[2:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch, turned.flip(0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(batch[2:], logits(model, {k: v[2:] for k, v in given.items()}, seed=8), atol=1e-2)


@every
def test_saved_and_loaded(family: str, tmp_path: Path) -> None:
    """Law 7, in this process; test_graft.py does it in another."""
    given = inputs(family)
    model = grafted(family)
    want = logits(model, given, seed=3)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(family), tmp_path)
    assert torch.equal(logits(again, given, seed=3), want)


@every
def test_generate(family: str) -> None:
    """Sequences of one prompt are distinct thoughts, each the same alone; beams keep theirs."""
    given = {"input_ids": inputs(family, rows=1)["input_ids"]}
    model = grafted(family)
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": True, "top_k": 1, **given}
    with torch.random.fork_rng():  # generate draws tokens from the global state; here there is nothing to draw
        with thoughts(model, 4.0, seed=3):
            four = model.generate(num_return_sequences=4, **settings)
        with thoughts(model, 4.0, seed=5):
            one = model.generate(**settings)
        with thoughts(model, 0.0):
            zero = model.generate(**settings)
        want = base(family).generate(**settings)
    assert len({tuple(row.tolist()) for row in four}) > 1
    assert torch.equal(four[2], one[0])
    assert torch.equal(zero, want)


@every
def test_gradients(family: str) -> None:
    """They reach A, B and the weights, and nothing of the base model; checkpointing changes none."""
    given = inputs(family)
    model = grafted(family).train()
    weights = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        weights.grad = None
        with routed(model, weights), torch.random.fork_rng():
            torch.manual_seed(0)  # dropout
            loss = model(**given, use_cache=False).logits.logsumexp(-1).mean()
        loss.backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert weights.grad is not None and bool(weights.grad.any())
        return found

    plain = gradients()
    layers = sum(isinstance(m, MoTLayer) for m in model.modules())
    assert sorted({n.split(".")[-2] for n in plain}) == ["mot_A", "mot_B"] and len(plain) == 2 * layers
    model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)
