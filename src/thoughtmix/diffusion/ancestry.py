"""Who came from whom: the moments of a branching, as data and as a drawing in text. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SelectionRound:
    """One moment at which rows were chosen."""

    level: float  # share of the text that was decided
    scores: tuple[float, ...]  # of the rows before it
    parents: tuple[int, ...]  # for each row after it, the row before it that it came from
    chosen: tuple[int, ...] = ()  # the rows that were, in the order of choice; smc: none where nothing was resampled
    weights: tuple[float, ...] = ()  # of smc, before resampling
    ess: float | None = None  # of smc, the effective sample size


@dataclass(frozen=True)
class BranchNode:
    """A branch between two moments."""

    round: int
    row: int
    parent: int | None  # index in the round before; None: it was there from the start
    lane: int  # where it is drawn; a branch that goes on keeps its own
    name: str  # its number among the first branches, then a letter a copy: "2", "2b", ...
    score: float
    ended: bool  # it was given up: no branch of the next round came from it


@dataclass(frozen=True)
class Ancestry:
    """Who came from whom in one group of branches."""

    seeds: tuple[int, ...]  # of the first rows
    rounds: tuple[SelectionRound, ...]
    final: tuple[float, ...]  # scores of the rows in the end

    def levels(self) -> list[list[BranchNode]]:
        """The nodes of each round, and last those that are final."""
        lanes, names = list(range(len(self.seeds))), [str(i + 1) for i in range(len(self.seeds))]
        copies = dict.fromkeys(names, 0)
        parents: list[int | None] = [None] * len(self.seeds)
        out: list[list[BranchNode]] = []
        for at, found in enumerate(self.rounds):
            alive = set(found.parents)
            rows = enumerate(zip(parents, lanes, names, found.scores, strict=True))
            out.append([BranchNode(at, i, *row, ended=i not in alive) for i, row in rows])
            parents = list(found.parents)
            lanes, names = next_lanes(found.parents, lanes), next_names(found.parents, names, copies)
        rows = enumerate(zip(parents, lanes, names, self.final, strict=True))
        return [*out, [BranchNode(len(self.rounds), i, *row, ended=False) for i, row in rows]]

    def origin(self, row: int) -> int:
        """Which of the first rows final row `row` came from."""
        for item in reversed(self.rounds):
            row = item.parents[row]
        return row

    def tree(self) -> str:
        """Drawn in text: a line a branch and moment, its score, and how it went on."""
        levels = self.levels()
        lines: list[str] = []

        def draw(node: BranchNode, before: str, last: bool, root: bool) -> None:
            final = node.round == len(self.rounds)
            when = "the end" if final else f"{self.rounds[node.round].level:.0%}"
            what = "" if final else (" given up" if node.ended else "")
            head = f"branch {node.name} (seed {self.seeds[node.row]}) · " if root else f"{node.name} · "
            lines.append(f"{before}{'' if root else '└─ ' if last else '├─ '}{head}{when} {node.score:.3f}{what}")
            if final:
                return
            children = [c for c in levels[node.round + 1] if c.parent == node.row]
            inner = before + ("" if root else "   " if last else "│  ")
            for i, child in enumerate(children):
                draw(child, inner, i == len(children) - 1, False)

        for node in levels[0]:
            draw(node, "", True, True)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "seeds": list(self.seeds),
            "rounds": [asdict(r) for r in self.rounds],
            "final": list(self.final),
            "nodes": [[asdict(n) for n in level] for level in self.levels()],
        }


def heirs(parents: Sequence[int]) -> dict[int, int]:
    """Which child goes on as its parent: the one in the parent's place, or the first."""
    out: dict[int, int] = {}
    for row, parent in enumerate(parents):
        if parent not in out or row == parent:
            out[parent] = row
    return out


def next_lanes(parents: Sequence[int], lanes: Sequence[int]) -> list[int]:
    """Lanes after a moment: an heir keeps its parent's, every other child gets one that fell free."""
    heir = heirs(parents)
    free = [lane for i, lane in enumerate(lanes) if i not in heir]
    return [lanes[p] if heir[p] == row else free.pop(0) for row, p in enumerate(parents)]


def next_names(parents: Sequence[int], names: Sequence[str], copies: dict[str, int]) -> list[str]:
    """An heir keeps its parent's name, every other child gets the root's number and a letter; `copies` counts those."""
    heir, out = heirs(parents), []
    for row, p in enumerate(parents):
        root = names[p].rstrip("abcdefghijklmnopqrstuvwxyz")
        copies[root] += heir[p] != row
        out.append(names[p] if heir[p] == row else root + _letters(copies[root]))
    return out


def _letters(i: int) -> str:
    """1 -> b, 2 -> c, ..., 25 -> z, 26 -> za, ..."""
    return "z" * ((i - 1) // 25) + chr(ord("b") + (i - 1) % 25)
