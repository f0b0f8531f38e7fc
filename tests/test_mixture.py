"""The laws of Mixture of Thoughts, on every granularity of routing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from decoding import Row, decode, language_model_of
from tiny import tokenizer

from thoughtmix import mixture
from thoughtmix.core.errors import InputError
from thoughtmix.engine import SamplingParams
from thoughtmix.engine.counter_rng import gumbel, key, normal, uniform
from thoughtmix.mixture import RECIPE
from thoughtmix.mixture.branch import BranchNoise, NoiseInjection, ThoughtBranch
from thoughtmix.mixture.combiner import AttentionCombiner
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.layer import MixtureOfThoughtsLayer
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer, StandardTransformer
from thoughtmix.mixture.router import ThoughtRouter
from thoughtmix.mixture.state import BranchRowState

V = 160
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "segments": {"segment_length": 5},
    "tokens": {"segment_length": 1},
    "fresh": {"noise": "fresh"},
    "fresh-segments": {"noise": "fresh", "segment_length": 4},
    "topk": {"routing": "topk", "noise": "none", "segment_length": 3},
    "weights": {"combiner": "weights"},
    "learned": {"position": "learned"},
    "follow": {"follow": True},
    "follow-fresh": {"follow": True, "noise": "fresh"},
    "modes": {**RECIPE, "modes": 3},
    "modes-blind": {"modes": 3},
    "modes-noisy": {"follow": True, "modes": 3, "combiner": "weights"},
    "standard": {"num_branches": 1},
}
PROMPT = [5, 9, 77, 33, 12, 8, 100, 41]


def build(kind: str = "whole", **more: Any) -> MixtureOfThoughtsTransformer:
    settings = {
        "vocab_size": V,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "noise_scale": 0.5,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MixtureOfThoughtsTransformer(MixtureOfThoughtsConfig(**{**settings, **KINDS[kind], **more}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 or "prior" in name:
                    parameter.normal_(0.0, 0.25)
    return model.eval()


def lm(model: Any) -> Any:
    return language_model_of(model, name="tiny-mot")


def ids(b: int, t: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, V, (b, t), generator=torch.Generator().manual_seed(seed))


def think(model: Any, seeds: list[int], creativity: float = 1.0, tokens: int = 14, **more: Any) -> Any:
    sampling = more.pop("sampling", SamplingParams(temperature=0.8))
    rows = [Row(seed=s, sampling=sampling, prompt=more.get("prompt", 0)) for s in seeds]
    more.pop("prompt", None)
    prompts = more.pop("prompts", [PROMPT])
    row_state = BranchRowState(seeds, [creativity] * len(seeds), torch.device("cpu"))
    return decode(lm(model), prompts, rows, max_new_tokens=tokens, row_state=row_state, **more)


# --- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begins", [0, 7])
def test_law_3_nothing_leaks_from_the_future(kind: str, begins: int) -> None:
    model = build(kind)
    x = ids(3, 24)
    before = model(x, prompt_lengths=begins).logits
    for j in (4, 11, 23):
        y = x.clone()
        y[:, j] = (y[:, j] + 1) % V
        after = model(y, prompt_lengths=begins).logits
        # up to rounding: tokens are grouped by branch, and products of different heights round differently
        torch.testing.assert_close(before[:, :j], after[:, :j], atol=1e-4, rtol=1e-4)
        assert (before[:, j:] - after[:, j:]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begins", [0, 7, [3, 9, 0]])
def test_law_4_the_cache_changes_nothing(kind: str, begins: Any) -> None:
    model = build(kind)
    x = ids(3, 20)
    want = model(x, thought_seeds=[4, 5, 6], prompt_lengths=begins).logits
    for cuts in ([9, 1, 1, 1, 4, 1, 1, 2], [1] * 20, [6, 14]):
        cache, at, got = None, 0, []
        for cut in cuts:
            out = model(
                x[:, at : at + cut],
                past_key_values=cache,
                use_cache=True,
                thought_seeds=[4, 5, 6],
                prompt_lengths=begins,
            )
            cache, at = out.past_key_values, at + cut
            got.append(out.logits)
        torch.testing.assert_close(torch.cat(got, 1), want, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "standard"])
def test_law_5_a_row_depends_on_its_own_seed(kind: str, global_state_untouched: None) -> None:
    model = build(kind)
    x = ids(1, 20).expand(6, -1)
    together = model(x, thought_seeds=[0, 1, 2, 2**63 + 1, -1, 0]).logits
    for i, seed in enumerate([0, 1, 2, 2**63 + 1, -1, 0]):
        alone = model(x[:1], thought_seeds=[seed]).logits[0]
        torch.testing.assert_close(together[i], alone, atol=3e-4, rtol=1e-3)
    torch.testing.assert_close(together[0], together[5])
    if kind != "topk":
        assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", ["shared", "each"])
def test_law_5_in_the_engine(kind: str, read: str) -> None:
    """Thought i is the same for n = 1, 8 and beside another prompt, and its probabilities are those of one full
    forward with its seed."""
    model = build(kind)
    together = think(model, list(range(8)), read=read)
    assert together.path == ("shared" if read == "shared" else "expanded")
    for seed in (0, 3, 7):
        assert think(model, [seed], read=read).outputs[0].token_ids == together.outputs[seed].token_ids
    x = torch.tensor([PROMPT + r.token_ids for r in together.outputs])
    begins = len(PROMPT) if read == "shared" else 0
    logits = model(x, thought_seeds=list(range(8)), prompt_lengths=begins).logits[:, len(PROMPT) - 1 : -1]
    want = logits.log_softmax(-1).gather(2, x[:, len(PROMPT) :, None])[..., 0]
    torch.testing.assert_close(torch.tensor([r.logprobs for r in together.outputs]), want, atol=5e-4, rtol=1e-3)
    if read == "shared":
        prompts = [PROMPT, [44, 17, 3]]
        rows = [
            Row(seed=s, sampling=SamplingParams(temperature=0.8), prompt=s % 2, max_new_tokens=4 + s) for s in range(6)
        ]
        row_state = BranchRowState(list(range(6)), [1.0] * 6, torch.device("cpu"))
        for path in ("shared", "expanded"):
            mixed = decode(lm(model), prompts, rows, max_new_tokens=14, row_state=row_state, path=path)  # type: ignore[arg-type]
            for s in (0, 2, 4):
                assert mixed.outputs[s].token_ids == together.outputs[s].token_ids[: 4 + s]
            row_state = BranchRowState(list(range(6)), [1.0] * 6, torch.device("cpu"))


def test_law_7_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    """Every kind, in one other process. Bits: the same products are computed, of the same shapes."""
    for kind in KINDS:
        model = build(kind)
        model.save_pretrained(tmp_path / kind)
        torch.save(model(ids(2, 12)).logits, tmp_path / kind / "want.pt")
    code = """
import sys, pathlib, torch, thoughtmix.mixture.model
from transformers import AutoModelForCausalLM

x = torch.randint(3, 160, (2, 12), generator=torch.Generator().manual_seed(0))
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    found = AutoModelForCausalLM.from_pretrained(folder).eval()(x).logits
    print(folder.name, torch.equal(found, torch.load(folder / "want.pt")))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert dict(line.split() for line in said.splitlines()) == dict.fromkeys(KINDS, "True")


# --- creativity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_creativity_0_is_deterministic_in_any_mode(kind: str) -> None:
    model = build(kind)
    x = ids(1, 16).expand(4, -1)
    for train in (False, True):
        model.train(train)
        logits = model(x, creativity=0.0, thought_seeds=[1, 2, 3, 4]).logits
        assert (logits - logits[:1]).abs().max() < 1e-5
        if kind not in {"standard", "topk"}:
            assert (model(x, thought_seeds=[1, 2, 3, 4]).logits - logits).abs().max() > 0.1
    model.eval()
    rows = think(model, [1, 2, 3], creativity=0.0, sampling=SamplingParams(temperature=0)).outputs
    assert len({tuple(r.token_ids) for r in rows}) == 1


def test_creativity_scales_what_it_should() -> None:
    """Noise grows with creativity; a row's, a layer's and a call's creativity multiply; a schedule of zeros is
    creativity 0."""
    model = build("weights", branches_min=3, num_branches=3, diversity_bonus=0.0)  # all branches: only noise is left
    x = ids(1, 16).expand(5, -1)
    base = model(x, creativity=0.0).logits
    far = (model(x, creativity=[0, 0.5, 1, 1.5, 2], thought_seeds=[9] * 5).logits - base).abs().mean((1, 2)).tolist()
    assert far == sorted(far) and far[0] < 1e-5 and far[4] > 2 * far[1]
    one = model(x[:1], creativity=1.0, creativity_schedule=[0.0, 0.0, 2.0]).logits
    other = model(x[:1], creativity=2.0, creativity_schedule=[0.0, 0.0, 1.0]).logits
    torch.testing.assert_close(one, other)
    zero = model(x[:1], creativity_schedule=[0.0] * 3).logits
    assert torch.equal(zero, model(x[:1], creativity=0.0).logits)  # bits: the same products, of the same shapes
    # One row and five are products of other heights, which kernels may sum in another order: 80 * 2^-23 of logits to 5.
    torch.testing.assert_close(zero, base[:1], atol=5e-5, rtol=1e-5)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_draws_are_uniform_keyed_and_unrelated() -> None:
    from scipy import stats

    seeds = torch.arange(2000)
    u = uniform(key(seeds, 1, 0), 50)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3  # fixed seeds: cannot flake
    assert torch.equal(u[7], uniform(key(torch.tensor([7]), 1, 0), 50)[0])
    assert torch.equal(u[:, :20], uniform(key(seeds, 1, 0), 20))
    assert abs(float(torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1])) < 0.02  # near seeds
    other = uniform(key(seeds, 1, 1), 50)
    assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 0.02  # near layers
    assert len(key(seeds[:, None], 2, torch.arange(8)).unique()) == 16000
    assert stats.kstest(normal(key(seeds, 3), 50).flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(gumbel(key(seeds, 4), 50).flatten().numpy(), "gumbel_r").pvalue > 1e-3


def test_the_router_draws_without_replacement_in_proportion() -> None:
    """Pair frequencies against p_i p_j / (1 - p_i), the law of sampling without replacement."""
    from scipy.stats import chisquare

    router = ThoughtRouter(4, 5, branches_min=2, branches_max=2, diversity_bonus=0.0)
    with torch.no_grad():
        router.proj.weight.zero_()
        router.proj.bias.copy_(torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0]))
    n = 20000
    for temperature in (1.0, 2.0):
        with torch.no_grad():
            router.log_temperature.fill_(temperature).log_()
        route = router(torch.zeros(n, 1, 4), key(torch.arange(n), 1)[:, None], torch.ones(n, 1, dtype=torch.bool))
        pairs = route.branch[:, 0]
        assert not bool((pairs[:, 0] == pairs[:, 1]).any())
        p = (router.proj.bias / temperature).softmax(-1).tolist()
        seen, want = [], []
        for i in range(5):
            for j in range(5):
                if i != j:
                    seen.append(int(((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum()))
                    want.append(n * p[i] * p[j] / (1 - p[i]))
        want = [w * n / sum(want) for w in want]  # float32 probabilities do not quite sum to 1
        assert chisquare(seen, want).pvalue > 1e-3
    still = router(torch.zeros(3, 1, 4), key(torch.arange(3), 1)[:, None], torch.zeros(3, 1, dtype=torch.bool))
    assert still.branch[:, 0].tolist() == [[0, 1]] * 3


def test_two_or_three_branches_are_drawn_as_often() -> None:
    router = ThoughtRouter(4, 6)
    route = router(torch.zeros(4000, 1, 4), key(torch.arange(4000), 1)[:, None], torch.ones(4000, 1, dtype=torch.bool))
    count = (route.log_weight > -torch.inf).sum(-1)
    assert set(count.flatten().tolist()) == {2, 3}
    assert abs(float(count.float().mean()) - 2.5) < 0.05
    torch.testing.assert_close(route.log_weight.exp().sum(-1), torch.ones(4000, 1))


def test_branches_dense_and_grouped_are_the_same_and_right() -> None:
    torch.manual_seed(0)
    n, s, d, f, k = 13, 3, 8, 10, 5
    bank = ThoughtBranch(d, f, k, noise_scale=0.4)
    for weight in (bank.up, bank.down):
        torch.nn.init.normal_(weight)
    x = torch.randn(n, d)
    branch = torch.stack([torch.randperm(k)[:s] for _ in range(n)])
    active = torch.rand(n, s) > 0.3
    noise = BranchNoise(torch.randn(n * s, d), torch.randn(n * s, f), torch.arange(n * s).view(n, s), torch.rand(n))
    for given in (None, noise):
        dense, grouped = (bank(x, branch, active, given, dense=way) for way in (True, False))
        torch.testing.assert_close(dense, grouped)
        for i in range(n):
            for j in range(s):
                y = x[i]
                pair, amp = i * s + j, noise.amplitude[i]
                if given is not None:
                    y = bank.input_noise(y, noise.at_input[pair], amp)
                h = torch.nn.functional.gelu(bank.up[branch[i, j]] @ y)
                if given is not None:
                    h = bank.latent_noise(h, noise.latent[pair], amp)
                want = bank.down[branch[i, j]] @ h * active[i, j]
                torch.testing.assert_close(dense[i, j], want, atol=1e-4, rtol=1e-4)


def test_noise_is_off_at_0_and_never_asks_for_the_mode() -> None:
    noise = NoiseInjection(6, 0.3)
    x, e = torch.randn(4, 6), torch.randn(4, 6)
    assert torch.equal(noise(x, e, torch.zeros(4, 1)), x)
    assert torch.equal(noise.train()(x, e, torch.ones(4, 1)), noise.eval()(x, e, torch.ones(4, 1)))
    moved = noise(x, e, torch.ones(4, 1)) - x
    torch.testing.assert_close(moved, 0.3 * 2 * torch.sigmoid(noise.gate(x)) * e)
    relative = NoiseInjection(6, 0.3, adaptive=False, relative=True)
    moved = relative(x, e, torch.full((4, 1), 2.0)) - x
    torch.testing.assert_close(moved, 0.3 * 2 * x.square().mean(-1, keepdim=True).sqrt() * e)


def test_the_combiner_is_a_mean_weighted_by_router_and_likeness() -> None:
    combiner = AttentionCombiner(6, rank=3)
    x, y = torch.randn(4, 6), torch.randn(4, 3, 6)
    log_w = torch.tensor([[0.0, -torch.inf, -torch.inf]]).expand(4, -1)
    torch.testing.assert_close(combiner(x, y, log_w), y[:, 0])
    torch.testing.assert_close(AttentionCombiner(6, rank=0)(x, y, torch.full((4, 3), 1 / 3).log()), y.mean(1))
    one = combiner(x, y, torch.full((4, 3), 1 / 3).log())
    torch.testing.assert_close(combiner(x, y.flip(1), torch.full((4, 3), 1 / 3).log()), one)


# --- training ---------------------------------------------------------------------------------------------------------


def test_every_signal_and_parameter_has_gradient() -> None:
    model = build("whole").train()
    x = ids(4, 24)
    out = model(x, labels=x, prompt_lengths=[0, 5, 9, 13], thought_seeds=range(4))
    assert float(out.loss) != float(out.lm_loss)
    for name in ("balance", "entropy", "diversity"):
        grads = torch.autograd.grad(out.signals[name], list(model.parameters()), retain_graph=True, allow_unused=True)
        assert any(g is not None and float(g.abs().max()) > 0 for g in grads), name
    out.loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert missing == []


def test_a_signal_without_weight_is_the_same_number_and_has_no_gradient() -> None:
    x = ids(4, 24)
    weighed, free = (build("follow", diversity_weight=w, entropy_weight=w)(x, labels=x) for w in (0.1, 0.0))
    for name in ("balance", "entropy", "diversity"):
        assert torch.equal(weighed.signals[name], free.signals[name])
        assert free.signals[name].requires_grad == (name == "balance")
        assert weighed.signals[name].requires_grad
    found = free.lm_loss + 0.01 * free.signals["balance"]
    torch.testing.assert_close(free.loss, found)


def test_signals_are_what_they_say() -> None:
    model = build("whole")
    x = ids(4, 24)
    with torch.no_grad():
        for block in model.layers:  # all branches alike, the router indifferent
            block.mixture.branches.up.copy_(block.mixture.branches.up[:1].expand_as(block.mixture.branches.up))
            block.mixture.branches.down.copy_(block.mixture.branches.down[:1].expand_as(block.mixture.branches.down))
            block.mixture.router.proj.weight.zero_()
    model.config.creativity = 0.0
    found = model(x, labels=x).signals
    assert abs(float(found["diversity"]) - 1) < 1e-4
    assert abs(float(found["entropy"])) < 1e-5
    metrics = model(x).metrics
    assert len(metrics) == 3
    assert abs(float(metrics[0]["diversity_score"])) < 1e-4
    assert abs(float(metrics[0]["router_entropy"]) - torch.log(torch.tensor(8.0))) < 1e-4
    assert float(metrics[0]["active_branches"]) == 3
    assert metrics[1]["layer"] == 1


def test_training_draws_anew_and_evaluation_does_not() -> None:
    model = build("whole")
    x = ids(2, 10)
    assert torch.equal(model(x).logits, model(x).logits)
    model.train()
    assert not torch.equal(model(x).logits, model(x).logits)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["whole", "segments", "fresh"])
def test_generate_gives_distinct_rows_that_are_their_seeds_own(kind: str) -> None:
    model = build(kind)
    x = torch.tensor([PROMPT])
    many = model.generate(x.expand(4, -1), max_new_tokens=12, do_sample=False)
    assert len({tuple(r) for r in many.tolist()}) == 4
    one = model.generate(x, max_new_tokens=12, do_sample=False, thought_seeds=[2])
    assert one[0].tolist() == many[2].tolist()
    begins = model.generate(x.expand(2, -1), max_new_tokens=12, do_sample=False, prompt_lengths=len(PROMPT))
    rows = think(model, [0, 1], sampling=SamplingParams(temperature=0), tokens=12).outputs
    assert begins[:, len(PROMPT) :].tolist() == [r.token_ids for r in rows]
    sampled = model.generate(x, max_new_tokens=6, do_sample=True, num_return_sequences=3)
    assert sampled.shape == (3, len(PROMPT) + 6)


def test_left_padding_changes_nothing() -> None:
    model = build("segments")
    x = ids(2, 12)
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.int64), x], 1)
    mask = torch.cat([torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 12, dtype=torch.int64)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    got = model(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
    torch.testing.assert_close(got, model(x).logits, atol=3e-4, rtol=1e-3)


def test_beams_take_their_thoughts_along() -> None:
    """Scores of beam search equal those of one forward of the whole text with the beam's own seed."""
    model = build("whole")
    x = torch.tensor([PROMPT])
    out = model.generate(
        x,
        max_new_tokens=8,
        num_beams=3,
        num_return_sequences=1,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        length_penalty=0.0,
        thought_seeds=torch.tensor([5]),
        prompt_lengths=len(PROMPT),
    )
    text = out.sequences
    logits = model(text, thought_seeds=[5], prompt_lengths=len(PROMPT)).logits[:, len(PROMPT) - 1 : -1]
    want = logits.log_softmax(-1).gather(2, text[:, len(PROMPT) :, None]).sum()
    assert abs(float(want) - float(out.sequences_scores[0])) < 1e-3


# --- the original prototype's names -----------------------------------------------------------------------------------


def test_the_prototypes_usage_runs() -> None:
    class Config:
        hidden_size = 96
        vocab_size = 100
        max_position_embeddings = 128
        num_hidden_layers = 3

    torch.manual_seed(0)
    model = MixtureOfThoughtsTransformer(Config())
    input_ids = torch.randint(0, 100, (1, 10))
    outputs = model(input_ids, creativity_schedule=[0.5, 1.0, 1.5])
    assert outputs["logits"].shape == (1, 10, 100)
    assert outputs["final_hidden_states"].shape == (1, 10, 96)
    for i, metrics in enumerate(outputs["metrics"]):
        assert metrics["layer"] == i
        assert 0 <= metrics["diversity_score"] <= 2
        assert metrics["router_entropy"] >= 0
        assert 2 <= metrics["active_branches"] <= 3
    thoughts = model.generate_parallel_thoughts(input_ids, num_parallel=4, max_length=20)
    assert [t["branch_id"] for t in thoughts] == [0, 1, 2, 3]
    assert [t["creativity_level"] for t in thoughts] == sorted(t["creativity_level"] for t in thoughts)
    assert all(t["generated_ids"].shape == (1, 30) for t in thoughts)
    assert all(torch.equal(t["generated_ids"][:, :10], input_ids) for t in thoughts)
    assert len({tuple(t["generated_ids"][0].tolist()) for t in thoughts}) == 4
    assert len(thoughts[0]["metrics"]) == 3
    assert model.training, "the model is left in the mode it was in"


def test_the_prototypes_num_thoughts_is_the_number_of_branches() -> None:
    for count, most in ((1, 1), (2, 2), (5, 3), (12, 3)):
        given = SimpleNamespace(
            hidden_size=32, vocab_size=50, max_position_embeddings=64, num_hidden_layers=2, num_thoughts=count
        )
        for config in (
            MixtureOfThoughtsConfig.from_any(given),
            MixtureOfThoughtsConfig(hidden_size=32, num_thoughts=count),
        ):
            assert (config.num_branches, config.branches_max) == (count, most)
            assert type(config).from_dict(config.to_dict()).num_branches == count
        model = MixtureOfThoughtsTransformer(given)
        assert model.layers[0].mixture.branches.up.shape[0] == count
    assert MixtureOfThoughtsLayer(given).router.proj.out_features == 12
    for bad in (0, 2.5, True):
        with pytest.raises(InputError, match="num_thoughts is"):
            MixtureOfThoughtsConfig(num_thoughts=bad)
    with pytest.raises(InputError, match="one of the two"):
        MixtureOfThoughtsConfig(num_thoughts=4, num_branches=6)


def test_metrics_are_lists_and_numbers_with_labels_and_caches_too(tmp_path: Path) -> None:
    """They go into a JSON file as they are, and a cached step's are those of the whole text's last token."""
    model = build("whole")
    x = ids(1, 9)
    alone, labelled = model(x), model(x, labels=x)
    assert isinstance(alone.metrics, list) and alone.metrics is alone["metrics"]
    (tmp_path / "metrics.json").write_text(json.dumps(alone["metrics"]))
    assert json.loads((tmp_path / "metrics.json").read_text()) == alone.metrics
    assert labelled.metrics == alone.metrics and labelled.loss.requires_grad
    cached = model(x, use_cache=True)
    assert [m["active_branches"] for m in cached.metrics] == [m["active_branches"] for m in alone.metrics]
    step = model(x[:, -1:], past_key_values=cached.past_key_values)
    assert [m["layer"] for m in json.loads(json.dumps(step.metrics))] == [0, 1, 2]
    assert all(abs(sum(m["branch_usage"]) - 1) < 1e-5 for m in step.metrics)
    thoughts = model.generate_parallel_thoughts(x, num_parallel=2, max_length=4)
    json.dumps([t["metrics"] for t in thoughts])
    assert not any(isinstance(v, list) for v in alone.to_tuple()), "by position nothing is computed"


def test_the_prototypes_names_are_the_packages_own() -> None:
    """All of them, at first use: the package itself imports no torch."""
    code = "import sys, thoughtmix.mixture as m; m.RECIPE; assert 'torch' not in sys.modules; print(*m.__all__)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    prototype = {
        "NoiseInjection",
        "ThoughtRouter",
        "ThoughtBranch",
        "AttentionCombiner",
        "MixtureOfThoughtsLayer",
        "MixtureOfThoughtsTransformer",
        "analyze_thought_patterns",
        "visualize_branch_activity",
    }
    assert prototype <= set(said) and all(hasattr(mixture, name) for name in said)
    assert mixture.MixtureOfThoughtsTransformer is MixtureOfThoughtsTransformer


def test_layer_alone() -> None:
    config = MixtureOfThoughtsConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    layer = MixtureOfThoughtsLayer(config)
    out, trace = layer(torch.randn(3, 7, 16))
    assert out.shape == (3, 7, 16)
    assert trace is not None and trace.outputs.shape == (21, 3, 16)


def test_the_baseline_is_as_wide_as_the_active_branches() -> None:
    model, base = build("whole"), StandardTransformer(build("whole").config)
    assert base.config.num_branches == 1
    assert base.config.branch_width == 96
    assert model.config.branch_width == round((96 - model.config.shared_width) / 2.5)
    assert base(ids(1, 5)).metrics[0:] == []


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"creativity": -1.0}, "creativity is -1"),
        ({"creativity": float("nan")}, "creativity is nan"),
        ({"creativity": [1.0, 1.0, 1.0]}, "one value, or one a row"),
        ({"thought_seeds": [1]}, "1 thought_seeds for 2 rows"),
        ({"creativity_schedule": [1.0]}, "1 values for 3 layers"),
    ],
)
def test_law_8_calls(call: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build("whole")(ids(2, 5), **call)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"branches_min": 4}, "4 to 3 of 8 branches"),
        ({"num_branches": 2}, "2 to 3 of 2 branches"),
        ({"routing": "magic"}, "routing is 'magic'"),
        ({"noise": "loud"}, "noise is 'loud'"),
        ({"noise_scale": -1.0}, "noise_scale is -1"),
        ({"num_attention_heads": 5}, "no multiple"),
    ],
)
def test_law_8_configs(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        MixtureOfThoughtsConfig(**settings)


def test_law_8_prototype_config() -> None:
    with pytest.raises(InputError, match="no vocab_size"):
        MixtureOfThoughtsTransformer(SimpleNamespace(hidden_size=8))


def test_the_thinker_needs_a_mixture_and_names_its_routes() -> None:
    from tiny import language_model

    import thoughtmix
    from thoughtmix.models import wrap_model

    with pytest.raises(InputError, match="has no thought branches"):
        thoughtmix.Pipeline(language_model("llama"))("w5 w9", thinker="mixture", n=2, measure=False)
    pipeline = thoughtmix.Pipeline(wrap_model(build("whole"), tokenizer(), "tiny-mot"))
    got = pipeline("w5 w9 w77", thinker="mixture", n=4, seed=3, max_new_tokens=10, measure=False)
    assert len(set(got.texts)) == 4
    for thought in got:
        layers = thought.origin["branches"]
        assert len(layers) == 3 and all(len(set(layer)) == len(layer) in (2, 3) for layer in layers)
    again = pipeline("w5 w9 w77", thinker="mixture", n=1, seed=5, max_new_tokens=10, measure=False)
    assert again[0].text == got[2].text and again[0].origin == got[2].origin
    zero = pipeline("w5 w9", thinker="mixture", n=3, creativity=0.0, measure=False, max_new_tokens=8)
    assert len(set(zero.texts)) == 1
    with pytest.raises(InputError, match="Unknown read 'upside'"):
        pipeline("w5", thinker="mixture", n=2, measure=False, read="upside")
