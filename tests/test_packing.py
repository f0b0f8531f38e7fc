"""Packed weights: a row's bits do not depend on the rows beside it, and packing costs little (laws 4, 5 and 8)."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from decoding import Row, decode
from tiny import fresh, tiny
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from thoughtmix.core.errors import InputError
from thoughtmix.engine.backends import probe
from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.fused_torch import TorchPath, TorchWeights
from thoughtmix.engine.backends.packing import Bf16Logits, Kind, equal_heights, pack, pack_gated
from thoughtmix.models.hardware import packs, packs_bf16

HEIGHTS = (1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 100, 128, 129, 300)
needs_bf16 = pytest.mark.skipif(not packs_bf16(), reason="this processor does not multiply bfloat16")
KINDS = [
    pytest.param("fp16", marks=pytest.mark.skipif(not packs(), reason="this torch has no FBGEMM")),
    pytest.param("bf16", marks=needs_bf16),
]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cancelling(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Weights and 300 inputs whose products are nothing but the rounding of their sums: they show in what order it was
    summed."""
    half = inputs // 2
    weight, x = some(outputs, half).bfloat16().float(), some(300, half, seed=1).bfloat16().float()
    order = torch.randperm(half, generator=torch.Generator().manual_seed(2))
    return torch.cat([weight, -weight[:, order]], 1), torch.cat([x, x[:, order]], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(960, 576), (576, 1536), (100, 48), (48, 96), (896, 4864), (512, 2048)]
)
def test_law_5_a_row_has_the_same_bits_at_any_height(kind: Kind, outputs: int, inputs: int) -> None:
    for weight, x in (cancelling(outputs, inputs), (some(outputs, inputs), some(300, inputs, seed=1))):
        for product in (pack(weight, None, kind), pack(weight, some(outputs), kind)):
            want = product(x)
            for height in HEIGHTS:
                assert torch.equal(product(x[:height]), want[:height]), height
            place = torch.randperm(300, generator=torch.Generator().manual_seed(3))
            assert torch.equal(product(x[place]), want[place]), "its place among the rows"


@pytest.mark.parametrize("kind", KINDS)
def test_law_5_gated_rows_have_the_same_bits_at_any_height(kind: Kind) -> None:
    gate, up, x = some(192, 64), some(192, 64, seed=1), some(300, 64, seed=2)
    product = pack_gated(gate, up, None, kind)
    want = product(x)
    for height in HEIGHTS:
        assert torch.equal(product(x[:height]), want[:height]), height
    exact = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
    assert (want.float() - exact).abs().max() < (0.02 if kind == "fp16" else 0.04) * exact.std() * 10


@needs_bf16
def test_logits_are_rounded_about_where_tokens_are_drawn() -> None:
    """The likeliest token's logit stands at about 25, of which 20 are common to all; its rounding is not that of 25."""
    common = some(1, 576)
    weight, x = (some(900, 576, seed=1) * 0.15 + common).bfloat16(), some(64, 576, seed=2) + common * (20 / 576)
    head = Bf16Logits(weight.float(), None)
    head.settle(x)
    exact = x.bfloat16().double() @ weight.double().T
    likeliest = exact.topk(5).indices
    off, plain = (
        (logits.double() - exact).gather(1, likeliest).abs().mean()
        for logits in (head(x.bfloat16().float()), pack(weight, None, "bf16")(x))
    )
    assert exact.amax(-1).mean() > 16 and off < plain / 2
    assert torch.equal(head(x[:3]), head(x)[:3])


@needs_bf16
def test_heights_are_found_for_the_shape() -> None:
    heights = equal_heights(576, 576, False, "none", torch.get_num_threads())
    assert 32 in heights and list(heights) == sorted(set(heights))


@functools.cache
def small() -> LlamaForCausalLM:
    """Wide enough for the kernels that larger models take; 49 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=490, hidden_size=192, intermediate_size=512, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=256,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_law_5_logits_of_a_row_have_the_same_bits_at_any_height(kind: Kind) -> None:
    """The whole path: a prompt, and three steps of rows that each go their own way."""
    weights = TorchWeights(small(), kind)
    prompt = [(7 * i) % 490 for i in range(21)]

    def logits(n: int) -> Tensor:
        path = TorchPath(weights)
        first, _ = path.start(Start([prompt], [n], 4))
        assert first is not None
        return torch.stack([first, *(path.step((torch.arange(n) * 31 + step) % 490) for step in range(3))])

    want = logits(128)
    for n in (*range(1, 10), 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 100):
        assert torch.equal(logits(n), want[:, :n]), n


@needs_bf16
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_bf16_weights_are_close(family: str) -> None:
    """The same tokens under the model's own float32 forward."""
    model, prompt = tiny(family), [5, 9, 11, 40, 7]
    got = decode(_lm(model), [prompt], [Row(seed=s) for s in range(8)], max_new_tokens=8, weights="bf16")
    assert got.path == "fused" and got.weights in {"bf16", "bf16-amx"}
    off = []
    for row in got.outputs:
        logits = model(torch.tensor([prompt + row.token_ids])).logits[0, len(prompt) - 1 : -1]
        want = logits.log_softmax(-1).gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        off.append(torch.tensor(row.logprobs) - want)
    assert torch.cat(off).abs().mean() < 0.05


@needs_bf16
def test_bf16_weights_of_a_bfloat16_model() -> None:
    model = fresh("llama").to(torch.bfloat16)
    assert decode(_lm(model), [[5, 9, 11]], [Row(seed=0)], max_new_tokens=3, weights="bf16").weights.startswith("bf16")


def test_law_8_bf16_weights_where_the_processor_does_not_multiply_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "packs_bf16", lambda: False)
    with pytest.raises(InputError, match=r"weights=bf16 needs an x86 CPU and AVX512-bf16 or AMX.*--weights auto"):
        decode(_lm(tiny("llama")), [[5, 9]], [Row(seed=0)], max_new_tokens=2, weights="bf16")


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16", "level", "few", "kind"),
    [
        ("float32", True, True, "", 0, "fp16"),
        ("float32", True, True, "amx", 0, "bf16-amx"),
        ("float32", True, True, "amx", 10**9, "fp16"),
        ("float32", True, False, "", 0, "native"),
        ("float32", True, True, "avx512", 0, "fp16-avx512"),
        ("float32", False, False, "avx2", 0, "fp16-avx2"),
        ("bfloat16", True, True, "", 0, "bf16"),
        ("bfloat16", True, True, "avx512", 0, "bf16"),
        ("bfloat16", True, True, "amx", 0, "bf16-amx"),
        ("bfloat16", True, True, "amx", 10**9, "native"),
        ("bfloat16", False, True, "", 0, "fp16"),
        ("bfloat16", False, True, "avx2", 0, "fp16-avx2"),
    ],
)
def test_what_auto_takes(
    dtype: str, bf16: bool, fp16: bool, level: str, few: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the processor, for models whose products take long enough to matter. level: the kernels' that runs."""
    for name, value in (("packs_bf16", bf16), ("bf16_hardware", bf16), ("packs", fp16)):
        monkeypatch.setattr(probe, name, lambda value=value: value)
    monkeypatch.setattr(probe.fused_kernels, "why_not", lambda model, asked: "" if asked == level else "none here")
    monkeypatch.setattr(probe.kernels, "best", lambda levels: level if level in levels else "")
    monkeypatch.setattr(probe, "_FEW", few)
    assert probe._kind(fresh("llama").to(getattr(torch, dtype)), "auto") == kind


def _lm(model: Any) -> Any:
    from tiny import tokenizer

    from thoughtmix.models import wrap_model

    return wrap_model(model, tokenizer())
