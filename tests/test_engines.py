"""The table of docs/engines.md is what the declarations say, and what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai  # noqa: F401  importing its transport may move the global random state
import pytest
from badserver import serving
from tinyland import HashEmbedder

from thoughtmix import Pipeline
from thoughtmix.cli.helptext import engines_table
from thoughtmix.core.errors import InputError

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
SHORT: dict[str, Any] = {"max_new_tokens": 8, "measure": False}


def rows() -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in engines_table().splitlines()[2:]]
    return {name.strip("`"): cells for name, *cells in lines}


def test_the_table_in_the_docs_is_the_table() -> None:
    _, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    made = engines_table()
    assert rest.partition("<!-- /table -->")[0] == made, "Paste: python -m thoughtmix.cli.helptext engines"


@pytest.mark.parametrize("thinker", sorted(rows()))
def test_every_thinker_on_an_endpoint(thinker: str) -> None:
    """Works: n thoughts come back. Refused: in one line, by what it needs, with what to type, and nothing is asked."""
    said = rows()[thinker][-1]
    with serving(lambda number, body: "n") as server:
        there = Pipeline("m", endpoint=server.url, embedder=HashEmbedder())
        if said.startswith("works"):
            made = there("A question?", 2, thinker, **SHORT)
            assert len(made) == 2 and all(made.texts)
            assert made.thinker == made.run.get("chosen", {"thinker": thinker})["thinker"]
            return
        with pytest.raises(InputError) as caught:
            there("A question?", 2, thinker, **SHORT)
    line = str(caught.value)
    needs = said.removeprefix("refused: needs ")
    assert f"The thinker {thinker} needs {needs}, which m at 127.0.0.1" in line
    assert line.endswith("Use a local model: leave out --endpoint, or pass a folder or a Hugging Face id as --model.")
    assert not server.seen and "\n" not in line
