"""The shape of the house: imports point one way between rooms, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import thoughtmix
from thoughtmix._moved import MOVED

ROOT = Path(thoughtmix.__file__).parent

# No room imports a later one. Imports for type checkers and those inside functions count, too.
ROOMS = [
    "_moved", "core", "kernels", "models", "engine", "mixture", "experts", "training", "graft", "_peft_hook", "cost", "metrics", "diffusion",
    "search", "noise", "asking", "explore", "thinkers", "batch", "pipeline", "api", "methods", "llm_plugin", "report", "bench", "practice", "serve", "cli",
]  # fmt: skip


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module."""
    out = {}
    for file in ROOT.rglob("*.py"):
        parts = ["thoughtmix", *file.relative_to(ROOT).with_suffix("").parts]
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return out


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a file names in an import, wherever in it that stands."""
    out: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            out |= {name if name in known else node.module for name in inner}
        elif isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
    return out & set(known)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(file, known) - {name} for name, file in known.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen, left = set(), [start]
        while left:
            for name in edges[left.pop()] - seen:
                seen.add(name)
                left.append(name)
        reach[start] = seen
    found = {frozenset([a, *(b for b in reach[a] if a in reach[b])]) for a in edges if a in reach[a]}
    return sorted(sorted(some) for some in found)


def test_imports_point_one_way() -> None:
    rank = {room: i for i, room in enumerate(ROOMS)}
    wrong = []
    for name, targets in graph().items():
        room = name.split(".")[1] if "." in name else ""
        if room in {"", "__main__"}:
            continue
        assert room in rank, f"say where {room} stands in the order"
        for target in targets - {"thoughtmix"}:
            if rank[target.split(".")[1]] > rank[room]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_there_are_no_circles() -> None:
    """Not in the package itself, whose lazy names every module may use, nor anywhere below it."""
    edges = {name: targets - {"thoughtmix"} for name, targets in graph().items() if name != "thoughtmix"}
    assert not circles(edges)


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


@pytest.mark.parametrize("old", MOVED)
def test_modules_that_moved_are_found_by_their_old_names_with_a_warning(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=r"is now thoughtmix\.(core|thinkers)\."):
        module = importlib.import_module(old)
    for home in map(importlib.import_module, MOVED[old]):
        for name in (n for n, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__):
            assert getattr(module, name) is getattr(home, name), name
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {old} import no_such_name")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("thoughtmix.no_such_module")


def test_the_engine_needs_no_models_of_transformers() -> None:
    """Their import takes longer than torch's; the fused path does without, the others import them when they are tried."""
    code = (
        "import sys, thoughtmix.engine.local, thoughtmix.engine.shared, thoughtmix.engine.backends.probe\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'transformers'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
