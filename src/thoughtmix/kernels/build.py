"""Compile the C functions of this folder, by themselves: no package is imported, so that an installation can run it.

python -m thoughtmix.kernels.build      compiles them where they lie, or says why not
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAME = "_thoughtmix.so"
# No -march: every function names the instructions it needs, and is called where the processor has them.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-g0", "-ffp-contract=off"]


def supported() -> bool:
    """Whether there is anything to compile on this system."""
    return sys.platform == "linux" and platform.machine() in {"x86_64", "AMD64"}


def sources_digest() -> str:
    """Of the C files. A library says of which it was made, so that one of other sources is not used."""
    whole = hashlib.sha256()
    for file in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        whole.update(file.name.encode() + b"\n" + file.read_bytes())
    return whole.hexdigest()


def compiler() -> list[str] | None:
    """$CC, cc, gcc or clang, else the one in the package ziglang; None: there is none."""
    asked = shlex.split(os.environ.get("CC", ""))
    for command in ([asked] if asked else []) + [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def build(into: Path = HERE, command: list[str] | None = None) -> str:
    """Compile the library into a folder.

    Args:
        command: The compiler's; None: the first that is found.

    Returns:
        "", or in a few words why there is no library. A library that was there is left as it was then.
    """
    if not supported():
        return "the kernels are for Linux on x86-64"
    command = command or compiler()
    if command is None:
        return "there is no C compiler (cc, or the package ziglang)"
    with tempfile.TemporaryDirectory(dir=into) as folder:
        made = Path(folder) / NAME
        sources = [str(file) for file in sorted(HERE.glob("*.c"))]
        target = ["-target", "x86_64-linux-gnu.2.17"] if "ziglang" in command else []
        try:
            ran = subprocess.run(
                [*command, *target, *FLAGS, f'-DSOURCES="{sources_digest()}"', "-o", str(made), *sources, "-lm"],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]} cannot be run: {error}"
        if ran.returncode or not made.exists():
            lines = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.splitlines() or [""]
            return f"{' '.join(command)} failed: {lines[0][:200]}"
        made.replace(into / NAME)
    return ""


if __name__ == "__main__":
    reason = build()
    print(f"Not compiled: {reason}." if reason else f"Compiled {HERE / NAME}.")
    sys.exit(bool(reason))
