"""A searched tree: in a terminal, as plain text, and as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.report.html import hue, render_template
from thoughtmix.report.text import FINISH, printable
from thoughtmix.search.saved import to_dict
from thoughtmix.search.tree import DEAD

if TYPE_CHECKING:
    from rich.tree import Tree as RichTree

    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.tree import Node

MOST_LINES, MOST_DOTS, MOST_WORDS = 40, 600, 160
"""Lines in a terminal, nodes of a drawing, and nodes up to which each shows its words."""
_COLUMN, _ROW, _EDGE = 138, 14, 26
_SHORT = 18  # characters of a node's words, that its column has room for


def summary(search: TreeSearch) -> str:
    """One line."""
    f = search.facts
    outside = f["seconds"] - f["model_seconds"] - f["judging_seconds"]
    parts = [
        f"{f['nodes']} nodes in {f['rounds']} rounds, {f['complete']} complete, {f['dead']} dropped",
        f"{f['tokens']} tokens drawn, {f['computed']} computed",
        f"{f['seconds']:.1f} s (the tree: {max(outside, 0) / max(f['model_seconds'], 1e-9):.0%} of the model's time)",
        "judged by " + ", ".join(f"{name} {weight:g}" for name, weight in f["evaluators"].items()),
    ]
    return " · ".join(parts)


def shown(search: TreeSearch, picked: Sequence[Node], most: int) -> set[int]:
    """Which nodes to draw, by id: the picked ones' ancestors, then the most visited, with their parents."""
    keep = {id(node) for leaf in picked for node in leaf.lineage} | {id(search.tree.root)}
    for node in sorted(search.tree.nodes, key=lambda x: (-x.visits, x.index)):
        if len(keep) >= most:
            break
        if node.parent is None or id(node.parent) in keep:
            keep.add(id(node))
    return keep


def drawn_tree(search: TreeSearch, picked: Sequence[Node], most: int = MOST_LINES) -> RichTree:
    """For a terminal: visits, mean value in [0, 1], the node's own words; picked leaves by their number."""
    from rich.tree import Tree as RichTree

    keep, numbers = shown(search, picked, most), {id(node): i for i, node in enumerate(picked, 1)}
    below = _children(search, picked)

    def grow(into: RichTree, node: Node) -> None:
        hidden = 0
        for child in below(node):
            if id(child) in keep:
                grow(into.add(_label(search, child, numbers)), child)
            else:
                hidden += 1
        if hidden:
            into.add(f"[dim]… {hidden} more[/dim]")

    root = RichTree(_label(search, search.tree.root, numbers), guide_style="dim")
    grow(root, search.tree.root)
    return root


def plain_tree(search: TreeSearch, picked: Sequence[Node], width: int = 100) -> str:
    """The same without colour."""
    import io

    from rich.console import Console

    out = Console(file=io.StringIO(), width=width, color_system=None)
    out.print(drawn_tree(search, picked))
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def page(search: TreeSearch, picked: Sequence[Node], thoughts: ThoughtSet, asked: dict[str, Any] | None = None) -> str:
    """One document: the tree as a drawing, the thoughts, what each was judged by, and the JSON to download."""
    drawing = _drawing(search, picked)
    cards = [
        {
            "number": i,
            "hue": hue(i - 1),
            "text": printable(thought.text),
            "judged": ", ".join(f"{k} {v:.3g}" for k, v in node.scores.items()) or "not judged",
            "finish": FINISH[thought.finish],
        }
        for i, (node, thought) in enumerate(zip(picked, thoughts, strict=True), 1)
    ]
    body = json.dumps(to_dict(search, asked), ensure_ascii=False, separators=(",", ":"))
    return render_template(
        "search.html",
        prompt=thoughts.prompt,
        summary=summary(search),
        cards=cards,
        total=len(search.tree),
        shown=len(drawing["dots"]),
        model=thoughts.model,
        settings=thoughts.settings,
        metrics=thoughts.metrics,
        json=body,
        **drawing,
    )


def _children(search: TreeSearch, picked: Sequence[Node]) -> Any:
    """Children of a node, with the completions of open leaves that are not of the tree itself."""
    more: dict[int, list[Node]] = {}
    for node in {id(n): n for n in picked}.values():
        if node.index < 0 and node.parent is not None:
            more.setdefault(id(node.parent), []).append(node)
    return lambda node: [*node.children, *more.get(id(node), [])]


def _label(search: TreeSearch, node: Node, numbers: dict[int, int]) -> str:
    from rich.markup import escape

    words = escape(_words(search, node))
    if node.parent is None:
        return f"[bold]{len(search.tree)} nodes[/bold]"
    number = numbers.get(id(node))
    mark = f"[bold green]({number})[/bold green] " if number else ""
    if node.value == DEAD:
        return f"{mark}[red]dropped[/red] [dim]{words}[/dim]"
    state = f"{node.visits}× {search.tree.mean(node):.2f}" if node.visits else "completed"
    return f"{mark}[cyan]{state}[/cyan] {words}{'' if node.open else ' [dim]■[/dim]'}"


def _words(search: TreeSearch, node: Node, most: int = 64) -> str:
    """What this node adds, on one line."""
    text = search.writer.added(node)
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _drawing(search: TreeSearch, picked: Sequence[Node]) -> dict[str, Any]:
    """Dots, lines, and the size of the drawing."""
    hues = {id(node): hue(i) for i, leaf in reversed(list(enumerate(picked))) for node in leaf.lineage[1:]}
    numbers = {id(node): i for i, node in enumerate(picked, 1)}
    places = _layout(search, picked)
    dots, lines = [], []

    def words_of(node: Node) -> str:
        """Beside its dot: of a large tree on the ways to the thoughts alone."""
        told = len(places) <= MOST_WORDS or id(node) in hues
        return _words(search, node, _SHORT) if told and node.parent is not None else ""

    for node, (x, y) in places.values():
        words = _words(search, node, 160) or search.prompt
        dots.append(
            {
                "x": x,
                "y": y,
                "r": round(2 + min(node.visits, 400) ** 0.4, 1),
                "share": round(search.tree.mean(node), 3),
                "dead": node.value == DEAD,
                "done": node.finish is not None,
                "hue": hues.get(id(node)),
                "number": numbers.get(id(node)),
                "words": words_of(node),
                "title": f"{node.visits} visits, mean {search.tree.mean(node):.2f}: {words}",
            }
        )
        if node.parent is not None:
            _, (x1, y1) = places[id(node.parent)]
            lines.append({"x1": x1, "y1": y1, "x2": x, "y2": y, "hue": hues.get(id(node))})
    width = max(x for _, (x, _) in places.values()) + _COLUMN + _EDGE  # room for the words of the last dots
    height = max(y for _, (_, y) in places.values()) + _EDGE
    return {"dots": dots, "lines": lines, "width": width, "height": height}


def _layout(search: TreeSearch, picked: Sequence[Node]) -> dict[int, tuple[Node, tuple[float, float]]]:
    """Nodes that are drawn, by id, and where: a column a depth, a row a leaf; a parent is in the middle of its
    children."""
    keep, below = shown(search, picked, MOST_DOTS), _children(search, picked)
    places: dict[int, tuple[Node, tuple[float, float]]] = {}
    rows, stack = 0, [(search.tree.root, 0, False)]
    while stack:  # post-order, no recursion: a tree may be deep
        node, depth, done = stack.pop()
        children = [c for c in below(node) if id(c) in keep]
        if not done and children:
            stack.append((node, depth, True))
            stack += [(c, depth + 1, False) for c in reversed(children)]
            continue
        if children:
            y = sum(places[id(c)][1][1] for c in children) / len(children)
        else:
            y, rows = _EDGE + rows * _ROW, rows + 1
        places[id(node)] = node, (_EDGE + depth * _COLUMN, round(y, 1))
    return places
