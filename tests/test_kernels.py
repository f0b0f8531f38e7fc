"""The C functions of thoughtmix.kernels: right numbers, and the same bits whoever stands beside a row (laws 4, 5 and 8)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from decoding import Row, decode
from graftland import base, grafted
from hypothesis import given, settings
from hypothesis import strategies as st
from test_continuous import call_of, some_call
from test_continuous_graft import thought_call
from test_decoding import lm
from test_packing import small, some
from tiny import tiny
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from thoughtmix import kernels
from thoughtmix.engine import sampling
from thoughtmix.engine.backends import fused_kernels
from thoughtmix.engine.backends.agreement import agrees
from thoughtmix.engine.backends.base import Piece, Start
from thoughtmix.engine.backends.fused_kernels import KernelWeights
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.kernels import build

needs_amx = pytest.mark.skipif(bool(kernels.why_not("amx")), reason=f"no kernels here: {kernels.why_not('amx')}")
FAMILIES = ("llama", "llama-tied", "qwen2", "qwen3", "mistral")


def threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(fused_kernels.torch, "get_num_threads", lambda: count)


def steps(weights: KernelWeights, prompt: list[int], n: int, start: int = 0, count: int = 3) -> Tensor:
    """Logits (count + 1, n, vocabulary) of rows that each go their own way."""
    path = weights.path()
    first, _ = path.start(Start([prompt], [n], count))
    assert first is not None
    numbers = torch.arange(start, start + n)
    return torch.stack([first, *(path.step((numbers * 31 + step) % 490) for step in range(count))])


# --- laws ---


@needs_amx
@pytest.mark.parametrize("family", FAMILIES)
def test_law_4_what_the_model_says(family: str) -> None:
    """Much nearer than bfloat16 products must be, so that a wrong place or gain would be seen."""
    assert agrees(tiny(family), KernelWeights(tiny(family)).path(), 0.12)


@needs_amx
def test_law_5_a_row_has_the_same_bits_at_any_height_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, prompt = KernelWeights(small()), [(7 * i) % 490 for i in range(70)]
    want = steps(weights, prompt, 64)
    for n in (*range(1, 19), 31, 32, 33, 48, 63):
        assert torch.equal(steps(weights, prompt, n), want[:, :n]), n
        assert torch.equal(steps(weights, prompt, n, 64 - n), want[:, 64 - n :]), "its place among the rows"
    for count in (2, 3):
        threads(monkeypatch, count)
        assert torch.equal(KernelWeights(small()) and steps(weights, prompt, 64), want), count


def reads_alike_in_any_pieces(weights: KernelWeights) -> None:
    """Prompts alone, packed into one pass, and 17 tokens at a time."""
    path = weights.path()
    prompts = [[(7 * i + k) % 490 for i in range(length)] for k, length in enumerate((1, 5, 70, 131, 300))]
    alone = [path.prefill(ids, None) for ids in prompts]
    together = path.prefill_packed([Piece(ids, None) for ids in prompts])
    for ids, (logits, kv), (other, packed) in zip(prompts, alone, together, strict=True):
        assert torch.equal(logits, other) and torch.equal(kv.keys[-1], packed.keys[-1])
        past, last = None, logits
        for at in range(0, len(ids), 17):
            last, past = path.prefill(ids[at : at + 17], past)
        assert past is not None and torch.equal(last, logits)
        assert all(torch.equal(a, b) for a, b in zip(past.values, kv.values, strict=True))


@needs_amx
def test_law_5_a_prompt_has_the_same_bits_in_any_pieces() -> None:
    reads_alike_in_any_pieces(KernelWeights(small()))


@needs_amx
def test_two_texts_that_go_on_from_one_beginning() -> None:
    """Room that the first has taken is not the second's."""
    path = KernelWeights(small()).path()
    begun = [(7 * i) % 490 for i in range(40)]
    ends = [[5, 6, 7], [8, 9], [5, 6, 7, 11]]
    ((_, past),) = path.prefill_packed([Piece(begun, None, 60)])
    kept = past.keys[0].clone()
    made = [path.prefill_packed([Piece(end, past, 60)])[0] for end in ends]
    for end, (logits, kv) in zip(ends, made, strict=True):
        alone, other = path.prefill([*begun, *end], None)
        assert torch.equal(logits, alone) and torch.equal(kv.values[-1], other.values[-1])
    assert torch.equal(past.keys[0], kept) and past.length == 40
    assert made[0][1].keys[0].data_ptr() == past.keys[0].data_ptr() != made[1][1].keys[0].data_ptr()


@needs_amx
def test_law_5_with_more_rows_than_attention_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of a prompt are read once for as many rows as there are threads to spare: any number gives the same bits."""
    weights, prompt = KernelWeights(small()), [(7 * i) % 490 for i in range(140)]
    want = steps(weights, prompt, 300, count=1)
    threads(monkeypatch, 6)
    assert torch.equal(steps(weights, prompt, 300, count=1), want)
    assert torch.equal(steps(weights, prompt, 3, 290, count=1), want[:, 290:293])


def alike(got: Any, want: Any) -> None:
    for one, other in zip(got.outputs, want.outputs, strict=True):
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=1e-5)


@needs_amx
@pytest.mark.parametrize("graft", [False, True])
def test_law_5_in_a_batch_that_others_join(graft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and rows of all lengths: what is masked or padded is never summed. Alone by one thread, joined by two."""
    numbers = range(200, 216)
    plain = lm(base("llama")) if graft else lm(tiny("llama"))
    model = plain
    if graft:
        made = grafted("llama", combiner="router", router="prior", noise="held")
        model = lm(made.get_base_model().eval())

    def call(number: int) -> dict[str, Any]:
        return thought_call(model, number) if graft and number % 2 else some_call(number)

    want = {n: decode(model if "row_state" in call(n) else plain, weights="bf16", **call(n)) for n in numbers}
    assert sum(len(done.outputs) for done in want.values()) >= 24
    assert {(done.path, done.weights) for done in want.values()} == {("fused", "bf16-amx")}
    threads(monkeypatch, 2)
    with Scheduler(model, weights="bf16", rows=12, chunk=16) as scheduler, ThreadPoolExecutor(8) as pool:
        got = dict(zip(numbers, pool.map(lambda n: call_of(SharedEngine(scheduler), call(n)), numbers), strict=True))
    for number in numbers:
        alike(got[number], want[number])


@needs_amx
@pytest.mark.parametrize("noise", ["held", "none"])
def test_branches_do_to_a_row_what_they_do_in_float32(noise: str) -> None:
    made = grafted("llama", combiner="router", router="prior", noise=noise)
    model = lm(made.get_base_model().eval())
    seen: list[Tensor] = []
    for weights, creativity in (("native", 1.0), ("bf16", 1.0), ("bf16", 0.0)):
        graft = next(m.thought_graft for m in model.model.modules() if getattr(m, "thought_graft", None) is not None)
        state = graft.row_state(list(range(20)), [creativity] * 20, torch.device("cpu"))
        path: Any = choose(model.model, "fused", weights, state)  # type: ignore[arg-type]
        path.start(Start([[5, 9, 11]], [20], 2))
        seen.append(path.step(torch.arange(20)))
    native, ours, plain = seen
    off, moved = (ours - native).abs().mean(), (ours - plain).abs().mean()
    assert moved > 0 and off < moved / 4


@needs_amx
def test_rows_that_each_read_the_prompt() -> None:
    model, prompt = lm(tiny("qwen3")), [5, 9, 11, 40, 7]
    rows = [Row(seed=s) for s in range(5)]
    each, shared = (
        decode(model, [prompt], rows, max_new_tokens=6, weights="bf16", read=read) for read in ("each", "shared")
    )
    assert each.weights == "bf16-amx"
    for one, other in zip(each.outputs, shared.outputs, strict=True):
        assert abs(one.logprobs[0] - other.logprobs[0]) < 0.05


@needs_amx
def test_hidden_states_are_what_torch_sees() -> None:
    model = small()
    native, ours = (decode_hidden(model, made) for made in (KernelWeights(model).path(), torch_path(model)))
    for key, x in ours.items():
        assert (native[key] - x).abs().max() < 0.05 * x.std(), key


def torch_path(model: Any) -> Any:
    from thoughtmix.engine.backends.fused_torch import TorchWeights

    return TorchWeights(model, "native").path()


def decode_hidden(model: Any, path: Any) -> dict[int, Tensor]:
    path.note = frozenset({1, 3})
    path.start(Start([[5, 9, 11]], [4], 2))
    path.step(torch.arange(4))
    return dict(path.hidden)


# --- numbers ---


def head_of(weight: Tensor, level: str = "amx") -> KernelWeights:
    """A model without layers: a norm and a product."""
    config = LlamaConfig(
        vocab_size=len(weight), hidden_size=weight.shape[1], intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.model.layers.parameters():
        parameter.zero_()
    model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return KernelWeights(model, level)


def on_grid(outputs: int, inputs: int, seed: int, eight: bool) -> Tensor:
    """Weights as a file of 4 or 8 bits has them."""
    g = torch.Generator().manual_seed(seed)
    blocks = -(-inputs // 32)
    d = (torch.rand(outputs, blocks, 1, generator=g) * 0.02 + 0.001).half().float()
    m = (-torch.rand(outputs, blocks, 1, generator=g) * 0.2).half().float()
    if eight:
        q = torch.randint(-127, 128, (outputs, blocks, 32), generator=g)
        q[..., 0] = 127
        return (d * q).flatten(1)[:, :inputs]
    q = torch.randint(0, 16, (outputs, blocks, 32), generator=g)
    q[..., 0], q[..., 1] = 0, 15
    return (d * q + m).flatten(1)[:, :inputs]


def product(data: st.DataObject, level: str) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits (rows, outputs) by the kernels, their inputs and weights in float64, and how the weights are kept."""
    kind = data.draw(st.sampled_from([kernels.PLAIN, kernels.GRID4, kernels.GRID8]))
    inputs = data.draw(st.integers(1, 6)) * 32 if kind else data.draw(st.integers(8, 200))
    outputs, rows, seed = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 50)), data.draw(st.integers(0, 9))
    weight = on_grid(outputs, inputs, seed, kind == kernels.GRID8) if kind else some(outputs, inputs, seed=seed)
    made = head_of(weight, level)
    assert made.model.head.kind == kind
    path = made.path()
    tokens = torch.arange(rows) % len(made.embed)
    first, _ = path.start(Start([[0]], [rows], 2))
    assert first is not None
    return path.step(tokens).double(), made.norm(made.embed[tokens].double().float()).double(), weight, kind


@needs_amx
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_products_are_those_of_their_bfloat16_numbers(data: st.DataObject) -> None:
    got, x, weight, _ = product(data, "amx")
    x, weight = x.bfloat16().double(), weight.bfloat16().double()
    off, scale = (got - x @ weight.T).abs(), x.abs() @ weight.abs().T
    assert (off <= 2e-2 * scale + 1e-6).all(), "one input may fall to the other side"
    assert off.median() <= 2e-5 * scale.median()


@needs_amx
def test_the_same_bits_from_four_bits_and_from_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = on_grid(96, 128, 3, False)
    packed = head_of(weight)
    monkeypatch.setattr(kernels, "GRID4", kernels.PLAIN)
    monkeypatch.setattr(kernels, "GRID8", kernels.PLAIN)
    plain = head_of(weight)
    assert (packed.model.head.kind, plain.model.head.kind) == (1, 0)
    plain.embed = packed.embed
    for n in (1, 40):
        logits = []
        for made in (packed, plain):
            path = made.path()
            path.start(Start([[3]], [n], 2))
            logits.append(path.step(torch.arange(n)))
        assert torch.equal(*logits)


def attention(data: st.DataObject, level: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits by the kernels and by a forward in float64: heads of any width and number, prompts and own tokens of any
    length, weights that products in `dtype` lose nothing of."""
    heads, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    width, d = heads * groups * 40, data.draw(st.sampled_from([4, 8, 16, 20, 64, 68]))
    config = LlamaConfig(
        vocab_size=40, hidden_size=width, intermediate_size=48, num_hidden_layers=1, num_attention_heads=heads * groups,
        num_key_value_heads=heads, head_dim=d, max_position_embeddings=512,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 9)))
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter).div_(parameter.shape[1] ** 0.5).to(dtype))
    length, n, own = data.draw(st.sampled_from([1, 15, 64, 65, 150])), data.draw(st.integers(1, 20)), 5
    prompt = [(7 * i) % 40 for i in range(length)]
    path = KernelWeights(model, level).path()
    first, _ = path.start(Start([prompt], [n], own))
    assert first is not None
    tokens = torch.arange(n)[:, None] * 3 % 40 + torch.zeros(1, own, dtype=torch.long)
    got = torch.stack([first, *(path.step(tokens[:, i]) for i in range(own))], 1)
    whole = torch.cat([torch.tensor(prompt).repeat(n, 1), tokens], 1)
    return got, model.double()(whole).logits[:, -own - 1 :]


@needs_amx
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_attention_is_that_of_the_model(data: st.DataObject) -> None:
    got, want = attention(data, "amx", torch.bfloat16)
    assert (got - want).abs().max() <= 0.1 * want.std()
    assert (got - want).abs().median() <= 0.01 * want.std()


# --- threads and processes ---


@needs_amx
def test_threads_that_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has the team, the others work alone."""
    weights, prompt = KernelWeights(small()), [(7 * i) % 490 for i in range(40)]
    want = steps(weights, prompt, 20)
    threads(monkeypatch, 2)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: torch.inference_mode()(steps)(weights, prompt, 20), range(12)))
    assert all(torch.equal(one, want) for one in got)


@needs_amx
def test_teams_of_any_size_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no part in one job takes part in the next, once."""
    x, uniform = some(40, 160), torch.linspace(0, 0.99, 40, dtype=torch.float64)
    sampler = sampling.SamplingTensors.of([SamplingParams()] * 40)
    want = sampling.draw(x, uniform, sampler)
    for turn in range(500):
        monkeypatch.setattr(sampling.torch, "get_num_threads", lambda turn=turn: 1 + turn * 7 % 5)
        assert torch.equal(sampling.draw(x, uniform, sampler).share, want.share), turn


@needs_amx
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_team_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, prompt = KernelWeights(small()), [5, 6, 7]
    threads(monkeypatch, 2)
    batch = weights.path()
    batch.start(Start([prompt], [4], 3))
    tokens = torch.arange(4)
    child = os.fork()
    if child == 0:
        logits = batch.step(tokens)
        os._exit(0 if bool(torch.isfinite(logits).all()) else 1)
    want = batch.step(tokens)
    assert os.waitpid(child, 0)[1] == 0 and torch.isfinite(want).all()


# --- where they cannot run ---


def test_without_the_library_bf16_is_torchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    kernels._loaded.cache_clear()
    monkeypatch.setattr(kernels, "HERE", tmp_path)
    assert "not compiled" in kernels.why_not() or "Linux" in kernels.why_not()
    assert kernels.library() is None and fused_kernels.why_not(tiny("llama"))
    for level in kernels.LEVELS:
        (tmp_path / build.name(level)).write_text("no library")
    kernels._loaded.cache_clear()
    assert "cannot be loaded" in kernels.why_not() or "Linux" in kernels.why_not()
    monkeypatch.undo()
    kernels._loaded.cache_clear()


def test_heads_that_there_is_no_room_for() -> None:
    model = tiny("llama")
    assert fused_kernels.why_not(model) == kernels.why_not()
    wide = SimpleNamespace(config=SimpleNamespace(num_attention_heads=40, num_key_value_heads=2), model=model.model)
    assert "too many" in fused_kernels.why_not(wide)


@pytest.mark.skipif(not build.supported() or build.compiler() is None, reason="nothing to compile here")
def test_a_compiler_that_fails_leaves_what_was_there(tmp_path: Any) -> None:
    assert "cannot be run" in build.build(tmp_path, ["/no/such/cc"])
    assert "failed" in build.build(tmp_path, ["false"])
    made = tmp_path / build.name("avx2")
    made.write_text("before")
    assert build.build(tmp_path, ["false"]) and made.read_text() == "before"
    assert list(tmp_path.iterdir()) == [made]
