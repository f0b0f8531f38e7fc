"""The laws over every causal class of the installed transformers, a tiny model each: decoded rightly, or refused."""

from __future__ import annotations

import pytest
from every_class import EXCEPTIONS, GENERATE, REFUSED, build, classes, decoding

NAMES = sorted(set(classes()) - set(EXCEPTIONS))


def test_nearly_all_are_here() -> None:
    assert len(NAMES) > 100
    assert len(EXCEPTIONS) + len(REFUSED) < 10


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_decoded_as_its_forward_says_or_refused(name: str) -> None:
    """Laws 4, 5 and 6: the log-probabilities are those of one forward without a cache, rows that end and neighbours
    change nothing, and greedy is `generate`."""
    found = decoding(name, build(name))
    if name in REFUSED:
        assert found.path == "refused"
        assert "cannot be decoded from left to right" in found.wrong[0]
        assert found.wrong[0].endswith("Choose another model (--model).")
    else:
        assert not found.wrong and found.path != "refused", f"{found} {GENERATE.get(name, '')}"
