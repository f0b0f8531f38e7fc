"""Who came from whom: the moments of a branching, as data and as a drawing in text. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Round:
    """One moment. level: share of the text that was decided. scores: of the rows before it. parents: for each row after
    it, the row before it that it came from. weights, ess: of sequential Monte Carlo, before resampling; else empty and
    None, as is ess. chosen: the rows that were chosen, where rows were."""

    level: float
    scores: tuple[float, ...]
    parents: tuple[int, ...]
    chosen: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    ess: float | None = None


@dataclass(frozen=True)
class Node:
    """A branch between two moments. name: its number among the first branches, then a letter a copy ("2", "2b", ...).
    parent: index in the round before, None: it was there from the start. lane: where it is drawn; a branch that goes on
    keeps its own."""

    round: int
    row: int
    parent: int | None
    lane: int
    name: str
    score: float
    ended: bool
    """No branch of the next round came from it: it was given up, or it is a final one."""


@dataclass(frozen=True)
class Ancestry:
    """rounds in order; final: scores of the rows in the end; seeds: of the first rows."""

    seeds: tuple[int, ...]
    rounds: tuple[Round, ...]
    final: tuple[float, ...]

    def levels(self) -> list[list[Node]]:
        """The nodes of each round, and last those that are final."""
        n = len(self.seeds)
        lanes, names = list(range(n)), [str(i + 1) for i in range(n)]
        used = dict.fromkeys(names, 0)
        out: list[list[Node]] = []
        parents: list[int] = []
        for at in range(len(self.rounds) + 1):
            last = at == len(self.rounds)
            scores = self.final if last else self.rounds[at].scores
            alive = set() if last else set(self.rounds[at].parents)
            out.append(
                [
                    Node(at, i, parents[i] if at else None, lanes[i], names[i], scores[i], not last and i not in alive)
                    for i in range(len(scores))
                ]
            )
            if last:
                break
            parents = list(self.rounds[at].parents)
            lanes, names = next_lanes(parents, lanes), next_names(parents, names, used)
        return out

    def origin(self, row: int) -> int:
        """Which of the first rows final row `row` came from."""
        for item in reversed(self.rounds):
            row = item.parents[row]
        return row

    def tree(self) -> str:
        """Drawn in text: a line a branch and moment, its score, and how it went on."""
        levels = self.levels()
        lines: list[str] = []

        def draw(node: Node, before: str, last: bool, root: bool) -> None:
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


def next_names(parents: Sequence[int], names: Sequence[str], used: dict[str, int]) -> list[str]:
    """An heir keeps its parent's name, every other child gets the root's number and a letter; `used` counts those."""
    heir, out = heirs(parents), []
    for row, p in enumerate(parents):
        root = names[p].rstrip("abcdefghijklmnopqrstuvwxyz")
        used[root] += heir[p] != row
        out.append(names[p] if heir[p] == row else root + _letters(used[root]))
    return out


def _letters(i: int) -> str:
    """1 -> b, 2 -> c, ..., 25 -> z, 26 -> za, ..."""
    return "z" * ((i - 1) // 25) + chr(ord("b") + (i - 1) % 25)
