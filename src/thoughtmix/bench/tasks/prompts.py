"""Open prompts from a file: JSON Lines with `prompt`, as NoveltyBench writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thoughtmix.bench.tasks.item import Item
from thoughtmix.core.errors import InputError

_LINE = 'Write one object a line: {"prompt": "Name a use for a brick."}'


def read_prompts(path: str | Path) -> list[Item]:
    """One open item a line: `prompt`; if there, `id` and `prompt_paraphrases` (or `paraphrases`); the rest is ignored.

    Raises `InputError` for a file that cannot be read, is empty, has a line without a prompt, or an id twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the prompts: {error}.", "Name a JSON Lines file (--prompts FILE).") from None
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _item(line, f"{path}, line {number}", f"line-{number}")
        if item.id in items:
            raise InputError(f"{path}, line {number}: the id {item.id!r} was there before.", "Give each line its own.")
        items[item.id] = item
    if not items:
        raise InputError(f"{path} holds no prompts.", _LINE)
    return list(items.values())


def _item(line: str, where: str, default: str) -> Item:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}.", _LINE) from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise InputError(f"{where}: there is no text `prompt`.", _LINE)
    ways = row.get("prompt_paraphrases", row.get("paraphrases", []))
    if not isinstance(ways, list) or not all(isinstance(w, str) and w.strip() for w in ways):
        raise InputError(f"{where}: the paraphrases are no list of texts.", "Leave them out, or write a list.")
    name = row.get("id", default)
    if not isinstance(name, (str, int)):
        raise InputError(f"{where}: the id is neither a text nor a number.", "Leave it out to have the line number.")
    return Item(f"open/{name}", "open", row["prompt"], tuple(ways))
