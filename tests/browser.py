"""The Chromium that the page's tests run in. `python tests/browser.py` (`make browser`) installs Debian's where there is
none and that can be done without a question; else it says in red what is skipped. It never fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The path of a Chromium: the one that $CHROMIUM names, else the system's, else one that playwright downloaded."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, NAMES)), None) or _downloaded()


def why_none() -> str:
    """Why `find_chromium` gave None, and what to type."""
    named = os.environ.get("CHROMIUM")
    why = f"CHROMIUM={named} names no program" if named else "there is no Chromium"
    return (
        f"{why}. Type: apt-get install chromium, or .venv/bin/playwright install chromium, or name one: "
        "CHROMIUM=/path/to/chrome make test"
    )


def _downloaded() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as play:
        path = play.chromium.executable_path
    return path if Path(path).is_file() else None


def _install() -> None:
    """Only Debian's: Ubuntu's package of that name fetches a snap, which containers cannot run."""
    try:
        system = platform.freedesktop_os_release()["ID"]
    except OSError:
        return
    if system != "debian" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print("Installing Debian's chromium for the page's tests ...", flush=True)
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        subprocess.run(
            ["apt-get", "-qq", *words],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )


class Watched:
    """A page, and everything that must not happen on it."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, "locale": "en-GB", **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on(
            "request",
            lambda r: self.elsewhere.append(r.url) if not r.url.startswith((url, "blob:", "data:")) else None,
        )
        self.page.goto(url)
        until(
            self.page,
            "document.querySelectorAll('#thinker option').length > 1 || document.querySelector('dialog[open]')",
        )

    def expect_errors(self, *words: str) -> None:
        """The browser logs failed requests itself: those that a test provokes are struck out."""
        self.errors = [e for e in self.errors if not any(word in e for word in words)]

    def check(self) -> None:
        assert self.errors == []
        assert self.elsewhere == [], "nothing leaves the host"


def until(page: Any, true: str, seconds: float = 120) -> None:
    """Wait until an expression is true. Playwright's own wait evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < end, f"never: {true}"
        time.sleep(0.03)


def main() -> None:
    if find_chromium() is None and not os.environ.get("CHROMIUM"):
        _install()
    if find_chromium() is None:
        print(f"\033[31mThe page's tests will be skipped: {why_none()}\033[0m", file=sys.stderr)


if __name__ == "__main__":
    main()
