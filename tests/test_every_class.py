"""The laws over every causal class of the installed transformers, a tiny model each: decoded rightly, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from every_class import EXCEPTIONS, GENERATE, REFUSED, build, classes, decoding, grafted

TABLE = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
NAMES = sorted(set(classes()) - set(EXCEPTIONS))


def test_nearly_all_are_here() -> None:
    assert len(NAMES) > 100
    assert len(EXCEPTIONS) + len(REFUSED) < 10


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_decoded_as_its_forward_says_or_refused(name: str) -> None:
    """Laws 4, 5 and 6: the log-probabilities are those of one forward without a cache, rows that end and neighbours
    change nothing, and greedy is `generate`. So with a graft, where one can be put on: law 1, and law 4 of its thoughts."""
    model = build(name)
    found = decoding(name, model)
    if f"transformers {transformers.__version__}'s" in TABLE:
        assert f"| {name} | {classes()[name]} | {found.path} | " in TABLE, (
            "type: python tests/every_class.py > docs/models.md"
        )
    if name in REFUSED:
        assert found.path == "refused"
        assert "cannot be decoded from left to right" in found.wrong[0]
        assert found.wrong[0].endswith("Choose another model (--model).")
    else:
        assert not found.wrong and found.path != "refused", f"{found} {GENERATE.get(name, '')}"
        graft = grafted(model)
        if found.path == "recompute":  # a thought's state goes from step to step, and here there are none
            assert "has no usable cache" in graft or graft.startswith("refused")
        else:
            assert graft == "yes"
