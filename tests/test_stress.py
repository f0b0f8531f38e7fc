"""A few rounds of tests/stress.py, which says more; thousands by hand: `python tests/stress.py --rounds 2000`."""

from __future__ import annotations

import random

import pytest
from stress import Found, Stress, yields


@pytest.mark.parametrize("family", ["llama", "mixture"])
def test_law_5_under_injected_yields(family: str) -> None:
    found, stress = Found(), Stress(family, 12)
    with yields(random.Random(family)):
        for number in range(6):
            stress.round(number, found)
    assert found.rounds == 6 and found.calls + found.cancelled == 48 and found.draws > 200
    assert not found.differences, found.differences[0]
    assert found.furthest < 2e-4
