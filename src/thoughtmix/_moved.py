"""Modules under their names of before, with a warning that says where they went. Goes with version 0.2.

A finder at the end of `sys.meta_path` is asked for what no file has: nothing is slower, and no old file stays.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "thoughtmix.errors": ("thoughtmix.core.errors",),
    "thoughtmix.thoughts": ("thoughtmix.core.types",),
    "thoughtmix.selection": ("thoughtmix.core.selection",),
    "thoughtmix.thinker": ("thoughtmix.core.request", "thoughtmix.thinkers.base"),
    "thoughtmix.registry": ("thoughtmix.thinkers.registry",),
}
"""Old name -> the modules in which its names are now."""


class _MovedModules(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        places = MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} is now {' and '.join(places)}: import from there.", DeprecationWarning, stacklevel=2
        )
        homes = [importlib.import_module(place) for place in places]

        def getter(name: str) -> Any:
            for home in homes:
                if hasattr(home, name):
                    return getattr(home, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = getter


def install() -> None:
    """Once a process."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
