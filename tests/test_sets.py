"""Set reward: credits and their gradient, draws, learning, resuming; the world that is practised in."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tune import K, base_folder, folder, grafted, words  # noqa: F401
from torch import Tensor
from torch.autograd.graph import increment_version

from thoughtmix.bench.config import split_items
from thoughtmix.bench.tasks import coverage_tasks, family
from thoughtmix.bench.tasks.puzzles import puzzle_tasks
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.engine import LocalEngine
from thoughtmix.engine.backends.fused_torch import TorchWeights
from thoughtmix.engine.backends.known import path_of
from thoughtmix.engine.sampling import SamplingTensors, truncated
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.graft import routed
from thoughtmix.graft.branched import _PACKAGED_GRAFT
from thoughtmix.graft.tuning.distillation import DistillationSample
from thoughtmix.graft.tuning.known import Known, ask_graft, within_reach
from thoughtmix.graft.tuning.objectives import Student, answer_logprobs, collate
from thoughtmix.graft.tuning.practise import _samples, initials, tune_sets, tune_spread
from thoughtmix.graft.tuning.set_loss import set_loss
from thoughtmix.graft.tuning.set_prompts import PracticePrompt, drawn_prompts
from thoughtmix.graft.tuning.set_reward import Credit, advantages, determinant_credit, relevance, shapley_credit
from thoughtmix.graft.tuning.set_task import SetConfig, SetTask
from thoughtmix.models import LanguageModel, load_model
from thoughtmix.practice.puzzles import number_puzzles, word_puzzles
from thoughtmix.practice.wordnet import SYSTEM, WordNet
from thoughtmix.practice.world import build_world, categories, shares, task_answers
from thoughtmix.training.config import TrainConfig


def gradients(value: Any, credit: Any, outcomes: int, thoughts: int = 3) -> tuple[Tensor, Tensor]:
    """Of E[value] over all sets of thoughts that are drawn each from its own odds, and what advantages make of it."""
    logits = torch.randn(
        thoughts, outcomes, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).requires_grad_()
    logp = logits.log_softmax(-1)
    expected, surrogate = torch.zeros(()), torch.zeros(())
    for drawn in itertools.product(range(outcomes), repeat=thoughts):
        each = torch.stack([logp[i, a] for i, a in enumerate(drawn)])
        p = each.sum().exp()
        expected = expected + p * value(drawn)
        surrogate = surrogate + p.detach() * (torch.tensor(advantages(credit(drawn), thoughts)) * each).sum()
    found = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (expected, surrogate)]
    return found[0], found[1]


def test_known_answers_are_taught_by_the_gradient_of_what_is_expected() -> None:
    """Of the number of answers given, each with the harmonic number of how often; outcome 3 is wrong."""

    def potential(drawn: tuple[int, ...]) -> float:
        return sum(1 / k for a, c in Counter(drawn).items() if a != 3 for k in range(1, c + 1))

    def credit(drawn: tuple[int, ...]) -> Credit:
        return shapley_credit([None if a == 3 else str(a) for a in drawn])

    want, got = gradients(potential, credit, 4)
    assert float(want.abs().max()) > 0.01
    assert torch.allclose(want, got, atol=1e-12)


def test_open_answers_are_taught_by_the_gradient_of_the_determinant() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.array([1.0, 0.7, 0.2, 0.0])

    def value(drawn: tuple[int, ...]) -> float:
        weighted = vectors[list(drawn)] * quality[list(drawn), None]
        return float(np.linalg.slogdet(np.eye(3) + 4 * weighted @ weighted.T)[1] / math.log(5))

    want, got = gradients(value, lambda drawn: determinant_credit(vectors[list(drawn)], quality[list(drawn)]), 4)
    assert float(want.abs().max()) > 0.01
    assert torch.allclose(want, got, atol=1e-10)


def test_credits() -> None:
    assert shapley_credit(["a", "a", None, "b"])(range(4)).tolist() == [0.5, 0.5, 0.0, 1.0]
    alone = np.eye(3)
    assert determinant_credit(alone, [1, 1, 0])(range(3)) == pytest.approx([1, 1, 0])
    same = determinant_credit(np.ones((2, 1)), [1, 1])(range(2))
    assert same[0] == pytest.approx(same[1]) and 0 < same[0] < 0.5
    assert relevance(np.array([0.0, 0.25, 0.9])) == pytest.approx([0, 0.5, 1])
    assert advantages(shapley_credit([None] * 4), 4).tolist() == [0] * 4


def test_what_is_scored_is_what_the_engine_draws_from() -> None:
    """The loss, and its gradient beside that which autograd finds."""
    random = torch.Generator().manual_seed(2)
    logits, base = (3 * torch.randn(40, 50, generator=random) for _ in range(2))
    answer = logits.argmax(-1)
    answer[::7] = logits[::7].argmin(-1)  # which rounding put below the border
    advantage, weight = torch.randn(40, generator=random), torch.rand(40, generator=random)
    leaf = logits.clone().requires_grad_()
    loss, kl = set_loss(leaf, base, answer, advantage, weight, 0.7, 0.1)
    (2 * loss).backward()
    plain = logits.clone().requires_grad_()
    own = SamplingTensors.of([SamplingParams(temperature=0.7, min_p=0.1)] * 40)
    out = torch.isinf(truncated(logits, own)).scatter(-1, answer[:, None], False)
    q = (plain / 0.7).masked_fill(out, -torch.inf).log_softmax(-1).gather(-1, answer[:, None])[:, 0]
    p = plain.log_softmax(-1)
    apart = (p.exp() * (p - base.log_softmax(-1))).sum(-1)
    want = -(advantage * q).sum() + (weight * apart).sum()
    (2 * want).backward()
    assert torch.allclose(loss, want, rtol=1e-5) and torch.allclose(kl, apart, atol=1e-5)
    assert leaf.grad is not None and plain.grad is not None and torch.allclose(leaf.grad, plain.grad, atol=1e-5)


def even(text: str) -> str | None:
    """Valid where the first word's number is even."""
    first = text.split()[0] if text.split() else ""
    return first if first[1:].isdigit() and int(first[1:]) % 2 == 0 else None


class Letters:
    name = "letters"

    def encode(self, texts: Any, batch_size: int = 32) -> Any:
        rows = np.array([[1.0, *(str(t).count(str(d)) for d in range(10))] for t in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ending_often(lm: LanguageModel) -> LanguageModel:
    """With 80 tokens that end a text: of random weights, one hardly ever comes."""
    lm.model.generation_config.eos_token_id = [2, *range(60, 139)]
    return lm


PRACTICE = [
    PracticePrompt(f"c{i}", "category", (f"w{i} w{i + 1} w8 w7", f"w{i} w9 w8 w7"), even) for i in range(30, 36)
]
PRACTICE += [PracticePrompt(f"o{i}", "open", (f"w{i} w{i + 2} w6 w5",)) for i in range(40, 43)]
VALIDATION = [PracticePrompt("v", "category", ("w30 w9 w8 w6",), even), PracticePrompt("vo", "open", ("w50 w51 w52",))]
WARM = SetConfig(kl=0.05, temperature=1.3, min_p=0.0, max_new_tokens=12, open_tokens=12)


def test_prompts_take_turns() -> None:
    seen = [drawn_prompts(PRACTICE, step, 5, seed=1) for step in range(8)]
    assert seen == [drawn_prompts(PRACTICE, step, 5, seed=1) for step in range(8)]
    flat = [entry for step in seen for entry in step]
    kinds = [PRACTICE[i].kind for i, _, _ in flat]
    assert kinds[:16] == 2 * [*["category"] * 7, "open"]
    asked = Counter(i for i, _, _ in flat if PRACTICE[i].kind == "category")
    assert set(asked.values()) == {5, 6} and len({seed for _, _, seed in flat}) == len(flat)


def test_draws_are_the_branches_own_after_a_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine keeps packed weights: what it draws after a step has the probability that the student says, noise of
    the same seeds included. The base is packed once, however many steps move the branches."""
    packed: list[str] = []
    pack = TorchWeights._layer
    monkeypatch.setattr(TorchWeights, "_layer", lambda *of: packed.append("layer") or pack(*of))
    lm = grafted()
    task = SetTask(lm, PRACTICE, VALIDATION, Letters(), WARM)
    task.engine = LocalEngine(lm, weights="native")
    moved = [p for name, p in lm.model.named_parameters() if "mot_A" in name or "mot_B" in name]
    for p in moved:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(moved, lr=0.02, fused=True)
    for _ in range(2):
        sets = task.draw([(PRACTICE[0], 0, 64), (PRACTICE[1], 1, 128)])
        samples = [
            DistillationSample("", s.prompt_ids, k, tuple(o.token_ids), ())
            for s in sets
            for k, o in enumerate(s.outputs)
        ]
        batch = collate(samples, 2)
        student = Student(lm.model, batch, K)
        seeds = torch.tensor([seed for s in sets for seed in s.seeds])
        noted = torch.tensor([p for s in sets for o in s.outputs for p in o.logprobs])
        tokens = batch["answer"][batch["counted"]][:, None]
        said = student.counted(batch["branch"], seeds).log_softmax(-1).gather(-1, tokens)[:, 0]
        assert torch.allclose(said.detach(), noted, atol=1e-3)
        few = torch.tensor([5, 1, 7])  # by themselves they are what they were among others
        part = student.of_rows(few)
        lengths = batch["counted"].sum(1).tolist()
        alone = part.counted(batch["branch"][few], seeds[few]).log_softmax(-1)
        alone = alone.gather(-1, part.batch["answer"][part.batch["counted"]][:, None])[:, 0]
        assert torch.allclose(alone, torch.cat([said.split(lengths)[i] for i in few.tolist()]), atol=1e-5)
        optimizer.zero_grad()
        said.sum().backward()
        optimizer.step()
        increment_version(moved)  # as the trainer does: fused AdamW does not count what it writes
    assert len(packed) == lm.model.config.num_hidden_layers
    base = grafted()  # with other branches, say: the base model is the same
    with torch.no_grad():
        for name, p in base.model.named_parameters():
            if "mot_B" in name:
                p.zero_()
    same = Student(base.model, batch, K)
    assert torch.allclose(student.base(), same.counted(batch["branch"], seeds).detach(), atol=1e-5)


def test_sets_learn_and_a_resumed_run_is_the_same(folder: Path, base_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    def run(where: Path, resume: bool = False, stop: int = 0) -> Any:
        config = TrainConfig(
            steps=24,
            batch_size=16,
            learning_rate=0.05,
            warmup=2,
            weight_decay=0.0,
            evaluate_every=12,
            save_every=6,
            precision="no",
        )

        def see(progress: Any) -> None:
            assert all(name.startswith("val_") for name in progress.last_evaluation)
            if stop and progress.step == stop:
                raise KeyboardInterrupt

        lm = ending_often(load_model(str(where)))
        what: Any = (lm, where, PRACTICE, VALIDATION, WARM, config)
        return tune_sets(*what, embedder=Letters(), resume=resume, on_step=see)

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    done = run(folder)
    assert {"valid", "distinct", "ended", "kl", "valid_0", "valid_open", "kl_open"} <= set(done.log[0])
    before, after = (np.mean([e["distinct"] for e in part]) for part in (done.log[:6], done.log[-6:]))
    assert after > before + 0.04, (before, after)
    assert run(other, stop=15).interrupted
    again = run(other, resume=True)
    names = ("loss", "valid", "distinct", "norm")
    assert [[e[n] for n in names] for e in again.log] == [[e[n] for n in names] for e in done.log]
    assert (folder / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    ids, plain = torch.tensor([[30, 31, 32]]), load_model(str(base_folder)).model
    model = load_model(str(folder)).model
    with torch.no_grad():
        with routed(model, torch.eye(K)[:1], creativity=0.0):
            assert torch.equal(model(ids).logits, plain(ids).logits)
        with routed(model, torch.eye(K)[:1]):
            assert not torch.equal(model(ids).logits, plain(ids).logits)


def test_what_it_knows_is_asked_once_and_spread_evenly(folder: Path) -> None:  # noqa: F811
    """Of each right answer as often as of any other: the odds among them come closer to even."""
    lm = ending_often(load_model(str(folder)))
    asked: list[int] = []
    known = ask_graft(lm, folder, PRACTICE, VALIDATION, WARM, lambda done, total: asked.append(done))
    assert asked[-1] == len(known) == 7 and any(k.answers for k in known.values())
    before = (folder / "training" / "known.jsonl").read_bytes()
    assert ask_graft(lm, folder, PRACTICE, VALIDATION, WARM, asked.append) == known  # from the file
    assert (folder / "training" / "known.jsonl").read_bytes() == before
    (folder / "training" / "known.jsonl").write_bytes(before[: len(before) // 2])  # a run that was killed
    assert ask_graft(lm, folder, PRACTICE, VALIDATION, WARM) == known
    low = dataclasses.replace(next(iter(known.values())), valid=0.0)
    assert [p.name for p in within_reach(PRACTICE[:1] + PRACTICE[-1:], {"c30": low})] == ["o42"]
    config = TrainConfig(steps=12, batch_size=8, learning_rate=0.02, warmup=1, precision="no", evaluate_every=12)
    done = tune_spread(lm, folder, PRACTICE, VALIDATION, WARM, config)
    assert done.log[-1]["loss"] < done.log[0]["loss"]


def test_a_right_answer_earns_more_where_its_branch_alone_gives_it() -> None:
    """The credit is posterior * p(k | y) less the mean of the others', wrong answers and open prompts left alone."""
    lm = ending_often(grafted())
    task = SetTask(lm, PRACTICE, VALIDATION, Letters(), dataclasses.replace(WARM, posterior=0.5))
    sets = [
        s for first in range(0, 64 * 12, 64) for s in task.draw([(PRACTICE[0], 0, first), (PRACTICE[-1], 0, first)])
    ]
    assert any(s.open for s in sets)
    credited, mean = task._credit_posterior(lm.model, sets)
    assert 1 / K < mean < 1
    checked = 0
    for before, after in zip(sets, credited, strict=True):
        gained = after.advantage - before.advantage
        assert abs(gained.sum()) < 1e-9
        right = [k for k, a in enumerate(before.answers) if a is not None and not before.open]
        if not right:
            assert not gained.any()
            continue
        want = np.zeros(K)
        for k in right:
            samples = [
                DistillationSample("", before.prompt_ids, j, tuple(before.outputs[k].token_ids), ()) for j in range(K)
            ]
            batch = collate(samples, task.graft.config.tail)
            liked = answer_logprobs(Student(lm.model, batch, K)(batch["branch"]), batch).double()
            want[k] = 0.5 * float(liked.softmax(0)[k])
        assert np.allclose(gained, want - (want.sum() - want) / (K - 1), atol=1e-5)
        checked += 1
    assert checked
    loss, logs = task.loss(lm.model, task.batch(0, range(4), 4))
    assert torch.isfinite(loss) and "posterior" in logs


def test_answers_of_an_initial_go_to_one_branch_whatever_the_prompt(folder: Path) -> None:  # noqa: F811
    answers = ["ant", "ape", "bee", "cat", "cow", "dog", "eel", "fox", "12", "35", "47", "48"]
    group = initials(answers, 4)
    assert [group[x] for x in "abcdef"] == sorted(group[x] for x in "abcdef") and set(group.values()) == {0, 1, 2, 3}
    letters = Counter(group[a[0]] for a in answers if a.isalpha())
    assert max(letters.values()) <= 3  # of eight answers in four groups, as letters allow it
    lm = load_model(str(folder))
    known = {
        p.name: Known(0.5, dict.fromkeys(some, (0, (5, 6))))
        for p, some in zip(PRACTICE, (answers, answers[::-1]), strict=False)
    }
    prompts = PRACTICE[:2]
    by_prompt: dict[str, list[int]] = {}
    for sample in _samples(lm, prompts, known, K, 0, "initial"):
        by_prompt.setdefault(sample.prompt, []).append(sample.branch)
    first, second = by_prompt.values()
    assert first == second[::-1] and len(set(first)) > 1
    turns = [s.branch for s in _samples(lm, prompts[:1], known, K, 0, "turns")]
    assert max(Counter(turns).values()) - min(Counter(turns).values()) <= 1
    with pytest.raises(InputError, match="assignment"):
        tune_spread(lm, folder, PRACTICE, VALIDATION, WARM, TrainConfig(steps=1), assignment="any")  # type: ignore[arg-type]


def test_what_does_not_end_is_worth_nothing() -> None:
    lm = ending_often(grafted())
    task = SetTask(lm, PRACTICE, VALIDATION, Letters(), dataclasses.replace(WARM, max_new_tokens=2, open_tokens=2))
    sets = task.draw([(p, 0, 64 * i) for i, p in enumerate(PRACTICE)])
    outputs = [(o, a, s.open) for s in sets for o, a in zip(s.outputs, s.answers, strict=True)]
    assert {o.finish for o, _, _ in outputs} == {"stop", "length"}
    assert all(a is None for o, a, _ in outputs if o.finish == "length")
    assert any(a is not None for _, a, _ in outputs)


@pytest.mark.model
def test_the_default_model_in_bfloat16_decodes_over_packed_weights() -> None:
    """As `tune` loads it: else every step of set reward waits for a slower path."""
    lm = load_model(_PACKAGED_GRAFT, dtype="bfloat16")
    assert path_of(lm).name == "fused"


# --- the world ---


MINI = {  # offset -> words, those below
    "1": (["planet"], ["2", "3", "4"]),
    "2": (["Mercury"], []),
    "3": (["Venus"], []),
    "4": (["Earth", "globe"], []),
    "5": (["chair"], ["6", "7"]),
    "6": (["armchair", "easy_chair"], ["8"]),
    "7": (["chair", "pen"], []),
    "8": (["wing_chair"], []),
    "9": (["pen"], []),
    "10": (["pen"], []),
}


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    where = tmp_path / "wordnet"
    where.mkdir()
    data, index = ["  1 licence"], ["  1 licence"]
    for offset, (names, below) in MINI.items():
        listed = " ".join(f"{w} 0" for w in names)
        pointers = "".join(f" ~ {x} n 0000" for x in below)
        data.append(f"{offset} 06 n {len(names):02x} {listed} {len(below):03d}{pointers} | what it is")
    senses: dict[str, list[str]] = {}
    for offset in reversed(MINI):
        for w in MINI[offset][0]:
            senses.setdefault(w.lower(), []).append(offset)
    senses["chair"].reverse()
    for lemma, found in senses.items():
        index.append(f"{lemma} n {len(found)} 1 ~ {len(found)} 0 {' '.join(found)}  ")
    (where / "data.noun").write_text("\n".join(data) + "\n")
    (where / "index.noun").write_text("\n".join(index) + "\n")
    (where / "cntlist.rev").write_text("apple%1:13:00:: 1 3\nice_cream%1:13:00:: 1 2\nstone%1:17:00:: 1 9\n")
    return where


def test_wordnet_is_read(mini: Path) -> None:
    net = WordNet.read(mini)
    assert net.members("chair", 1) == {"armchair": ("armchair", "easy chair"), "wing chair": ("wing chair",)}
    assert net.members("planet", 1).keys() == {"Mercury", "Venus", "Earth"}
    assert net.members("planet", 2) == net.members("thing", 1) == {}
    assert net.common == {"apple", "stone"}
    with pytest.raises(InputError, match="no WordNet in") as found:
        WordNet.read(mini / "nowhere")
    assert "--wordnet DIR" in str(found.value)
    (mini / "data.noun").write_text("something else\n")
    with pytest.raises(InputError, match=r"none of WordNet's"):
        WordNet.read(mini)


def test_puzzles_are_checked() -> None:
    made = {p.name: p for p in [*number_puzzles(), *word_puzzles(["apple", "stone", "running", "able", "train"])]}
    for name, text, answer in (
        ("even number between 200 and 260", "The number is 242.", "242"),
        ("two whole numbers that add up to 9", "5 and 4", "4 5"),
        ("two whole numbers whose product is 12", "3 x 4", "3 4"),
        ("a word of 5 letters", "Apple.", "apple"),
        ('a word that ends with "ing"', 'A word is "running".', "running"),
    ):
        found = made[name].parse(text)
        assert found.answer == answer and found.valid, name
    wrong = [("even number between 200 and 260", "243"), ("two whole numbers that add up to 9", "4 and 4")]
    wrong += [("a word of 5 letters", "Table."), ('a word that ends with "able"', "able")]
    assert not any(made[name].parse(text).valid for name, text in wrong)


def test_nothing_that_is_reported_is_practised() -> None:
    """No held-out task of the bench and no reported category shares a quarter of its answers with what is practised."""
    assert shares({"a", "b"}, [{"b", "c", "d", "e"}]) and not shares({"a"}, [{"b"}, {"a", "b", "c", "d", "e"}])
    development, held_out = split_items([*coverage_tasks(), *puzzle_tasks()], 0.3)
    assert len(held_out) == 43
    if not (SYSTEM / "data.noun").is_file():
        pytest.skip("no WordNet here")
    net = WordNet.read()
    world = build_world(net)
    kinds = Counter(p.kind for p in world.practice)
    assert kinds["category"] > 150 and min(kinds[k] for k in ("task", "puzzle", "open")) > 10
    assert len(world.reported) == 60 and {"chair.1", "bird.1"} <= {c.name for c in world.reported}
    reported = [task_answers(item) for item in held_out] + [c.answers for c in world.reported]
    by_name = {f"category/{c.name}": c.answers for c in categories(net)}
    by_name |= {item.id: task_answers(item) for item in development}
    by_name |= {f"puzzle/{p.name}": p.answers for p in [*number_puzzles(), *word_puzzles(net.common)]}
    for p in (*world.practice, *world.validation):
        mine = by_name.get(p.name, frozenset())
        for theirs in filter(None, reported):
            assert 4 * len(mine & theirs) < len(theirs), p.name
    asked = {item.prompt for item in held_out} | {way for item in held_out for way in item.paraphrases}
    assert not asked & {way for p in (*world.practice, *world.validation) for way in p.ways}
    assert not {p.name for p in world.practice} & {p.name for p in world.validation}


def test_a_small_world(mini: Path) -> None:
    """Planets are a task of the bench, and two chairs are too few: neither is practised."""
    world = build_world(WordNet.read(mini), validated=4)
    assert not [p for p in world.practice if p.kind == "category"] and not world.reported
    assert {p.kind for p in world.practice} == {"task", "puzzle", "open"} and len(world.validation) == 4
    assert len({p.name for p in world.practice}) == len(world.practice)
    assert family("coverage")[0].prompt not in {p.ways[0] for p in world.practice if p.kind == "open"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--wordnet", "nowhere"], "There is no WordNet in nowhere"),
        (["--kl", "-1"], "--kl 0"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_law_8_one_line(arguments: list[str], says: str, folder: Path, capsys: Any) -> None:  # noqa: F811
    capsys.readouterr()
    assert main(["tune", str(folder), "--objective", "set", *arguments]) in {1, 2}
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
