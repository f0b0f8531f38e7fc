"""A search on disk, to go on with later: all nodes, no keys and values (those are read again once)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.types import write_whole
from thoughtmix.search.grow import Settings, Spent, TreeSearch
from thoughtmix.search.tree import DEAD, Node

SCHEMA, VERSION = "thoughtmix/search", 2
_HINT = "Write one with: thoughtmix search PROMPT --save FILE"


def to_dict(search: TreeSearch, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything, as JSON. asked: what the command line was asked, to be asked again."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "model": search.model.name,
        "prompt": search.prompt,
        "prompt_ids": search.prompt_ids,
        "seed": search.tree.seed,
        "settings": {**dataclasses.asdict(search.settings), "stop": list(search.settings.stop)},
        "evaluators": search.evaluators.weights,
        "proposal": search.proposal.settings(),
        "spent": dataclasses.asdict(search.spent),
        "asked": dict(asked or {}),
        "nodes": [_node(node) for node in search.tree.nodes],
    }


def save(search: TreeSearch, path: str | os.PathLike[str], asked: Mapping[str, Any] | None = None) -> None:
    """Write the search to `path`, whole or not at all."""
    write_whole(path, json.dumps(to_dict(search, asked), ensure_ascii=False, separators=(",", ":")) + "\n")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The saved search at `path`, its head checked. Raises `InputError`."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read the search {path}: {error}.", _HINT) from None
    if not isinstance(body, Mapping) or body.get("schema") != SCHEMA:
        raise InputError(f"{path} is no saved search.", _HINT)
    if body.get("version") != VERSION:
        raise InputError(f"{path} has version {body.get('version')!r}; this reads {VERSION}.", _HINT)
    return dict(body)


def settings_of(body: Mapping[str, Any]) -> Settings:
    """Raises `InputError`."""
    try:
        given = dict(body["settings"])
        return Settings(**{**given, "stop": tuple(given["stop"])})
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(error) from None


def restore(search: TreeSearch, body: Mapping[str, Any]) -> None:
    """Put the saved tree into a new search. Raises `InputError` where it is another search's, or damaged."""
    try:
        for name, mine in (
            ("model", search.model.name),
            ("prompt_ids", search.prompt_ids),
            ("seed", search.tree.seed),
            ("evaluators", search.evaluators.weights),
            ("proposal", search.proposal.settings()),
            ("settings", to_dict(search)["settings"]),
        ):
            if body[name] != mine:
                raise InputError(
                    f"The saved search has another {name}: {str(body[name])[:80]}.", "Pass the same settings as then."
                )
        search.spent = Spent(**body["spent"])
        nodes = list(body["nodes"])
        root = search.tree.root
        root.draws, root.drawn = int(nodes[0]["draws"]), int(nodes[0]["drawn"])
        for saved in nodes[1:]:
            _hang(search, saved)
        for node, saved in zip(search.tree.nodes, nodes, strict=True):
            search.tree.waste(node, int(saved["wasted"]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _broken(error) from None


def _node(node: Node) -> dict[str, Any]:
    return {
        "parent": None if node.parent is None else node.parent.index,
        "place": node.place,
        "copies": node.copies,
        "draws": node.draws,
        "drawn": node.drawn,
        "wasted": node.wasted,
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


def _hang(search: TreeSearch, saved: Mapping[str, Any]) -> None:
    parent = search.tree.nodes[int(saved["parent"])]
    node = Node(
        0, parent, int(saved["place"]), int(saved["copies"]), tuple(map(int, saved["token_ids"])),
        tuple(map(float, saved["logprobs"])), tuple(map(float, saved["shares"])), saved["finish"], str(saved["text"]),
        scores={str(k): float(v) for k, v in saved["scores"].items()},
        draws=int(saved["draws"]), drawn=int(saved["drawn"]),
    )  # fmt: skip
    search.tree.hang(node)
    if saved["counted"]:
        search.tree.judged(node, DEAD if saved["value"] is None else float(saved["value"]))


def _broken(error: Exception) -> InputError:
    return InputError(f"The saved search is damaged: {type(error).__name__} {error}.", _HINT)
