"""Metrics: against independent implementations, and as properties that hold for every input."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from tiny import tiny, tokenizer

from thoughtmix import metrics as m
from thoughtmix.core.errors import InputError, NumericsError
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.models.text_encoder import TextEncoder

sentence = st.lists(
    st.sampled_from(["the", "a", "cat", "dog", "sat.", "on,", "mat!", "it's", "3.5", "ran\n", "&", "né"]), max_size=9
).map(" ".join)
text_sets = st.lists(sentence, min_size=1, max_size=7)
vector_sets = st.integers(0, 10**6).flatmap(
    lambda seed: st.tuples(st.integers(1, 9), st.integers(2, 12)).map(
        lambda shape: np.random.default_rng(seed).normal(size=shape)
    )
)


@settings(max_examples=150, deadline=None)
@given(texts=text_sets)
def test_self_bleu_equals_sacrebleu(texts: list[str]) -> None:
    if len(texts) == 1:
        assert m.self_bleu(texts) == 0
        return
    want = np.mean([sacrebleu.sentence_bleu(t, texts[:i] + texts[i + 1 :]).score for i, t in enumerate(texts)])
    assert m.self_bleu(texts) == pytest.approx(want / 100, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(texts=text_sets, seed=st.integers(0, 99))
def test_wording_is_bounded_and_blind_to_order(texts: list[str], seed: int) -> None:
    shuffled = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    for name, measure, low, high in (
        ("distinct_1", lambda t: m.distinct_n(t, 1), 0, 1),
        ("distinct_2", lambda t: m.distinct_n(t, 2), 0, 1),
        ("ead", lambda t: m.ead(t, 50), 0, math.inf),
        ("self_bleu", m.self_bleu, 0, 1 + 1e-12),
        ("duplicate_rate", m.duplicate_rate, 0, 1 - 1 / len(texts)),
    ):
        value = measure(texts)
        assert low <= value <= high, name
        assert measure(shuffled) == pytest.approx(value, abs=1e-12), name


def test_duplicates_are_the_extreme_of_wording() -> None:
    copies = ["the cat sat on the mat"] * 4
    assert m.self_bleu(copies) == pytest.approx(1)
    assert m.duplicate_rate(copies) == 0.75
    assert m.distinct_n(copies, 2) == pytest.approx(5 / 20)
    assert m.duplicate_rate(["A  b", "a b "]) == 0.5
    assert m.distinct_n(["a b c", "d e f"], 1) == 1
    assert m.self_bleu(["a b c d e", "f g h i j"]) == 0


def test_ead_counts_against_uniform_draws() -> None:
    rng = np.random.default_rng(0)
    uniform = [" ".join(f"w{i}" for i in rng.integers(0, 200, 400)) for _ in range(5)]
    assert m.ead(uniform, 200) == pytest.approx(1, abs=0.02)
    assert m.ead(["a a a a"], 1) == 1


@settings(max_examples=80, deadline=None)
@given(vectors=vector_sets, seed=st.integers(0, 99))
def test_embedding_metrics_are_bounded_and_blind_to_order_and_rotation(vectors: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = vectors.shape
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    value = m.vendi(vectors)
    assert 1 - 1e-9 <= value <= min(n, d) + 1e-6
    assert m.vendi(vectors[rng.permutation(n)] @ turn) == pytest.approx(value, rel=1e-6)
    assert m.vendi(vectors * rng.uniform(0.5, 2, (n, 1))) == pytest.approx(value, rel=1e-6), "length must not matter"
    assert (
        m.vendi(vectors, q=0.5) >= value - 1e-9 >= m.vendi(vectors, q=2) - 2e-9 >= m.vendi(vectors, q=math.inf) - 3e-9
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert value == pytest.approx(np.exp(entropy(np.linalg.svd(unit / np.sqrt(n))[1] ** 2)), rel=1e-6)
    distances = m.pairwise_distances(vectors)
    assert np.array_equal(distances, distances.T)
    assert (np.diag(distances) == 0).all()
    brute = [1 - unit[i] @ unit[j] for i in range(n) for j in range(i)]
    assert m.mean_distance(vectors) == pytest.approx(np.mean(brute) if brute else 0, abs=1e-9)


def test_duplicates_and_orthogonals_are_the_extremes_of_meaning() -> None:
    same, different = np.ones((5, 8)), np.eye(5, 8)
    assert m.vendi(same) == pytest.approx(1)
    assert m.mean_distance(same) == pytest.approx(0)
    assert m.vendi(different) == pytest.approx(5)
    assert m.mean_distance(different) == pytest.approx(1)
    assert m.relevance(different, different[2]).tolist() == pytest.approx([0, 0, 1, 0, 0])
    doubled = np.concatenate([different, different])
    assert m.vendi(doubled) == pytest.approx(5), "copies of all add nothing"


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.array([[1, np.nan]]), np.array([[np.inf, 1]])])
def test_bad_embeddings(bad: Any) -> None:
    with pytest.raises(NumericsError):
        m.vendi(bad)


def test_wrong_shapes_and_empty_sets() -> None:
    for call in (
        lambda: m.vendi(np.zeros(3)), lambda: m.vendi(np.zeros((0, 3))), lambda: m.relevance(np.eye(3), np.ones(2)),
        lambda: m.distinct_n([], 2), lambda: m.distinct_n(["a"], 0), lambda: m.self_bleu([]), lambda: m.ead([]),
        lambda: m.distinct_k([]), lambda: m.coverage([], {"a"}), lambda: m.pass_at_k(4, 5, 1), lambda: m.utility_k([0], [1, 2]),
        lambda: m.duplicate_rate([]), lambda: m.mean_words([]), lambda: m.vendi(np.eye(3), q=-1),
    ):  # fmt: skip
        with pytest.raises(InputError):
            call()


def novelty_bench(texts: list[str]) -> int:
    """distinct_k as NoveltyBench counts it for short answers: words of a text are a set, its length a list's."""
    firsts: list[list[str]] = []
    for text in texts:
        new = text.lower().split()
        for old in firsts:
            if 2 * sum(word in old for word in dict.fromkeys(new)) >= max(len(new), len(old)):
                break
        else:
            firsts.append(new)
    return len(firsts)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["red", "green", "Blue", "the"]), min_size=1, max_size=5).map(" ".join),
        min_size=1,
        max_size=10,
    )
)
def test_distinct_k_of_short_answers(texts: list[str]) -> None:
    assert m.distinct_k(texts) == novelty_bench(texts)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Paris", "paris ", True), ("Paris", "Paris.", False), ("C", "C++", False), ("C", "C#", False), ("$5", "€5", False),
        ("red red red blue", "red green", False), ("red red", "red blue", True), ("a b c d e", "a b x y z", False),
        ("a b c d e", "a b c x y", True), ("", "", True), ("", "a", False), ("😀", "🚗🚕", False), ("a b c d e f", "a b c d e f", None),
        ("a b c d e f", "a", None), ("今天天气很好我们去公园", "今天天气很好我们去海边", False),
    ],
)  # fmt: skip
def test_novelty_benchs_rule_for_short_answers(a: str, b: str, same: bool | None) -> None:
    """Sets of words that spaces part: values worked out by hand from its rule."""
    assert m.same_words([a, b])(0, 1) is same
    assert m.same_words([a, b])(1, 0) is same


LIKE = {
    "English": ["The weather is very nice today and we went to the park", "The weather is very nice today and we went to the zoo"],
    "Chinese": ["今天天气很好我们一起去公园玩", "今天天气很好我们一起去海边玩"],
    "Chinese with punctuation": ["今天天气很好，我们一起去公园玩。", "今天天气很好，我们一起去海边玩。"],
    "Japanese": ["今日は天気がとても良いので公園に行きました", "今日は天気がとても良いので海に行きました"],
    "Thai": ["วันนี้อากาศดีมากเราไปเที่ยวสวนสาธารณะ", "วันนี้อากาศดีมากเราไปเที่ยวทะเล"],
    "Khmer": ["ថ្ងៃនេះអាកាសធាតុល្អយើងទៅសួន", "ថ្ងៃនេះអាកាសធាតុល្អយើងទៅសមុទ្រ"],
}  # fmt: skip


@pytest.mark.parametrize("name", LIKE)
def test_near_copies_are_near_copies_in_every_script(name: str) -> None:
    texts = LIKE[name]
    assert m.self_bleu(texts) > 0.5
    assert m.distinct_n(texts, 2) < 0.75
    assert m.mean_words(texts) > 8
    assert m.distinct_k(texts, [[0, 0.1], [0.1, 0]]) == 1, "near ones are one answer"
    assert m.distinct_k(texts, [[0, 0.9], [0.9, 0]]) == 2, "and far ones two, though they have no space"


def test_words_of_many_scripts() -> None:
    want = {
        "C": ["c"], "C++": ["c", "+", "+"], "C#": ["c#"], "$5": ["$", "5"], "€5": ["€", "5"], "Don't, it’s!": ["don't", "it’s"],
        "😀🚗👨‍👩‍👧 🇫🇷🇩🇪❤️": ["😀", "🚗", "👨‍👩‍👧", "🇫🇷", "🇩🇪", "❤️"], "カメラを買": ["カメラ", "を", "買"], "한국어 단어": ["한국어", "단어"],
        "## A **b** `c`": ["a", "b", "c"], "ذَهَبَ": ["ذهب"], "נָא": ["נא"], "Cafe\u0301": ["café"], "!?…": [], "ดีมาก": ["ดี", "ม", "า", "ก"],
    }  # fmt: skip
    assert {text: m.words(text) for text in want} == want


def test_what_looks_alike_is_alike() -> None:
    for pair in (["caf\u00e9 cr\u00e8me", "cafe\u0301 cre\u0300me"], ["a b c", "a\u00a0b\u2003C"]):
        assert m.duplicate_rate(pair) == 0.5 and m.distinct_k(pair) == 1
        assert m.distinct_n(pair, 1) == 0.5
    assert m.distinct_k(["😀", "🚗🚕", "🍎🍌🍇"]) == 3 == m.distinct_k(["!!!", "...", "???"])
    assert m.distinct_n(["😀🚗", "🍎🍌"], 1) == 1


def test_longer_answers_use_distances_against_the_first_member() -> None:
    texts = [f"this is a longer answer number {w}" for w in ["one", "two", "three"]]
    chain = np.array([[0, 0.2, 0.4], [0.2, 0, 0.2], [0.4, 0.2, 0]])
    assert m.novelty_classes(texts, chain, 0.3) == [0, 0, 1], "3 is near 2, but classes are judged by their first"
    assert m.distinct_k(texts) == 3
    assert m.distinct_k([texts[0], texts[0].upper()]) == 1


def test_utility_is_the_patient_readers() -> None:
    p = 0.8
    assert m.utility_k([0, 1, 2], [1, 1, 1]) == pytest.approx(1)
    assert m.utility_k([0, 0, 1], [5, 9, 2]) == pytest.approx((1 - p) / (1 - p**3) * (5 + p**2 * 2))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_binomial_formula(case: tuple[int, int, int]) -> None:
    n, c, k = case
    assert m.pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_coverage() -> None:
    assert m.coverage(["France", "france", None, "Atlantis", "Mali"], {"France", "Mali", "Chad"}) == (2 / 5, 3 / 5)


def judge(eos: frozenset[int] = frozenset({2})) -> Any:
    return SimpleNamespace(
        encoder_decoder=False,
        model=tiny("llama"), encoder=TextEncoder(tokenizer(), "tiny"), name="tiny", device=torch.device("cpu"),
        context_length=256, eos_ids=eos, causal=True, encode=lambda p: tokenizer()(p)["input_ids"],
    )  # fmt: skip


def test_judge_nll_equals_scoring_one_by_one() -> None:
    prompt, texts = "w5 w6 w7", ["w9 w10 w11 w12", "w40", "", "w8 w8 w8 w8 w8 w8", "w100 w3"]
    got = m.judge_nll(prompt, texts, judge(), batch_size=3)
    for text, value in zip(texts, got, strict=True):
        start = tokenizer()(prompt)["input_ids"]
        body = tokenizer()(text)["input_ids"] or [2]
        logits = tiny("llama")(torch.tensor([start + body])).logits[0, len(start) - 1 : -1].log_softmax(-1)
        want = -logits.gather(1, torch.tensor(body)[:, None]).mean()
        assert value == pytest.approx(float(want), abs=1e-5)


def test_judge_refuses_what_it_cannot_read() -> None:
    with pytest.raises(InputError, match="reads 256"):
        m.judge_nll("w5", ["w6 " * 300], judge())


class Directions:
    """An embedder that maps texts to fixed vectors."""

    name = "directions"

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def encode(self, texts: Any, batch_size: int = 32) -> Any:
        return np.array([self.table[t] for t in texts], dtype=np.float32)


def test_measure_fills_the_set() -> None:
    table = {"q": [1.0, 0, 0], "w3 w4": [1.0, 0, 0], "w5": [0, 1.0, 0]}
    made = ThoughtSet(prompt="q", thoughts=tuple(Thought(t, (), i, 0.0) for i, t in enumerate(["w3 w4", "w5", "w5"])))
    got = m.measure(made, Directions(table), None)
    assert got.metrics["vendi"] == pytest.approx(np.exp(entropy([1 / 3, 2 / 3])), abs=1e-5)
    assert got.distances == ((0, 1, 1), (1, 0, 0), (1, 0, 0))
    assert [t.scores["relevance"] for t in got] == [1, 0, 0]
    assert [t.scores["distance"] for t in got] == [1, 0.5, 0.5]
    assert got.metrics["duplicate_rate"] == pytest.approx(1 / 3, abs=1e-6)
    assert set(got.metrics) <= set(m.METRICS)
    assert ThoughtSet.from_json(got.to_json()) == ThoughtSet.from_json(ThoughtSet.from_json(got.to_json()).to_json())
    alone = m.measure(made[:1], Directions(table))
    assert (alone.metrics["vendi"], alone.metrics["mean_distance"], alone[0].scores["distance"]) == (1, 0, 0)
    judged = m.measure(made, None, judge())
    assert judged.run["judge"] == "tiny"
    assert judged.metrics["judge_nll"] == pytest.approx(np.mean([t.scores["judge_nll"] for t in judged]), abs=1e-5)
    with pytest.raises(InputError):
        m.measure(ThoughtSet(prompt="q", thoughts=()))


def test_every_metric_is_documented() -> None:
    for metric in m.METRICS.values():
        assert metric.says
        assert metric.fails
        assert metric.blind
    for name in (
        "vendi",
        "mean_distance",
        "self_bleu",
        "ead",
        "distinct_n",
        "duplicate_rate",
        "distinct_k",
        "judge_nll",
        "relevance",
    ):
        assert "ail" in getattr(m, name).__doc__ or "ewards" in getattr(m, name).__doc__, f"{name}: when does it fail?"
