"""Shared fixtures. Tests that need the default model are marked `model`; all others are offline."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from browser import find_chromium, why_none

os.environ["THOUGHTMIX_CONFIG"] = os.devnull  # the settings of whoever runs the tests are not theirs


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Nothing is skipped in silence: how many tests, and why, in red."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, tests in reasons.items():
        terminalreporter.write_line(f"{tests} skipped: {reason}", red=True, bold=True)


@pytest.fixture(autouse=True)
def no_progress_in_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: what a test reads on stderr is no matter of time."""
    monkeypatch.setattr("thoughtmix.cli.reporting.EVERY", 10**6)


@pytest.fixture
def global_state_untouched() -> Iterator[None]:
    """Fails when the code under test reads or moves a global random state, or leaves a global torch flag changed."""

    def snapshot() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002  the legacy state is what must not move
            random.getstate(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = snapshot()
    yield
    assert snapshot() == before


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(why_none())
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="kill -9 a batch so many times (tests/test_batch.py)")
