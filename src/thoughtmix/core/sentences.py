"""Where sentences end: so that a text may end with one."""

from __future__ import annotations

import regex

_END = regex.compile(
    r"""(?:[.!?…]+["'”’»)\]*_]*(?=\s)          # a mark, perhaps closed, and a space
    |[。！？]["”’」』）]*                        # scripts without spaces
    |(?<=[^\s,:;])(?=\s*\n\s*\n))""",
    regex.VERBOSE,
)
_ABBREVIATED = regex.compile(
    r"(?:^|[\s(\"“])(?:\p{L}|\p{L}\.\p{L}|mr|mrs|ms|dr|prof|st|no|vs|etc|approx|fig|al|inc|ltd|jr|sr|mme|mlle|bzw|z\.b)\.$",
    regex.IGNORECASE,
)
_NUMBERED = regex.compile(r"(?:^|\n)\s*(?:\d{1,3}|\p{L})[.)]$")
_TAIL = 200  # characters that decide whether a text ends with a sentence


def ends_sentence(text: str) -> bool:
    """Whether a growing text is at the end of a sentence now. "3." may become 3.5 and is none yet, nor is one
    with an open quotation, in open brackets or in code; "Dr." and the mark of a list are none."""
    tail = text[-_TAIL:]
    paragraph = text[text.rfind("\n\n") + 1 :]
    if text.count("```") % 2 or text.count("`") % 2 or paragraph.count("(") > paragraph.count(")"):
        return False
    if regex.search(r"\d\.$", tail) or tail.count('"') % 2 or tail.count("“") > tail.count("”"):
        return False
    shown = tail.rstrip()
    return bool(shown) and sentence_end(shown + "\n" if tail == shown else tail) == len(shown)


def sentence_end(text: str) -> int:
    """How many characters there are up to the end of the last whole sentence; 0 without one. A paragraph ends a
    sentence, too, unless with a comma or a colon. What ends with the text itself is not known to be whole unless space
    follows."""
    for found in reversed(list(_END.finditer(text))):
        before = text[max(0, found.end() - _TAIL) : found.end()]
        if not _ABBREVIATED.search(before) and not _NUMBERED.search(before):
            return found.end()
    return 0
