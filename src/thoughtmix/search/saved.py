"""A search on disk, to go on with later: all nodes, no keys and values (those are read again once)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json, why_unread, write_whole
from thoughtmix.search.mcts import TreeSearch
from thoughtmix.search.settings import Spent
from thoughtmix.search.tree import DEAD, Node, Tree
from thoughtmix.search.writers import TokenWriter

SCHEMA, VERSION = "thoughtmix/search", 2
_HINT = "Write one with: thoughtmix search PROMPT --save FILE"


def to_dict(search: TreeSearch, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything, as JSON. asked: what the command line was asked, to be asked again."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "model": search.writer.name,
        "prompt": search.prompt,
        "prompt_ids": search.writer.prompt_ids,
        "seed": search.tree.seed,
        "settings": {**dataclasses.asdict(search.settings), "stop": list(search.settings.stop)},
        "evaluators": search.evaluators.weights,
        "proposal": search.proposal.settings(),
        "spent": dataclasses.asdict(search.spent),
        "asked": dict(asked or {}),
        "nodes": [_node_dict(node) for node in search.tree.nodes],
    }


def save(search: TreeSearch, path: str | os.PathLike[str], asked: Mapping[str, Any] | None = None) -> None:
    """Write the search to `path`, whole or not at all."""
    write_whole(path, json.dumps(to_dict(search, asked), ensure_ascii=False, separators=(",", ":")) + "\n")


def read_saved(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The saved search at `path`, its head checked.

    Raises:
        InputError: The file cannot be read, or is no saved search of this version.
    """
    try:
        body = parse_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the search {why_unread(error)}.", _HINT) from None
    if not isinstance(body, Mapping) or body.get("schema") != SCHEMA:
        raise InputError(f"{path} is no saved search.", _HINT)
    if body.get("version") != VERSION:
        raise InputError(f"{path} has version {body.get('version')!r}; this reads {VERSION}.", _HINT)
    return dict(body)


def restore(search: TreeSearch, body: Mapping[str, Any]) -> None:
    """Put the saved tree into a new search.

    Raises:
        InputError: It is another search's, or damaged.
    """
    try:
        now = to_dict(search)
        for name in ("model", "prompt_ids", "seed", "evaluators", "proposal", "settings"):
            if body[name] != now[name]:
                raise InputError(
                    f"The saved search has another {name}: {str(body[name])[:80]}.", "Pass the same settings as then."
                )
        search.spent = Spent(**{name: _number(x, 0) for name, x in body["spent"].items()})
        nodes = list(body["nodes"])
        root = search.tree.root
        root.expansions, root.drawn = _count(nodes[0]["draws"]), _count(nodes[0]["drawn"])
        words = 2**32  # checksums
        if isinstance(search.writer, TokenWriter):
            table: Any = search.writer.engine.model.model.get_input_embeddings()
            words = len(table.weight)
        for saved in nodes[1:]:
            _add_saved(search.tree, saved, words)
        for node, saved in zip(search.tree.nodes, nodes, strict=True):
            search.tree.penalise(node, _count(saved["wasted"]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise _damaged(error) from None


def _node_dict(node: Node) -> dict[str, Any]:
    """The file's keys are older than the names of the fields."""
    return {
        "parent": None if node.parent is None else node.parent.index,
        "place": node.place,
        "copies": node.copies,
        "draws": node.expansions,
        "drawn": node.drawn,
        "wasted": node.penalties,
        "token_ids": list(node.token_ids),
        "logprobs": list(node.logprobs),
        "shares": list(node.shares),
        "finish": node.finish,
        "text": node.text,
        "value": None if node.value == DEAD else node.value,
        "counted": bool(node.scores) or node.parent is None,
        "scores": {k: v for k, v in node.scores.items() if math.isfinite(v)},
        "visits": node.visits,
    }


def _add_saved(tree: Tree, saved: Mapping[str, Any], words: int) -> None:
    """words: of the vocabulary. Raises ValueError, TypeError or KeyError for what no search has saved."""
    ids = tuple(_count(x, words) for x in saved["token_ids"])
    logprobs = tuple(_number(x) for x in saved["logprobs"])
    shares = tuple(_number(x, 0, 1) for x in saved["shares"])
    if not ids or len(logprobs) not in (0, len(ids)) or len(shares) not in (0, len(ids)):
        raise ValueError("a node without tokens, or without their probabilities")
    if saved["finish"] not in (None, "stop", "length") or not isinstance(saved["text"], str):
        raise ValueError("a node whose end or text is none")
    parent = tree.nodes[_count(saved["parent"], len(tree.nodes))]
    if parent.finish is not None:
        raise ValueError("a node after the end")
    node = Node(
        0,
        parent,
        _count(saved["place"]),
        _count(saved["copies"]),
        ids,
        logprobs,
        shares,
        saved["finish"],
        saved["text"],
        scores={str(k): _number(v) for k, v in saved["scores"].items()},
        expansions=_count(saved["draws"]),
        drawn=_count(saved["drawn"]),
    )
    tree.add_child(node)
    if saved["counted"]:
        tree.backpropagate(node, DEAD if saved["value"] is None else _number(saved["value"]))


def _count(value: Any, below: int = 2**31) -> int:
    """A whole number from 0, below a bound."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise ValueError(f"{str(value)[:40]} where a whole number from 0 to {below - 1} belongs")
    return value


def _number(value: Any, least: float = -math.inf, most: float = math.inf) -> Any:
    """A finite number between bounds, an integer as one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]} where a finite number belongs")
    if not least - 1e-6 <= value <= most + 1e-6:
        raise ValueError(f"{value} where a number from {least} to {most} belongs")
    return value


def _damaged(error: Exception) -> InputError:
    return InputError(f"The saved search is damaged: {type(error).__name__} {error}.", _HINT)
