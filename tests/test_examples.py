"""The examples run as they are, on a tiny model."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tinyland"]
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_example(file: Path, tinyland: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [file.name])
    runpy.run_path(str(file), run_name="__main__")
    out = capsys.readouterr().out
    assert len(out.splitlines()) >= 5
    if file.stem == "knobs":
        vendi = [float(line.split()[1]) for line in out.splitlines()[1:]]
        assert vendi[0] == 1, "creativity 0 gives one thought"
        assert vendi[-1] > vendi[1]
