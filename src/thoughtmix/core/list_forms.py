"""Lists that are not written a line an item: tags, JSON (whole or cut off), and several items in one line."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from thoughtmix.core.list_marks import is_sequence, numeric

_TEXT_TAG = re.compile(r"<text>(.*?)(?:</text>|(?=<probability>|</?response>)|\Z)", re.DOTALL | re.IGNORECASE)
_RESPONSE_TAG = re.compile(r"<response[^>]*>(.*?)(?:</response>|(?=<response)|\Z)", re.DOTALL | re.IGNORECASE)
_TEXT_KEYS = ("text", "answer", "response", "content", "value", "item", "idea", "description", "name", "title")
_JSON_START = re.compile(r"(?:^|[:：]|```(?:json|python)?)\s*(?=[\[{])", re.MULTILINE | re.IGNORECASE)
_PERCENT = re.compile(r":\s*(\d+(?:\.\d+)?\s*%)(?=\s*(?:[,}\]]|$))", re.MULTILINE)
"""What JSON has no number for, though models write it."""
_INLINE_NUMBER = re.compile(
    r"(?:^|(?<=[\s,;。，；.!?]))\(?(?P<n>\d{1,2})[.)）、．:](?!\d)\s*|(?P<c>[①-⑳])\s*", re.MULTILINE
)
_SENTENCE = re.compile(
    r"\b(?:i|we|you|he|she|it|they|this|that|which|who|is|are|was|were|will|would|can|could|should|have|has|had|do|does"
    r"|but|because|so|if|when|il|elle|est|sont|ist|sind)\b",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(r"(?:^|\s+)(?:and|or|&|et|ou|und|oder|y)\s+|(?<=\w)(?:和|以及|或)(?=\w)", re.IGNORECASE)
_SEPARATORS = ((";", 2), ("；", 2), (" | ", 2), (" / ", 3), ("、", 2), ("，", 3), (",", 3))
"""What parts the items of one line, and from how many parts on it is a list: "Paris, France" is one place."""


def tagged_items(text: str) -> list[str] | None:
    """The texts in <response> tags (verbalized sampling); None without any."""
    found = _TEXT_TAG.findall(text) or _RESPONSE_TAG.findall(text)
    return [re.sub(r"<probability>.*", "", body, flags=re.DOTALL | re.IGNORECASE) for body in found] or None


def json_items(text: str) -> list[str] | None:
    """The items of a list in JSON (or Python) that begins a line or follows a colon, as far as it was written.

    Objects count by the first of their usual keys (`text`, `answer`...), or by their only text.
    """
    if re.fullmatch(r"\[\s*\]|\{\s*\}", text.strip()):
        return []
    for start in _JSON_START.finditer(text):
        values = _values(_PERCENT.sub(r': "\1"', text[start.end() :].split("\n```")[0]))
        items = [_item(v) for v in values]
        known = [item for item in items if item is not None]
        # "[1] Paris" is a mark, and [see] a word.
        if known and not (len(values) == 1 and isinstance(values[0], (int, float))):
            return known
    return None


def _values(text: str) -> list[Any]:
    """The elements of a list, of the list in an object, or of objects one after the other; the last may be cut off."""
    if text.startswith("["):
        values = _elements(text[1:], "]")
        if not values:
            values = _python_list(text)
        return values
    wrapped = re.match(r'\{\s*"[^"]*"\s*:\s*(?=\[)', text)
    if wrapped:
        return _values(text[wrapped.end() :])
    values = _elements(text, "")
    only = values[0] if len(values) == 1 else None
    if isinstance(only, dict) and len(only) > 1 and not any(key in only for key in _TEXT_KEYS):
        return list(only.values())  # {"1": "Paris", "2": "Rome"}
    return values


def _elements(text: str, end: str) -> list[Any]:
    """JSON values with commas or space between them, until `end` or what is none; one that is cut off is mended."""
    decoder, out, at = json.JSONDecoder(strict=False), list[Any](), 0
    while True:
        at = _skip(text, at)
        if at >= len(text) or (end and text[at] == end):
            return out
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            value = _mended(text[at:])
            return out if value is None else [*out, value]
        out.append(value)


def _skip(text: str, at: int) -> int:
    while at < len(text) and (text[at].isspace() or text[at] == ","):
        at += 1
    return at


def _mended(rest: str) -> Any:
    """A text or object whose end is missing; None where that is not what is wrong."""
    rest = rest.rstrip().rstrip("\\")
    without_field = re.sub(r',\s*(?:"[^"]*"?\s*:?\s*[^",:{]*)?$', "", rest)
    for whole in (rest + '"', rest + '"}', rest + "}", without_field + "}"):
        try:
            return json.loads(whole, strict=False)
        except ValueError:
            continue
    return None


def _python_list(text: str) -> list[Any]:
    """['Paris', 'Rome'], in single quotes."""
    end = text.rfind("]")
    try:
        value = ast.literal_eval(text[: end + 1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _item(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        lower = {str(key).lower(): v for key, v in value.items()}
        named = [lower[key] for key in _TEXT_KEYS if isinstance(lower.get(key), str)]
        texts = [v for v in lower.values() if isinstance(v, str)]
        return named[0] if named else texts[0] if len(texts) == 1 else None
    return None


def inline_items(text: str, have: int) -> list[str] | None:
    """The items of a list within lines, where that is more than the `have` that begin lines; else None.

    "1. Paris 2. Rome", "• Paris • Rome", and, where nothing begins a line, "Paris, Rome and Oslo".
    """
    marks = list(_INLINE_NUMBER.finditer(text))
    numbers = [numeric(m["n"] or m["c"]) for m in marks]
    if len(marks) > max(have, 1) and numbers[0] == 1 and is_sequence(numbers) and len(set(numbers)) == len(numbers):
        ends = [m.start() for m in marks[1:]] + [len(text)]
        return [text[m.end() : end].strip(" ,;，；") for m, end in zip(marks, ends, strict=True)]
    if have > 1 or "\n" in text.strip():
        return None
    line = text.strip()
    if line.count("•") > 1 or line.count("·") > 1:
        return [part for part in re.split("[•·]", line) if part.strip()]
    if re.match(r"[-*] ", line) and len(re.findall(r" [-*] ", line)) > 1:
        return re.split(r" [-*] ", line[2:])
    return _separated(re.sub(r"^[^,;]*[:：!！]\s+|^[^,;，；、]*：", "", line))


def _separated(line: str) -> list[str] | None:
    """Short parts between commas and the like; None for a sentence."""
    for separator, least in _SEPARATORS:
        parts = [p.strip() for p in line.split(separator)]
        if len(parts) > 1:
            parts = [*parts[:-1], *_LAST_WORD.split(parts[-1])]
        parts = [p for p in parts if p]
        if len(parts) < least:
            continue
        parts[-1] = parts[-1].rstrip(".。!！")
        if separator in {",", "，", "、"} and not _short(parts):
            return None
        return parts
    return None


def _short(parts: Sequence[str]) -> bool:
    """Whether these look like names of things, not like a sentence's clauses."""
    return not any(len(p.split()) > 4 or len(p) > 40 or _SENTENCE.search(p) or p.endswith(("?", ".")) for p in parts)
