"""Branches of a text out of noise: who goes on, from whom, with which randomness, and what is left in the end."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_diffusion_model import Joint, tiny_diffusion

from thoughtmix.core.errors import InputError, NumericsError, UnknownName
from thoughtmix.core.selection import select_diverse
from thoughtmix.diffusion import selection
from thoughtmix.diffusion.ancestry import Ancestry, SelectionRound
from thoughtmix.diffusion.branching import BranchingConfig, Frame, MultiBranchDiffusion, branch
from thoughtmix.diffusion.policies import Ancestral, FirstHitting, Random, make_policy
from thoughtmix.diffusion.renoise import agreement, merge
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, StepStats, denoise, denoise_until
from thoughtmix.diffusion.schedules import Remask
from thoughtmix.diffusion.selection import ScoreInputs, fill_score, path_score
from thoughtmix.diffusion.state import DiffusionState

CONFIG = DenoisingConfig(Random(), steps=12)


def many(n: int = 6, length: int = 24, prompt: str = "To be", temperature: float = 1.0) -> Any:
    return tiny_diffusion().prompt_state(prompt, length, n, temperature)


# --- levels of noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DenoisingConfig(Ancestral(), steps=12),
        DenoisingConfig(FirstHitting()),
        DenoisingConfig(make_policy("threshold", threshold=0.2)),
        DenoisingConfig(make_policy("confidence"), steps=8, block=8),
        DenoisingConfig(Random(), steps=20, remask=Remask("rescale", 0.5)),
    ],
)
def test_rows_wait_for_each_other(config: DenoisingConfig) -> None:
    """At a moment each row has just reached the level: it had not a step before."""
    dm = tiny_diffusion()
    state, seen = many(), []
    stats = StepStats.before_any_step(state)
    out = denoise_until(dm.denoiser, state, config, 0.5, stats, on_step=seen.append)
    assert bool((out.filled >= 0.5).all())
    shares = torch.stack([s.filled for s in (state, *seen)])  # (steps + 1, b)
    for row in shares.T:
        first = int((row >= 0.5 - 1e-9).nonzero()[0])
        assert bool((row[first:] == row[first]).all()), "it went on though it was there"
    done = denoise_until(dm.denoiser, out, config, 1.0, stats)
    assert not done.masked.any() and torch.equal(stats.guess, done.ids)


def test_waiting_changes_nothing() -> None:
    """Stopped at moments or not, the rows are the same, and so is what they cost."""
    dm, costs = tiny_diffusion(), (ForwardCost(), ForwardCost())
    straight = denoise(dm.denoiser, many(), CONFIG, cost=costs[0])
    halting = branch(dm, many(), BranchingConfig("none"), CONFIG, cost=costs[1]).state
    assert torch.equal(straight.ids, halting.ids)
    assert costs[0].row_passes == costs[1].row_passes == 6 * 12
    state, stats = many(), StepStats.before_any_step(many())
    for level in (0.3, 0.6, 1.0):
        state = denoise_until(dm.denoiser, state, CONFIG, level, stats)
    assert torch.equal(straight.ids, state.ids) and torch.equal(straight.confidence, state.confidence)


def test_scores_are_of_the_same_step() -> None:
    """fill and path against the definition, computed from one more forward of the state before."""
    dm, state = tiny_diffusion(), many()
    stats, before = StepStats.before_any_step(state), []
    out = denoise_until(dm.denoiser, state, CONFIG, 0.5, stats, on_step=before.append)
    earlier = before[-2]
    with torch.no_grad():
        logits = dm.denoiser(earlier.ids, earlier.real, {}).float()
    logits[:, :, list(dm.denoiser.forbidden)] = -torch.inf
    logp = logits.log_softmax(-1).double()
    for row in range(len(out)):
        new, path_logs = [], []
        for i in range(out.ids.shape[1]):
            if not earlier.locked[row, i]:
                guess = out.ids[row, i] if not out.masked[row, i] else logp[row, i].argmax()
                value = (
                    float(logp[row, i, guess]) if earlier.masked[row, i] else math.log(float(out.confidence[row, i]))
                )
                path_logs.append(value)
                new += [value] if earlier.masked[row, i] else []
        inputs = ScoreInputs(dm, out, stats)
        assert float(fill_score(inputs)[row]) == pytest.approx(np.mean(new), abs=1e-5)
        assert float(path_score(inputs)[row]) == pytest.approx(np.mean(path_logs), abs=1e-5)


# --- who goes on ----------------------------------------------------------------------------------------


def test_copies_draw_anew_and_survivors_go_on() -> None:
    """A branch that was kept and not cloned before it ends as it would have alone; copies differ from it."""
    dm, seen = tiny_diffusion(), []
    how = BranchingConfig("best", moments=(0.5,), keep=2)
    done = branch(dm, many(), how, CONFIG, on_frame=seen.append)
    parents = done.trees[0].rounds[0].parents
    chosen = done.trees[0].rounds[0].chosen
    scores = done.trees[0].rounds[0].scores
    assert set(parents) == set(chosen) == set(np.argsort(scores)[-2:])
    assert all(parents[c] == c for c in chosen)
    alone = denoise(dm.denoiser, many(), CONFIG)
    for c in chosen:
        family = [i for i, p in enumerate(parents) if p == c]
        texts = [tuple(done.state.ids[i].tolist()) for i in family]
        assert tuple(alone.ids[c].tolist()) in texts
        assert len(set(texts)) == len(texts), "clones with the same randomness"
        at_the_fork = next(f for f in seen if f.round == 1).state
        assert len({tuple(at_the_fork.seeds[family].tolist())}) == 1


@pytest.mark.parametrize("select", ["best", "diverse", "smc"])
@pytest.mark.parametrize("config", [CONFIG, DenoisingConfig(Ancestral(), steps=16), DenoisingConfig(FirstHitting())])
def test_ancestry_is_what_happened(select: str, config: DenoisingConfig) -> None:
    """Positions decided before a moment are the parent's, for every child at every moment."""
    dm, seen = tiny_diffusion(), []
    done = branch(dm, many(), BranchingConfig(select, strength=80.0), config, on_frame=seen.append)
    tree = done.trees[0]
    assert [r.level for r in tree.rounds] == [0.2, 0.4, 0.6]
    last = {r: [f for f in seen if f.round == r][-1].state for r in range(4)}
    for r, item in enumerate(tree.rounds):
        before, after = last[r], last[r + 1]
        for child, parent in enumerate(item.parents):
            kept = ~before.masked[parent]
            assert torch.equal(before.ids[parent][kept], after.ids[child][kept])
    for row in range(6):
        assert tree.seeds[tree.origin(row)] == int(done.state.seeds[row])
    assert not done.state.masked.any()
    text = tree.tree()
    assert text.count("the end") == 6 and text.count("branch") == 6
    names = [n.name for n in tree.levels()[-1]]
    assert len(set(names)) == 6 and sorted(n.lane for n in tree.levels()[-1]) == list(range(6))
    assert seen[-1].lanes == tuple(n.lane for n in tree.levels()[-1])


@pytest.mark.parametrize("moments", [(0.2, 0.4, 0.6), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)])
def test_half_of_the_branches_of_diverse_have_ancestors_of_their_own(moments: tuple[float, ...]) -> None:
    dm = tiny_diffusion()
    for seed in range(3):
        state = dm.prompt_state("To be", 20, list(range(8 * seed, 8 * seed + 8)))
        tree = branch(dm, state, BranchingConfig("diverse", moments), CONFIG).trees[0]
        assert len({tree.origin(row) for row in range(8)}) == 4


def test_the_tree_drawn() -> None:
    tree = Ancestry((7, 8), (SelectionRound(0.5, (-1.0, -2.0), (0, 0), (0,)),), (-0.5, -0.25))
    assert tree.tree() == (
        "branch 1 (seed 7) · 50% -1.000\n├─ 1 · the end -0.500\n└─ 1b · the end -0.250\n"
        "branch 2 (seed 8) · 50% -2.000 given up"
    )
    assert tree.to_dict()["nodes"][1][1]["parent"] == 0


def test_a_shrinking_batch_costs_less() -> None:
    dm, costs = tiny_diffusion(), (ForwardCost(), ForwardCost())
    both = [
        branch(dm, many(), BranchingConfig("best", moments=(0.5,), keep=2, refill=refill), CONFIG, cost=m)
        for refill, m in zip((True, False), costs, strict=True)
    ]
    assert [len(b.state) for b in both] == [6, 2] and [m.row_passes for m in costs] == [72, 6 * 6 + 2 * 6]
    kept = sorted(both[0].trees[0].rounds[0].chosen)
    alone = denoise(dm.denoiser, many(), CONFIG)
    assert torch.equal(both[1].state.ids, alone.ids[kept])
    assert [n.lane for n in both[1].trees[0].levels()[-1]] == kept


def test_groups_do_not_see_each_other() -> None:
    """Two prompts side by side: each group as if it were alone."""
    dm, how = tiny_diffusion(), BranchingConfig("diverse")
    prompts = ["To be", "Whether it"]
    both = branch(
        dm, dm.prompt_state([p for p in prompts for _ in range(4)], 20, [0, 1, 2, 3] * 2), how, CONFIG, group=4
    )
    for g, prompt in enumerate(prompts):
        one = branch(dm, dm.prompt_state(prompt, 20, 4), how, CONFIG)
        assert one.texts() == both.texts()[4 * g : 4 * g + 4]
        for mine, beside in zip(one.trees[0].rounds, both.trees[g].rounds, strict=True):
            assert mine.parents == beside.parents and mine.scores == pytest.approx(beside.scores, abs=1e-4)


def test_a_judge_of_texts_decides() -> None:
    """Any function of the texts: branches with more of a letter go on, and end with more of it."""
    dm = tiny_diffusion()
    seen: list[list[str]] = []

    def judge(texts: Any) -> list[float]:
        seen.append(list(texts))
        return [t.count("t") / len(t) for t in texts]

    done = branch(dm, many(16), BranchingConfig("best", (0.2, 0.4, 0.6, 0.8), keep=2, score=judge), CONFIG)
    plain = branch(dm, many(16), BranchingConfig("none"), CONFIG)
    assert all(t.startswith("To be") and len(t) == 29 for texts in seen for t in texts), "the whole best guess"

    def count(texts: list[str]) -> float:
        return float(np.mean([t.count("t") for t in texts]))

    assert count(done.texts()) > count(plain.texts()) + 1
    assert done.ranked()[0] == int(done.scores.argmax())


def test_diverse_keeps_what_differs() -> None:
    rows = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    d = selection.ngram_distances(rows)
    assert d[0, 1] == pytest.approx(0) and d[0, 2] == pytest.approx(1) and (np.diag(d) == 0).all()
    assert select_diverse(d.tolist(), [0.0, -0.01, -0.5], 2) == [0, 2]
    assert selection.best_rows([0.0, -0.01, -0.5], 2) == [0, 1]
    assert selection.ngram_distances([[1], [2]]).tolist() == [[0, 0], [0, 0]], "too short for a trigram"
    assert (
        np.linalg.eigvalsh(
            1 - selection.ngram_distances(np.random.default_rng(0).integers(0, 3, (9, 12)).tolist())
        ).min()
        > -1e-9
    )


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=12), st.floats(1e-6, 1 - 1e-6))
@settings(max_examples=200, deadline=None)
def test_systematic_resampling(logs: list[float], u: float) -> None:
    """floor(n w) or ceil(n w) copies each; who is taken keeps its place; the mean over the number is n w."""
    w = selection.normalise_weights(logs)
    n = len(w)
    parents = selection.systematic_resampling(w, u)
    counts = np.bincount(parents, minlength=n)
    assert len(parents) == n and (np.abs(counts - n * w) < 1 + 1e-9).all()
    assert all(parents[i] == i for i in set(parents))
    assert 1 - 1e-9 <= selection.effective_sample_size(w) <= n + 1e-9


def test_systematic_resampling_is_fair() -> None:
    w = np.array([0.5, 0.3, 0.15, 0.05])
    grid = (np.arange(1000) + 0.5) / 1000
    counts = np.mean([np.bincount(selection.systematic_resampling(w, u), minlength=4) for u in grid], 0)
    assert counts == pytest.approx(4 * w, abs=2e-3)


# --- sequential Monte Carlo -----------------------------------------------------------------------------

BONUS = {"a": 1.0, "b": 0.0, "c": -0.7}
STRENGTH = 3.0


def reward(texts: Any) -> list[float]:
    return [sum(BONUS[c] for c in t) / len(t) for t in texts]


def posterior(joint: Joint, base: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    words = ["".join("abc"[c] for c in t) for t in joint.texts]
    w = base * np.exp(STRENGTH * np.array(reward(words)))
    return w / w.sum()


def in_two_steps(joint: Joint) -> np.ndarray[Any, Any]:
    """What `random` gives in 2 steps of 2 positions each, enumerated: not the joint, since pairs are drawn apart."""
    out = np.zeros(len(joint.texts))
    m, n = joint.mask, joint.length
    pairs = list(itertools.combinations(range(n), 2))
    for k, text in enumerate(joint.texts):
        for pair in pairs:
            first = joint.conditionals((m,) * n)
            half = joint.conditionals(tuple(c if i in pair else m for i, c in enumerate(text)))
            out[k] += math.prod((first if i in pair else half)[i, c] for i, c in enumerate(text)) / len(pairs)
    return out


def total_variation(
    joint: Joint, target: np.ndarray[Any, Any], config: DenoisingConfig, n: int, runs: int, heat: float, **how: Any
) -> float:
    """Mean over `runs` of the distance of n weighted particles to `target`."""
    dm = joint.model()
    state = DiffusionState.from_prompts([[]] * (n * runs), joint.length, list(range(n * runs)), joint.mask, heat)
    done = branch(dm, state, BranchingConfig("smc", score=reward, strength=STRENGTH, **how), config, group=n)
    index = torch.zeros(n * runs, dtype=torch.int64)
    for i in range(joint.length):
        index = index * joint.letters + done.state.ids[:, i]
    mass = torch.zeros((runs, len(joint.texts)), dtype=torch.float64)
    mass.scatter_add_(1, index.view(runs, n), done.weights.view(runs, n))
    return float((mass - torch.tensor(target)).abs().sum(1).mean() / 2)


@pytest.mark.parametrize(
    "config",
    [
        DenoisingConfig(FirstHitting()),
        DenoisingConfig(Random(), steps=2),
        DenoisingConfig(make_policy("margin", noise=0.5)),
    ],
)
def test_smc_finds_the_posterior(config: DenoisingConfig) -> None:
    """Particles drawn too hot, resampled midway: their weighted share of each text goes to the enumerated posterior as
    1/sqrt(particles). 16 times the particles: a fourth of the distance."""
    joint = Joint(4, letters=2)
    base = in_two_steps(joint) if config.steps == 2 else joint.p.flatten()
    target = posterior(joint, base)
    levels = (0.25, 0.5) if config.steps != 2 else (0.5,)
    far = {n: total_variation(joint, target, config, n, 4096 // n, 1.4, moments=levels) for n in (64, 1024)}
    assert far[1024] < 0.05
    assert 0.65 < far[64] / far[1024] / 4 < 1.5, far
    unweighted = total_variation(joint, base, config, 1024, 2, 1.4, moments=levels)
    assert unweighted > 2 * far[1024], "the test can tell the posterior from the prior"


def test_smc_resamples_when_few_carry_the_weight() -> None:
    dm = tiny_diffusion()
    calm = branch(dm, many(8), BranchingConfig("smc", strength=0.0), CONFIG).trees[0]
    assert all(not r.chosen and r.ess == pytest.approx(8) and r.parents == tuple(range(8)) for r in calm.rounds)
    wild = branch(dm, many(8), BranchingConfig("smc", strength=500.0), CONFIG).trees[0]
    assert any(r.chosen and r.ess is not None and r.ess < 4 for r in wild.rounds)
    for r in wild.rounds:
        assert bool(r.chosen) == (r.ess < 4) and sum(r.weights) == pytest.approx(1)
        n = np.bincount(r.parents, minlength=8)
        assert not r.chosen or (np.abs(n - 8 * np.array(r.weights)) < 1).all()


def test_smc_refuses_what_has_no_density() -> None:
    dm = tiny_diffusion()
    for config, said in (
        (DenoisingConfig(make_policy("confidence"), steps=8), "chooses positions by the tokens"),
        (DenoisingConfig(Random(), steps=8, top_p=0.9), "every token"),
    ):
        with pytest.raises(InputError, match=said):
            branch(dm, many(), BranchingConfig("smc"), config)
    with pytest.raises(InputError, match="temperature 0"):
        branch(dm, many(temperature=0.0), BranchingConfig("smc"), CONFIG)
    with pytest.raises(InputError, match="Leave out keep"):
        branch(dm, many(), BranchingConfig("smc", keep=2), CONFIG)


# --- laws -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("global_state_untouched")
def test_without_selection_a_branch_is_its_seeds_own() -> None:
    both = [
        MultiBranchDiffusion(n, tiny_diffusion(), branching=BranchingConfig("none"), denoising=CONFIG) for n in (5, 1)
    ]
    five = both[0].generate_parallel("To be", 24, seed=3)
    by_seed = {t.seed: t.text for t in five}
    assert sorted(by_seed) == [3, 4, 5, 6, 7] and len(set(by_seed.values())) == 5
    for seed, text in by_seed.items():
        assert both[1].generate_parallel("To be", 24, seed=seed)[0].text == text
    again = MultiBranchDiffusion(5, tiny_diffusion(), denoising=CONFIG)
    assert again.generate_parallel("To be", 24, seed=3).texts == again.generate_parallel("To be", 24, seed=3).texts


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_no_mask_survives_and_locked_stays(data: st.DataObject) -> None:
    dm = tiny_diffusion()
    select = data.draw(st.sampled_from(["none", "best", "diverse", "smc"]))
    names = ["ancestral", "random", "first-hitting", "margin", "entropy"] + (
        ["confidence", "threshold", "factor"] if select != "smc" else []
    )
    kind = make_policy(data.draw(st.sampled_from(names)))
    remask = (
        data.draw(st.sampled_from([None, Remask("rescale", 0.3), Remask("confidence")]))
        if kind.fixed_steps and not kind.one_per_step
        else None
    )
    steps = None if kind.one_per_step or not kind.fixed_steps else data.draw(st.integers(1, 30))
    config = DenoisingConfig(kind, steps, data.draw(st.sampled_from([0, 7])), remask)
    state = dm.infill_state("To <mask:9> or not <mask:5>be", seeds=data.draw(st.integers(1, 5)))
    moments = tuple(sorted(data.draw(st.sets(st.sampled_from([0.1, 0.3, 0.5, 0.9]), max_size=3))))
    done = branch(
        dm, state, BranchingConfig(select, moments, refill=select == "smc" or data.draw(st.booleans())), config
    )
    assert not done.state.masked.any() and not (done.state.ids == dm.fill).any()
    assert torch.equal(done.state.ids[:, state.locked[0]], state.ids[:1, state.locked[0]].expand(len(done.state), -1))
    assert done.weights.sum() == pytest.approx(1)


# --- merging ----------------------------------------------------------------------------


def test_merging_keeps_what_is_agreed_on() -> None:
    dm = tiny_diffusion()
    ids = dm.encode("abc"[:0] + "To be, or not to be")
    state = dm.prompt_state("", len(ids), 3)
    a, b = list(ids), list(ids)
    b[10], b[3] = ids[0], ids[0]
    rows = torch.tensor([a, b, b])
    whole = state.replace(ids=rows, masked=torch.zeros_like(state.masked), confidence=torch.ones_like(state.confidence))
    where, agreed = agreement(whole, [0, 1])
    assert [i for i in range(len(ids)) if not where[i]] == [3, 10]
    assert torch.equal(agreed[where], rows[0][where])
    assert agreement(whole, [0, 1], run=7)[0].tolist() == [False] * 11 + [True] * 8, "runs of 3 and 6 are too short"
    two, token = agreement(whole, [0, 1, 2], share=0.6)
    assert bool(two.all()) and token[3] == b[3], "two of three"
    cost = ForwardCost()
    one, kept = merge(dm, whole, [0, 1], DenoisingConfig(Random(), steps=2), seed=5, cost=cost)
    assert torch.equal(kept, where) and torch.equal(one.ids[0][where], rows[0][where])
    assert not one.masked.any() and len(one) == 1 and cost.row_passes == 2
    again, _ = merge(dm, whole, [0, 1], DenoisingConfig(Random(), steps=2), seed=5)
    assert torch.equal(one.ids, again.ids)
    with pytest.raises(InputError, match="2 or more"):
        merge(dm, whole, [0])
    other = dm.prompt_state(["T", "To be"], 20, 2)
    with pytest.raises(InputError, match="one prompt"):
        merge(dm, other, [0, 1])


def test_merged_branches_of_one_call() -> None:
    made = MultiBranchDiffusion(4, tiny_diffusion(), denoising=CONFIG, merge=2).generate_parallel("To be", 24)
    assert made.merged is not None and made.merged.startswith("To be") and len(made.merged) == 29
    assert 0 <= made.agreed <= 1 and len(made) == 4
    assert [t.score for t in made] == sorted((t.score for t in made), reverse=True)
    assert all(len(t.tokens) == len(t.confidence) == 29 and "".join(t.tokens) == t.text for t in made)


def test_errors_are_one_line() -> None:
    dm = tiny_diffusion()
    with pytest.raises(UnknownName, match="Did you mean 'diverse'"):
        BranchingConfig("divers")
    with pytest.raises(UnknownName, match="score"):
        BranchingConfig(score="fil")
    for wrong in ({"moments": (0.5, 0.2)}, {"moments": (0.0,)}, {"keep": 0}, {"weight": math.nan}):
        with pytest.raises(InputError):
            BranchingConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--keep 1 to 2"):
        MultiBranchDiffusion(2, dm, branching=BranchingConfig(keep=3))
    with pytest.raises(InputError, match="--branches"):
        MultiBranchDiffusion(0, dm)
    with pytest.raises(InputError, match="merge"):
        MultiBranchDiffusion(2, dm, merge=3)
    with pytest.raises(InputError, match="groups"):
        branch(dm, many(6), group=4)
    with pytest.raises(InputError, match="one number a text"):
        branch(dm, many(), BranchingConfig("best", score=lambda texts: [1.0]), CONFIG)
    with pytest.raises(NumericsError, match="--score"):
        branch(dm, many(), BranchingConfig("best", score=lambda texts: [math.nan] * len(texts)), CONFIG)


def test_frames_are_snapshots() -> None:
    """A frame that was kept does not change afterwards."""
    seen: list[Frame] = []
    branch(tiny_diffusion(), many(), BranchingConfig("best"), CONFIG, on_frame=seen.append)
    left = [int(f.state.num_masked.sum()) for f in seen]
    assert left == sorted(left, reverse=True) and left[0] > left[-1] == 0
    assert not torch.equal(seen[0].stats.guess, seen[-1].stats.guess)
