"""What is asked: a prompt with all that is needed to ask it again and to read its answers. Open prompts from a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json, why_unread
from thoughtmix.metrics.soundness import FORMATS

TaskKind = Literal["open", "coverage", "reasoning"]
"""open: judged by a model. coverage: answers are checked, and counted when distinct. reasoning: one right result."""
_LINE = 'Write one object a line: {"prompt": "Name a use for a brick."}'


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of the bench. Plain data: it travels to other processes and into the record."""

    id: str
    kind: TaskKind
    prompt: str
    paraphrases: tuple[str, ...] = ()
    """Other ways to ask the same, for the baseline of that name."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What a parser needs beyond the id: the numbers and the target of a countdown, the `format` of an open prompt."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What a text answers."""

    answer: str | None
    """In a form in which equal answers are equal; None when no answer could be read."""
    valid: bool


AnswerParser = Callable[[str], ParsedAnswer]
NO_ANSWER = ParsedAnswer(None, False)


def read_prompts(path: str | Path) -> list[Item]:
    """Open items from JSON Lines, as NoveltyBench writes them, or from a .txt file, a prompt a line.

    Each line has a `prompt` and, if there, `id`, `prompt_paraphrases` (or `paraphrases`), and the `format` that answers
    must have to be sound (json or python). The rest is ignored.

    Raises:
        InputError: for a file that cannot be read, is empty, has a line without a prompt, or an id twice.
    """
    try:
        lines = bounded_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the prompts: {why_unread(error)}.", "Name a JSON Lines file (--prompts FILE)."
        ) from None
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        line = json.dumps({"prompt": line.strip()}) if Path(path).suffix == ".txt" else line
        item = _open_item(line, f"{path}, line {number}", f"line-{number}")
        if item.id in items:
            raise InputError(f"{path}, line {number}: the id {item.id!r} was there before.", "Give each line its own.")
        items[item.id] = item
    if not items:
        raise InputError(f"{path} holds no prompts.", _LINE)
    return list(items.values())


def _open_item(line: str, where: str, default: str) -> Item:
    try:
        row: Any = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}.", _LINE) from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise InputError(f"{where}: there is no text `prompt`.", _LINE)
    paraphrases = row.get("prompt_paraphrases", row.get("paraphrases", []))
    if not isinstance(paraphrases, list) or not all(isinstance(p, str) and p.strip() for p in paraphrases):
        raise InputError(f"{where}: the paraphrases are no list of texts.", "Leave them out, or write a list.")
    name = row.get("id", default)
    if not isinstance(name, (str, int)):
        raise InputError(f"{where}: the id is neither a text nor a number.", "Leave it out to have the line number.")
    form = row.get("format")
    if form is not None and form not in FORMATS:
        raise InputError(f"{where}: no format {form!r} can be checked.", f"Write one of {', '.join(FORMATS)}, or none.")
    data = {} if form is None else {"format": form}
    return Item(f"open/{name}", "open", row["prompt"], tuple(paraphrases), data)
