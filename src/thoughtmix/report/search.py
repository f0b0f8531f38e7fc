"""A searched tree: in a terminal, as plain text, and as one self-contained page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.report.html import _hue, _template
from thoughtmix.report.text import printable
from thoughtmix.search.saved import to_dict
from thoughtmix.search.tree import DEAD

if TYPE_CHECKING:
    from rich.tree import Tree as RichTree

    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.search.grow import TreeSearch
    from thoughtmix.search.tree import Node

MOST_LINES, MOST_DOTS = 40, 600
_COLUMN, _ROW, _EDGE = 92, 13, 26


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
    dots, lines, size = _drawing(search, picked)
    cards = [
        {
            "number": i, "hue": _hue(i - 1, len(picked)), "text": printable(thought.text),
            "path": thought.origin["path"],
            "judged": ", ".join(f"{k} {v:.3g}" for k, v in node.scores.items()) or "not judged",
            "finish": thought.finish,
        }
        for i, (node, thought) in enumerate(zip(picked, thoughts, strict=True), 1)
    ]  # fmt: skip
    body = json.dumps(to_dict(search, asked), ensure_ascii=False, separators=(",", ":"))
    return _template("search.html").render(
        prompt=thoughts.prompt, summary=summary(search), dots=dots, lines=lines, width=size[0], height=size[1],
        cards=cards, total=len(search.tree), shown=len(dots), model=thoughts.model, settings=thoughts.settings,
        metrics=thoughts.metrics, json=base64.b64encode(body.encode()).decode(),
    )  # fmt: skip


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
    text = search.model.decode(node.token_ids)
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _drawing(search: TreeSearch, picked: Sequence[Node]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    """Dots and lines: a column a depth, a row a leaf; a parent stands in the middle of its children."""
    keep, below = shown(search, picked, MOST_DOTS), _children(search, picked)
    hue = {id(a): _hue(i, len(picked)) for i, leaf in reversed(list(enumerate(picked))) for a in leaf.lineage[1:]}
    numbers = {id(node): i for i, node in enumerate(picked, 1)}
    place: dict[int, tuple[float, float]] = {}
    order: list[Node] = []
    rows, stack = 0, [(search.tree.root, 0, False)]
    while stack:  # post-order, no recursion: a tree may be deep
        node, depth, done = stack.pop()
        children = [c for c in below(node) if id(c) in keep]
        if not done and children:
            stack.append((node, depth, True))
            stack += [(c, depth + 1, False) for c in reversed(children)]
            continue
        if children:
            y = sum(place[id(c)][1] for c in children) / len(children)
        else:
            y, rows = _EDGE + rows * _ROW, rows + 1
        place[id(node)] = (_EDGE + depth * _COLUMN, round(y, 1))
        order.append(node)
    dots = [
        {
            "x": place[id(n)][0], "y": place[id(n)][1], "r": round(2 + min(n.visits, 400) ** 0.4, 1),
            "share": round(search.tree.mean(n), 3), "dead": n.value == DEAD, "done": n.finish is not None,
            "hue": hue.get(id(n)), "number": numbers.get(id(n)),
            "title": f"{n.visits} visits, mean {search.tree.mean(n):.2f}: {_words(search, n, 160) or search.prompt}",
        }
        for n in order
    ]  # fmt: skip
    lines = [
        {"x1": place[id(n.parent)][0], "y1": place[id(n.parent)][1], "x2": place[id(n)][0], "y2": place[id(n)][1],
         "hue": hue.get(id(n))}
        for n in order if n.parent is not None
    ]  # fmt: skip
    return dots, lines, (2 * _EDGE + max(x for x, _ in place.values()), 2 * _EDGE + max(rows - 1, 0) * _ROW)
