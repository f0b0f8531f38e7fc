"""What is an answer in a text that lists several. Each case is a text and the items that stand in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix.core.lists import list_items

CITIES = ["Paris", "Rome", "Oslo"]
MARKS = {
    "dots": "1. Paris\n2. Rome\n3. Oslo",
    "brackets": "1) Paris\n2) Rome\n3) Oslo",
    "both brackets": "(1) Paris\n(2) Rome\n(3) Oslo",
    "square": "[1] Paris\n[2] Rome\n[3] Oslo",
    "colons": "1: Paris\n2: Rome\n3: Oslo",
    "several marks": "1. Paris\n2) Rome\n**3.** Oslo",
    "no space": "1.Paris\n2.Rome\n3.Oslo",
    "full width": "１．Paris\n２．Rome\n３．Oslo",
    "ideographic": "1、Paris\n2、Rome\n3、Oslo",
    "Chinese numbers": "一、Paris\n二、Rome\n三、Oslo",
    "circled": "① Paris\n② Rome\n③ Oslo",
    "keycaps": "1️⃣ Paris\n2️⃣ Rome\n3️⃣ Oslo",
    "bold numbers": "**1.** Paris\n**2.** Rome\n**3.** Oslo",
    "bold items": "**1. Paris**\n**2. Rome**\n**3. Oslo**",
    "bold after the number": "1. **Paris**\n2. **Rome**\n3. **Oslo**",
    "headings": "### 1. Paris\n### 2. Rome\n### 3. Oslo",
    "bold headings": "## **1. Paris**\n## **2. Rome**\n## **3. Oslo**",
    "a word": "Answer 1: Paris\nAnswer 2: Rome\nAnswer 3: Oslo",
    "a word and a sign": "Idea #1: Paris\nIdea #2: Rome\nIdea #3: Oslo",
    "a bold word": "**Option 1:** Paris\n**Option 2:** Rome\n**Option 3:** Oslo",
    "a word as heading": "### Answer 1\nParis\n\n### Answer 2\nRome\n\n### Answer 3\nOslo",
    "letters": "a) Paris\nb) Rome\nc) Oslo",
    "capital letters": "A. Paris\nB. Rome\nC. Oslo",
    "all ones": "1. Paris\n1. Rome\n1. Oslo",
    "from nought": "0. Paris\n1. Rome\n2. Oslo",
    "later": "7. Paris\n8. Rome\n9. Oslo",
    "one left out": "1. Paris\n2. Rome\n4. Oslo",
    "countdown": "3. Paris\n2. Rome\n1. Oslo",
    "first without": "Paris\n2. Rome\n3. Oslo",
    "dashes": "- Paris\n- Rome\n- Oslo",
    "stars": "* Paris\n* Rome\n* Oslo",
    "several bullets": "- Paris\n* Rome\n• Oslo",
    "dots of print": "• Paris\n• Rome\n• Oslo",
    "indented": "   - Paris\n   - Rome\n   - Oslo",
    "right-aligned": "  1. Paris\n 2. Rome\n 3. Oslo",
    "blank lines": "1. Paris\n\n2. Rome\n\n\n3. Oslo",
    "rules between": "1. Paris\n---\n2. Rome\n---\n3. Oslo\n---",
    "carriage returns": "1. Paris\r\n2. Rome\r\n3. Oslo\r\n",
    "bold lines": "**Paris**\n**Rome**\n**Oslo**",
    "plain headings": "## Paris\n## Rome\n## Oslo",
    "lines": "Paris\nRome\nOslo",
    "lines apart": "Paris\n\nRome\n\nOslo",
    "one line": "1. Paris 2. Rome 3. Oslo",
    "one line of brackets": "(1) Paris, (2) Rome, (3) Oslo",
    "one line of circles": "①Paris②Rome③Oslo",
    "one line of bullets": "• Paris • Rome • Oslo",
    "one line of dashes": "- Paris - Rome - Oslo",
    "two lines": "1. Paris 2. Rome\n3. Oslo",
    "commas": "Paris, Rome, Oslo",
    "JSON objects, cut in a key": '[{"text": "Paris"}, {"text": "Rome"}, {"text": "Oslo", "prob',
    "commas and a word": "Paris, Rome, and Oslo.",
    "a word without comma": "Paris, Rome and Oslo",
    "semicolons": "Paris; Rome; Oslo",
    "ideographic commas": "Paris、Rome、Oslo。",
    "slashes": "Paris / Rome / Oslo",
    "JSON": '["Paris", "Rome", "Oslo"]',
    "JSON of lines": '[\n  "Paris",\n  "Rome",\n  "Oslo",\n]',
    "JSON in a fence": 'Here you are:\n\n```json\n["Paris", "Rome", "Oslo"]\n```\n\nI hope this helps!',
    "JSON in an open fence": '```json\n["Paris", "Rome", "Oslo"',
    "JSON after a colon": 'Three cities: ["Paris", "Rome", "Oslo"]',
    "JSON cut in an item": '["Paris", "Rome", "Oslo',
    "JSON objects": '[{"text": "Paris", "probability": 0.3}, {"text": "Rome", "probability": 0.1}, {"text": "Oslo"}]',
    "JSON objects, cut": '[{"text": "Paris", "probability": 0.3}, {"text": "Rome", "probability": 0.1}, {"text": "Oslo',
    "JSON objects, cut later": '[{"text": "Paris", "p": 1}, {"text": "Rome"}, {"text": "Oslo", "probability": 0.',
    "JSON in an object": '{"responses": [{"text": "Paris"}, {"text": "Rome"}, {"text": "Oslo"}]}',
    "JSON by number": '{"1": "Paris", "2": "Rome", "3": "Oslo"}',
    "JSON lines": '{"answer": "Paris"}\n{"answer": "Rome"}\n{"answer": "Oslo"}',
    "JSON with a title": '## Cities\n```json\n["Paris", "Rome", "Oslo"]\n```',
    "Python": "['Paris', 'Rome', 'Oslo']",
    "list in a fence": "```\n1. Paris\n2. Rome\n3. Oslo\n```",
    "tags": "<response><text>Paris</text><probability>0.3</probability></response>\n"
    "<response><text>Rome</text><probability>0.1</probability></response>\n<response><text>Oslo</text></response>",
    "tags without text": "<response>Paris</response><response>Rome</response><response>Oslo</response>",
    "tags, cut": "<response><text>Paris</text></response><response><text>Rome</text></response><response><text>Oslo",
    "probabilities": "1. Paris (probability: 0.3)\n2. Rome (Probability: 12%)\n3. Oslo",
}  # fmt: skip


@pytest.mark.parametrize("name", MARKS)
def test_three_cities(name: str) -> None:
    assert list_items(MARKS[name]) == CITIES


PREFACES = ["Sure!", "Here are 3 cities:", "**Here are 3 cities:**", "## Three cities", "好的，以下是三个城市：", "Sure! Here they are:\n"]  # fmt: skip
CLOSINGS = ["I hope this helps!", "Let me know if you want more.", "All three are capitals."]


@pytest.mark.parametrize("preface", PREFACES)
@pytest.mark.parametrize("name", ["dots", "dashes", "bold items", "letters", "all ones"])
def test_a_preface_is_no_answer(preface: str, name: str) -> None:
    assert list_items(f"{preface}\n{MARKS[name]}") == CITIES
    assert list_items(f"{preface}\n\n{MARKS[name]}") == CITIES


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("name", ["dots", "dashes", "bold items", "letters", "blank lines", "JSON"])
def test_a_closing_is_no_answer(closing: str, name: str) -> None:
    assert list_items(f"{MARKS[name]}\n\n{closing}") == CITIES


def test_closings_and_prefaces_of_plain_lines() -> None:
    assert list_items("Sure, here are some:\nred\nblue\n\nLet me know if you need more!") == ["red", "blue"]
    assert list_items("- Oslo\n- Rome\nI hope this helps!") == ["Oslo", "Rome"]
    assert list_items("Sure! Paris, Rome, Oslo") == CITIES
    assert list_items("Colours: red, green, blue") == ["red", "green", "blue"]


NESTED = {
    "numbers": ("1. Soup:\n   1. boil\n   2. stir\n2. Salad", ["Soup:\n   1. boil\n   2. stir", "Salad"]),
    "bullets, indented": ("- Soup\n  - boil\n- Salad\n  - chop", ["Soup\n  - boil", "Salad\n  - chop"]),
    "bullets at the margin": ("1. Soup\n- boil\n- stir\n2. Salad\n- chop", ["Soup\n- boil\n- stir", "Salad\n- chop"]),
    "numbers in bullets": ("- Soup\n1. boil\n2. stir\n- Salad\n1. chop", ["Soup\n1. boil\n2. stir", "Salad\n1. chop"]),
    "bold headings": ("**Soup**\n1. boil\n2. stir\n\n**Salad**\n1. chop", ["Soup\n1. boil\n2. stir", "Salad\n1. chop"]),
    "headings": ("### Soup\n- boil\n\n### Salad\n- chop", ["Soup\n- boil", "Salad\n- chop"]),
    "bold numbers": (
        "**1. Soup**\n1. boil\n2. stir\n**2. Salad**\n1. chop",
        ["Soup\n1. boil\n2. stir", "Salad\n1. chop"],
    ),
    "numbered headings": ("### 1. Soup\n1. boil\n2. stir\n### 2. Salad\n1. chop", ["Soup\n1. boil\n2. stir", "Salad\n1. chop"]),
    "a wrapped line": ("1. Red\n2. Blue,\n   dark\n3. Green", ["Red", "Blue,\n   dark", "Green"]),
    "numbers across headings": ("## Europe\n1. Paris\n2. Rome\n## Asia\n3. Tokyo\n4. Osaka", ["Paris", "Rome\n## Asia", "Tokyo", "Osaka"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_stays_with_its_item(name: str) -> None:
    text, want = NESTED[name]
    assert list_items(text) == want


def test_bodies_stay_with_their_items() -> None:
    body = "**A walk**\nIt is free.\n\nAnd healthy.\n\n**A book**\nIt is quiet.\n\nAnd cheap."
    assert list_items(body) == ["A walk\nIt is free.\n\nAnd healthy.", "A book\nIt is quiet.\n\nAnd cheap."]
    assert list_items("**Tea:** hot.\n**Milk:** cold.") == ["Tea: hot.", "Milk: cold."]
    assert list_items("1. **Tea**: hot\n2. **Milk**: cold") == ["Tea: hot", "Milk: cold"]
    code = "1. Print:\n```python\n# one\n- x\nprint(1)\n```\n2. Log"
    assert list_items(code) == ["Print:\n```python\n# one\n- x\nprint(1)\n```", "Log"]
    assert list_items("Roses are red\nViolets blue\n\nSugar is sweet\nSo are you") == [
        "Roses are red\nViolets blue",
        "Sugar is sweet\nSo are you",
    ]


@pytest.mark.parametrize(
    "text", ["", " \n ", "1. \n2. \n3. ", "- \n- ", "[]", "---", "```\n```", "<response></response>"]
)
def test_nothing_is_nothing(text: str) -> None:
    assert list_items(text) == []


ONE = [
    "Paris", "Paris, France", "I think, however, that Paris is best.", "It is 1.5 litres.", "10:30 pm", "A. Einstein",
    "Route 66 is long", "3 - 2 = 1", "Well, you could go to Rome, or you could stay home.", "C#", "$5", "[see below]",
    "Paris is in France. It has 2. 5 million people", "{curly} things", "Great Britain", "Sure thing", "A [link](http://a.b) to follow",
]  # fmt: skip


@pytest.mark.parametrize("text", ONE)
def test_what_is_no_list_is_one_answer(text: str) -> None:
    assert list_items(text) == [text]


def test_numbers_in_an_item_are_text() -> None:
    assert list_items("1. In\n1999. A year\n2. Rome") == ["In\n1999. A year", "Rome"]
    assert list_items("1. Born\n12. December\n2. Rome") == ["Born\n12. December", "Rome"]
    assert list_items("1. Use 2.5 g\n2. Use 3. Then stir") == ["Use 2.5 g", "Use 3. Then stir"]
    assert list_items("1. Paris, Rome, Oslo\n2. Bonn, Bern, Brno") == ["Paris, Rome, Oslo", "Bonn, Bern, Brno"]
    assert list_items("1. Paris") == ["Paris"], "the only item"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{2,8}( [a-z]{2,8}){0,6}", fullmatch=True), min_size=2, max_size=12))
def test_what_was_listed_is_read_back(items: list[str]) -> None:
    assert list_items("\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))) == items
    assert list_items("".join(f"- {item}\n\n" for item in items)) == items


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="1234.)-*#:\n `[]{}\"',a<>一①•x", max_size=60))
def test_any_text_has_items_that_are_not_blank(text: str) -> None:
    assert all(item.strip() for item in list_items(text))
