"""Tree search: its arithmetic by hand, its laws on tiny models."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import fresh, language_model, tokenizer
from tinyland import HashEmbedder

import thoughtmix.search
from thoughtmix import InputError, NumericsError, UnknownName, think
from thoughtmix.bench.tasks import countdown, writing
from thoughtmix.bench.tasks.puzzles import sum_so_far
from thoughtmix.engine import LocalEngine, SamplingParams
from thoughtmix.models import wrap_model
from thoughtmix.search import Evaluators, Leaf, Limits, SamplingProposal, Settings, TreeSearch, Verifier, saved
from thoughtmix.search.answers import answers, valid
from thoughtmix.search.evaluators import (
    Judge,
    Length,
    Likelihood,
    Novelty,
    Relevance,
    Repetition,
    embedding_distance,
    evaluators,
    parse_weights,
    word_distance,
)
from thoughtmix.search.tree import DEAD, Node, Tree, exploration_bonus, rescaled
from thoughtmix.thinkers.search import as_thought

pytest_plugins = ["tinyland"]
PROMPT = [5, 9, 77, 33, 12, 8, 100, 41]


def add_child(tree: Tree, parent: Node, value: float, finish: Any = None, copies: int = 1) -> Node:
    node = Node(0, parent, len(parent.children), copies, (len(tree) + 3,), (-1.0,), finish=finish)
    tree.add_child(node)
    tree.backpropagate(node, value)
    return node


def lm(family: str = "llama") -> Any:
    """A model that ends nothing by itself."""
    model = wrap_model(fresh(family), tokenizer(), name=f"tiny-{family}")
    object.__setattr__(model, "eos_ids", frozenset())
    return model


def small(model: Any = None, seed: int = 0, **more: Any) -> TreeSearch:
    settings = {"length": 12, "step": 3, "width": 3, "batch": 2, **more.pop("settings", {})}
    engine = LocalEngine(model or lm(), weights="native")
    return TreeSearch(engine, PROMPT, Settings(**settings), seed=seed, **more)


def picture(search: TreeSearch) -> list[Any]:
    return [
        (n.path, n.token_ids, round(n.value, 3), n.visits, n.copies, n.expansions, n.drawn) for n in search.tree.nodes
    ]


# --- the tree -----------------------------------------------------------------------------------------------------


def test_puct_by_hand() -> None:
    """Values 1, 3 (twice drawn), 5; exploration 2. Rescaled: 0, 0.5, 1; mean of the root (0 + 0.5 + 1) / 3 = 0.5."""
    tree = Tree(exploration=2.0, urgency=0.25)
    a, b, c = (add_child(tree, tree.root, v, copies=k) for v, k in ((1.0, 1), (3.0, 2), (5.0, 1)))
    tree.root.expansions = 1
    root3 = math.sqrt(3)
    assert tree.mean(tree.root) == pytest.approx(0.5)
    assert tree.puct(tree.root)[a] == pytest.approx(0.0 + 2 * root3 * (1 / 5) / 2)
    assert tree.puct(tree.root)[b] == pytest.approx(0.5 + 2 * root3 * (2 / 5) / 2)
    assert tree.puct(tree.root)[c] == pytest.approx(1.0 + 2 * root3 * (1 / 5) / 2)
    assert tree.puct(tree.root)[None] == pytest.approx(0.5 - 0.25 + 2 * root3 * (1 / 5) / 2)
    assert tree.select() is c
    assert exploration_bonus(2, 9, 0.5, 2) == 1.0 and rescaled(3, 1, 5) == 0.5 and rescaled(1, 1, 1) == 0.5


def test_values_reach_all_ancestors_and_dead_ones_count_as_nothing() -> None:
    tree = Tree()
    a = add_child(tree, tree.root, 2.0)
    b = add_child(tree, a, 4.0)
    add_child(tree, b, DEAD)
    assert (tree.root.value_sum, tree.root.value_count, tree.root.losses) == (6.0, 2, 1)
    assert tree.mean(a) == pytest.approx((0 + 1 + 0) / 3)
    assert tree.mean(b) == pytest.approx((1 + 0) / 2)
    assert not b.children[0].open and b.children[0].path == (0, 0, 0)
    add_child(tree, b, 3.0, finish="stop")
    assert (b.value_sum, b.value_count, b.losses) == (4.0, 1, 2), (
        "what is complete is found: to its ancestors it is worth nothing"
    )
    assert tree.complete() == [b.children[1]]
    assert list(tree.leaves()) == [b]


def test_virtual_loss_spreads_a_batch() -> None:
    """Without it all four picks are the best leaf; with it they are four different ones; afterwards nothing is left."""
    tree = Tree(exploration=0.5)
    leaves = [add_child(tree, tree.root, v) for v in (1.0, 0.95, 0.9, 0.85, 0.0)]
    tree.root.expansions = 1
    first = tree.select()
    tree.clear_virtual_losses()
    assert tree.select() is first is leaves[0], "one at a time it is always the same"
    tree.clear_virtual_losses()
    picks = [tree.select() for _ in range(4)]
    assert len(set(map(id, picks))) == 4
    assert leaves[4] not in picks
    assert tree.root.virtual_losses == 4
    tree.clear_virtual_losses()
    assert all(n.virtual_losses == n.virtual_expansions == 0 for n in tree.nodes)


def test_draws_of_which_nothing_new_comes_count_against_a_node() -> None:
    tree = Tree(exploration=0.0)
    good, other = add_child(tree, tree.root, 1.0), add_child(tree, tree.root, 0.6)
    add_child(tree, tree.root, 0.0)
    tree.root.expansions = 1
    assert tree.select() is good
    tree.clear_virtual_losses()
    tree.penalise(good, 4)
    assert tree.mean(good) == pytest.approx(1 / 5) and good.penalties == 4 and tree.root.visits == 7
    assert tree.select() is other


def part(tree: Tree, parent: Node, value: float, share: float, finish: Any = None) -> Node:
    """A child of known probability."""
    node = Node(0, parent, len(parent.children), 1, (len(tree) + 3,), (-1.0,), (share,), finish)
    tree.add_child(node)
    tree.backpropagate(node, value)
    return node


def test_what_is_left_below_a_node_by_hand() -> None:
    """Root: a (0.5), b (0.3), 0.2 not drawn. Below a: c (0.9) complete and d (0.05) dead, so 0.05 of a is left."""
    tree = Tree(exploration=1.0)
    a, b = part(tree, tree.root, 1.0, 0.5), part(tree, tree.root, 2.0, 0.3)
    c, d = part(tree, a, 1.0, 0.9, "stop"), part(tree, a, DEAD, 0.05)
    assert (c.left, d.left, b.left) == (0, 0, 1) and not c.open and not d.open
    assert a.left == pytest.approx(0.05) == a.undrawn
    assert tree.root.undrawn == pytest.approx(0.2) and tree.root.left == pytest.approx(1 - 0.5 * 0.95)
    weights = {a: 0.5 * 0.05, b: 1 / 3, None: 0.2}  # a third: one of two children and what is new
    visits = {a: 3, b: 1, None: 0}
    means = {a: 0.0, b: 1.0, None: 0.2}  # of 1, 2 and, for complete and dead ones, nothing: 0, 1, 0, 0, 0 ...
    for child, weight in weights.items():
        bonus_ = tree.root.visits**0.5 * weight / sum(weights.values()) / (1 + visits[child])
        assert tree.puct(tree.root)[child] - bonus_ == pytest.approx(
            means[child] if child is not None else tree.mean(tree.root)
        )
    part(tree, a, DEAD, 0.05)
    assert not a.open and tree.select() is not a, "nothing is left to draw there"
    part(tree, b, DEAD, 1.0)
    part(tree, tree.root, DEAD, 0.2)
    assert tree.select() is None, "everything is complete or dead"


def test_a_search_of_which_everything_is_dead_ends_with_what_there_is() -> None:
    never = Verifier(lambda text, done: False)
    search = small(
        evaluators=Evaluators(((never, 1.0),)), proposal=SamplingProposal(SamplingParams(top_k=3)), settings={"step": 1}
    )
    search.explore(Limits(500), 2)
    search.finish(Limits(500), 2)
    assert len(search.tree) == 4 and search.tree.select() is None and not valid(search)
    assert search.spent.drawn <= 6 + 2 * 12 and [n.finish for n in answers(search, 2)] == ["length"] * 2


def test_a_hopeless_tree_draws_anew_at_the_root() -> None:
    tree = Tree()
    for _ in range(3):
        add_child(tree, tree.root, DEAD)
    assert tree.select() is tree.root


def test_seeds_are_the_paths_own() -> None:
    tree, other = Tree(seed=1), Tree(seed=2)
    a, b = add_child(tree, tree.root, 1.0), add_child(tree, tree.root, 2.0)
    seeds = [tree.child_seed(x, p) for x in (tree.root, a, b) for p in (0, 1, -1)]
    assert len(set(seeds)) == 9 and all(0 <= s < 2**63 for s in seeds)
    assert other.child_seed(other.root, 0) != tree.child_seed(tree.root, 0)


# --- the search ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_the_same_seed_and_settings_give_the_same_tree(family: str, global_state_untouched: None) -> None:
    model = lm(family)
    first, second, third = (small(model, seed) for seed in (4, 4, 5))
    for search in (first, second, third):
        search.explore(Limits(150), 2)
    assert picture(first) == picture(second) != picture(third)
    assert first.spent.rounds >= 3 and max(len(n.path) for n in first.tree.nodes) >= 2


@pytest.mark.parametrize("rollouts", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_tokens_computed_are_tokens_new(family: str, rollouts: bool) -> None:
    search = small(lm(family), settings={"rollouts": rollouts})
    search.explore(Limits(400), 1)
    first = search.settings.batch * search.settings.width
    assert search.spent.rounds >= 3
    assert search.spent.computed == len(PROMPT) + search.spent.drawn - first, "of the first children one token less"


def test_a_node_is_what_the_model_says_of_its_path() -> None:
    """Log-probabilities along every path are those of one forward over the whole text."""
    model = lm()
    search = small(model)
    search.explore(Limits(200), 1)
    for node in search.tree.nodes[1:]:
        ids = torch.tensor([PROMPT + node.tokens])
        want = model.model(ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
        want = want.gather(1, torch.tensor(node.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(node.token_logprobs), want, atol=5e-4, rtol=1e-4)
        assert node.text == model.decode(node.tokens)
        assert node.scores["likelihood"] == pytest.approx(float(want.mean()), abs=1e-3)


@pytest.mark.parametrize(("tokens", "want"), [(1, 1), (30, 3), (100, 2), (137, 4)])
def test_the_budget_is_never_overdrawn_and_there_is_always_an_answer(tokens: int, want: int) -> None:
    search = small()
    limits = Limits(tokens)
    search.explore(limits, want)
    search.finish(limits, want)
    got = answers(search, want)
    assert search.spent.drawn <= max(tokens, want)
    assert len(got) == want and all(node.text for node in got)
    assert all(node.finish == "length" for node in got)


def test_seconds_are_a_limit_and_the_answer_is_anytime(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a look at moves on: the test waits for nothing, and a busy machine changes nothing."""
    import thoughtmix.search.mcts as mcts

    ticks = itertools.count()
    with monkeypatch.context() as patched:
        patched.setattr(mcts.time, "perf_counter", lambda: next(ticks) / 1000)
        search = small()
        search.explore(Limits(10**9, seconds=0.4), 1)
    assert 0 < search.spent.rounds < 10**4
    assert answers(search, 3)

    def stop(s: TreeSearch) -> None:
        if s.spent.rounds == 2:
            raise KeyboardInterrupt

    cut = small()
    cut.explore(Limits(10**9), 1, stop)
    cut.finish(Limits(10**9), 1)
    assert cut.interrupted and cut.spent.rounds == 2
    assert [n.finish for n in answers(cut, 2)] == [None, None], "nothing was completed"


def test_a_round_that_is_stopped_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    search = small()
    search.explore(Limits(100), 1)
    before, real = picture(search), LocalEngine.generate

    def stopped(*a: Any, **k: Any) -> Any:
        done = real(*a, **k)
        done.interrupted = True
        return done

    def impatient(*a: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_evaluate", impatient)
    search.explore(Limits(1000), 1)
    assert search.interrupted and picture(search) == before, "while it was being judged"
    search.interrupted = False
    monkeypatch.setattr(LocalEngine, "generate", stopped)
    search.explore(Limits(1000), 1)
    assert search.interrupted and picture(search) == before, "while it was being drawn"
    assert all(n.virtual_losses == n.virtual_expansions == 0 for n in search.tree.nodes)


@pytest.mark.parametrize("rollouts", [False, True])
def test_resumed_equals_uninterrupted(tmp_path: Path, rollouts: bool) -> None:
    how = {"settings": {"rollouts": rollouts}}
    model = lm()
    whole = small(model, **how)
    whole.explore(Limits(600), 2)
    part = small(model, **how)
    part.explore(Limits(250), 2)
    part.finish(Limits(250), 2)
    saved.save(part, tmp_path / "tree.json")
    body = saved.read_saved(tmp_path / "tree.json")
    assert Settings(**{**body["settings"], "stop": tuple(body["settings"]["stop"])}) == part.settings
    again = small(model, **how)
    saved.restore(again, body)
    part.spent.drawn -= sum(len(n.token_ids) for n in part.ended)
    assert picture(again) == picture(part) and len(again.tree) < len(whole.tree)
    again.spent.drawn = part.spent.drawn
    again.explore(Limits(600), 2)
    assert picture(again) == picture(whole)
    assert (again.tree.low, again.tree.high) == pytest.approx((whole.tree.low, whole.tree.high), abs=1e-4)
    again.explore(Limits(900), 2)  # prefixes that were read again serve from then on
    before = again.spent.computed - again.spent.drawn
    again.explore(Limits(1200), 2)
    assert again.spent.computed - again.spent.drawn <= before + 12 * 6


def test_a_saved_search_of_another_kind_is_refused(tmp_path: Path) -> None:
    search = small()
    search.explore(Limits(60), 1)
    file = tmp_path / "tree.json"
    saved.save(search, file)
    with pytest.raises(InputError, match="another seed"):
        saved.restore(small(seed=1), saved.read_saved(file))
    with pytest.raises(InputError, match="another evaluators"):
        saved.restore(small(evaluators=Evaluators(((Repetition(), 1.0),))), saved.read_saved(file))
    body = json.loads(file.read_text())
    for broken in ({**body, "nodes": [{}]}, {**body, "nodes": [body["nodes"][0], {"parent": 9}]}):
        with pytest.raises(InputError, match="damaged"):
            saved.restore(small(), broken)
    for text in ("{", "[]", json.dumps({**body, "version": 9})):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            saved.read_saved(file)
        assert caught.value.hint


def test_more_search_finds_what_the_evaluators_like() -> None:
    """Likelihood: the best of 12-token thoughts beats the best of as many tokens of plain samples."""
    model, budget = lm(), 600
    better = []
    for seed in range(3):
        search = small(model, seed)
        limits = Limits(budget)
        search.explore(limits, 1)
        search.finish(limits, 1)
        found = max(node.value for node in [*search.tree.complete(), *search.ended])
        from decoding import Row, decode

        rows = [Row(1000 * seed + i, SamplingParams(min_p=0.1)) for i in range(budget // 12)]
        plain = decode(model, [PROMPT], rows, max_new_tokens=12, weights="native").outputs
        better.append(found - max(float(np.mean(r.logprobs)) for r in plain))
    assert np.mean(better) > 0


def test_a_verifier_prunes_and_distinct_answers_come_first() -> None:
    """Right: even words only. What has an odd one is dead at once and is never grown."""

    def odd(text: str) -> bool:
        return any(int(w[1:]) % 2 for w in text.split() if w[1:].isdigit())

    checked = Verifier(lambda text, done: (1.0 if done else 0.5) * (not odd(text)), lambda text: text.split()[-1])
    search = small(evaluators=Evaluators(((checked, 1.0),)), settings={"step": 1, "length": 4})
    limits = Limits(600)
    search.explore(limits, 4)
    search.finish(limits, 4)
    dead = [node for node in search.tree.nodes if node.value == DEAD]
    assert dead and all(odd(node.text) and not node.children and node.prefix is None for node in dead)
    got = answers(search, 4)
    assert len({node.text.split()[-1] for node in got}) == 4, "by the verifier's answer, not by the text"
    assert not any(odd(node.text) for node in got)
    assert len(valid(search)) >= 4


@pytest.mark.parametrize(("width", "batch"), [(1, 1), (3, 2)])
def test_all_of_many_answers_are_found_and_no_token_is_drawn_twice(width: int, batch: int) -> None:
    """Three tokens, each one of three: 27 texts, 39 nodes. The right ones are those whose words sum to an even number;
    a search of 39 tokens knows every one of them, and stops by itself. Free draws of as many tokens find less than half."""
    from decoding import Row, decode

    def even(text: str) -> bool:
        return sum(int(w[1:]) for w in text.split() if w[1:].isdigit()) % 2 == 0

    checked = Verifier(lambda text, done: even(text) if done else 0.5)
    sampler = SamplingParams(temperature=0.7, top_k=3)
    search = small(
        evaluators=Evaluators(((checked, 1.0),)),
        proposal=SamplingProposal(sampler),
        settings={"step": 1, "length": 3, "width": width, "batch": batch},
    )
    search.explore(Limits(1000), 1)
    ways = {node.text for node in search.tree.nodes if len(node.tokens) == 3}
    assert len(ways) == 27 and len(search.tree) == 1 + 39 and search.tree.select() is None
    most = 39 if batch == 1 else 39 + 13 * 3  # a round draws side by side what may be one thing
    assert search.spent.drawn <= most
    assert valid(search) == {f"text {way}" for way in ways if even(way)}
    search.finish(Limits(1000), 50)
    assert not search.ended and len(answers(search, 50)) == 50, "nothing is left to complete; some come twice"
    for seed in range(3):
        rows = [Row(100 * seed + i, sampler) for i in range(13)]
        free = {
            row.text
            for row in decode(search.writer.engine.model, [PROMPT], rows, max_new_tokens=3, weights="native").outputs
        }
        assert len({way for way in free if even(way)}) < len(valid(search)) / 2


def test_the_answers_are_different_and_good() -> None:
    search = small(settings={"width": 6})
    search.explore(Limits(3000), 5)
    search.finish(Limits(3000), 5)
    nodes = search.tree.complete()
    got = answers(search, 5)
    assert len({node.text for node in got}) == 5

    def spread(some: list[Node]) -> float:
        return float(word_distance([n.text for n in some])[np.triu_indices(len(some), 1)].mean())

    best = sorted(nodes, key=lambda n: -n.value)[:5]
    assert spread(got) > spread(best)
    assert np.mean([n.value for n in got]) > np.mean([n.value for n in nodes])
    assert len(answers(small(), 3)) == 0, "nothing was grown"


def test_names_import_no_torch() -> None:
    code = "import sys, thoughtmix.search, thoughtmix.thinkers.search; print('torch' in sys.modules); print(thoughtmix.search.Tree)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] == "False" and "thoughtmix.search.tree.Tree" in out[-1]
    assert all(getattr(thoughtmix.search, name) is not None for name in thoughtmix.search.__all__)
    assert set(thoughtmix.search._HOME) == set(thoughtmix.search.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Forest'"):
        _ = thoughtmix.search.Forest


def test_mixture_proposes_through_a_grafts_routes() -> None:
    """Each child on its own route, on the fused path, going on from its ancestors' keys and values."""
    from graftland import grafted

    from thoughtmix.search import MixtureProposal

    base = grafted("llama", router="prior", combiner="router", noise="held", tail=3).get_base_model()
    model = wrap_model(base, tokenizer(), name="tiny-graft")
    object.__setattr__(model, "eos_ids", frozenset())
    first, again = (small(model, 3, proposal=MixtureProposal()) for _ in range(2))
    plain, still = (
        small(model, 3, proposal=SamplingProposal(SamplingParams(temperature=0.7, min_p=0.1))),
        small(model, 3, proposal=MixtureProposal(creativity=0.0)),
    )
    for search in (first, again, plain, still):
        search.explore(Limits(120), 1)
        assert search.decoding_path == "fused" and search.spent.rounds >= 3
    assert picture(first) == picture(again) != picture(plain)
    rest = first.spent.computed - (len(PROMPT) - 3 + first.spent.drawn)
    assert 2 * 6 <= rest <= 2 * 6 * (first.tree.root.expansions - 1), (
        "2 more tokens of the prompt by rows that begin there"
    )
    assert [n.token_ids for n in still.tree.nodes] == [n.token_ids for n in plain.tree.nodes], (
        "creativity 0 is the base"
    )


# --- evaluators ---------------------------------------------------------------------------------------------------


def leaf(text: str, done: bool = True, logprobs: tuple[float, ...] = (-1.0, -3.0)) -> Leaf:
    return Leaf(text, tuple(range(len(logprobs))), logprobs, done)


def test_evaluators_against_direct_computation() -> None:
    assert Likelihood().scores("", [leaf("a"), leaf("", logprobs=())], []) == [-2.0, 0.0]
    e = HashEmbedder()
    vectors = e.encode(["a b", "a b c", "x y"])
    got = Relevance(e).scores("a b", [leaf("a b c"), leaf("x y")], [])
    assert got == pytest.approx([float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])])
    assert Novelty().scores("", [leaf("a b")], []) == [1.0]
    # {a, b, ab} and {a, c, ac} share one of three; {a, b, ab} and itself all
    assert Novelty().scores("", [leaf("a b"), leaf("q")], ["a c", "a b"]) == pytest.approx([0.0, 1.0])
    assert Novelty().scores("", [leaf("a b")], ["a c"]) == pytest.approx([1 - 1 / 3])
    assert Novelty(embedding_distance(e)).scores("", [leaf("x y")], ["a b"]) == pytest.approx(
        [1 - float(vectors[0] @ vectors[2])]
    )
    some = [leaf("one two three four"), leaf("one"), leaf("one", done=False), leaf("a b c d e f g h")]
    assert Length(2, 4).scores("", some, []) == [1.0, 0.5, 1.0, 0.5]
    assert Repetition(2).scores("", [leaf("a b a b"), leaf("a b c"), leaf("a")], []) == pytest.approx([2 / 3, 1.0, 1.0])
    check = Verifier(lambda text, done: len(text) / 4)
    assert check.scores("", [leaf("ab"), leaf("")], []) == [0.5, -math.inf]
    assert check.accepts("abcd") and not check.accepts("abc")


def test_the_judge_is_asked_and_its_answer_is_a_probability() -> None:
    model = language_model("llama")
    words = {"yes": 20, "no": 30}
    real = model.tokenizer

    class Named:
        """The tiny tokenizer, which has words for yes and no."""

        unk_token_id = 3
        chat_template = None

        def __len__(self) -> int:
            return len(real)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, text: str, **how: Any) -> Any:
            known = words.get(text.strip().lower())
            return {"input_ids": [known] if known else real(text, **how)["input_ids"]}

    object.__setattr__(model, "tokenizer", Named())
    judge = Judge(model, "w5 w6?")
    (got,) = judge.scores("w7", [leaf("w8 w9")], [])
    ids = model.encode("Question: w7\n\nAnswer: w8 w9\n\nw5 w6? Reply with one word, yes or no.")
    p = model.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    assert got == pytest.approx(float(p[20] / (p[20] + p[30])), rel=1e-5)
    assert judge.tokens == len(ids)
    leaves = [leaf(" ".join(f"w{(7 * i + j) % 90 + 40}" for j in range(i % 5 + 1))) for i in range(11)]
    calls: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, __, how: calls.append(how["input_ids"].shape), with_kwargs=True
    )
    alone = [judge.scores("w7", [x], [])[0] for x in leaves]
    calls.clear()
    assert judge.scores("w7", leaves, []) == pytest.approx(alone, abs=1e-6), "whatever stands beside a leaf"
    assert [shape[0] for shape in calls] == [8, 3], "and several are read at once"
    hook.remove()
    with pytest.raises(InputError, match="no tokens for yes and no"):
        Judge(language_model("llama"))


def test_weights_add_up_and_bad_scores_are_refused() -> None:
    both = Evaluators(((Likelihood(), 2.0), (Repetition(1), 0.5)))
    ((value, scores),) = both.evaluate("", [leaf("a a")], [])
    assert scores == {"likelihood": -2.0, "repetition": 0.5} and value == 2 * -2.0 + 0.5 * 0.5
    ((value, _),) = Evaluators(((Likelihood(), 1.0), (Verifier(lambda t, d: 0), 1.0))).evaluate("", [leaf("a")], [])
    assert value == DEAD

    class Broken:
        name = "broken"

        def scores(self, prompt: str, leaves: Any, found: Any) -> list[float]:
            return [math.nan] * len(leaves)

    with pytest.raises(NumericsError, match="broken gave nan"):
        Evaluators(((Broken(), 1.0),)).evaluate("", [leaf("a")], [])
    assert parse_weights("likelihood=2, novelty") == {"likelihood": 2.0, "novelty": 1.0}
    assert evaluators({"length": 1.0, "novelty": 2.0}, most=5).weights == {"length": 1.0, "novelty": 2.0}
    for text, says in (
        ("likelyhood=1", "Did you mean 'likelihood'"),
        ("length=x", "weight of length"),
        ("", "No eval"),
        ("length=0", "above 0"),
    ):
        with pytest.raises((InputError, UnknownName), match=says):
            parse_weights(text)
    with pytest.raises(InputError, match="needs a embedder"):
        evaluators({"relevance": 1.0})


def test_word_distance_is_a_kernels() -> None:
    texts = ["a b c", "a b c", "c b a", "", "x"]
    d = word_distance(texts)
    assert d[0, 1] == 0 and d[0, 4] == 1 and 0 < d[0, 2] < 1 and d[3, 3] == 0
    assert np.linalg.eigvalsh(1 - d).min() > -1e-9


# --- the thinker --------------------------------------------------------------------------------------------------


def test_thinker(tinyland: Any) -> None:
    """Law 5 as it stands here: the set depends on prompt, settings and seed alone."""
    ask: dict[str, Any] = {"n": 3, "thinker": "search", "seed": 9, "max_new_tokens": 10, "step": 2, "tokens": 150}
    events = []
    got = think("w5 w9 w77", on_step=events.append, **ask)
    again = think("w5 w9 w77", **ask)
    assert got.texts == again.texts and len(set(got.texts)) == 3
    assert think("w5 w9 w77", **{**ask, "seed": 10}).texts != got.texts
    assert {t.seed for t in got} == {9}
    assert len({tuple(t.origin["path"]) for t in got}) == 3
    assert got.run["tokens"] <= 150 and got.run["evaluators"] == {"likelihood": 1, "repetition": 1, "substance": 1}
    assert events[-1].finished == [True] * 3 and [e.done for e in events] == sorted(e.done for e in events)
    assert list(events[-1].pieces) == got.texts
    for t in got:
        assert t.logprob == pytest.approx(sum(t.token_logprobs)) and len(t.token_ids) <= 10


@pytest.mark.parametrize("proposal", ["sampling", "mixture"])
@pytest.mark.parametrize(
    "more", [{}, {"rollouts": True}, {"evaluators": "relevance=1,novelty=1", "apart": "embedding"}]
)
def test_thinker_options(tinyland: Any, proposal: str, more: dict[str, Any]) -> None:
    got = think(
        "w5 w9", n=2, thinker="search", model="mixture", proposal=proposal, max_new_tokens=8, step=3, tokens=400, **more
    )
    assert len(got) == 2 and all(t.text for t in got)
    assert got.run["proposal"]["name"] == proposal
    stopped = think("w5 w9", n=2, thinker="search", model="mixture", stop=(" ",), max_new_tokens=8, measure=False)
    assert all(" " not in t.text for t in stopped)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"step": 0}, "step is 0"),
        ({"budget": 0}, "budget is 0"),
        ({"evaluators": "x"}, "Unknown evaluator 'x'"),
        ({"evaluators": "judge=1"}, "judge needs a model"),
        ({"proposal": "x"}, "Unknown proposal 'x'"),
        ({"apart": "x"}, "Unknown apart"),
        ({"temperature": [1.0, 2.0]}, "a search takes one for all"),
        ({"width": 1.5}, "width is 1.5"),
        ({"creativity": 1.0, "temperature": 1.0}, "both were given"),
        ({"seconds": 0}, "seconds is 0"),
        ({"exploration": -1}, "exploration is -1"),
    ],
)
def test_law_8(tinyland: Any, more: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        think("w5 w9", n=2, thinker="search", measure=False, **more)
    assert caught.value.hint


def test_settings_are_checked() -> None:
    for bad in ({"length": 0}, {"urgency": 2.0}, {"exploration": math.nan}):
        with pytest.raises(InputError):
            Settings(**bad)
    with pytest.raises(InputError, match="more than 0"):
        Limits(0)
    with pytest.raises(InputError, match="weights above 0"):
        Evaluators(())
    assert SamplingProposal().settings()["min_p"] == 0.1


# --- tasks that are checked on the way -------------------------------------------------------------------------------


def test_partial_checks_never_drop_what_can_become_right() -> None:
    """Every beginning of every right answer is alive, and only beginnings of right answers are."""
    numbers, target = (3, 5, 8), 23
    for way in countdown.solutions(numbers, target):
        spaced = " " + " ".join(way)
        assert countdown.parse(spaced, numbers, target).valid
        for text in (way, spaced):
            for end in range(len(text) + 1):
                assert 0 < countdown.reachable_so_far(text[:end], numbers, target) < 1
                assert 0 < countdown.legal_so_far(text[:end], numbers, target) < 1
    for text in ("3*5+9", "3*5*", "8+8", "3*5+8+", "x", "3*5=15", "5/3+", "3 plus"):
        assert countdown.reachable_so_far(text, numbers, target) == 0
    assert countdown.legal_so_far("5 / 3 +", numbers, target) > 0 == countdown.legal_so_far("8 + 8", numbers, target)
    for triple in itertools.product(range(1, 25), repeat=3):
        if sum(triple) == 26:
            text = " " + ", ".join(map(str, triple)) + "."
            assert all(sum_so_far(text[:end], 3, 26) > 0 for end in range(len(text) + 1)), text
    for text in ("0, 1", "27", "1, 2, 3,", "20, 7", "1, 2.", "five", "13, 13, "):
        assert sum_so_far(text, 3, 26) == 0, text


def test_constrained_writing() -> None:
    c = writing.Constraint(6, "M", "school")
    right = " My brother walks to school early."
    assert c.parse(right).valid and c.parse(right).answer == "my brother walks to school early"
    assert all(0 < c.so_far(right[:end]) < 1 for end in range(len(right) + 1))
    wrong = (
        "My brother walks to school.",
        "My brother walks to school very early.",
        "He likes my old school mornings.",
        "My brother walks to church early.",
        "My brother walks to school early",
        "My 2 brothers like school mornings.",
        "My school. It is my best place.",
    )
    assert not any(c.parse(text).valid for text in wrong)
    dead = ("He", "My brother walks to church early", "My brother walks to school very early", "My school.", "My 2")
    assert all(c.so_far(text) == 0 for text in dead[:1] + dead[2:])
    assert c.so_far("My brother walks to church ear") == 0, "one word is left, and it is not the one"
    items = writing.problems(30)
    assert len({i.id for i in items}) == 30 and writing.problems(10) == items[:10] != writing.problems(10, seed=1)


# --- the command and the pictures -------------------------------------------------------------------------------------


def command(*words: str) -> int:
    from thoughtmix.cli import main

    return main(["search", *words])


ASK = ("w5 w9 w77", "-n", "2", "--max-new-tokens", "9", "--step", "2", "--budget")


def test_the_command_draws_saves_and_resumes(tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, html = tmp_path / "tree.json", tmp_path / "tree.html"
    assert command(*ASK, "120", "--save", str(file), "--html", str(html), "--evaluators", "likelihood=1,novelty=2") == 0
    out = capsys.readouterr().out
    assert "thought 2 (seed 0)" in out and "(1)" in out and "(2)" in out and "nodes" in out
    assert "judged by likelihood 1, novelty 2" in out
    text = html.read_text()
    complete = sum(n["finish"] is not None for n in json.loads(file.read_text())["nodes"])
    assert text.count("<circle") == len(json.loads(file.read_text())["nodes"]) + 2 - complete, "and the completed ones"
    assert "http" not in text.replace("http-equiv", ""), "nothing from elsewhere"
    assert command("--resume", str(file), "-n", "2", "--budget", "400", "--json") == 0
    resumed = json.loads(capsys.readouterr().out)
    assert command(*ASK, "400", "--json", "--evaluators", "likelihood=1,novelty=2") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [t["text"] for t in resumed["thoughts"]] == [t["text"] for t in whole["thoughts"]]
    assert resumed["run"]["nodes"] == whole["run"]["nodes"] > len(json.loads(file.read_text())["nodes"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "prompt is empty"),
        (("w5", "-n", "0"), "n is 0"),
        (("w5", "--evaluators", "x=1"), "Unknown evaluator"),
        (("w5", "--evaluators", "judge=1"), "--judge MODEL"),
        (("w5", "--budget", "0"), "Pass --budget"),
        (("w5", "--save", "/no/such/folder/x"), "mkdir -p"),
        (("w5", "--resume", "/no/such/file"), "Cannot read"),
        (("w5", "--step", "0"), "step is 0"),
    ],
)
def test_bad_commands_are_one_line(tinyland: Any, capsys: pytest.CaptureFixture[str], words: Any, says: str) -> None:
    assert command(*words) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_ctrl_c_shows_what_is_there_and_saves_it(
    tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from thoughtmix.cli.search import SavedSearch

    def stop(self: Any, event: Any) -> str:
        if self.search.spent.rounds == 2:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(SavedSearch, "words", stop)
    file = tmp_path / "tree.json"
    assert command(*ASK, "5000", "--save", str(file)) == 130
    said = capsys.readouterr()
    assert "thought 2" in said.out and "interrupted" in said.out
    assert saved.read_saved(file)["spent"]["rounds"] == 2


def test_the_tree_is_saved_while_it_grows_and_the_advice_is_true(
    tinyland: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that dies in the middle leaves a tree to go on with."""
    import thoughtmix.cli.search as cli

    class Died(BaseException):
        pass

    def die(self: Any, event: Any) -> str:
        self._save_now_and_then()
        if self.search.spent.rounds == 3:
            raise Died
        return ""

    monkeypatch.setattr(cli, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(cli.SavedSearch, "words", die)
    file = tmp_path / "my tree.json"
    with pytest.raises(Died):
        cli.app(["search", *ASK, "5000", "--save", str(file)], standalone_mode=False)
    assert saved.read_saved(file)["spent"]["rounds"] >= 1
    monkeypatch.undo()


def test_seconds_end_rounds_and_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own, on which a step takes a second: the first round is not begun that could not be ended, and
    what cannot be completed ends where it stands."""
    import thoughtmix.search.mcts as mcts

    now = [0.0]
    monkeypatch.setattr(mcts.time, "perf_counter", lambda: now[0])
    real = LocalEngine.generate

    def slow(self: Any, requests: Any, *, on_step: Any = None, **how: Any) -> Any:
        def step(event: Any) -> None:
            now[0] += 1
            if on_step is not None:
                on_step(event)

        return real(self, requests, on_step=step, **how)

    monkeypatch.setattr(LocalEngine, "generate", slow)
    for seconds in (3.0, 9.0, 40.0, 200.0):
        now[0] = 0.0
        search = small()
        limits = Limits(10**6, seconds)
        search.explore(limits, 3)
        search.finish(limits, 3)
        assert now[0] <= seconds + 2 and not search.interrupted
        assert len(answers(search, 3)) == 3 and all(node.text for node in answers(search, 3))


@pytest.mark.parametrize(
    "damage",
    [
        {"parent": -1}, {"parent": 10**6}, {"token_ids": [10**9]}, {"token_ids": []}, {"logprobs": [float("nan")]}, {"shares": [2.0]},
        {"finish": "x"}, {"text": None}, {"value": float("inf")}, {"draws": -1}, {"drawn": 2**40}, {"wasted": "1"}, {"scores": {"x": True}},
    ],
)  # fmt: skip
def test_a_damaged_tree_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    search = small()
    search.explore(Limits(100), 1)
    saved.save(search, tmp_path / "tree.json")
    body = saved.read_saved(tmp_path / "tree.json")
    body["nodes"][2] |= damage
    with pytest.raises(InputError, match="damaged"):
        saved.restore(small(), body)


def test_a_leaf_of_each_beginning_comes_before_a_second_of_any() -> None:
    """A search for likelihood grows most leaves under one beginning, and those begin alike."""
    search = small(settings={"width": 6})
    search.explore(Limits(3000), 5)
    search.finish(Limits(3000), 5)
    begun = {node.beginning for node in search.tree.complete()} | {node.beginning for node in search.ended}
    got = answers(search, 5)
    assert len({node.beginning for node in got}) == min(5, len(begun)) > 1


def test_a_leaf_that_its_length_has_cut_ends_with_a_sentence() -> None:
    search = small()
    ids = search.writer.engine.model.encoder.text("w5 w6 w7", frame=False)
    node = Node(-1, search.tree.root, 0, 1, tuple(ids), (-1.0,) * len(ids), (), "length", "An owl. It sat")
    object.__setattr__(search.writer.engine.model, "decode", lambda some: "An owl. It sat"[: 5 * len(some)])
    whole = as_thought(search, node, whole=True)
    assert (whole.text, whole.finish, len(whole.token_ids), whole.logprob) == ("An owl.", "sentence", 2, -2.0)
    assert as_thought(search, node).finish == "length"
