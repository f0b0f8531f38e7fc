"""Stock PEFT knows our method after `import thoughtmix`, which itself imports neither PEFT nor torch.

PEFT keeps its methods in tables that are filled while it is imported. So a finder waits at the head of `sys.meta_path`
for that import, lets it happen as it would, adds our entries, and goes away.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _WaitsForPeft(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft":
            return None
        for finder in sys.meta_path:
            ask: Any = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = ask(fullname, path, target) if ask is not None and finder is not self else None
            if spec is not None:
                self._then_register(spec.loader)
                return spec
        return None

    def _then_register(self, loader: Any) -> None:
        """Loaders are made anew for each search, so this one may be changed."""
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def exec_module(module: ModuleType) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        loader.exec_module = exec_module


def _register() -> None:
    try:
        from thoughtmix.graft.model import register

        register()
    except Exception as error:  # a PEFT of another age must still be importable
        warnings.warn(f"thoughtmix cannot add its method MOT to this PEFT: {error!r}", stacklevel=2)


def install() -> None:
    """Register now when PEFT is there, else as soon as it is imported."""
    if "peft" in sys.modules:
        _register()
    elif not any(isinstance(finder, _WaitsForPeft) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WaitsForPeft())
