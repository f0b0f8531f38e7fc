"""The page in a real headless Chromium: click, type, stream, cancel, look. Without one (`make browser`) they are skipped."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Watched, until
from pageland import PAGE, POLICY, THINKERS, Land, distances_of, words_of

from thoughtmix.core.selection import select_good
from thoughtmix.core.types import ThoughtSet
from thoughtmix.report.html import THEME
from thoughtmix.thinkers.registry import thinker_names

NASTY = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>'
BRICK = "Name a use for a brick."


@pytest.fixture
def land() -> Iterator[Land]:
    with Land() as land:
        yield land


@pytest.fixture
def watch(browser: Any, land: Land) -> Iterator[Callable[..., Watched]]:
    """Opens the page, in a context of its own; at the end looks whether anything happened that must not."""
    made: list[Watched] = []

    def open_(url: str | None = None, **context: Any) -> Watched:
        made.append(Watched(browser, url or land.url, **context))
        return made[-1]

    yield open_
    for each in made:
        each.context.close()
    for each in made:
        each.check()


@pytest.fixture
def watched(watch: Callable[..., Watched]) -> Watched:
    return watch(reduced_motion="reduce")


def think(page: Any, prompt: str = BRICK, n: int = 6) -> None:
    page.fill("#prompt", prompt)
    page.fill("#n", str(n))
    page.press("#prompt", "Enter")
    page.wait_for_selector("#actions:not([hidden])")
    until(page, f"document.querySelectorAll('#heat td').length === {n * n}")


def scrub(page: Any, to: int) -> None:
    page.evaluate(
        f"() => {{ const s = document.getElementById('scrub'); s.value = {to}; s.dispatchEvent(new Event('input')); }}"
    )


def texts(page: Any) -> list[str]:
    return [t.strip() for t in page.locator(".card .text").all_inner_texts()]


def said_of(prompt: str, n: int, seed: int = 0) -> list[str]:
    return [" ".join(words_of(prompt, seed + i, 14)) for i in range(n)]


# --- the files, without a browser -------------------------------------------------------------------------------


def test_the_files_are_plain_small_and_parse_no_html() -> None:
    scripts = sorted(PAGE.glob("*.js"))
    assert len(scripts) > 8
    for file in [*scripts, *PAGE.glob("*.css"), PAGE / "index.html"]:
        text = file.read_text()
        assert text.count("\n") < 400, file.name
        assert not re.search(
            r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
        ), file.name
        assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//|@import""", text), (
            f"{file.name} asks elsewhere"
        )
    index = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=", index), "nothing inline: the policy forbids it"
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", index))
    for asked in re.findall(r'(?:src|href)="page/([^"]+)"', index):
        assert (PAGE / asked).is_file() or asked == THEME.name, asked


def test_every_word_is_said_in_both_languages_and_every_word_used_exists() -> None:
    text = (PAGE / "words.js").read_text()
    english, french = (re.findall(r"(?<![\w\"])(\w+): \"", part) for part in re.split(r"\n  fr: \{", text, maxsplit=1))
    assert english == french, "the same keys in the same order"
    assert len(english) == len(set(english))
    used = set(re.findall(r'data-(?:word|label|placeholder|title)="(\w+)"', (PAGE / "index.html").read_text()))
    for file in PAGE.glob("*.js"):
        used |= set(re.findall(r'\bt\("(\w+)"', file.read_text()))
        for stem in re.findall(r"\bt\(`(\w+_)\$\{", file.read_text()):
            assert any(word.startswith(stem) for word in english), stem
    assert used <= set(english), used - set(english)


def test_no_thinker_is_known_by_name() -> None:
    """What the page shows of thinkers it has from /api/info; only the words of both languages may speak of them."""
    names = "|".join(name for name in thinker_names() if name != "auto")  # which is a word of HTML's, too
    for file in PAGE.glob("*.js"):
        text = re.sub(r'(dir:|"height",) "auto"', "", file.read_text())
        if file.name not in {"words.js", "words_thinkers.js"}:
            assert not re.findall(rf"""["'`](?:{names})["'`]""", text), file.name


# --- thinking ---------------------------------------------------------------------------------------------------


def test_thoughts_stream_side_by_side(watched: Watched, land: Land) -> None:
    page = watched.page
    land.gate = threading.Event()
    page.evaluate(
        "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('said').textContent)).observe(document.getElementById('said'), {childList: true, characterData: true, subtree: true})"
    )
    page.fill("#prompt", BRICK)
    page.fill("#n", "6")
    page.click("#think")
    until(page, "[...document.querySelectorAll('.card .text')].filter(p => p.textContent.length > 20).length === 6")
    assert page.locator(".card .state").all_inner_texts() == ["writing"] * 6
    assert page.is_visible("#cancel")
    until(page, "/\\d+ of \\d+ tokens/.test(document.getElementById('progress-text').textContent)")
    assert 0.3 < page.evaluate("document.getElementById('bar').value") < 0.9
    half = texts(page)
    land.gate.set()
    page.wait_for_selector("#actions:not([hidden])")
    assert texts(page) == said_of(BRICK, 6)
    assert all(whole.startswith(part) for whole, part in zip(texts(page), half, strict=True))
    assert page.is_hidden("#cancel")
    assert "6 thoughts" in page.inner_text("#summary")
    assert "different, effectively" in page.inner_text("#summary")
    heard = page.evaluate("heard")
    assert heard[0] == "Thinking: 6 thoughts." and heard[-1] == "6 thoughts are ready."
    assert len(heard) <= 3, "said politely, not token by token"
    body = land.bodies("/v1/chat/completions")[0]
    assert body["n"] == 6 and body["creativity"] == 1 and body["seed"] == 0 and body["stream"] is True
    assert "temperature" not in body and "thinker" not in body, "what is not set is the server's to decide"


def test_settings_and_the_thinkers_own_options_are_sent(watched: Watched, land: Land) -> None:
    page = watched.page
    page.select_option("#thinker", "sampling")
    assert page.inner_text("#thinker-note") == THINKERS[0]["summary"]
    page.click("#more summary")
    for name, value in {
        "temperature": "0.7",
        "top_p": "0.9",
        "min_p": "0.05",
        "max_tokens": "12",
        "seed": "40",
    }.items():
        page.fill(f"#{name}", value)
    page.select_option("#option-draws", "arithmetic")
    assert page.is_disabled("#creativity"), "for sampling, creativity is the temperature"
    think(page, n=3)
    body = land.bodies("/v1/chat/completions")[0]
    sent = {
        key: body.get(key)
        for key in ("thinker", "temperature", "top_p", "min_p", "max_tokens", "seed", "options", "creativity")
    }
    assert sent == {
        "thinker": "sampling",
        "temperature": 0.7,
        "top_p": 0.9,
        "min_p": 0.05,
        "max_tokens": 12,
        "seed": 40,
        "options": {"draws": "arithmetic"},
        "creativity": None,
    }
    page.select_option("#thinker", "mixture")
    page.focus("#creativity")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#creativity-out") == "1.05"
    page.click("#think")
    until(page, "document.getElementById('summary').textContent.includes('3 thoughts')")
    page.wait_for_selector("#actions:not([hidden])")
    assert land.bodies("/v1/chat/completions")[1]["creativity"] == 1.05


def test_escape_cancels_and_what_came_is_kept(watched: Watched, land: Land) -> None:
    page = watched.page
    land.gate = threading.Event()
    page.fill("#prompt", BRICK)
    page.click("#think")
    until(page, "[...document.querySelectorAll('.card .text')].every(p => p.textContent.length > 20)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#cancel", state="hidden")
    assert set(page.locator(".card .state").all_inner_texts()) == {"stopped"}
    assert all(whole.startswith(part) and part for whole, part in zip(said_of(BRICK, 8), texts(page), strict=True))
    assert page.is_hidden("#notice"), "a wish is no error"
    land.gate.set()
    land.pace = 0.01
    end = time.monotonic() + 10
    while not land.dropped and time.monotonic() < end:
        time.sleep(0.02)
    assert land.dropped == 1, "the server is told"
    think(page, n=4)
    assert texts(page) == said_of(BRICK, 4)


def test_what_a_model_writes_is_never_html(watched: Watched, land: Land) -> None:
    page = watched.page
    land.says = {i: NASTY + "x" * i for i in range(3)}
    think(page, prompt=NASTY, n=3)
    assert texts(page)[0] == NASTY
    page.focus("#map g.dot")
    assert NASTY[:30] in page.inner_text("#map-readout")
    page.locator("#card-1 button").first.click()
    page.wait_for_selector("#tree [role=treeitem] [role=treeitem]")
    page.wait_for_selector("#cancel", state="hidden")
    page.locator("#heat td").nth(1).click()
    page.wait_for_selector("#pair[open]")
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        page.click("#export-html")
    html = Path(saved.value.path()).read_text()
    for where in ("main", "dialog#pair"):
        assert page.locator(f"{where} img, {where} script").count() == 0
    other = watched.context.new_page()
    other.goto("about:blank")
    other.set_content(html)
    assert other.locator("img, script").count() == 0
    assert NASTY in other.locator("li .text").first.inner_text()
    assert not page.evaluate("window.hit") and not other.evaluate("window.hit")


# --- map, heat-map, picking -------------------------------------------------------------------------------------


def test_near_thoughts_sit_near(watched: Watched) -> None:
    page = watched.page
    think(page, n=7)
    at = np.array(
        page.evaluate(
            "[...document.querySelectorAll('#map g.dot')].map(g => { const r = g.querySelector('.disc').getBoundingClientRect(); return [r.x, r.y] })"
        )
    )
    drawn = np.linalg.norm(at[:, None] - at[None], axis=-1)[np.triu_indices(7, 1)]
    real = np.array(distances_of(texts(page)))[np.triu_indices(7, 1)]
    assert np.corrcoef(drawn, real)[0, 1] > 0.6, "seven dimensions in two: not perfect, but far from chance"
    frame = page.locator("#map").bounding_box()
    assert all(
        frame["x"] <= x <= frame["x"] + frame["width"] and frame["y"] <= y <= frame["y"] + frame["height"]
        for x, y in at
    )


def test_the_map_is_live_and_asks_about_once_a_second(watch: Callable[..., Watched], land: Land) -> None:
    page = watch().page
    land.gate = threading.Event()
    stamps: list[float] = []
    page.on("request", lambda r: stamps.append(time.monotonic()) if r.url.endswith("/api/map") else None)
    page.evaluate("""() => { window.places = new Set();
        new MutationObserver(() => places.add(document.querySelector('#map g.dot')?.getAttribute('transform')))
            .observe(document.getElementById('map'), { subtree: true, attributes: true, attributeFilter: ['transform'] }); }""")
    page.fill("#prompt", BRICK)
    page.fill("#n", "4")
    page.click("#think")
    page.wait_for_selector("#map g.dot")
    assert page.is_visible("#cancel"), "dots are there while thoughts still grow"
    until(page, "places.size > 4")  # they glide
    land.pace = 0.03
    land.gate.set()
    page.wait_for_selector("#actions:not([hidden])")
    until(page, "document.querySelectorAll('#heat td').length === 16")
    assert len(stamps) >= 2
    assert all(b - a > 0.8 for a, b in pairwise(stamps[:-1])), "the last may come at once, when all are done"


def test_turned_and_mirrored_maps_stay_where_they_are(watched: Watched) -> None:
    before, after = watched.page.evaluate("""async () => {
        const { settle } = await import('/page/store.js');
        const a = [[0, 0], [1, 0.2], [0.3, 0.9], [0.6, 0.5]];
        const low = settle(a, a);
        const turn = a.map(([x, y]) => [0.5 - (Math.cos(1) * x - Math.sin(1) * y), 0.1 + Math.sin(1) * x + Math.cos(1) * y]);
        return [low, settle(turn, low)]; }""")
    assert np.allclose(before, after, atol=1e-6)


def test_the_heat_map_names_pairs_by_pointer_and_by_keys(watched: Watched) -> None:
    page = watched.page
    think(page, n=4)
    d = distances_of(texts(page))
    assert re.match(r"Closest: \d and \d \(0\.\d\d\)\. Farthest", page.inner_text("#heat-readout"))
    page.locator("#heat td").nth(2).hover()
    assert page.inner_text("#heat-readout") == f"1 and 3: {d[0][2]:.2f} apart"
    assert page.locator(".card.pointed").evaluate_all("cs => cs.map(c => c.dataset.label)") == ["1", "3"]
    assert page.locator("#map g.dot.pointed").count() == 2
    page.mouse.move(5, 5)
    page.locator("#heat td").first.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"2 and 4: {d[1][3]:.2f} apart"
    assert page.locator("#heat td[tabindex='0']").count() == 1, "one stop of Tab"
    page.keyboard.press("Enter")
    page.wait_for_selector("#pair[open]")
    assert page.inner_text("#pair-title") == "2 beside 4"
    ours, theirs = (set(texts(page)[i].split()) for i in (1, 3))
    marked = set(page.locator("#pair section").first.locator("mark").all_inner_texts())
    assert ours - theirs <= marked <= ours
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.j") == "3", "back where it was"
    heats = page.locator("#heat td").evaluate_all("ts => ts.map(t => Number(t.style.getPropertyValue('--heat')))")
    pairs = np.array(d)[np.triu_indices(4, 1)]
    shades = np.where(np.eye(4) > 0, 0, (np.array(d) - pairs.min()) / (pairs.max() - pairs.min()))
    assert np.allclose(heats, shades.ravel(), atol=2e-3), "from the nearest pair to the farthest"


def test_the_most_different_are_picked(watched: Watched) -> None:
    page = watched.page
    think(page, n=6)
    page.fill("#k", "2")
    page.click("#pick")
    page.wait_for_selector(".card.picked")
    expected = select_good(texts(page), distances_of(texts(page)), [-1.5 - i / 10 for i in range(6)], 2)
    picked = page.locator(".card.picked").evaluate_all("cs => cs.map(c => Number(c.dataset.label) - 1)")
    assert picked == sorted(expected)
    assert page.locator(".card.dim").count() == page.locator("#map g.dot.dim").count() == 4
    assert page.inner_text("#said").startswith("Picked: ")
    page.click("#unpick")
    assert page.locator(".card.picked, .card.dim").count() == 0
    assert page.evaluate("document.activeElement.id") == "pick"


# --- branches ---------------------------------------------------------------------------------------------------


def test_noise_grows_a_tree_that_keys_walk(watched: Watched, land: Land) -> None:
    page = watched.page
    think(page, n=4)
    page.focus("#card-3")
    page.keyboard.press("n")
    page.wait_for_selector("#cancel", state="hidden")
    body = land.bodies("/v1/chat/completions")[1]
    assert body["thinker"] == "noise" and body["n"] == 3 and body["seed"] == 4
    assert body["options"]["idea"].strip() == texts(page)[2] and body["options"]["strength"] == "vague"
    items = page.locator("#tree [role=treeitem]")
    labels = lambda: items.evaluate_all("es => es.map(e => e.dataset.label)")  # noqa: E731
    assert labels() == ["3", "3.1", "3.2", "3.3"]
    assert page.inner_text("#card-3 .card-foot").count("3 branches") == 1
    page.locator("#tree [data-label='3']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.label") == "3.2"
    page.keyboard.press("Enter")
    assert page.locator("#node .badge").inner_text() == "3.2"
    page.get_by_text("chaotic").click()
    page.fill("#children", "2")
    page.locator("#tree [data-label='3.2']").focus()
    page.keyboard.press("n")
    page.wait_for_selector("#tree [data-label='3.2.2']")
    page.wait_for_selector("#cancel", state="hidden")
    assert labels() == ["3", "3.1", "3.2", "3.2.1", "3.2.2", "3.3"]
    again = land.bodies("/v1/chat/completions")[2]
    assert again["seed"] == 7 and again["options"]["strength"] == "chaotic"
    until(page, "document.querySelectorAll('#map g.dot').length === 9")
    assert page.locator("#map line.kin").count() == 5
    assert page.locator("#heat tbody tr").count() == 9
    page.locator("#tree [data-label='3.2']").focus()
    page.keyboard.press("ArrowLeft")
    assert labels() == ["3", "3.1", "3.2", "3.3"], "folded"
    assert page.get_attribute("#tree [data-label='3.2']", "aria-expanded") == "false"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.label") == "3.2.1"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Compare with its parent").click()
    assert page.inner_text("#pair-title") == "3.2 beside 3.2.1"
    page.keyboard.press("Escape")
    assert page.get_attribute("#tree [data-label='3.2.1']", "aria-level") == "3"


def test_a_thought_has_one_colour_everywhere(watched: Watched) -> None:
    page = watched.page
    think(page, n=5)
    page.locator("#card-2 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    page.wait_for_selector("#tree [role=treeitem]")
    hues = page.evaluate("""() => ['#card-2', '#map g[data-label="2"]', '#heat th[data-label="2"]', '#tree [data-label="2"]'].map(
        s => document.querySelector(s).style.getPropertyValue('--hue'))""")
    assert set(hues) == {str(round(200 + 137.508) % 360)}
    drawn = page.evaluate("""() => [getComputedStyle(document.querySelector('#card-2 .badge')).backgroundColor,
        getComputedStyle(document.querySelector('#map g[data-label="2"] .disc')).fill, getComputedStyle(document.querySelector('#tree .badge')).backgroundColor]""")
    assert len(set(drawn)) == 1


# --- compare and film -------------------------------------------------------------------------------------------


def test_creativity_beside_temperature_runs_again_as_a_slider_moves(watched: Watched, land: Land) -> None:
    page = watched.page
    page.fill("#prompt", BRICK)
    page.click("#tab-compare")
    assert page.input_value("#compare-prompt") == BRICK
    page.click("#compare-go")
    until(page, "[...document.querySelectorAll('.big')].every(b => /\\d/.test(b.textContent))")
    first = land.bodies("/v1/chat/completions")
    by = {body["thinker"]: body for body in first}
    assert set(by) == {"mixture", "sampling"} and len(first) == 2
    assert by["mixture"]["creativity"] == 1 and "temperature" not in by["mixture"]
    assert by["sampling"]["temperature"] == 1 and "creativity" not in by["sampling"]
    assert page.locator("#side-creativity .mini li").count() == 6
    expected = 1 + 5 * np.mean(distances_of([" ".join(words_of(BRICK, i, 14)) for i in range(6)]))
    figures = page.locator("#side-creativity .big").all_inner_texts()
    assert figures == [f"{expected:.1f} of 6", "2 of 6", "0.50"], "completeness and relevance beside difference"
    page.focus("#slide-creativity")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    until(page, "document.querySelectorAll('#tried-table tbody tr').length === 3")
    later = land.bodies("/v1/chat/completions")[2:]
    assert [(b["thinker"], b["creativity"]) for b in later] == [("mixture", 1.25)], "once, after the last move"
    assert page.locator("#tried-plot .mark").count() == 3
    assert page.inner_text("#verdict") == "Neither is ahead.", "they said the same"
    land.gate = threading.Event()
    page.focus("#slide-temperature")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#compare-cancel:not([hidden])")
    until(page, "document.querySelector('#side-temperature .mini .text')?.textContent.length > 10")
    page.keyboard.press("Escape")
    page.wait_for_selector("#compare-cancel", state="hidden")
    land.gate.set()
    assert set(page.locator("#side-temperature .big").all_inner_texts()) == {"–"}, "no number of a run that was stopped"
    assert page.locator("#tried-table tbody tr").count() == 3


def test_the_film_of_a_denoising(watched: Watched, land: Land) -> None:
    page = watched.page
    page.click("#tab-diffuse")
    page.fill("#steps", "20")
    page.fill("#length", "40")
    page.fill("#diffuse-seed", "3")
    page.click("#diffuse-go")
    page.wait_for_selector("#diffuse-cancel", state="hidden")
    assert land.bodies("/api/diffuse") == [{"prompt": "", "branches": 4, "steps": 20, "length": 40, "seed": 3}]
    assert page.inner_text("#scrub-out") == "Step 20 of 20 · 3 alive"
    assert page.locator(".film-row.gone").count() == 1 and page.locator(".film-row").count() == 4
    frames = list(land.diffuse({"prompt": "", "branches": 4, "steps": 20, "length": 40, "seed": 3}))
    for at in (4, 7):
        scrub(page, at)
        branch = frames[at]["branches"][0]
        shown = "".join("·" if c == 0 else x for x, c in zip(branch["text"], branch["confidence"], strict=True))
        assert page.locator(".film-row .canvas").first.text_content() == shown
        for span in page.locator(".film-row").first.locator("span[class^=c]").all()[:6]:
            assert (span.get_attribute("class") == "c0") == set(span.text_content()).issubset("·")
    for at, states in (
        (12, ["", "given up; in its place comes 1b", "", "given up"]),
        (18, ["", "copy of 1", "", "given up"]),
    ):
        scrub(page, at)
        assert page.locator(".film-row .state").all_inner_texts() == states
    assert page.locator(".film-row .badge").all_inner_texts() == ["1", "1b", "3", "4"], "no two branches have one name"
    assert page.inner_text("#model") == "filmland", "the header names who writes"
    assert "surest" not in page.inner_text("#view-diffuse")
    scrub(page, 0)
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    until(page, "Number(document.getElementById('scrub').value) > 0")
    page.click("#play")
    stopped = page.input_value("#scrub")
    page.wait_for_timeout(600)
    assert page.input_value("#scrub") == stopped and page.inner_text("#play") == "Play"


def test_without_a_diffusion_model_the_view_says_so(watch: Callable[..., Watched], land: Land) -> None:
    land.diffusion = False
    watched = watch()
    watched.page.click("#tab-diffuse")
    assert watched.page.is_disabled("#diffuse-go")
    assert "Type: thoughtmix serve" in watched.page.inner_text("#diffuse-note")


# --- export -----------------------------------------------------------------------------------------------------


def test_exports_are_the_documented_set_and_a_page_of_its_own(watched: Watched) -> None:
    page = watched.page
    think(page, n=4)
    page.locator("#card-1 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    until(page, "document.querySelectorAll('#heat tbody tr').length === 7")
    with page.expect_download() as saved:
        page.click("#export-json")
    assert saved.value.suggested_filename == "thoughtmix-name-a-use-for-a-brick.json"
    made = ThoughtSet.from_json(Path(saved.value.path()).read_text())
    assert [t.text.strip() for t in made][:4] == texts(page) and len(made) == 7
    assert made[4].origin["parent"] == "1" and made[4].origin["strength"] == "vague"
    assert np.allclose(made.distances, distances_of([t.text for t in made]))
    assert made.prompt == BRICK and made.model == "pageland" and made.settings["max_new_tokens"] == 96
    assert set(json.loads(Path(saved.value.path()).read_text())) == set(made.to_dict())
    with page.expect_download() as saved:
        page.click("#export-html")
    html = Path(saved.value.path()).read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|<script|url\(""", html)
    other = watched.context.new_page()
    asked: list[str] = []
    other.on("request", lambda r: asked.append(r.url))
    other.set_content(html)
    assert asked == []
    assert (
        other.locator("li").count() == 7
        and other.locator("svg .disc").count() == 7
        and other.locator("table tr").count() == 8
    )
    link = other.get_attribute("a[download]", "href")
    import base64

    assert ThoughtSet.from_json(base64.b64decode(link.split(",")[1]).decode()) == made
    fill = other.locator("svg .disc").first.evaluate("d => getComputedStyle(d).fill")
    assert fill.startswith("oklch")


# --- errors -----------------------------------------------------------------------------------------------------


def test_a_full_server_is_waited_for_and_earlier_thoughts_stay(watched: Watched, land: Land) -> None:
    page = watched.page
    think(page, n=3)
    before = texts(page)
    land.busy = 1
    page.fill("#prompt", "Something else.")
    page.click("#think")
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice-text") == "The server is full. Try again in 2 seconds."
    assert page.is_disabled("#notice-again")
    assert texts(page) == before, "what was there stays"
    page.wait_for_selector("#notice-again:enabled")
    page.click("#notice-again")
    until(page, "document.querySelector('.card .text')?.textContent.length > 30")
    page.wait_for_selector("#actions:not([hidden])")
    assert texts(page) == said_of("Something else.", 3)
    assert page.is_hidden("#notice")
    watched.expect_errors("429")


def test_a_broken_connection_keeps_what_was_finished(watched: Watched, land: Land) -> None:
    page = watched.page
    land.says = {0: "short", 1: "also short"}
    land.cut_after = 20
    page.fill("#prompt", BRICK)
    page.fill("#n", "4")
    page.click("#think")
    page.wait_for_selector("#notice:not([hidden])")
    assert (
        page.inner_text("#notice-text") == "The connection broke; 2 finished thoughts are kept. Try again for the rest."
    )
    assert page.locator(".card .state").all_inner_texts() == [
        "cut at the token limit",
        "complete",
        "stopped",
        "stopped",
    ]
    assert texts(page)[:2] == ["short", "also short"]
    assert page.is_hidden("#cancel") and page.is_hidden("#progress")
    land.cut_after = None
    page.click("#notice-again")
    until(
        page,
        "[...document.querySelectorAll('.card .state')].every(s => !['stopped', 'writing', 'waiting …'].includes(s.textContent))",
    )


def test_errors_are_one_line_with_what_to_do(watched: Watched, land: Land) -> None:
    page = watched.page

    def line_after(prompt: str) -> str:
        page.fill("#prompt", prompt)
        page.click("#think")
        page.wait_for_selector("#notice:not([hidden])")
        return page.inner_text("#notice-text")

    assert line_after("  ") == "There is no prompt. Write one, then press Think."
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.click("#more summary")
    page.fill("#max_tokens", "513")
    assert line_after(BRICK) == "max_tokens is above 512. Pass 512 or fewer."
    assert page.is_visible("#empty"), "nothing came, so nothing is shown"
    page.fill("#max_tokens", "64")
    land.broken = 1
    assert (
        line_after(BRICK) == "The server had an error (500). Try again; if it stays, look at the server's own output."
    )
    page.click("#notice-close")
    assert page.is_hidden("#notice")
    land.close()
    assert line_after(BRICK) == "The server does not answer. Start it with “thoughtmix serve”, then try again."
    watched.expect_errors("400", "500", "ERR_CONNECTION_REFUSED")


def test_a_token_is_asked_for(watch: Callable[..., Watched], land: Land) -> None:
    land.token = "open sesame"
    watched = watch()
    page = watched.page
    page.wait_for_selector("#token[open]")
    assert page.evaluate("document.activeElement.id") == "token-value"
    page.keyboard.press("Escape")
    until(page, "document.getElementById('notice-text').innerText.includes('asks for its token')")
    page.click("#notice-again")
    page.fill("#token-value", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-wrong:not([hidden])")
    page.fill("#token-value", "open sesame")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#thinker option').length > 1")
    think(page, n=3)
    assert texts(page) == said_of(BRICK, 3)
    watched.expect_errors("401")


# --- for everyone -----------------------------------------------------------------------------------------------


def test_french_and_english(watch: Callable[..., Watched], land: Land) -> None:
    watched = watch(locale="fr-FR")
    page = watched.page
    assert page.get_attribute("html", "lang") == "fr"
    assert page.inner_text("#think") == "Penser"
    think(page, n=2)
    assert page.locator("#card-1 button").first.inner_text() == "Bruiter celle-ci"
    assert page.inner_text("#creativity-out") == "1,00"
    french = page.inner_text("body")
    page.click("#language")
    assert page.get_attribute("html", "lang") == "en"
    assert page.inner_text("#think") == "Think"
    assert page.locator("#card-1 button").first.inner_text() == "Noise this one"
    english = set(map(str.strip, page.inner_text("body").splitlines()))
    same = {line for line in english & set(map(str.strip, french.splitlines())) if re.search(r"[A-Za-z]{3}", line)}
    assert same <= {"thoughtmix", "pageland", *texts(page), "sampling", "mixture", "noise", "hybrid", "plan"}, (
        "no line stays in the other language"
    )
    page.reload()
    assert page.get_attribute("html", "lang") == "en", "the choice is kept"


LUMINANCE = """(selectors) => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const over = (colors) => { context.clearRect(0, 0, 1, 1); for (const c of colors) { context.fillStyle = c; context.fillRect(0, 0, 1, 1); } return [...context.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = [r, g, b].map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const out = [];
  for (const selector of selectors) for (const element of [...document.querySelectorAll(selector)].slice(0, 5)) {
    if (!element.checkVisibility()) continue;
    const grounds = [];
    for (let up = element; up; up = up.parentElement) grounds.unshift(getComputedStyle(up).backgroundColor);
    const svg = element instanceof SVGElement;
    if (svg) grounds.push(getComputedStyle(element.parentNode.querySelector('.disc')).fill);
    const ink = svg ? getComputedStyle(element).fill : getComputedStyle(element).color;
    const [a, b] = [light(over(grounds)), light(over([...grounds, ink]))];
    out.push([selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return out;
}"""
INKS = [
    "h1",
    "h2",
    "h3",
    "label",
    ".model",
    ".tabs button",
    ".tools button",
    "#prompt",
    ".note",
    "summary",
    ".summary",
    "button",
    ".text",
    ".state",
    ".facts span",
    ".badge",
    ".hint",
    ".readout",
    ".scale span",
    "#map .dot text",
    ".snippet",
    ".segments span",
    ".dim .text",
    ".dim .state",
    ".notice p",
    ".canvas .c9",
    ".canvas .c7",
    ".big",
    ".tick",
    "mark",
    "kbd",
    ".unit",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_the_theme(watch: Callable[..., Watched], land: Land, scheme: str) -> None:
    watched = watch(color_scheme=scheme, reduced_motion="reduce")
    page = watched.page
    dark = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(dark) == scheme
    measured = page.evaluate(LUMINANCE, INKS)
    think(page, n=12)
    page.locator("#card-3 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    until(page, "document.querySelectorAll('#map g.child').length === 3")
    measured += page.evaluate(LUMINANCE, INKS)
    page.click("#pick")
    page.wait_for_selector(".card.dim")
    land.broken = 1
    page.click("#think")
    page.wait_for_selector("#notice:not([hidden])")
    measured += page.evaluate(LUMINANCE, INKS)
    page.click("#tab-compare")
    page.click("#compare-go")
    page.wait_for_selector("#tried:not([hidden])")
    measured += page.evaluate(LUMINANCE, [i for i in INKS if i != ".tick"])
    page.click("#tab-diffuse")
    page.click("#diffuse-go")
    page.wait_for_selector("#diffuse-cancel", state="hidden")
    measured += page.evaluate(LUMINANCE, [i for i in INKS if i != ".tick"])
    assert len(measured) > 120
    low = sorted({(selector, round(ratio, 2)) for selector, ratio in measured if ratio < 4.5})
    assert low == [], "WCAG 1.4.3"
    page.evaluate(
        "() => { const b = document.createElement('b'); b.className = 'badge'; b.textContent = '1'; document.body.append(b); }"
    )
    hues = page.evaluate(f"""() => {{ const measure = {LUMINANCE}; const badge = document.querySelector('body > .badge');
        return Array.from({{ length: 24 }}, (_, i) => {{ badge.style.setProperty('--hue', i * 15); return measure(['body > .badge'])[0][1]; }}); }}""")
    assert min(hues) > 4.5, "whatever the thought's hue"
    other = "dark" if scheme == "light" else "light"
    page.click("#theme")
    assert page.evaluate(dark) == other
    page.reload()
    assert page.evaluate(dark) == other, "the choice is kept"
    watched.expect_errors("500")


def test_everything_has_a_name_and_a_role(watched: Watched) -> None:
    page = watched.page
    think(page, n=3)
    page.locator("#card-2 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    client = watched.context.new_cdp_session(page)
    named = {
        "button",
        "link",
        "textbox",
        "slider",
        "spinbutton",
        "combobox",
        "checkbox",
        "radio",
        "tab",
        "treeitem",
        "gridcell",
        "tree",
        "grid",
        "tablist",
        "tabpanel",
        "progressbar",
        "dialog",
        "group",
    }
    for view in ("think", "compare", "diffuse"):
        page.click(f"#tab-{view}")
        nodes = [n for n in client.send("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
        roles = [
            (n["role"]["value"], n.get("name", {}).get("value", "").strip(), n.get("backendDOMNodeId")) for n in nodes
        ]
        nameless = [r for r in roles if r[0] in named - {"group"} and not r[1]]
        assert nameless == [], view
        kinds = {role for role, _, _ in roles}
        assert {"main", "banner", "tablist", "tabpanel"} <= kinds
        if view == "think":
            assert {"tree", "treeitem", "grid", "complementary", "region"} <= kinds
            names = [name for role, name, _ in roles if role == "button"]
            assert any(name.startswith("Thought 1: ") for name in names), "a dot of the map says which and what"
    assert page.locator("[id]").evaluate_all("es => es.length === new Set(es.map(e => e.id)).size")


def test_tab_goes_through_and_out_and_is_always_seen(watched: Watched) -> None:
    page = watched.page
    think(page, n=3)
    page.evaluate("document.querySelector('.skip').focus()")
    seen: list[str] = []
    for step in range(60):
        if step:
            page.keyboard.press("Tab")
        here = page.evaluate("""() => { const e = document.activeElement; if (e === document.body) return '';
            const s = getComputedStyle(e); const inner = e.querySelector?.('.ring, .leaf');
            const ring = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2 || (inner && getComputedStyle(inner).stroke !== 'none');
            return (ring ? '' : '!') + (e.id || e.getAttribute('class') || e.tagName); }""")
        if here == "" and seen:
            break
        seen.append(here)
    else:
        pytest.fail(f"Tab never leaves the page: {seen[-10:]}")
    assert seen[0] == "skip" and {"prompt", "think", "creativity", "pick", "export-json"} <= set(seen)
    assert [s for s in seen if s.startswith("!")] == [], "focus is seen"
    assert len(seen) < 54, "map, heat-map and tree are one stop each"


def test_shortcuts_are_listed_and_can_be_turned_off(watched: Watched) -> None:
    page = watched.page
    think(page, n=3)
    page.focus("#think")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    assert page.locator("#keys kbd").count() > 10
    page.uncheck("#keys-on")
    page.click("#keys-close")
    assert page.evaluate("document.activeElement.id") == "think"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "think", "off"
    page.click("#help")
    page.check("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "card-2"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("s?j")
    assert page.input_value("#prompt").endswith("s?j"), "in a field they are letters"
    page.focus("#think")
    page.keyboard.press("2")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#view-diffuse")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_it_fits(watch: Callable[..., Watched], land: Land, width: int) -> None:
    watched = watch(viewport={"width": width, "height": 800}, locale="fr-FR", reduced_motion="reduce")
    page = watched.page
    land.says = {0: "Un" + "x" * 300}
    think(page, n=8)
    page.locator("#card-2 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    page.click("#more summary")
    for view in ("think", "compare", "diffuse"):
        page.click(f"#tab-{view}")
        if view != "think":
            page.click(f"#{view}-go")
            page.wait_for_selector(f"#{view}-cancel", state="hidden")
        area = page.locator(f"#view-{view} textarea").bounding_box()
        assert area["height"] > 20, "its text or hint is seen"
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, view
    side, first = page.locator("#tab-think").bounding_box(), page.locator("#tab-diffuse").bounding_box()
    assert min(side["height"], first["height"]) >= 24, "WCAG 2.5.8"


# --- the real server --------------------------------------------------------------------------------------------


def test_the_page_and_the_real_server_understand_each_other(watch: Callable[..., Watched]) -> None:
    """A tiny random model: what it says is nonsense, and all of it arrives."""
    serving = pytest.importorskip(
        "serving", reason="the server's packages are not installed: pip install 'thoughtmix[serve]'"
    )
    with serving.running() as running:
        watched = watch(running.url + "/", reduced_motion="reduce")
        page = watched.page
        assert page.inner_text("#model") == running.service.lm.name
        for path in ("/", "/page/page.js"):
            headers = page.request.get(running.url + path).headers
            assert headers["content-security-policy"] == POLICY and headers["cache-control"] == "no-cache"
            assert headers["x-content-type-options"] == "nosniff"
        page.select_option("#thinker", "sampling")
        page.click("#more summary")
        page.fill("#max_tokens", "24")
        think(page, n=4)
        made = texts(page)
        assert all(made) and len(set(made)) == 4
        assert re.fullmatch(
            r"4 thoughts · \d\.\d different, effectively · \d\.\d\d apart on average.*", page.inner_text("#summary")
        )
        assert page.locator(".card .facts").first.inner_text().startswith("−")
        page.fill("#k", "2")
        page.click("#pick")
        page.wait_for_selector(".card.picked")
        with page.expect_download() as saved:
            page.click("#export-json")
        again = ThoughtSet.from_json(Path(saved.value.path()).read_text())
        direct = running.service.pipeline(BRICK, n=4, thinker="sampling", creativity=1.0, max_new_tokens=24)
        assert [t.text for t in again] == [t.text for t in direct], "whole and unchanged, by the seeds alone"
        assert np.allclose([t.logprob for t in again], [t.logprob for t in direct], atol=1e-3)
        page.locator("#card-2").get_by_role("button", name="Continue").click()
        page.wait_for_selector("#cancel", state="hidden")
        longer = running.service.pipeline(BRICK, 1, "sampling", seed=1, creativity=1.0, max_new_tokens=48, landing=0)
        assert texts(page)[1].split() == longer[0].text.split(), "continued, it is what a longer budget had made"
        made[1] = texts(page)[1]
        page.fill("#max_tokens", "1000")
        page.click("#think")
        page.wait_for_selector("#notice:not([hidden])")
        assert "the limit is 1600" in page.inner_text("#notice-text")
        assert texts(page) == made, "what was there stays"
        page.click("#tab-compare")
        assert "thinker: explore" in page.inner_text("#side-creativity"), (
            "the only one here whose creativity is its own"
        )
        page.click("#compare-go")
        for side in ("temperature", "creativity"):  # whichever is measured first
            until(page, f"/\\d/.test(document.querySelector('#side-{side} .big').textContent)")
        assert re.fullmatch(r"\d\.\d of 6", page.locator("#side-creativity .big").first.inner_text())
        watched.expect_errors("400")
