"""Modes trained by the likelihood of a set: exactly, by a draw, or by the best with a balance; and answers to prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoding import Row, decode, language_model_of
from test_mixture import PROMPT, build, ids, lm

from thoughtmix.core.errors import InputError
from thoughtmix.engine import SamplingParams
from thoughtmix.mixture import RECIPE
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.training.answers import AnsweredPrompt, AnswerTask
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import character_tokenizer
from thoughtmix.training.language import Shape, build_model
from thoughtmix.training.modes import (
    ModeSearch,
    chosen_seeds,
    grouped_losses,
    mode_information,
    mode_loss,
    text_losses,
)
from thoughtmix.training.trainer import train_and_save

ANSWERS = 4


def some_prompts(seed: int = 0) -> list[AnsweredPrompt]:
    """Prompts and answers of different lengths, tokens of no meaning."""
    draw = np.random.default_rng(seed)

    def text(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(i) for i in draw.integers(3, 100, draw.integers(low, high)))

    weights = tuple(1.0 / (1 + i) for i in range(6))
    return [AnsweredPrompt(text(3, 8), tuple(text(1, 5) for _ in weights), weights) for _ in range(5)]


def answer_batch(step: int = 0, rows: int = 8, **search: Any) -> tuple[AnswerTask, dict[str, torch.Tensor]]:
    task = AnswerTask(some_prompts(), some_prompts(), ANSWERS, ModeSearch(**{"plain": 0.0, "candidates": 0, **search}))
    return task, task.batch(step, range(rows), rows)


def log_likelihood(model: Any, row: torch.Tensor, label: torch.Tensor, cut: int, mode: int, length: int) -> Any:
    """Of one text under one mode, alone and without padding: sum of log p over what is learned."""
    logits = model(row[None, :length], thought_seeds=[mode], prompt_lengths=cut, creativity=1.0).logits[0, :-1]
    target = label[1:length]
    own = logits.log_softmax(-1)[torch.arange(length - 1), target.clamp(min=0)]
    return own[target != -100].sum()


def test_the_marginals_gradient_is_that_of_the_sum_over_modes() -> None:
    """By brute force: each text under each mode alone, probabilities added up, autograd through it all."""
    model = build("modes", balance_weight=0.0).train()
    _, batch = answer_batch(objective="marginal")
    loss, logs = mode_loss(model, batch, ModeSearch("marginal"))
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total, tokens = torch.zeros(()), 0
    for i in range(8):
        length, cut = int(batch["mask"][i].sum()), int(batch["cuts"][i])
        each = [log_likelihood(model, batch["ids"][i], batch["labels"][i], cut, z, length) for z in range(3)]
        total = total - torch.stack(each).exp().mean().log()
        tokens += int((batch["labels"][i] != -100).sum())
    (total / tokens).backward()
    assert float(logs["lm_loss"]) == pytest.approx(float(total.detach()) / tokens, rel=1e-4)
    assert len(found) > 20
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, atol=2e-4, rtol=2e-3, msg=name)


def test_a_drawn_modes_gradient_is_the_marginals_on_average() -> None:
    """Fisher's identity, and that modes are drawn as often as their posterior says."""
    model = build("modes", balance_weight=0.0)
    x = ids(1, 9, seed=5)
    count = 3000
    batch = {
        "ids": x.expand(count, -1),
        "seeds": torch.arange(count) * 3,
        "cuts": torch.zeros(count, dtype=torch.int64),
    }
    batch["plain"] = torch.zeros(count, dtype=torch.bool)
    log_p = torch.stack([log_likelihood(model, x[0], x[0], 0, z, 9) for z in range(3)])
    # Not a text that one mode owns: flatten the posterior by giving the modes nearly the same weights.
    posterior = log_p.softmax(0).detach().numpy()
    drawn = (
        np.bincount((chosen_seeds(model, batch, ModeSearch("sampled", lookahead=0)) % 3).numpy(), minlength=3) / count
    )
    assert np.abs(drawn - posterior).max() < 4.5 * 0.5 / count**0.5  # less than one false alarm in 10^5
    weights = [p for p in model.parameters() if p.requires_grad]
    marginal = torch.autograd.grad(-log_p.exp().mean().log(), weights, retain_graph=True, allow_unused=True)
    average = [torch.zeros_like(p) for p in weights]
    for z in range(3):
        for into, g in zip(
            average, torch.autograd.grad(-log_p[z], weights, retain_graph=True, allow_unused=True), strict=True
        ):
            if g is not None:
                into += float(posterior[z]) * g
    for a, b in zip(marginal, average, strict=True):
        torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, atol=1e-4, rtol=1e-3)


def test_answers_side_by_side_are_as_likely_as_alone() -> None:
    """The prompt read once for all: each answer's loss is its own, and no other answer's text has a part in it."""
    model = build("modes")
    _, batch = answer_batch()
    found = grouped_losses(model, batch)
    for i in range(8):
        length = int(batch["mask"][i].sum())
        for z in range(3):
            alone = log_likelihood(model, batch["ids"][i], batch["labels"][i], int(batch["cuts"][i]), z, length)
            assert float(found[i, z]) == pytest.approx(-float(alone), rel=1e-4, abs=1e-4)
    other = {name: x.clone() for name, x in batch.items()}
    at = int((batch["labels"][1] != -100).int().argmax())
    other["ids"][1, at] = (other["ids"][1, at] + 1) % 100
    other["labels"][1, at] = other["ids"][1, at]
    changed = grouped_losses(model, other) - found
    assert changed[1].abs().min() > 1e-3
    assert changed[[0, 2, 3, 4, 5, 6, 7]].abs().max() < 1e-4
    seeds = batch["seeds"][:, None] + torch.arange(3)
    noisy = build("modes-noisy")  # a row's own noise counts there: nothing is shared
    assert text_losses(noisy, batch, seeds).shape == (8, 3)


@pytest.mark.parametrize("balance", ["group", "batch", "none"])
def test_answers_of_a_prompt_are_shared_out_among_modes(balance: str) -> None:
    model = build("modes", modes=4)
    task, batch = answer_batch(rows=8, balance=balance)
    chosen = chosen_seeds(model, batch, task.search) % 4
    loss = grouped_losses(model, batch)
    if balance == "none":
        assert torch.equal(chosen, loss.argmin(1))
    elif balance == "batch":
        assert torch.bincount(chosen, minlength=4).tolist() == [2] * 4
    else:  # one mode for each different answer, the same for equal ones
        for part in (slice(0, 4), slice(4, 8)):
            answers = [tuple(row) for row in batch["labels"][part].tolist()]
            pairs = set(zip(answers, chosen[part].tolist(), strict=True))
            assert len(pairs) == len(set(answers)) == len({mode for _, mode in pairs}) >= 2
    own = chosen_seeds(model, {**batch, "plain": torch.ones(8, dtype=torch.bool)}, task.search)
    assert torch.equal(own, batch["seeds"])


def test_a_batch_is_groups_of_one_prompt_by_frequency() -> None:
    task, _ = answer_batch()
    whole = task.batch(3, range(12), 12)
    part = task.batch(3, range(4, 8), 12)
    assert whole["group"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(whole["seeds"][4:8], part["seeds"]) and torch.equal(whole["plain"][4:8], part["plain"])
    for i in range(12):
        prompt = tuple(whole["ids"][i][: int((whole["labels"][i] != -100).int().argmax())].tolist())
        answer = tuple(whole["labels"][i][whole["labels"][i] != -100].tolist())
        assert answer in next(p for p in task.training if p.prompt == prompt).answers
        assert int(whole["cuts"][i]) == len(prompt) - 1
    later = AnswerTask(some_prompts(), some_prompts(), ANSWERS, ModeSearch(plain=0.0, plain_steps=3))
    assert later.batch(2, range(8), 8)["plain"].all() and not later.batch(3, range(8), 8)["plain"].any()
    single = AnswerTask([AnsweredPrompt((5, 6), ((7, 1), (8, 1)), (3.0, 1.0))], some_prompts(), 8)
    seven = np.mean([(single.batch(s, range(8), 8)["labels"] == 7).sum() / 8 for s in range(100)])
    assert abs(seven - 0.75) < 4.5 * (0.75 * 0.25 / 800) ** 0.5
    with pytest.raises(InputError, match="prompts to learn from"):
        AnswerTask([], some_prompts(), 8)


@pytest.mark.parametrize(
    ("field", "value"), [("objective", "worst"), ("candidates", -1), ("plain", 1.5), ("balance", "x")]
)
def test_law_8_a_search_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        ModeSearch(**{field: value})


def test_information_is_none_where_modes_are_alike_and_all_where_each_has_its_texts() -> None:
    assert mode_information(np.ones((5, 4))) == pytest.approx(0, abs=1e-12)
    assert mode_information(np.where(np.eye(4) > 0, 0.0, 50.0)) == pytest.approx(math.log(4))


# --- the first token --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["modes", "modes-noisy", "modes-blind", "whole"])
def test_a_tail_gives_a_mode_its_say_in_the_first_token(kind: str) -> None:
    """A thought is what a forward gives whose continuation begins a token earlier: in the engine, alone and together;
    and creativity 0 is as without a tail."""
    model = build(kind)

    def think(seeds: list[int], tail: int, creativity: float = 1.0) -> Any:
        state = BranchRowState(seeds, [creativity] * len(seeds), torch.device("cpu"), tail)
        rows = [Row(seed=s, sampling=SamplingParams(temperature=0.0)) for s in seeds]
        return decode(lm(model), [PROMPT], rows, max_new_tokens=5, row_state=state).outputs

    done = think([3, 4, 5], 1)
    x = torch.tensor([[*PROMPT, *o.token_ids] for o in done])
    logits = model(x, thought_seeds=[3, 4, 5], prompt_lengths=len(PROMPT) - 1).logits[:, len(PROMPT) - 1 : -1]
    want = logits.log_softmax(-1).gather(2, x[:, len(PROMPT) :, None])[..., 0]
    torch.testing.assert_close(torch.tensor([o.logprobs for o in done]), want, atol=5e-4, rtol=1e-3)
    assert think([4], 1)[0].token_ids == done[1].token_ids
    assert len({o.token_ids[0] for o in done}) > 1 and len({o.token_ids[0] for o in think([3, 4, 5], 0)}) == 1
    plain = think([3, 4], 1, creativity=0.0)
    assert plain[0].token_ids == plain[1].token_ids == think([3], 0, creativity=0.0)[0].token_ids


# --- training ---------------------------------------------------------------------------------------------------------

WORDS = {"a": "pqrs", "b": "tuvw", "c": "xyzk"}
TEXT = "abc\n" + "".join(WORDS.values())


def lettered() -> tuple[Any, list[AnsweredPrompt]]:
    """Three prompts with four answers each, a letter and the end; the first as common as the others together."""
    tokenizer = character_tokenizer(TEXT)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.convert_tokens_to_ids(list(text)))

    prompts = [
        AnsweredPrompt(encode(f"{p}\n"), tuple(encode(f"{w}\n") for w in words), (2.0, 1.0, 1.0, 1.0))
        for p, words in WORDS.items()
    ]
    return tokenizer, prompts


def trained(search: ModeSearch, steps: int, folder: Path | None = None, **how: Any) -> tuple[Any, Any, Any]:
    tokenizer, prompts = lettered()
    task = AnswerTask(prompts, prompts, 4, search)
    model = build_model("mixture", tokenizer, Shape(1, 32, 2, 16), 0, **{**RECIPE, "modes": 4, "tail": 1})
    config = TrainConfig(
        steps, None, 12, 5e-3, warmup=10, evaluate_every=how.pop("every", steps), save_every=5, precision="no"
    )
    done = train_and_save("mixture", model, task, config, folder, lambda _: None, **how)
    return model, tokenizer, done


def test_modes_that_share_the_answers_out_give_different_ones() -> None:
    """Four modes at temperature 0 give three right answers or more of four; with a mode drawn by its posterior, nothing
    asks modes to differ."""
    assert trained(ModeSearch("sampled", lookahead=0, plain=0.25), 100)[2].best["val_information"] < 0.05
    model, tokenizer, done = trained(ModeSearch(candidates=0, lookahead=0, plain=0.25), 250)
    assert done.best["val_information"] > 0.5 * math.log(4)
    assert done.best["val_loss_best"] < done.best["val_loss_marginal"] < done.best["val_loss"]
    given = language_model_of(model, name="lettered")
    for prompt, words in WORDS.items():
        state = BranchRowState([0, 1, 2, 3], [1.0] * 4, torch.device("cpu"), model.config.tail)
        rows = [Row(seed=s, sampling=SamplingParams(temperature=0.0)) for s in range(4)]
        x = tokenizer.convert_tokens_to_ids(list(f"{prompt}\n"))
        out = decode(given, [x], rows, max_new_tokens=1, row_state=state).outputs
        said = {tokenizer.convert_ids_to_tokens(o.token_ids[0]) for o in out}
        assert said <= set(words) and len(said) >= 3


def test_resumed_answers_are_as_if_never_stopped(tmp_path: Path) -> None:
    search = ModeSearch(candidates=0, lookahead=0, plain=0.25)
    whole, _, straight = trained(search, 12, tmp_path / "whole", every=4)

    def stop(progress: Any) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    assert trained(search, 12, tmp_path / "cut", every=4, on_step=stop)[2].interrupted
    again, _, resumed = trained(search, 12, tmp_path / "cut", every=4, resume=True)
    assert resumed.log == straight.log
    assert isinstance(again, MixtureOfThoughtsTransformer)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
