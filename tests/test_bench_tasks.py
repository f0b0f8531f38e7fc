"""Tasks: answers are read out of the ways in which models write, and wrong ones are not let in."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix import InputError, UnknownName
from thoughtmix.bench import tasks
from thoughtmix.bench.tasks import countdown, puzzles
from thoughtmix.bench.tasks.answers import answer_sets, flat

ITEMS = {item.id: item for name in tasks.FAMILIES for item in tasks.family(name)}


def answer(task: str, text: str) -> tuple[str | None, bool]:
    parsed = tasks.answer_parser(ITEMS[task])(text)
    return parsed.answer, parsed.valid


def test_there_are_enough_tasks_each_with_answers_and_paraphrases() -> None:
    covered = [i for i in ITEMS.values() if i.kind == "coverage"]
    assert len(covered) >= 30
    assert len({i.id for i in covered}) == len(covered)
    for item in covered:
        assert len(set(item.paraphrases)) >= 3 and item.prompt not in item.paraphrases, item.id
    sizes = {name: len(s.answers) for name, s in answer_sets().items()}
    assert sizes["africa"] == 54 and sizes["elements"] == 118 and sizes["us_states"] == 50 and sizes["nato"] == 26
    assert sizes["south_america"] == 12 and sizes["north_america"] == 23 and sizes["oceania"] == 14
    assert sizes["greek_letters"] == 24 and sizes["zodiac"] == 12 and sizes["planets"] == 8
    assert min(sizes.values()) >= 6


def test_every_answer_of_every_set_is_read_in_every_way_it_is_written() -> None:
    for name, answers in answer_sets().items():
        for right, ways in answers.answers.items():
            for way in (w.removeprefix("=") for w in ways):
                for text in (
                    way,
                    f"The answer is {way}.",
                    f"**{way}**",
                    f'"{way}"',
                    f"Sure! The answer: {way}, because I like it.",
                ):
                    got = answers.parse(text)
                    assert got == tasks.ParsedAnswer(right, True), (name, way, text, got)


@pytest.mark.parametrize(
    ("task", "text", "want", "valid"),
    [
        ("coverage/africa", "kenya", "Kenya", True),
        ("coverage/africa", "The answer is Kenya because it borders Tanzania.", "Kenya", True),
        ("coverage/africa", "A country in Africa is the Gambia!", "Gambia", True),
        ("coverage/africa", "Name a country in Africa.\n\nNigeria", "Nigeria", True),
        ("coverage/africa", "CÔTE D’IVOIRE", "Ivory Coast", True),
        ("coverage/africa", "Papua New Guinea is a country.", "Papua New Guinea", False),
        ("coverage/africa", "Equatorial Guinea", "Equatorial Guinea", True),
        ("coverage/africa", "Guinea-Bissau", "Guinea-Bissau", True),
        ("coverage/africa", "Niger", "Niger", True), ("coverage/africa", "the DRC", "Democratic Republic of the Congo", True),
        ("coverage/africa", "Brazil. Kenya is another one.", "Brazil", False),
        ("coverage/africa", "Not Kenya, but Ghana.", "Ghana", True),
        ("coverage/africa", "Unlike Brazil, Ghana is in Africa.", "Ghana", True),
        ("coverage/africa", "The answer is unclear to me. I will talk of something else now, for instance Kenya.", None, False),
        ("coverage/africa", "I do not know.", None, False), ("coverage/africa", "", None, False),
        ("coverage/north_america", "Let us think. Cuba.", "Cuba", True), ("coverage/north_america", "The US", "United States", True),
        ("coverage/north_america", "the U.S.A.", "United States", True), ("coverage/north_america", "St. Lucia", "Saint Lucia", True),
        ("coverage/months", "You may pick any; I pick June.", "June", True), ("coverage/months", "May", "May", True),
        ("coverage/shakespeare", "One of his plays is *A Midsummer Night's Dream*.", "A Midsummer Night's Dream", True),
        ("coverage/shakespeare", "Tempest, The", "The Tempest", True),
        ("coverage/orchestra", "Violins are in the orchestra", "violin", True),
        ("coverage/orchestra", "The double bass", "double bass", True),
        ("coverage/elements", "An element is aluminum (Al).", "Aluminium", True),
        ("coverage/gases", "Sulfur is a gas, and so is oxygen.", "Sulfur", False), ("coverage/gases", "Neon", "Neon", True),
        ("coverage/colours", "I would say gray.", "grey", True),
        ("coverage/rhyme_cat", 'A word that rhymes with "cat" is "hat".', "hat", True),
        ("coverage/rhyme_cat", "Hat rhymes with cat.", "hat", True), ("coverage/rhyme_cat", "1. Bat\n2. Hat", "bat", True),
        ("coverage/rhyme_cat", 'The word "dog" rhymes with "cat", like "hat".', "dog", False),
        ("coverage/rhyme_cat", "That is a fine question about rhymes, and I like it.", None, False),
        ("coverage/three_letters_b", "The word is: bus.", "bus", True), ("coverage/three_letters_b", "Bottle", "bottle", False),
        ("puzzle/primes", "A prime number below 100 is 17.", "17", True), ("puzzle/primes", "seventeen", "17", True),
        ("puzzle/primes", "Forty-one is one.", "41", True), ("puzzle/primes", "91 is a prime number.", "91", False),
        ("puzzle/primes", "One of the primes below 100 is 7, since 7 / 1 = 7.", "7", True), ("puzzle/primes", "101", "101", False),
        ("puzzle/primes", "No idea", None, False),
        ("puzzle/squares", "The number is 1,000? No.", None, False), ("puzzle/squares", "144, which is 12 squared", "144", True),
        ("puzzle/sum_to_twenty", "5 + 7 + 8 = 20", "5 7 8", True), ("puzzle/sum_to_twenty", "8, 7, and 5", "5 7 8", True),
        ("puzzle/sum_to_twenty", "1. 5\n2. 7\n3. 8", "5 7 8", True), ("puzzle/sum_to_twenty", "Five, seven and eight.", "5 7 8", True),
        ("puzzle/sum_to_twenty", "5, 7 and 9", "5 7 9", False), ("puzzle/sum_to_twenty", "5, 5, 5, 5", None, False),
        ("puzzle/sum_to_twenty", "0 + 0 + 20 = 20", "0 0 20", False), ("puzzle/product_sixty", "3 x 4 x 5 = 60", "3 4 5", True),
        ("puzzle/two_primes", "The primes 11 and 17 differ by 6.", "11 17", True),
        ("puzzle/fraction_between", "Between 1/3 and 1/2 lies 2/5.", "2/5", True), ("puzzle/fraction_between", "4/10", "2/5", True),
        ("puzzle/fraction_between", "1/0", None, False), ("puzzle/fraction_between", "3/4", "3/4", False),
    ],
)  # fmt: skip
def test_answers_in_chatty_text(task: str, text: str, want: str | None, valid: bool) -> None:
    assert answer(task, text) == (want, valid)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80), task=st.sampled_from(sorted(ITEMS)))
def test_any_text_is_read_without_an_error(text: str, task: str) -> None:
    got, valid = answer(task, text)
    assert got is not None or not valid
    assert flat(flat(text)) == flat(text)


@settings(max_examples=100, deadline=None)
@given(value=st.integers(0, 100))
def test_number_words_round_trip(value: int) -> None:
    word = next(w for w, v in puzzles.NUMBER_WORDS.items() if v == value)
    assert puzzles.whole_numbers(puzzles.with_digits(f"it is {word}.")) == [value]
    assert puzzles.whole_numbers(f"a {value}, b -{value} 3.5 1/2 1,250") == [value, -value, 1250]


class TestCountdown:
    def test_problems_are_different_solvable_and_the_same_for_a_seed(self) -> None:
        some = countdown.problems(30, seed=1)
        assert len({i.id for i in some}) == 30
        assert countdown.problems(10, seed=1) == some[:10]
        assert countdown.problems(10, seed=2) != some[:10]
        for item in some:
            a, b, c = item.data["numbers"]
            found = [
                e for x, y, z in ((a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))
                for o in "+-*" for p in "+-*" for e in (f"({x}{o}{y}){p}{z}",)
                if countdown.evaluate(e) == item.data["target"]
            ]  # fmt: skip
            assert found, item.id
            assert countdown.parse(f"Answer: {found[0]}", **item.data).valid

    @settings(max_examples=200, deadline=None)
    @given(
        st.recursive(
            st.integers(0, 99).map(str),
            lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            max_leaves=6,
        )
    )
    def test_values_equal_exact_arithmetic(self, expression: str) -> None:
        import re

        exact = re.sub(r"\d+", lambda m: f"Fraction({m[0]})", expression)
        try:
            want = eval(exact, {"Fraction": Fraction})
        except ZeroDivisionError:
            want = None
        assert countdown.evaluate(expression) == want
        if want is not None and len(expression) < 190:
            assert countdown.evaluate(f"2 + {expression} * 3 - 1") == 2 + want * 3 - 1

    @pytest.mark.parametrize(
        ("text", "valid"),
        [
            ("Answer: (3 + 5) * 4", True), ("Answer: (3 + 5) × 4 = 32", True), ("4x(3+5)", True), ("(5 + 3) * 4 = 32", True),
            ("I try 3 + 5 + 4 = 12. No. So (3 + 5) * 4 = 32.", True), ("Answer: 3 + 5 * 4", False), ("Answer: 4 * 8", False),
            ("Answer: 8 * 4 * 1", False), ("Answer: 32", False), ("(3 + 5) * 4, no: Answer: 3 * 5 + 4", False),
            ("__import__('os')", False), ("3 + 5) * 4", False), ("9" * 5000, False), ("(" * 5000, False), ("4/0+3+5", False), ("", False),
        ],
    )  # fmt: skip
    def test_claims(self, text: str, valid: bool) -> None:
        assert countdown.parse(text, [3, 4, 5], 32).valid == valid


def test_prompts_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "A?", "id": "x", "prompt_paraphrases": ["B?"]}\n\n{"prompt": "C?", "more": 1}\n')
    first, second = tasks.read_prompts(file)
    assert (first.id, first.prompt, first.paraphrases, first.kind) == ("open/x", "A?", ("B?",), "open")
    assert second.id == "open/line-3"
    with pytest.raises(InputError, match="no known answers"):
        tasks.answer_parser(first)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "holds no prompts"), ("\n\n", "holds no prompts"), ("{", "line 1: not JSON"), ("[1]", "no text `prompt`"),
        ('{"text": "A"}', "no text `prompt`"), ('{"prompt": ""}', "no text `prompt`"), ('{"prompt": 3}', "no text `prompt`"),
        ('{"prompt": "A", "paraphrases": "B"}', "no list of texts"), ('{"prompt": "A", "id": []}', "the id is neither"),
        (json.dumps({"prompt": "A", "id": "x"}) + "\n" + json.dumps({"prompt": "B", "id": "x"}), "was there before"),
    ],
)  # fmt: skip
def test_bad_prompt_files(tmp_path: Path, body: str, says: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(body)
    with pytest.raises(InputError, match=says) as caught:
        tasks.read_prompts(file)
    assert caught.value.hint
    with pytest.raises(InputError, match="Cannot read the prompts"):
        tasks.read_prompts(tmp_path / "missing")
    with pytest.raises(UnknownName, match="Did you mean 'coverage'"):
        tasks.family("covrage")
