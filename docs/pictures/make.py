"""The pictures of docs/page.md, taken from a running page in a headless Chromium: `python docs/pictures/make.py`.

Starts `thoughtmix serve` by itself on a free port, or looks at the one of --url. Needs playwright and chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPT = "Give me an unusual idea for a birthday party."
PATIENCE = 120_000
"""Milliseconds that one run may take: small machines are slow."""


@contextmanager
def served(url: str | None) -> Iterator[str]:
    """The address of a server: the one named, or one of our own, stopped at the end."""
    if url:
        yield url
        return
    with tempfile.TemporaryFile("w+") as log:
        own = subprocess.Popen(
            [sys.executable, "-m", "thoughtmix", "serve", "--port", "0"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            found = None
            while not found and own.poll() is None:
                time.sleep(0.5)
                log.seek(0)
                found = re.search(r"http://[\d.]+:\d+/?", log.read())
            if not found:
                log.seek(0)
                raise SystemExit(f"thoughtmix serve does not start:\n{log.read()}")
            yield found.group()
        finally:
            own.terminate()
            own.wait(60)


def small(path: Path, most: int = 140_000) -> None:
    """Above so many bytes: 256 colours, a third of the bytes."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)
    if path.stat().st_size > most:
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KB")


def shoot(target: Any, name: str, **how: Any) -> None:
    path = HERE / f"{name}.png"
    target.screenshot(path=path, animations="disabled", **how)
    small(path)


def think(page: Any, n: int, tokens: int) -> None:
    page.fill("#prompt", PROMPT)
    page.fill("#n", str(n))
    if not page.evaluate("document.getElementById('more').open"):
        page.click("#more summary")
    page.fill("#max_tokens", str(tokens))
    page.click("#more summary")
    page.click("#think")
    page.wait_for_selector("#cancel")
    page.wait_for_selector("#actions:not([hidden])")
    page.locator("#heat td").nth(n * n - 1).wait_for()
    page.wait_for_timeout(1500)


def thoughts(page: Any) -> None:
    """Light: cards with map; map and heat-map alone; the most different, dark; a phone."""
    page.select_option("#thinker", "sampling")
    page.fill("#prompt", PROMPT)
    think(page, 8, 48)
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(4, 4)
    shoot(page, "light")
    page.locator("#heat td").nth(3).hover()
    shoot(page.locator(".side"), "map")
    page.fill("#k", "3")
    page.click("#pick")
    page.wait_for_selector(".card.picked")
    page.click("#theme")
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(4, 4)
    shoot(page, "dark")
    page.click("#unpick")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(800)
    page.evaluate("window.scrollTo(0, 0)")
    shoot(page, "phone")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.click("#theme")


def many(page: Any) -> None:
    """64 thoughts: the groups of the map, and who differs from whom."""
    page.click("#tab-think")
    page.select_option("#thinker", "sampling")
    think(page, 64, 32)
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(4, 4)
    shoot(page, "many")


def tree(page: Any) -> None:
    if not page.locator("#thinker option[value=noise]").count():
        print("tree.png: left as it is, this server has no noise thinker")
        return
    for label in ("2", "2.2"):
        if label == "2":
            page.locator("#card-2 button").first.click()
        else:
            page.locator(f"#tree [data-label='{label}'] .leaf").first.click()
            page.locator("#node button").first.click()
        page.wait_for_selector("#cancel")
        page.wait_for_selector("#cancel", state="hidden")
    page.wait_for_timeout(3000)
    page.mouse.move(4, 4)
    shoot(page.locator("#tree-panel"), "tree")


def compare(page: Any) -> None:
    page.click("#tab-compare")
    page.fill("#compare-prompt", PROMPT)
    page.click("#compare-go")
    page.wait_for_selector("#compare-cancel")
    page.wait_for_selector("#compare-cancel", state="hidden")
    for side, steps in (("creativity", 8), ("temperature", 8), ("creativity", -14), ("temperature", -14)):
        page.focus(f"#slide-{side}")
        for _ in range(abs(steps)):
            page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        page.wait_for_selector("#compare-cancel")
        page.wait_for_selector("#compare-cancel", state="hidden")
    page.mouse.move(4, 4)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    shoot(page, "compare", full_page=True)


def film(page: Any) -> None:
    page.click("#tab-diffuse")
    page.fill("#diffuse-prompt", "ROMEO:")
    page.fill("#length", "160")
    page.fill("#steps", "96")
    page.click("#diffuse-go")
    page.wait_for_selector("#diffuse-cancel")
    page.wait_for_selector("#diffuse-cancel", state="hidden")
    most = int(page.get_attribute("#scrub", "max") or 0)
    for at in range(most * 6 // 10, most):  # where a branch is being given up
        page.evaluate(
            "at => { const s = document.getElementById('scrub'); s.value = at; s.dispatchEvent(new Event('input')); }",
            at,
        )
        if page.locator(".film-row.gone").count():
            break
    page.wait_for_timeout(900)
    page.evaluate("window.scrollTo(0, 0)")
    shoot(page.locator("#film"), "diffusion")


STEPS = {"thoughts": thoughts, "tree": tree, "compare": compare, "film": film, "many": many}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--only", default=",".join(STEPS), help="some of: %(default)s (tree needs thoughts)")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served(args.url) as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": 1440, "height": 900}, locale="en-GB", color_scheme="light", reduced_motion="reduce"
        )
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.locator("#thinker option").nth(1).wait_for(state="attached")
        for name in args.only.split(","):
            STEPS[name](page)
        browser.close()


if __name__ == "__main__":
    main()
