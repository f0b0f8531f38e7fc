"""The page with what a set may need: going on, a history, files, Markdown, and 64 thoughts at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, until
from pageland import PAGE, Land, distances_of, words_of
from test_page import BRICK, land, said_of, texts, think, watch, watched  # noqa: F401  (fixtures)

from thoughtmix.core.options import served_schema
from thoughtmix.core.selection import select
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.metrics.soundness import is_complete
from thoughtmix.thinkers.registry import get_thinker, thinker_names

# ruff: noqa: F811  (fixtures are arguments)

ATTACKS = [
    '<img src=x onerror="window.hit=1">',
    "<script>window.hit=1</script>",
    "**<img src=x onerror=window.hit=1>**",
    "`<svg onload=window.hit=1>`",
    "# <iframe src=javascript:window.hit=1>",
    "- <style>@import url(//evil.example)</style>",
    "[click](javascript:window.hit=1)",
    "[click](https://evil.example/?q=secret)",
    "![picture](https://evil.example/p.png)",
    "![x](x'onerror='window.hit=1)",
    "<https://evil.example>",
    "```html\n<script>window.hit=1</script>\n",
    "> <a href=javascript:window.hit=1>quoted</a>",
    "1. &lt;img src=x onerror=window.hit=1&gt;",
    "\\*\\*<b onclick=window.hit=1>*bold*</b>",
    "*" * 3000 + "_" * 3000 + "`" * 3000,
]
MARKDOWN = """# Title
One **bold**, *italic*, `code` and \\*neither\\*.
2 * 3 * 4 and snake_case_name

1. first
2. second
   - inner

> quoted
```python
print("x")  # **not bold**
```
---
[link](https://example.org)"""


# --- what a thought says ----------------------------------------------------------------------------------------


def test_markdown_is_shown_and_nothing_else(watched: Watched, land: Land) -> None:
    page = watched.page
    land.says = {0: MARKDOWN}
    think(page, n=2)
    shown = page.locator("#card-1 .text")
    tags = shown.evaluate("e => [...e.querySelectorAll('*')].map(x => x.localName).join(' ')")
    assert tags == "h4 p strong em code br ol li li ul li blockquote p pre code hr p"
    assert shown.locator("pre").inner_text() == 'print("x")  # **not bold**'
    assert "*neither*" in shown.inner_text() and "2 * 3 * 4 and snake_case_name" in shown.inner_text()
    assert "[link](https://example.org)" in shown.inner_text(), "what would lead elsewhere stays text"
    assert page.locator("#card-2 .text.rich").count() == 0, "plain text is left as it is"


def test_attacks_stay_text(watched: Watched, land: Land) -> None:
    page = watched.page
    land.says = dict(enumerate(ATTACKS))
    think(page, n=len(ATTACKS))
    page.locator("#card-7 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    with page.expect_download() as saved:
        page.click("#export-html")
    other = watched.context.new_page()
    other.goto("about:blank")
    other.set_content(Path(saved.value.path()).read_text())
    for place in (page.locator(".cards, .tree-panel, #map"), other.locator("ol.cards")):
        bad = "img, script, iframe, style, a, link, object, embed, form, svg svg, [onclick], [onerror], [onload]"
        assert place.locator(bad).count() == 0
    assert "evil.example" in page.inner_text("#card-8") and not page.evaluate("window.hit")


def test_what_is_complete_is_the_libraries_rule(watched: Watched) -> None:
    cases = [
        "It ends.",
        "It does not",
        "“Quoted.”",
        "Ends with *this.*",
        "1. one\n2.",
        "終わり。",
        "Yes 🎉",
        "",
        "```x```",
        "Dr",
    ]
    found = watched.page.evaluate(
        "async (cases) => { const { complete } = await import('/page/store.js'); return cases.map(c => [complete(c, 'length'), complete(c, 'stop')]); }",
        cases,
    )
    assert found == [[is_complete(c, "length"), is_complete(c, "stop")] for c in cases]


def test_a_thought_that_was_cut_is_continued(watched: Watched, land: Land) -> None:
    page = watched.page
    think(page, n=3)
    assert page.locator(".card .state").all_inner_texts() == [
        "cut at the token limit",
        "complete",
        "ended with its sentence",
    ]
    go_on = page.get_by_role("button", name="Continue")
    assert go_on.count() == 2, "one that the model ended has none"
    first = land.bodies("/v1/chat/completions")[0]
    page.locator("#card-1").get_by_role("button", name="Continue").click()
    page.wait_for_selector("#actions:not([hidden])")
    body = land.bodies("/v1/chat/completions")[1]
    said = "".join(w + " " for w in words_of(BRICK, 0, 14))
    assert body["messages"] == [{"role": "user", "content": BRICK}, {"role": "assistant", "content": said}]
    assert (body["n"], body["seed"], body["drawn"], body["landing"]) == (1, 0, 14, 0.33)
    assert body["thinker"] == "sampling" and body["max_tokens"] == first["max_tokens"]
    assert texts(page)[0] == " ".join(words_of(BRICK, 0, 28)), "with its seed, behind what was drawn"
    assert texts(page)[1:] == said_of(BRICK, 3)[1:]
    assert page.inner_text("#card-1 .state") == "complete"
    until(page, "document.getElementById('summary').textContent.includes('2 complete')")
    with page.expect_download() as saved:
        page.click("#export-json")
    made = ThoughtSet.from_json(Path(saved.value.path()).read_text())
    assert len(made[0].token_logprobs) == 28 and made[0].finish == "stop"


def test_a_thought_that_was_cut_back_is_not_shown_longer(watched: Watched, land: Land) -> None:
    land.cut_back = 9
    think(watched.page, n=3)
    assert texts(watched.page)[2] == "".join(w + " " for w in words_of(BRICK, 2, 14))[:-9].strip()


# --- again, before, elsewhere -----------------------------------------------------------------------------------


def test_enter_thinks_and_shift_enter_breaks_the_line(watched: Watched, land: Land) -> None:
    page = watched.page
    page.focus("#prompt")
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.evaluate(
        "document.getElementById('prompt').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    assert land.bodies("/v1/chat/completions") == [], "an input method's own Enter"
    page.keyboard.press("Enter")
    page.wait_for_selector("#actions:not([hidden])")
    assert land.bodies("/v1/chat/completions")[0]["messages"][0]["content"] == "One\ntwo"
    assert page.input_value("#prompt") == "One\ntwo"


def test_thinking_again_takes_new_seeds_and_the_history_survives_a_reload(watched: Watched, land: Land) -> None:
    page = watched.page
    think(page, n=3)
    page.click("#again")
    until(page, "document.querySelector('#card-1 .facts')?.innerText.includes('seed 3')")
    page.wait_for_selector("#actions:not([hidden])")
    assert texts(page) == said_of(BRICK, 3, seed=3), "no thought twice"
    assert page.input_value("#seed") == "3"
    page.reload()
    page.wait_for_selector("#actions:not([hidden])")
    assert texts(page) == said_of(BRICK, 3, seed=3), "a reload shows the same"
    assert page.input_value("#prompt") == BRICK and page.input_value("#n") == "3"
    page.click("#history-open")
    assert page.locator("#history-list li").count() == 2
    page.locator("#history-list .entry").nth(1).click()
    until(page, "document.querySelector('#card-1 .facts').innerText.includes('seed 0')")
    assert texts(page) == said_of(BRICK, 3)
    page.locator("#card-1").get_by_role("button", name="Continue").click()
    page.wait_for_selector("#cancel", state="hidden")
    assert land.bodies("/v1/chat/completions")[-1]["drawn"] == 14, "its tokens are remembered"
    page.click("#history-open")
    assert page.locator("#history-list li").count() == 2, "one that went on is the same entry"
    page.click("#history-clear")
    assert page.locator("#history-list li").count() == 0
    assert page.evaluate("localStorage.getItem('thoughtmix.history')") is None
    page.uncheck("#history-on")
    page.click("#history-close")
    page.click("#again")
    page.wait_for_selector("#actions:not([hidden])")
    assert page.evaluate("localStorage.getItem('thoughtmix.history')") is None, (
        "and none is kept when that is not wanted"
    )


def test_the_history_is_bounded(watched: Watched) -> None:
    page = watched.page
    sizes = page.evaluate("""async () => {
        const { Session } = await import('/page/store.js'); const { keep } = await import('/page/history.js');
        const sizes = [];
        for (const [long, many] of [[10, 44], [300_000, 9]]) {
            for (let i = 0; i < many; i += 1) {
                const session = new Session({ prompt: 'p', n: 1, seed: i });
                session.id = `${long} ${i}`;
                Object.assign(session.roots[0], { text: 'x'.repeat(long), done: true, finish: 'stop' });
                keep(session);
            }
            const kept = localStorage.getItem('thoughtmix.history');
            sizes.push([JSON.parse(kept).length, kept.length, JSON.parse(kept)[0].id]);
        }
        return sizes; }""")
    assert sizes[0][0] == 40 and sizes[0][2] == "10 43"
    assert 0 < sizes[1][0] < 8 and sizes[1][1] <= 2_000_000 and sizes[1][2] == "300000 8"


def choose(page: Any, body: str) -> None:
    page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": body.encode()})


def test_a_saved_set_is_opened_and_its_ancestry_has_no_circle(watched: Watched) -> None:
    page = watched.page
    origins = [
        {"label": "1"},
        {"label": "1.1", "parent": "1"},
        {"label": "a", "parent": "b"},
        {"label": "b", "parent": "a"},
    ]
    origins += [{"label": "c", "parent": "c"}, {"parent": "nobody"}, {"label": "1.1.1", "parent": "1.1"}]
    said = [
        "A door stop.",
        "A heavy door stop.",
        "A book end.",
        "A bed warmer.",
        "A stage for ants",
        "A drum.",
        "Both of them.",
    ]
    thoughts = tuple(
        Thought(text, (1, 2, 3), i, -6.0, "length" if i == 4 else "stop", origin=origin)
        for i, (text, origin) in enumerate(zip(said, origins, strict=True))
    )
    made = ThoughtSet("What for?", thoughts, thinker="search", model="elsewhere", settings={"max_new_tokens": 12})
    choose(page, made.to_json())
    page.wait_for_selector("#actions:not([hidden])")
    until(page, "document.querySelectorAll('#heat tbody tr').length === 7")
    assert texts(page) == ["A door stop.", "A book end.", "A bed warmer.", "A stage for ants", "A drum."]
    assert page.locator("#tree [role=treeitem]").evaluate_all("es => es.map(e => e.dataset.label)") == [
        "1",
        "1.1",
        "1.1.1",
    ]
    assert page.input_value("#prompt") == "What for?"
    summary = page.inner_text("#summary")
    assert "5 thoughts" in summary and "search" in summary and "elsewhere" in summary, (
        "the set's model, not the server's"
    )
    d = distances_of([t.text for t in made])
    roots = [0, 2, 3, 4, 5]
    mean = sum(d[i][j] for i in roots for j in roots if i < j) / 10
    told = re.search(r"(\d\.\d\d) apart on average", summary)
    assert told and float(told[1]) == pytest.approx(mean, abs=0.0051), "over the answers, not over what grew from them"
    assert "−2.00 nats a token" in page.inner_text("#card-1 .facts")
    for wrong, told in (
        ("{", "The file is no JSON."),
        ("[1, 2]", "The file is no thought set."),
        (json.dumps({**made.to_dict(), "version": 9}), "newer version"),
        (json.dumps({**made.to_dict(), "thoughts": [{"text": 3}]}), "no thought set"),
    ):
        choose(page, wrong)
        until(page, f"document.getElementById('notice-text').innerText.includes({told!r})")
        assert texts(page)[0] == "A door stop.", "what was there stays"
    again = json.dumps({**made.to_dict(), "prompt": "Dropped?"})
    page.evaluate(
        """(text) => { const data = new DataTransfer(); data.items.add(new File([text], 'set.json', { type: 'application/json' }));
        document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); }""",
        again,
    )
    until(page, "document.getElementById('prompt').value === 'Dropped?'")


# --- many thoughts ----------------------------------------------------------------------------------------------


def test_64_thoughts(watched: Watched, land: Land) -> None:
    page = watched.page
    kinds = [
        "use it as a heavy door stop for the garden gate",
        "build a small oven and bake bread in it",
        "paint it and give it to a friend as art",
    ]
    land.says = {i: f"{kinds[i % 3]} number {'abcdefghijklmnopqrstuv'[i // 3]}" for i in range(64)}
    think(page, n=64)
    assert page.locator("#map g.dot").count() == 64 and page.locator("#heat tbody tr").count() == 64, "all of them"
    groups = page.locator("#map-legend button").all_inner_texts()
    assert len(groups) == 3 and [g.rsplit(None, 1)[1] for g in groups] == ["22", "21", "21"]
    assert any(word in " ".join(groups) for word in ("door", "garden", "heavy", "stop", "gate"))
    order = page.locator("#heat tbody tr th").evaluate_all("ts => ts.map(t => Number(t.dataset.label) % 3)")
    assert sum(a != b for a, b in pairwise(order)) == 2, "near thoughts are neighbours"
    page.locator("#heat td").nth(64 * 5 + 9).hover()
    assert re.fullmatch(r"\d+ and \d+: \d\.\d\d apart", page.inner_text("#heat-readout"))
    # groups, filter and sorting
    page.locator("#map-legend button").nth(1).click()
    assert page.locator(".card:not([hidden])").count() == 21 and page.inner_text("#shown") == "21 of 64"
    page.locator("#map-legend button").nth(1).click()
    page.fill("#filter", "number c")
    until(page, "document.querySelectorAll('.card:not([hidden])').length === 3")
    page.fill("#filter", "")
    page.select_option("#show", "complete")
    assert page.locator(".card:not([hidden])").count() == 21, "every third was ended by the model"
    page.select_option("#show", "all")
    page.select_option("#sort", "likely")
    labels = page.locator(".card").evaluate_all("cs => cs.map(c => Number(c.dataset.label))")
    assert labels == list(range(1, 65)), "likeliest first: they are said so by the server"
    page.select_option("#sort", "far")
    far = page.locator(".card").evaluate_all("cs => cs.map(c => Number(c.dataset.label) - 1)")
    d = distances_of([land.says[i] for i in range(64)])
    means = [sum(d[i]) for i in far]
    assert all(a > b - 1e-9 for a, b in pairwise(means))
    page.keyboard.press("j")
    # zoom and pan
    places = "[...document.querySelectorAll('#map g.dot')].map(g => g.getAttribute('transform').match(/[-\\d.]+/g).map(Number))"
    before = page.evaluate(places)
    assert page.is_disabled("#map-out")
    page.click("#map-in")
    page.click("#map-in")
    near = page.evaluate(places)
    apart = lambda at: abs(at[0][0] - at[1][0]) + abs(at[0][1] - at[1][1])  # noqa: E731
    assert apart(near) == pytest.approx(2.25 * apart(before), rel=0.02), "places move apart, dots keep their size"
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 40, box["y"] + 28, steps=4)
    page.mouse.up()
    moved = page.evaluate(places)
    assert moved[0][0] - near[0][0] == pytest.approx(-40, abs=1) and moved[0][1] - near[0][1] == pytest.approx(
        20, abs=1
    )
    page.click("#map-fit")
    assert page.evaluate(places) == before


def test_a_selection_says_what_it_left_out(watched: Watched, land: Land) -> None:
    page = watched.page
    land.says = {1: "a loop " * 40, 2: "  ", 4: "a brick can hold a door", 5: "A brick can hold a door"}
    page.fill("#prompt", BRICK)
    page.press("#prompt", "Enter")
    until(page, "document.querySelectorAll('#heat td').length === 49")  # the blank one has no place
    page.fill("#k", "2")
    page.fill("#floor", "0.2")
    page.click("#pick")
    page.wait_for_selector(".card.picked")
    said = [land.says.get(i, "".join(w + " " for w in words_of(BRICK, i, 14))) for i in range(8)]
    likes = [-1.5 - i / 10 for i in range(8)]
    left = select(said, distances_of(said), likes, 2, 0.2).left_out
    assert {each.why for each in left} == {"loop", "blank", "copy", "quality", "near"}
    words = {
        "loop": "left out: repeats itself",
        "blank": "left out: blank",
        "copy": "left out: says what 5 says",
        "quality": "left out: below the quality floor",
    }
    for each in left:
        state = page.inner_text(f"#card-{each.index + 1} .state")
        assert state == words.get(each.why, f"left out: nearest to {(each.of or 0) + 1}")
    told = page.inner_text("#selection")
    assert told.startswith("2 of 8 picked. ") and "as many at random" in told
    assert "1 blank one, 1 copy, 1 loop, 1 less likely than the floor asks" in told
    assert land.bodies("/api/select")[0]["quality_floor"] == 0.2


# --- for everyone -----------------------------------------------------------------------------------------------

OVERLAPS = """() => {
  const seen = (e) => e.checkVisibility() && e.getClientRects().length;
  const out = [];
  for (const box of document.querySelectorAll('.top, .tools, .tabs, .controls, .bar, .pick, .exports, .sorting, .panel-head, .card-foot, .foot, .figures, .player')) {
    const parts = [...box.children].filter(seen).map(e => [e.id || e.className || e.localName, e.getBoundingClientRect()]);
    parts.forEach(([a, p], i) => parts.slice(0, i).forEach(([b, q]) => {
      if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1) out.push(`${box.className}: ${a} and ${b}`);
    }));
    for (const [a, p] of parts) if (p.right > innerWidth + 1) out.push(`${a} leaves the page`);
  }
  for (const e of document.querySelectorAll('.top h1, .tools button, .tabs button')) if (seen(e) && e.scrollWidth > e.clientWidth + 1) out.push(`${e.id || e.localName} is cut`);
  return out;
}"""


def test_nothing_overlaps_at_any_width(watch: Callable[..., Watched]) -> None:
    """Phones, the widths where the layout changes, and 1280 at 200% zoom, which is 640."""
    page = watch(viewport={"width": 1280, "height": 800}, locale="fr-FR", reduced_motion="reduce").page
    think(page, n=5)
    page.locator("#card-2 button").first.click()
    page.wait_for_selector("#cancel", state="hidden")
    page.click("#more summary")
    for width in (360, 390, 544, 640, 704, 710, 720, 730, 740, 800, 960, 1100, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for view in ("think", "compare", "diffuse"):
            page.evaluate(f"document.getElementById('tab-{view}').click()")
            assert page.evaluate(OVERLAPS) == [], (width, view)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, (width, view)


def test_thinkers_and_options_have_french(watched: Watched) -> None:
    known = watched.page.evaluate("import('/page/words_thinkers.js').then(m => m.known)")
    missing = []
    for name in thinker_names():
        thinker = get_thinker(name)
        if not type(thinker).__module__.startswith("thoughtmix."):
            continue
        if name not in known["FRENCH"]:
            missing.append(name)
        for option, body in served_schema(thinker.Options)["properties"].items():
            if option not in known["HELP"].get(name, {}):
                missing.append(f"help of {name}.{option}")
            if not {option, f"{name}.{option}"} & set(known["LABELS"]["fr"]):
                missing.append(f"label of {option}")
            kinds = [body, *body.get("anyOf", [])]
            values = [str(value) for kind in kinds for value in kind.get("enum", [])]
            missing += [f"value {value}" for value in values if value not in known["VALUES"]["fr"]]
    assert missing == [], "src/thoughtmix/serve/page/words_thinkers.js"


def test_french_has_its_spaces(watch: Callable[..., Watched]) -> None:
    page = watch(locale="fr-FR").page
    lines = page.evaluate("""async () => { const { allWords, t } = await import('/page/words.js'); const m = await import('/page/words_thinkers.js');
        const help = m.known.HELP;
        return [...Object.keys(allWords.fr).map(k => t(k)), ...Object.entries(help).flatMap(([n, o]) => Object.keys(o).map(k => m.optionHelp(n, k, '').words)), ...Object.keys(help).map(name => m.thinkerSummary({ name }).words)]; }""")
    assert len(lines) > 300
    assert [line for line in lines if re.search(r" [:;!?»]|« |[^\s\d'’ ][;!?»](?!\w)", line.replace("?q", ""))] == []
    page.click("#more summary")
    page.select_option("#thinker", "hybrid")
    assert page.locator("#options label").first.inner_text() == "Familles"
    shown = page.inner_text("#options")
    assert "Textes rédigés d’abord (8 si rien n’est dit)." in shown and re.search(r"Entre\s0\set\s1\.", shown)
    assert page.locator("#thinker option").all_inner_texts()[1] == "tirage (sampling)"
    page.select_option("#thinker", "plan")
    source = page.locator("#option-source option").all_inner_texts()
    assert source == ["automatique", "idées", "le modèle", "catalogue", "bruit"], (
        "what a server takes of a text is a choice"
    )
    for name, bounds in {"factor": ("1", "16"), "demonstrations": ("0", "1")}.items():
        assert (page.get_attribute(f"#option-{name}", "min"), page.get_attribute(f"#option-{name}", "max")) == bounds


def test_the_words_of_the_page_are_no_more_than_it_says() -> None:
    """A word that nothing says is a word too many."""
    words = re.split(r"\n  fr: \{", (PAGE / "words.js").read_text(), maxsplit=1)[0]
    keys = set(re.findall(r"(?<![\w\"])(\w+): \"", words))
    said = "".join(f.read_text() for f in [*PAGE.glob("*.js"), PAGE / "index.html"] if f.name != "words.js")
    stems = tuple(re.findall(r"t\(`(\w+_)\$\{", said))
    ends = tuple(re.findall(r"\$\{\w+\}(\w+)`\)", said))
    unused = {
        k
        for k in keys
        if not re.search(rf"[\"'`\s]{k}[\"'`]", said) and not k.startswith(stems) and not k.endswith(ends)
    }
    assert unused <= {"creativity", "temperature"}
