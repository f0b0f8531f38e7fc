"""What people see: pages that cannot be broken by what a model writes, maps that keep distances, plain text."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_thoughts import some

import thoughtmix.bench
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.report.html import HEIGHT, THEME, WIDTH, fragment, in_words, layout, page, page_of_sets
from thoughtmix.report.text import heat_rows, plain, printable

NASTY = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style>{{ 7*7 }}", "\x1b[31mred\x07",
    "שלום 你好 🧱", "", "word " * 400, "a" * 3000,
]  # fmt: skip


def nasty() -> ThoughtSet:
    base = some(len(NASTY))
    thoughts = tuple(Thought(text, (1, 2), i, -2.0) for i, text in enumerate(NASTY))
    return ThoughtSet(prompt="<b>what?</b>", thoughts=thoughts, distances=base.distances, run={"x": "</dd><script>"})


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_what_a_model_writes_stays_text() -> None:
    text = page(nasty())
    tags = Tags(text).tags
    assert [t for t, _ in tags].count("script") == 1, "only our own"
    assert "img" not in [t for t, _ in tags]
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    assert "{{ 7*7 }}" in text
    assert "<b>what?</b>" not in text


def test_the_page_asks_nothing_of_the_network() -> None:
    text = page(some(5))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)|@import|url\(""", text)
    assert text.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in text


def test_the_download_is_the_set() -> None:
    made = some(4)
    link = next(a["href"] for t, a in Tags(page(made)).tags if t == "a" and "download" in a)
    assert link is not None
    assert ThoughtSet.from_json(base64.b64decode(link.split(",")[1]).decode()) == made


@pytest.mark.parametrize("n", [1, 2, 3, 8, 32])
def test_every_thought_has_a_card_a_dot_and_a_line_of_heat(n: int) -> None:
    text = page(some(n))
    tags = Tags(text).tags
    assert sum(a.get("class") == "card" for _, a in tags) == n
    dots = [t for t, _ in tags].count("circle")
    assert dots == (n if n > 1 else 0)
    assert [t for t, _ in tags].count("td") == (n * n if n > 1 else 0)


def test_page_exports_and_reports_have_one_design() -> None:
    """The stylesheet stands in one file; documents take it from there and add only what is their own."""
    for text in (page(some(3)), fragment(some(3)), page_of_sets([some(2), some(3)])):
        assert text.count(THEME.read_text().strip()) == 1
    for folder in (THEME.parent, Path(thoughtmix.bench.__file__).parent / "templates"):
        for file in folder.glob("*.html"):
            text = file.read_text()
            whole = text.startswith(("<!doctype", "{% extends"))
            assert not whole or file.name == "base.html" or text.startswith('{% extends "base.html" %}'), file.name
            assert not re.search(r":root|prefers-color-scheme|(?<![\w-])body\s*\{|#[0-9a-f]{6}", text), (
                f"{file.name}: colours are the theme's"
            )
            assert "<dd>{{ value }}</dd>" not in text, "settings are words, no Python"


def test_settings_are_words() -> None:
    said = in_words(
        {"step": 8, "rubric": None, "distinct": True, "near": 0.30000001, "names": ["a", "b"], "own": {"x": False}}
    )
    assert said == "step 8, rubric –, distinct yes, near 0.3, names a, b, own x no"


def test_a_heat_map_of_many_shows_all_and_names_them() -> None:
    text = page(some(40))
    assert 'class="heat dense"' in text and text.count('title="3 and ') == 39


def test_the_fragment_needs_no_document() -> None:
    text = fragment(some(3))
    assert "<html" not in text
    assert "<script" not in text, "notebooks may show untrusted sets"
    assert some(3)._repr_html_() == text
    assert "card" in fragment(ThoughtSet("p", (Thought("t", (), 0, 0.0),)))


def test_a_notebook_needs_only_the_package() -> None:
    """The report is registered by `import thoughtmix`, and itself imported when a set is first shown."""
    code = (
        "import sys, thoughtmix; print([m for m in ('torch', 'jinja2', 'thoughtmix.report') if m in sys.modules]);"
        "print(thoughtmix.ThoughtSet('p', (thoughtmix.Thought('t', (), 0, 0.0),))._repr_html_()[:24])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["[]", '<div class="thoughtmix">']


def test_the_map_keeps_distances_and_its_frame() -> None:
    flat = np.random.default_rng(0).normal(size=(9, 2))
    d = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    xy = np.array(layout(d.tolist()))
    drawn = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    ratio = drawn[d > 0] / d[d > 0]
    assert ratio.std() / ratio.mean() < 0.02, "flat distances are drawn to scale"
    for made in (some(2), some(20), ThoughtSet("p", some(3).thoughts, distances=((0.0,) * 3,) * 3)):
        for x, y in layout(made.distances):
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert layout(d.tolist()) == layout(d.tolist())


def test_plain_text_has_no_control_characters() -> None:
    text = plain(nasty())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "你好" in text
    assert printable("a\x1b[2Jb\tc\nd") == "a\N{REPLACEMENT CHARACTER}[2Jb\tc\nd"


def test_heat_digits_span_the_set() -> None:
    assert heat_rows(((0.0, 0.5, 1.0), (0.5, 0.0, 0.1), (1.0, 0.1, 0.0))) == [
        ["·", "5", "9"], ["5", "·", "1"], ["9", "1", "·"],
    ]  # fmt: skip
    assert heat_rows(((0.0, 0.0), (0.0, 0.0))) == [["·", "0"], ["0", "·"]]


def test_the_terminal_shows_the_same() -> None:
    from io import StringIO

    from rich.console import Console

    from thoughtmix.core.request import StepEvent
    from thoughtmix.report.text import LiveView, render

    out = StringIO()
    Console(file=out, width=80, force_terminal=True).print(render(nasty()))
    assert "\x1b[31mred" not in out.getvalue(), "a thought must not colour the terminal"
    assert "\x07" not in out.getvalue()
    assert "你好" in out.getvalue()
    console = Console(file=StringIO(), width=40, height=6, force_terminal=True)
    with LiveView(console, 20) as view:
        view.update(StepEvent(["word " * 30] * 20, 20, 40, [False] * 20))
        view.update(StepEvent(["end"] * 20, 40, 40, [True] * 20))
        assert view.texts[0].endswith("end")
        assert "20 of 20 done" in view.status


def test_json_is_what_the_documentation_says() -> None:
    """docs/thoughtset.md lists exactly the fields that are written."""
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs" / "thoughtset.md").read_text()
    body = json.loads(some(1).to_json())
    for name in [*body, *body["thoughts"][0]]:
        assert f"`{name}`" in text, f"{name} is not documented"
    listed = set(re.findall(r"^\| `(\w+)`", text, re.M))
    assert listed == {*body, *body["thoughts"][0]}
