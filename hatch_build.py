"""Compile thoughtmix.kernels where thoughtmix is installed or its wheel is built; without a compiler there are none."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _kernels(root: str) -> Any:
    """src/thoughtmix/kernels/build.py, without the package around it."""
    spec = importlib.util.spec_from_file_location("thoughtmix_build", Path(root) / "src/thoughtmix/kernels/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelsHook(BuildHookInterface):
    """hatchling's hook."""

    def dependencies(self) -> list[str]:
        """A compiler as a package, where the system has none."""
        build = _kernels(self.root)
        return ["ziglang>=0.13"] if build.supported() and build.compiler() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build = _kernels(self.root)
        reason = build.build()
        if reason:
            self.app.display_warning(f"Without kernels of its own (thoughtmix works all the same): {reason}.")
        elif self.target_name == "wheel":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
