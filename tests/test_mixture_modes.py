"""Modes: found by trying, shared out evenly, a mixture whose likelihood is the sum over them; and the engine's own step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from decoding import Row, decode
from test_mixture import KINDS, build, ids, think

from thoughtmix.engine import SamplingParams
from thoughtmix.mixture.step import DecodingStep
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import split
from thoughtmix.training.language import Shape, train_language
from thoughtmix.training.modes import (
    ModeSearch,
    balanced_assignment,
    chosen_seeds,
    lookahead_window,
    marginal_loss,
    mode_losses,
)

OWN = ["whole", "weights", "learned", "standard", "follow", "modes", "modes-blind", "modes-noisy"]


def test_texts_are_shared_out_evenly_and_well() -> None:
    rng = np.random.default_rng(0)
    every = np.tile(np.arange(8), (24, 1))
    assert np.bincount(balanced_assignment(rng.normal(size=(24, 8)), every, 8), minlength=8).tolist() == [3] * 8
    loss = rng.normal(size=(6, 3))
    chosen = balanced_assignment(loss, every[:6, :3], 3)
    ways = set(itertools.permutations([0, 0, 1, 1, 2, 2]))
    best = min(loss[np.arange(6), list(way)].sum() for way in ways)
    assert loss[np.arange(6), chosen].sum() == pytest.approx(best)
    wish = np.where(np.arange(8) == np.array([3, 0, 7, 5, 1])[:, None], 0.0, 1.0)
    assert balanced_assignment(wish, every[:5], 8).tolist() == [3, 0, 7, 5, 1]  # no conflict: everyone's best
    assert balanced_assignment(np.zeros((0, 8)), every[:0], 8).tolist() == []


def test_a_mode_that_always_wins_does_not_take_everything() -> None:
    loss = np.tile(np.arange(4.0), (12, 1))
    assert np.bincount(balanced_assignment(loss, np.tile(np.arange(4), (12, 1)), 4)).tolist() == [3] * 4
    options = np.zeros((6, 1), dtype=np.int64)  # a window with no other option takes it, over the limit
    assert balanced_assignment(np.zeros((6, 1)), options, 3).tolist() == [0] * 6
    some = np.stack([np.random.default_rng(i).permutation(8)[:2] for i in range(12)])
    assert all(
        m in row
        for m, row in zip(balanced_assignment(np.random.default_rng(1).random((12, 2)), some, 8), some, strict=True)
    )


def test_a_thought_has_its_seeds_mode() -> None:
    model = build("modes")  # 3 modes, and nothing else differs
    x = ids(1, 12).expand(6, -1)
    logits = model(x, thought_seeds=[0, 1, 2, 3, 3 * 2**40 + 1, -1]).logits
    torch.testing.assert_close(logits[0], logits[3])
    torch.testing.assert_close(logits[1], logits[4])
    torch.testing.assert_close(logits[2], logits[5])
    assert min(float((logits[i] - logits[j]).detach().abs().max()) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1


def test_the_mixtures_likelihood_is_the_sum_over_modes() -> None:
    """By enumeration, one row and one mode at a time, in probabilities instead of logarithms."""
    model = build("modes-noisy")
    tokens = ids(1, 60)[0]
    starts = np.array([0, 7, 20, 41])
    found = mode_losses(model, tokens, starts, 5, rows=7)
    assert found.shape == (4, 3)
    total = 0.0
    for i, start in enumerate(starts):
        x = tokens[start : start + 6][None]
        p = []
        for mode in range(3):
            logits = model(x[:, :-1], thought_seeds=[i * 3 + mode]).logits[0]
            p.append(float(logits.softmax(-1)[range(5), x[0, 1:]].double().prod()))
        np.testing.assert_allclose(found[i], -np.log(p), rtol=1e-4)
        total -= math.log(sum(p) / 3)
    assert marginal_loss(found) == pytest.approx(total / 4, rel=1e-5)
    assert found.min(1).mean() < marginal_loss(found) < found.mean()


@pytest.mark.parametrize("tokens", [4, 99])
def test_the_best_mode_is_the_one_with_the_smallest_loss(tokens: int) -> None:
    """Over the first tokens of the continuation, with a little of its prompt before them."""
    model = build("modes")
    x = ids(1, 20, seed=3)
    batch = {"ids": x, "seeds": torch.tensor([12]), "cuts": torch.tensor([6]), "plain": torch.tensor([False])}
    got = int(chosen_seeds(model, batch, ModeSearch(candidates=3, lookahead=tokens))[0])
    seen = x if tokens > 20 else x[:, 2:11]  # four tokens before, four after, and the last one's target
    cut = 6 if tokens > 20 else 4
    losses = []
    for mode in range(3):
        logits = model(seen[:, :-1], thought_seeds=[mode], prompt_lengths=cut).logits
        losses.append(float(torch.nn.functional.cross_entropy(logits[0, cut:], seen[0, cut + 1 :])))
    assert got == 12 + int(np.argmin(losses))
    assert chosen_seeds(model, {**batch, "plain": torch.tensor([True])}, ModeSearch()).tolist() == [12]


def test_a_lookahead_stays_within_its_window() -> None:
    x = torch.arange(20).repeat(4, 1)
    seen, cuts = lookahead_window(x, torch.tensor([0, 6, 15, 19]), 5)
    assert seen[:, 0].tolist() == [0, 2, 10, 10] and seen.shape == (4, 10)
    assert cuts.tolist() == [0, 4, 5, 9]
    assert [int(row[c]) for row, c in zip(seen, cuts, strict=True)] == [0, 6, 15, 19]
    assert torch.equal(lookahead_window(x, torch.tensor([3, 3, 3, 3]), 50)[0], x)


def test_modes_find_the_kinds_of_text_that_are_there(tmp_path: Any) -> None:
    """A text of two dialects that change every 32 characters: windows of one dialect go to one mode, and the mixture
    knows them better than a draw of a mode does."""
    rng = np.random.default_rng(0)
    word = {0: ["ka", "ki", "ku"], 1: ["am", "im", "um"]}
    text = "".join("".join(rng.choice(word[int(rng.integers(2))], 16)) for _ in range(400))
    shape = Shape(layers=1, width=32, heads=2, context=16)
    more = {"follow": True, "routing": "topk", "noise": "none", "num_branches": 4, "branches_max": 2, "modes": 2}
    config = TrainConfig(steps=250, batch_size=16, warmup=10, learning_rate=5e-3, evaluate_every=250, save_every=250)
    done = train_language("mixture", split(text, 0.2), shape, config, **more)[2]
    assert done.best["val_loss_marginal"] < done.best["val_loss"] - 0.01
    assert done.best["val_loss_marginal"] < done.best["val_loss_0"] + 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_takes_the_models_own_step_where_it_fits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it computes what the forward does is law 5's test; here: that it was it which ran there."""
    taken = [0]
    whole = DecodingStep.__call__

    def counting(self: DecodingStep, *args: Any) -> Any:
        found = whole(self, *args)
        taken[0] += found is not None
        return found

    monkeypatch.setattr(DecodingStep, "__call__", counting)
    model = build(kind)
    for creativity in (0.0, 1.0, 1.7):
        taken[0] = 0
        rows = think(model, [3, 4, 5], creativity=creativity, tokens=6)
        assert taken[0] == ((5 if model.config.follow or kind == "standard" else 4) if kind in OWN else 0)
        x = torch.tensor([[5, 9, 77, 33, 12, 8, 100, 41, *r.token_ids] for r in rows.outputs])
        logits = model(x, creativity=creativity, thought_seeds=[3, 4, 5], prompt_lengths=8).logits[:, 7:-1]
        want = logits.log_softmax(-1).gather(2, x[:, 8:, None])[..., 0]
        torch.testing.assert_close(torch.tensor([r.logprobs for r in rows.outputs]), want, atol=5e-4, rtol=1e-3)


def test_the_baseline_takes_it_too_and_hooks_forbid_it() -> None:
    from test_mixture import lm

    model = build("standard")
    rows = [Row(seed=s, sampling=SamplingParams(temperature=0.8)) for s in range(3)]
    plain = decode(lm(model), [[5, 9, 77]], rows, max_new_tokens=8)
    assert plain.path == "shared" and DecodingStep.supports(model, model.config)
    want = [r.token_ids for r in plain.outputs]
    seen = [0]

    def hook(*_: Any) -> None:
        seen[0] += 1

    model.layers[0].register_forward_hook(hook)
    assert not DecodingStep.supports(model, model.config)
    assert [r.token_ids for r in decode(lm(model), [[5, 9, 77]], rows, max_new_tokens=8).outputs] == want
    assert seen[0] >= 8


@pytest.mark.parametrize("kind", OWN)
def test_the_own_step_works_in_bfloat16(kind: str) -> None:
    """Near the forward, as far as 8 bits of mantissa go; random models amplify rounding, so their noise is small."""
    model = build(kind, noise_scale=0.1).to(torch.bfloat16)
    rows = think(model, [3, 4, 5], tokens=5).outputs
    x = torch.tensor([[5, 9, 77, 33, 12, 8, 100, 41, *r.token_ids] for r in rows])
    logits = model(x, thought_seeds=[3, 4, 5], prompt_lengths=8).logits[:, 7:-1].float()
    want = logits.log_softmax(-1).gather(2, x[:, 8:, None])[..., 0]
    assert float((torch.tensor([r.logprobs for r in rows]) - want).abs().median()) < 0.3
