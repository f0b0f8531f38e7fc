"""A study: a small mixture of experts, trained here for two minutes on five kinds of text, specialises, and steering it by
what was found steers what it writes. Needs the path of tiny_shakespeare.txt in THOUGHTMIX_SHAKESPEARE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STUDY = Path(__file__).parents[1] / "studies" / "experts"
SHAKESPEARE = os.environ.get("THOUGHTMIX_SHAKESPEARE", "")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not SHAKESPEARE:
        pytest.skip("THOUGHTMIX_SHAKESPEARE names no file")
    folder = tmp_path_factory.mktemp("study")

    def run(script: str, *more: str) -> None:
        subprocess.run([sys.executable, str(STUDY / script), "--shakespeare", SHAKESPEARE, *more], check=True)

    run("train.py", "--out", str(folder / "moe"), "--steps", "500")
    run(
        "evaluate.py",
        "--model",
        str(folder / "moe"),
        "--prompts",
        "1",
        "--seeds",
        "1",
        "--skip-frontier",
        "--out",
        str(folder / "f.json"),
    )
    return json.loads((folder / "f.json").read_text())


@pytest.mark.slow
def test_domains_are_recovered_from_routing(figures: Any) -> None:
    assert figures["classifier_accuracy_held_out"] > 0.9
    assert figures["map"]["mutual_information_p"] < 0.01 and figures["map"]["recovered_p"] < 0.01
    assert figures["map"]["recovered"] > 0.5, "chance is 0.2"


@pytest.mark.slow
def test_forcing_a_domains_experts_steers_the_text(figures: Any) -> None:
    """Against random experts: to the right side on average, and for some domain beyond doubt."""
    found = figures["steering"]["forced"]
    assert found["all"]["over_random_experts"][0] > 0
    assert max(x["over_random_experts"][1] for x in found.values()) > 0
