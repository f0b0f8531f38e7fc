"""docs/laws.md says which test holds which law: those tests exist, and every law has some."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = re.findall(r"^\| (\d) \| (.*) \| (.*) \|$", (TESTS.parent / "docs" / "laws.md").read_text(), re.M)


def test_every_law_names_tests_that_exist() -> None:
    assert [number for number, _, _ in ROWS] == [str(i) for i in range(1, 10)]
    for number, _, where in ROWS:
        named = re.findall(r"(test_\w+\.py)(?:::([\w:]+))?", where)
        assert named, f"law {number}"
        for file, test in named:
            source = (TESTS / file).read_text()
            for part in filter(None, test.split("::")):
                assert re.search(rf"^\s*(?:def|class) {part}\b", source, re.M), f"law {number}: {file}::{test}"


def test_every_test_that_carries_a_number_is_named_with_its_law() -> None:
    for file in TESTS.glob("test_*.py"):
        for law in re.findall(r"def test_law_(\d)", file.read_text()):
            where = next(where for number, _, where in ROWS if number == law)
            assert file.name in where, f"{file.name} holds law {law}, docs/laws.md does not say so"
