"""What a result needs to be believed and repeated: commit, versions, machine. And numbers as JSON can hold them."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

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

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here.parent)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


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


def finite_json(value: Any) -> Any:
    """The value with NaN and infinity, which JSON has not, as None, and with arrays as lists."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
