"""What the pages say to type: their fences, taken apart. No torch."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.fr.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n+)?^(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fence of a page, with the remark on the line above it (`<!-- not run: why -->`, `<!-- printed -->`)."""

    page: Path
    line: int
    kind: str
    text: str
    mark: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str:
        """The reason why it does not run, or nothing."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else ""

    @property
    def commands(self) -> list[str]:
        """What stands behind a $, without its remark."""
        lines = re.findall(r"^\$ (.*)$", self.text, re.M)
        return [re.sub(r"\s{2,}# .*$|\s{2,}#$", "", line).strip() for line in lines]


def blocks(page: Path, *kinds: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["kind"] in kinds:
            indent = len(match["indent"])
            inner = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
            found.append(Block(page, text[: match.start()].count("\n") + 1, match["kind"], inner, match["mark"] or ""))
    return found


def calls(command: str) -> list[list[str]]:
    """The programs that a line of a shell calls, each as its words, without redirections and assignments before it."""
    command = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in {"<", ">", ">>"}:
            next(words, None)
        elif set(word) <= set("|&;"):
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [call for call in found if call]
