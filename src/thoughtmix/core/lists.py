"""The answers in a text that lists several: numbers, bullets, headings, JSON, tags, one line, or just lines.

`list_items` is for what language models write when they are asked for n different answers. It is made of rules, in
order: tags and JSON say by themselves what is an item; then marks at the beginnings of lines; then marks or separators
within one line; then paragraphs or lines. Tables are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from thoughtmix.core.list_forms import inline_items, json_items, tagged_items
from thoughtmix.core.list_marks import FENCE, Mark, is_sequence, line_marks

_OPENING = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|here(?:'s|’s| is| are)|below|the following|these are"
    r"|voici|bien sûr|hier sind|gerne|claro|aquí|好的|当然|以下)\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:i hope|hope (?:this|these|that)|let me know|feel free|would you like|do you want|please let"
    r"|if you (?:need|want|would|'d|have)|these (?:are|\w+ (?:are|should|will|can|offer|show))|(?:each|all) of these"
    r"|remember[,:]|note[:,]|good luck|enjoy|happy \w+ing|in (?:summary|conclusion)|overall,"
    r"|j'espère|n'hésitez|ich hoffe|espero|希望)",
    re.IGNORECASE,
)
_PROBABILITY = re.compile(r"\s*[(\[]?\s*\bprobability\s*[:=≈]\s*[\d.]+\s*%?\s*[)\]]?\.?$", re.IGNORECASE)
_RULE = re.compile(r"[-*_=]{3,}")


def list_items(text: str) -> list[str]:
    """The items of a list, in order, without their marks; a text that is no list is its only item.

    What introduces or closes the list is no item, and neither is what is nested in one: it stays in its item's text,
    like every paragraph that belongs to an item. An item that the end of the text cuts off is kept as far as it goes.

    Args:
        text: a model's whole answer.

    Returns:
        The items, none of them blank: [] for a blank text, or one of empty items.
    """
    lines = text.replace("\r\n", "\n").expandtabs(4).strip("\n").split("\n")
    marks = line_marks(lines)
    first = next((m.line for m in marks if m.kind not in {"bold", "heading"}), len(lines))
    items = tagged_items(text) or json_items("\n".join(lines[:first]))
    if items is None:
        items = _marked(lines, marks)
    if items is None:
        inside = _only_fence(lines)
        items = list_items(inside) if inside is not None else _unmarked(text)
    clean = (_clean(item) for item in items)
    return [item for item in clean if item]


def _only_fence(lines: Sequence[str]) -> str | None:
    """What stands in the code fence of a text that has one: a list written as code."""
    at = [i for i, line in enumerate(lines) if FENCE.match(line)]
    if not at or len(at) > 2:
        return None
    return "\n".join(lines[at[0] + 1 : at[1] if len(at) == 2 else len(lines)])


def _marked(lines: Sequence[str], marks: Sequence[Mark]) -> list[str] | None:
    """Items of a list whose items begin lines; None where no line begins one, or one line holds several."""
    chosen = _top_level(marks)
    if not chosen:
        return None
    if len(chosen) == 1 or not is_sequence([m.number for m in chosen]):
        several = inline_items("\n".join(lines[chosen[0].line :]), len(chosen))
        if several:
            return several
    ends = [mark.line for mark in chosen[1:]] + [len(lines)]
    bodies = [
        [mark.rest, *lines[mark.line + 1 : end]] for mark, end in zip(chosen, ends, strict=True)
    ]  # an item is its lines, the first without its mark
    bodies[-1] = _without_closing(bodies[-1], bodies[:-1])
    items = ["\n".join(body) for body in bodies]
    if chosen[0].number == 2:  # the first number stood in the prompt, or was left out
        first = [line for line in lines[: chosen[0].line] if line.strip()]
        items = [*first[-1:], *items]
    return items


def _top_level(marks: Sequence[Mark]) -> list[Mark]:
    """The marks of the list's own items, out of those and what is nested, titles, and numbers that only look it.

    Groups of marks are tried in the order in which they first stand in the text. Two items are a list; a heading alone
    is a title. Where numbers go on from heading to heading, the headings are titles, too.
    """
    outer = _outermost(marks)
    numbered = [m for m in outer if m.kind.endswith("number")]
    groups: list[list[Mark]] = []
    for kind in dict.fromkeys(m.kind for m in outer):
        if kind.endswith("number") and is_sequence([m.number for m in numbered]):
            group = numbered
        else:
            group = [m for m in outer if m.kind == kind]
        groups.append(_going_on(group) if kind.endswith("number") or kind == "letter" else group)
    several = [group for group in groups if len(group) > 1]
    if several and several[0][0].kind in {"heading", "bold"} and len(numbered) > 1:
        whole = [m.number for m in numbered]
        if is_sequence(whole) and len(set(whole)) == len(whole) > len(several[0]):
            return numbered
    if several:
        return several[0]
    single = [group for group in groups if group and group[0].kind not in {"heading", "bold", "letter"}]
    return single[0] if single else []


def _outermost(marks: Sequence[Mark]) -> list[Mark]:
    """Those that are not indented by two or more beyond one before them."""
    out: list[Mark] = []
    for mark in marks:
        if not out or mark.indent < min(m.indent for m in out) + 2:
            out.append(mark)
    return out


def _going_on(marks: Sequence[Mark]) -> list[Mark]:
    """Numbered marks as far as they count on, at most one left out between two: the others are text."""
    numbers = [m.number for m in marks]
    if is_sequence(numbers):
        return list(marks)
    out: list[Mark] = []
    for mark in marks:
        assert mark.number is not None
        last = out[-1].number if out else mark.number - 1
        assert last is not None
        if last < mark.number <= last + 2:
            out.append(mark)
    return out


def _without_closing(last: list[str], others: Sequence[Sequence[str]]) -> list[str]:
    """The last item without what closes the list: lines that are not indented, of a form that no other item has.

    That is a second paragraph where the others have one, a second line where the others have one, or what begins as
    closings do.
    """
    paragraphs = max((_paragraphs(body) for body in others), default=99)
    height = max((sum(bool(line.strip()) for line in body) for body in others), default=99)
    rows, blocks, blank = 0, 1, False
    for i, line in enumerate(last):
        if not line.strip():
            blank = rows > 0
            continue
        if rows and not line.startswith("  "):
            blocks += blank
            too_long = blocks > paragraphs or (height == 1 and len(others) > 1)
            if too_long or _CLOSING.match(line.strip()):
                return last[:i]
        rows, blank = rows + 1, False
    return last


def _paragraphs(body: Sequence[str]) -> int:
    return len(re.split(r"\n\s*\n", "\n".join(body).strip()))


def _unmarked(text: str) -> list[str]:
    """Paragraphs where one has several lines, else lines, else what commas and the like part."""
    lines = text.strip().split("\n")
    first = lines[0].strip()
    if len(lines) > 1 and (
        first.endswith((":", "：")) or (_OPENING.match(first) and first.endswith(("!", ".", "！", "。")))
    ):
        lines = lines[1:]
    while len(lines) > 1 and (not lines[-1].strip() or _CLOSING.match(lines[-1].strip())):
        lines = lines[:-1]
    paragraphs = [p for p in re.split(r"\n\s*\n", "\n".join(lines).strip()) if not _RULE.fullmatch(p.strip())]
    lines = [line for line in lines if line.strip() and not _RULE.fullmatch(line.strip())]
    parts = paragraphs if 1 < len(paragraphs) < len(lines) else lines
    return (inline_items(parts[0], 1) or parts) if len(parts) == 1 else parts


def _clean(item: str) -> str:
    """Without blank edges, rules, the bold face of its beginning, and a stated probability."""
    body = item.strip("\n").split("\n")
    while body and (not body[-1].strip() or _RULE.fullmatch(body[-1].strip())):
        body.pop()
    text = "\n".join(body).strip()
    text = re.sub(r"^(\*\*|__)(?=\S)(.+?)\1", r"\2", text)
    first, *rest = text.split("\n", 1)
    if first.count("**") % 2:  # the other half was taken with the mark
        first = first.replace("**", "", 1)
    return _PROBABILITY.sub("", "\n".join([first, *rest])).strip()
