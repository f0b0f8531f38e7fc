"""The bound, and training on it: unbiased against enumeration, the schedule does not matter, resumed is uninterrupted."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.objective import (
    bound_loss,
    evaluate_bound,
    mask_by_count,
    mask_by_time,
    split_windows,
    stratified,
    token_losses,
)
from thoughtmix.diffusion.schedules import Cosine, Linear, Polynomial, Schedule, make_schedule
from thoughtmix.diffusion.train import (
    DiffusionObjective,
    DiffusionTask,
    diffusion_tokenizer,
    new_model,
    new_task,
    train_diffusion,
)
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import split
from thoughtmix.training.language import Shape, encode

TEXT = "".join(
    f"The {a} {b} went to the {c}.\n"
    for a in ("red", "old", "sad")
    for b in ("cat", "dog", "king", "fool")
    for c in ("sea", "town", "well", "hill", "door")
)
SHAPE = Shape(layers=2, width=32, heads=2, context=16)
SPLITS = split(TEXT, 0.2)
MASK_ID = 3


class Table:
    """A fixed mask predictor over 3 letters: its logits at a place depend on everything that it sees there."""

    def __init__(self, length: int) -> None:
        draw = np.random.default_rng(5)
        self.weight = torch.from_numpy(draw.normal(0, 1.5, (length, length, 4, 3)))

    def __call__(self, ids: torch.Tensor, attention_mask: Any = None) -> Any:
        places = torch.arange(ids.shape[1])
        logits = torch.stack([self.weight[i, places, ids].sum(1) for i in places], 1)  # (b, t, 3)
        return SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 1), value=-math.inf))


def enumerated(model: Table, x: torch.Tensor, prefix: int = 0) -> float:
    """Sum over all sets of masked places of the integral of t^(k-1) (1-t)^(n-k) dt = (k-1)! (n-k)! / n!."""
    free = range(prefix, len(x))
    n, total = len(free), 0.0
    for k in range(1, n + 1):
        share = math.factorial(k - 1) * math.factorial(n - k) / math.factorial(n)
        for chosen in itertools.combinations(free, k):
            hidden = torch.zeros(1, len(x), dtype=torch.bool)
            hidden[0, list(chosen)] = True
            total += share * float(token_losses(model, x[None], hidden, MASK_ID).sum())
    return total / n


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("how", ["count", Linear(), Cosine(), Polynomial(2.0), Polynomial(0.5)])
def test_the_bound_is_the_enumerated_one(how: Any, prefix: int) -> None:
    """Within 4.5 standard errors (a false alarm in 100,000), and those are small."""
    x = torch.tensor([0, 2, 1, 1, 0])
    model = Table(len(x))
    exact = enumerated(model, x, prefix)
    windows = x.expand(4000, -1)
    more = {"estimator": "count"} if how == "count" else {"estimator": "time", "schedule": how}
    found = evaluate_bound(model, windows, MASK_ID, draws=4, prefix=prefix, batch_size=4000, **more)
    error = found.windows.std() / math.sqrt(len(windows))
    assert abs(found.nats - exact) < 4.5 * error and error < 0.05 * exact
    assert found.low < found.nats < found.high
    assert found.bits == pytest.approx(found.nats / math.log(2))


def test_counting_has_less_variance_than_times() -> None:
    x = torch.tensor([0, 2, 1, 1, 0])
    kinds = [evaluate_bound(Table(5), x.expand(4000, -1), MASK_ID, draws=1, estimator=e) for e in ("time", "count")]  # type: ignore[arg-type]
    assert kinds[1].windows.std() < 0.8 * kinds[0].windows.std()


def test_characters_turn_tokens_into_bits_a_character() -> None:
    windows = torch.tensor([[0, 2, 1, 1, 0]]).expand(8, -1)
    one = evaluate_bound(Table(5), windows, MASK_ID, draws=1)
    four = evaluate_bound(Table(5), windows, MASK_ID, draws=1, characters=4 * windows.numel())
    assert four.bits == pytest.approx(one.bits / 4) and four.nats == one.nats


@pytest.mark.parametrize("kind", [Linear(), Cosine(), Polynomial(2.0), Polynomial(0.7)])
def test_schedules_end_where_they_must_and_their_weight_is_the_derivative(kind: Schedule) -> None:
    t = torch.linspace(0.01, 0.999, 200, dtype=torch.float64)
    assert float(kind.alpha(torch.zeros(1))) == 1 and abs(float(kind.alpha(torch.ones(1)))) < 1e-6
    assert bool((kind.alpha(t).diff() < 0).all())
    slope = (kind.alpha(t + 1e-6) - kind.alpha(t - 1e-6)) / 2e-6
    assert torch.allclose(kind.weight(t), -slope / (1 - kind.alpha(t)), rtol=1e-4, atol=1e-7)


def test_schedules_by_name() -> None:
    assert (
        make_schedule("poly3") == Polynomial(3.0)
        and make_schedule("linear") == Linear()
        and make_schedule("cosine") == Cosine()
    )
    with pytest.raises(UnknownName, match="Did you mean 'cosine'"):
        make_schedule("cosin")
    with pytest.raises(InputError, match="power of 0"):
        make_schedule("poly0")


def test_times_are_stratified() -> None:
    t = stratified(64, np.random.default_rng(0))
    assert sorted(np.ceil(t * 64)) == list(range(1, 65)) and t.min() > 0 and t.max() <= 1
    means = [stratified(8, np.random.default_rng(i)).mean() for i in range(500)]
    assert np.std(means) < 0.02  # 0.102 if they were independent


def test_masks_stay_within_what_is_free() -> None:
    free = torch.rand(64, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    free[:, 0] = True
    for masking in (mask_by_time(free, np.random.default_rng(0)), mask_by_count(free, np.random.default_rng(0))):
        assert not bool((masking.masked & ~free).any())
    count = mask_by_count(free, np.random.default_rng(0))
    assert torch.allclose(count.weight, free.sum(1) / count.masked.sum(1))
    assert bool((count.masked.sum(1) >= 1).all())


# --- the task ---------------------------------------------------------------------------------------------------------


def task(**more: Any) -> DiffusionTask:
    return new_task(diffusion_tokenizer(SPLITS, SHAPE), SPLITS, SHAPE, DiffusionObjective(**more), 0)


def test_batches_are_a_function_of_step_and_row() -> None:
    whole, part = task().batch(7, range(8), 8), task().batch(7, range(2, 5), 8)
    assert all(torch.equal(whole[name][2:5], part[name]) for name in whole)
    assert not torch.equal(whole["ids"], task().batch(8, range(8), 8)["ids"])


def test_prefixes_are_clean_begin_lines_and_do_not_count() -> None:
    some = task(prefix=1.0, hidden=0.5)
    batch = some.batch(0, range(256), 256)
    cut = (~batch["free"]).sum(1)
    assert int(cut.min()) >= 1 and int(cut.max()) == SHAPE.context // 2
    assert not bool((batch["masked"] & ~batch["free"]).any())
    starts = "".join(diffusion_tokenizer(SPLITS, SHAPE).decode(batch["ids"][:, 0].tolist()))
    assert set(starts) == {"T"}
    assert 0.3 < batch["unseen"].any(1).float().mean() < 0.7
    assert not bool((batch["unseen"] & batch["free"]).any())
    model = new_model(diffusion_tokenizer(SPLITS, SHAPE), SHAPE, 0)
    loss = some.loss(model, batch)[0]
    losses = token_losses(
        model.requires_grad_(False),
        batch["ids"].masked_fill(batch["unseen"], some.mask_id),
        batch["masked"],
        some.mask_id,
    )
    by_hand = sum(float(losses[i, j]) * float(batch["weight"][i]) for i, j in batch["masked"].nonzero().tolist()) / int(
        batch["free"].sum()
    )
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_uniform_weighting_is_the_mean_of_masked_tokens() -> None:
    losses = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 5.0]])
    masking = mask_by_count(torch.ones(2, 3, dtype=torch.bool), np.random.default_rng(0))
    masking = type(masking)(losses > 0, torch.tensor([1.5, 3.0]))
    free = torch.ones(2, 3, dtype=torch.bool)
    assert float(bound_loss(losses, masking, free, "uniform")) == 3.0
    assert float(bound_loss(losses, masking, free)) == pytest.approx((4 * 1.5 + 5 * 3) / 6)


def test_windows_lie_side_by_side() -> None:
    ids = torch.arange(100)
    assert torch.equal(split_windows(ids, 30).flatten(), torch.arange(90))
    assert split_windows(ids, 10, 3)[:, 0].tolist() == [0, 45, 90]
    with pytest.raises(InputError, match="a window takes 101"):
        split_windows(ids, 101)


# --- training ---------------------------------------------------------------------------------------------------------


def settings(**more: Any) -> TrainConfig:
    return TrainConfig(
        **{"steps": 12, "batch_size": 4, "warmup": 3, "evaluate_every": 4, "save_every": 4, "precision": "no", **more}
    )


def test_training_learns(tmp_path: Path, global_state_untouched: None) -> None:
    """The bound falls well below what letter frequencies alone give."""
    config = settings(steps=250, batch_size=16, learning_rate=5e-3, evaluate_every=250)
    _, tokenizer, done = train_diffusion(SPLITS, SHAPE, config, tmp_path)
    counts = torch.bincount(encode(tokenizer, TEXT)).float()
    share = counts[counts > 0] / counts.sum()
    assert done.best["val_loss"] < 0.7 * float(-(share * share.log()).sum())
    assert (tmp_path / "training" / "loss.svg").exists() and (tmp_path / "config.json").exists()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resumed_is_as_if_never_stopped(ema: float, tmp_path: Path) -> None:
    whole, _, straight = train_diffusion(SPLITS, SHAPE, settings(ema=ema), tmp_path / "whole")

    def stop(progress: Any) -> None:
        if progress.step == 9:
            raise KeyboardInterrupt

    _, _, cut = train_diffusion(SPLITS, SHAPE, settings(ema=ema), tmp_path / "cut", on_step=stop)
    assert cut.interrupted
    again, _, resumed = train_diffusion(SPLITS, SHAPE, settings(ema=ema), tmp_path / "cut", resume=True)
    assert resumed.log == straight.log
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
