"""The engine's laws, on tiny random models of the real classes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from decoding import Row, decode, language_model_of
from tiny import VOCABULARY, fresh, tiny, tokenizer

from thoughtmix.core.errors import InputError, ModelError, NumericsError, SlowPathWarning
from thoughtmix.engine import SamplingParams
from thoughtmix.engine.backends import probe
from thoughtmix.engine.backends import shared as shared_module
from thoughtmix.engine.backends.expanded import ExpandedPath
from thoughtmix.engine.kv_cache import KVCache

PROMPT = [5, 9, 77, 33, 12, 8, 100, 41]
OTHER = [44, 17, 3]
PATHS = {  # family -> the path that auto takes
    "llama": "fused", "llama-tied": "fused", "qwen2": "fused", "qwen3": "fused", "mistral": "fused",
    "mistral-window": "shared", "gemma2": "shared", "gemma3_text": "shared", "gpt2": "shared", "gpt_neox": "shared",
    "opt": "shared", "phi3": "shared", "mixtral": "shared", "bloom": "expanded", "falcon": "expanded",
    "mamba": "expanded",
}  # fmt: skip
ALL_WAYS = [
    (family, path)
    for family, best in PATHS.items()
    for path in ("fused", "shared", "expanded")
    if (path, best) not in {("fused", "shared"), ("fused", "expanded"), ("shared", "expanded")}
]


def lm(model: Any, context: int | None = 256, eos: frozenset[int] = frozenset()) -> Any:
    return language_model_of(model, context, eos)


def run(model: Any, prompts: list[list[int]], rows: list[Row], tokens: int = 12, **more: Any) -> Any:
    more.setdefault("weights", "native")
    return decode(lm(model), prompts, rows, max_new_tokens=tokens, **more)


@pytest.mark.parametrize("family", PATHS)
def test_the_quickest_path_that_works_is_taken(family: str) -> None:
    assert run(tiny(family), [PROMPT], [Row(seed=0)], 2).path == PATHS[family]


@pytest.mark.parametrize(("family", "path"), ALL_WAYS)
def test_law_6_greedy_equals_generate(family: str, path: str) -> None:
    """Token for token, past the sliding windows (6) of the families that have one."""
    model = tiny(family)
    want = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(PROMPT) :].tolist()
    got = run(model, [PROMPT], [Row(seed=0, sampling=SamplingParams(temperature=0))], 16, path=path)
    assert got.outputs[0].token_ids == want
    assert len(set(want)) > 2, "a model that repeats itself proves little"


@pytest.mark.parametrize(("family", "path"), ALL_WAYS)
def test_law_5_a_thought_is_its_seeds_own(family: str, path: str, global_state_untouched: None) -> None:
    """The same tokens for n = 1, 8, 32 and among rows of another prompt that end at other times."""
    model = tiny(family)

    def tokens(n: int) -> list[list[int]]:
        return [r.token_ids for r in run(model, [PROMPT], [Row(seed=s) for s in range(n)], path=path).outputs]

    solo = [run(model, [PROMPT], [Row(seed=s)], path=path).outputs[0].token_ids for s in range(8)]
    assert tokens(8) == solo
    assert tokens(32)[:8] == solo
    mixed = [Row(seed=s % 8, prompt=s % 2, max_new_tokens=1 + s % 12 if s >= 8 else None) for s in range(24)]
    other = [run(model, [OTHER], [Row(seed=s)], path=path).outputs[0].token_ids for s in range(8)]
    for row, result in zip(mixed, run(model, [PROMPT, OTHER], mixed, path=path).outputs, strict=True):
        whole = (other if row.prompt else solo)[row.seed]
        assert result.token_ids == whole[: row.max_new_tokens]
    assert len({tuple(t) for t in solo}) > 4, "seeds must matter"


@pytest.mark.parametrize(("family", "path"), [("llama", "fused"), ("gpt2", "shared"), ("bloom", "expanded")])
def test_law_4_stepping_gives_the_logprobs_of_one_full_forward(family: str, path: str) -> None:
    model = tiny(family)
    for result in run(model, [PROMPT], [Row(seed=s) for s in range(4)], path=path).outputs:
        logits = model(torch.tensor([PROMPT + result.token_ids])).logits[0, len(PROMPT) - 1 : -1]
        want = logits.log_softmax(-1).gather(1, torch.tensor(result.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(result.logprobs), want, atol=2e-4, rtol=1e-4)


def test_sampling_follows_the_model() -> None:
    """First tokens over many seeds against the exact distribution. chi2 < 99.99% quantile by construction of the
    fixed seeds: this cannot flake, it can only be wrong."""
    from scipy.stats import chi2

    model, n = tiny("llama"), 4000
    got = run(model, [PROMPT], [Row(seed=s) for s in range(n)], 1).outputs
    p = model(torch.tensor([PROMPT])).logits[0, -1].double().softmax(-1)
    count = torch.bincount(torch.tensor([r.token_ids[0] for r in got]), minlength=VOCABULARY).double()
    big = p * n >= 5
    expected = torch.cat([p[big], p[~big].sum()[None]]) * n
    observed = torch.cat([count[big], count[~big].sum()[None]])
    statistic = float(((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum())
    assert statistic < chi2.ppf(0.9999, len(expected) - 1)


def test_each_row_has_its_own_settings() -> None:
    model = tiny("llama")
    kinds = [
        SamplingParams(temperature=0),
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(min_p=0.5),
        SamplingParams(top_nsigma=0.5),
    ]
    together = run(model, [PROMPT], [Row(seed=3, sampling=s) for s in kinds]).outputs
    for kind, result in zip(kinds, together, strict=True):
        assert result.token_ids == run(model, [PROMPT], [Row(seed=3, sampling=kind)]).outputs[0].token_ids
    assert len({tuple(r.token_ids) for r in together}) >= 4


def test_rows_end_at_end_tokens_and_stop_strings_and_leave_the_batch() -> None:
    model = tiny("llama")
    free = run(model, [PROMPT], [Row(seed=s) for s in range(6)], 20).outputs
    end = free[0].token_ids[4]
    word = tokenizer().decode([free[1].token_ids[6]])
    rows = [Row(seed=0), Row(seed=1, stop=(word,)), *(Row(seed=s) for s in range(2, 6))]
    sizes: list[int] = []
    original = probe.choose

    class Counting:
        """The chosen path, noting how many rows each step computes."""

        def __init__(self, path: Any) -> None:
            self.path = path

        def __getattr__(self, name: str) -> Any:
            return getattr(self.path, name)

        def step(self, tokens: torch.Tensor) -> torch.Tensor:
            sizes.append(len(tokens))
            return self.path.step(tokens)  # type: ignore[no-any-return]

    from thoughtmix.engine.backends import known

    try:
        known.choose = lambda *a: Counting(original(*a))  # type: ignore[assignment]
        got = decode(lm(model), [PROMPT], rows, max_new_tokens=20, end_ids=frozenset({end}), weights="native").outputs
    finally:
        known.choose = original
    cut = free[0].token_ids.index(end) + 1
    assert got[0].token_ids == free[0].token_ids[:cut]
    assert got[0].finish == "stop"
    assert got[0].text == tokenizer().decode(got[0].token_ids[:-1], skip_special_tokens=True), (
        "the end token is not text"
    )
    assert got[1].finish == "stop"
    assert word not in got[1].text
    for result, whole in zip(got, free, strict=True):
        assert result.token_ids == whole.token_ids[: len(result.token_ids)], "neighbours changed"
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == sum(len(r.token_ids) - 1 for r in got), "an ended row was still computed"


def test_streamed_pieces_are_the_text() -> None:
    model = tiny("llama")
    shown = [""] * 3
    events = []

    def see(event: Any) -> None:
        events.append(event)
        for i, piece in enumerate(event.pieces):
            shown[i] += piece

    rows = [Row(seed=0), Row(seed=1, max_new_tokens=4), Row(seed=2, stop=("w99 w",))]
    got = run(model, [PROMPT], rows, 9, on_step=see).outputs
    assert shown == [r.text for r in got]
    assert events[-1].finished == [True] * 3
    assert events[-1].done == sum(len(r.token_ids) for r in got)
    assert [e.done for e in events] == sorted(e.done for e in events)


def test_ctrl_c_keeps_what_is_there_and_restores_the_model() -> None:
    model = tiny("gpt2")
    before = model.config._attn_implementation

    def stop(event: Any) -> None:
        if event.done >= 9:
            raise KeyboardInterrupt

    got = run(model, [PROMPT], [Row(seed=s) for s in range(3)], 20, on_step=stop, path="shared")
    assert got.interrupted
    assert [len(r.token_ids) for r in got.outputs] == [3, 3, 3]
    assert all(r.finish == "cancelled" and r.text for r in got.outputs)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(("family", "path"), [("gpt2", "shared"), ("llama", "fused"), ("bloom", "expanded")])
def test_a_listener_may_use_the_same_model_and_so_may_threads(family: str, path: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = tiny(family)
    want = [run(model, [PROMPT], [Row(seed=s)], path=path).outputs[0].token_ids for s in range(6)]
    inner = []

    def again(event: Any) -> None:
        if event.done == 3:
            inner.append(run(model, [PROMPT], [Row(seed=1)], path=path).outputs[0].token_ids)
            inner.append(model(torch.tensor([PROMPT])).logits)

    plain = model(torch.tensor([PROMPT])).logits
    assert run(model, [PROMPT], [Row(seed=0)], path=path, on_step=again).outputs[0].token_ids == want[0]
    assert inner[0] == want[1]
    assert torch.equal(inner[1], plain)
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda s: run(model, [PROMPT], [Row(seed=s)], path=path).outputs[0].token_ids, range(6)))
    assert got == want


@pytest.mark.parametrize("path", ["shared", "expanded"])
def test_the_model_is_left_as_it_was_also_after_an_error(path: str) -> None:
    model = tiny("gpt2")
    before = (model.config._attn_implementation, model(torch.tensor([PROMPT])).logits)

    def fail(event: Any) -> None:
        raise RuntimeError("listener broke")

    with pytest.raises(RuntimeError, match="listener broke"):
        run(model, [PROMPT], [Row(seed=0)], path=path, on_step=fail)
    assert model.config._attn_implementation == before[0]
    assert torch.equal(model(torch.tensor([PROMPT])).logits, before[1])


def test_a_path_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe can fail: break the shared attention and the model falls back, with the right text."""
    model = fresh("gpt2")
    right = KVCache.attend
    monkeypatch.setattr(KVCache, "attend", lambda *a: right(*a) * 1.05)
    got = run(model, [PROMPT], [Row(seed=0)])
    assert got.path == "expanded"
    assert got.outputs[0].token_ids == run(tiny("gpt2"), [PROMPT], [Row(seed=0)], path="expanded").outputs[0].token_ids
    with pytest.raises(InputError, match="differs from its own forward"):
        run(model, [PROMPT], [Row(seed=0)], path="shared")


def test_a_cache_whose_rows_do_not_move_is_noticed_and_the_text_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that end take others' places. Where the model's cache does not follow, it is not used; said once, in a line."""
    model = fresh("bloom")
    want = run(tiny("bloom"), [PROMPT, OTHER], [Row(seed=s, prompt=s % 2) for s in range(4)], path="expanded").outputs

    def copies(self: Any, cache: Any, rows: list[int]) -> None:
        cache.batch_select_indices(torch.zeros(len(rows), dtype=torch.long))

    monkeypatch.setattr(ExpandedPath, "_pick", copies)
    with pytest.warns(SlowPathWarning, match="every token reads the whole text again"):
        got = run(model, [PROMPT, OTHER], [Row(seed=s, prompt=s % 2) for s in range(4)])
    assert got.path == "recompute"
    assert [o.token_ids for o in got.outputs] == [o.token_ids for o in want]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        run(model, [PROMPT], [Row(seed=0)])
    with pytest.raises(InputError, match="cannot be decoded with its own cache"):
        run(model, [PROMPT], [Row(seed=0)], path="expanded")
    with pytest.raises(InputError, match="has no usable cache.*--thinker sampling"):
        run(model, [PROMPT], [Row(seed=0)], read="each")


def test_a_model_that_sees_the_future_is_refused() -> None:
    """BERT without is_decoder."""
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertLMHeadModel(config).eval()
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.25)
    with pytest.raises(
        ModelError, match=r"what it says of a text changes when more text follows. Choose another model"
    ):
        run(model, [PROMPT], [Row(seed=0)])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_law_4_reading_the_text_again_is_what_every_path_gives(family: str) -> None:
    rows = [Row(seed=s, prompt=s % 2, max_new_tokens=3 + s) for s in range(5)]
    again = run(tiny(family), [PROMPT, OTHER], rows, path="recompute")
    best = run(tiny(family), [PROMPT, OTHER], rows)
    assert (again.path, best.path) == ("recompute", PATHS[family])
    for a, b in zip(again.outputs, best.outputs, strict=True):
        assert a.token_ids == b.token_ids
        torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=2e-4, rtol=1e-4)


def test_a_window_that_is_not_passed_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short probe cannot see a long window; so the attention must say it."""
    model = fresh("gpt2")
    model.config.sliding_window = 128
    assert run(model, [PROMPT], [Row(seed=0)], 2).path == "expanded"


def test_hooks_and_changed_weights_are_seen() -> None:
    model = fresh("llama")
    rows = [Row(seed=0, sampling=SamplingParams(temperature=0))]
    assert run(model, [PROMPT], rows, weights="fp16").path == "fused"
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(-1.0)
    changed = run(model, [PROMPT], rows, weights="fp16")
    want = run(model, [PROMPT], rows, path="expanded").outputs[0].token_ids
    assert changed.path == "fused"
    assert changed.outputs[0].token_ids == want, "stale packed weights"
    hook = model.model.layers[0].mlp.register_forward_hook(lambda m, a, out: out * 0.5)
    hooked = run(model, [PROMPT], rows)
    assert hooked.path == "shared"
    assert hooked.outputs[0].token_ids == run(model, [PROMPT], rows, path="expanded").outputs[0].token_ids != want
    hook.remove()
    assert run(model, [PROMPT], rows).path == "fused"


def test_hidden_states_that_were_looked_at_cost_nothing_afterwards() -> None:
    """transformers leaves hooks on a model that was asked for hidden states once."""
    model = fresh("llama")
    rows = [Row(seed=0, sampling=SamplingParams(temperature=0))]
    before = run(model, [PROMPT], rows)
    model(torch.tensor([PROMPT]), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules()), "else this shows nothing"
    after = run(model, [PROMPT], rows)
    assert after.path == before.path == "fused" and after.outputs[0].token_ids == before.outputs[0].token_ids


def test_packed_half_weights_are_close() -> None:
    model = tiny("qwen3")
    exact = run(model, [PROMPT], [Row(seed=s) for s in range(4)])
    packed = run(model, [PROMPT], [Row(seed=s) for s in range(4)], weights="fp16")
    assert packed.weights.startswith("fp16") and exact.weights == "native"
    for a, b in zip(exact.outputs, packed.outputs, strict=True):
        same = [x == y for x, y in zip(a.token_ids, b.token_ids, strict=True)]
        upto = same.index(False) if False in same else len(same)
        assert upto >= 3
        torch.testing.assert_close(torch.tensor(a.logprobs[:upto]), torch.tensor(b.logprobs[:upto]), atol=0.02, rtol=0)


@pytest.mark.parametrize(("family", "path"), [("llama", "fused"), ("gemma3_text", "shared"), ("bloom", "expanded")])
def test_bfloat16(family: str, path: str) -> None:
    model = fresh(family).to(torch.bfloat16)
    got = run(model, [PROMPT, OTHER], [Row(seed=s, prompt=s % 2) for s in range(6)], path=path)
    for row, result in enumerate(got.outputs):
        prompt = OTHER if row % 2 else PROMPT
        logits = model(torch.tensor([prompt + result.token_ids])).logits[0, len(prompt) - 1 : -1].float()
        want = logits.log_softmax(-1).gather(1, torch.tensor(result.token_ids)[:, None])[:, 0]
        assert (torch.tensor(result.logprobs) - want).abs().mean() < 0.25  # bf16 logits have steps of 1/16 here


def test_the_shared_attention_refuses_to_run_outside_a_step() -> None:
    model = fresh("llama")
    model.set_attn_implementation(shared_module.NAME)
    with pytest.raises(shared_module.Unsupported, match="only for thoughtmix"):
        model(torch.tensor([PROMPT]))


@pytest.mark.parametrize(
    ("prompts", "rows", "tokens", "says"),
    [
        ([PROMPT], [], 4, "Nothing to decode"),
        ([[]], [Row(seed=0)], 4, "The prompt is empty"),
        ([PROMPT], [Row(seed=0)], 0, "token budget"),
        ([PROMPT], [Row(seed=0, max_new_tokens=0)], 4, "token budget"),
        ([PROMPT, [VOCABULARY]], [Row(seed=0), Row(seed=0, prompt=1)], 4, "Prompt 1 has token ids outside"),
        ([[5] * 250], [Row(seed=0)], 10, "over the model's 256"),
        ([[5] * 300], [Row(seed=0)], 10, "Shorten it to under 256"),
    ],
)
def test_law_8_bad_requests(prompts: Any, rows: Any, tokens: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(tiny("llama"), prompts, rows, tokens)


def test_nan_weights_give_one_clear_error() -> None:
    model = fresh("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NumericsError, match="NaN or infinite"):
        run(model, [PROMPT], [Row(seed=0)])


def test_unknown_path_and_weights() -> None:
    with pytest.raises(InputError, match="decoding path 'quick'"):
        run(tiny("llama"), [PROMPT], [Row(seed=0)], path="quick")
    with pytest.raises(InputError, match="Unknown weights 'int3'"):
        run(tiny("llama"), [PROMPT], [Row(seed=0)], weights="int3")
    with pytest.raises(InputError, match="GPT2LMHeadModel cannot decode on the fused path"):
        run(tiny("gpt2"), [PROMPT], [Row(seed=0)], weights="fp16")
