"""What a result needs to be believed and repeated: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("thoughtmix", "numpy", "torch", "transformers", "tokenizers", "sacrebleu")


def environment() -> dict[str, Any]:
    """Facts about this installation and machine, as JSON."""
    return {"commit": commit(), "versions": versions(), "machine": machine()}


def versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def commit() -> str | None:
    """The commit of the source tree this runs from, "+" when it has changes; None outside a git tree."""
    here = Path(__file__).parent
    try:
        where = ["git", "-C", str(here)]
        head = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        dirty = subprocess.run(
            [*where, "status", "--porcelain", "--", str(here.parent)],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> dict[str, str]:
    facts = {
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "processor": platform.processor() or platform.machine(),
    }
    info = Path("/proc/cpuinfo")
    if info.exists() and (name := re.search(r"^model name\s*: (.*)$", info.read_text(), re.M)):
        facts["processor"] = name[1]
    return facts
