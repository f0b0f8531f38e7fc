"""The Chromium that the page's tests run in. `python tests/browser.py` (`make browser`) installs Debian's where there is
none and that can be done without a question; else it says in red what is skipped. It never fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

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


def main() -> None:
    if find_chromium() is None and not os.environ.get("CHROMIUM"):
        _install()
    if find_chromium() is None:
        print(f"\033[31mThe page's tests will be skipped: {why_none()}\033[0m", file=sys.stderr)


if __name__ == "__main__":
    main()
