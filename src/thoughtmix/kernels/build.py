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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LEVELS = ("amx", "avx512", "avx2")
"""What processors can, the best first: a library each."""
VECTOR_LEVELS = LEVELS[1:]
"""Those without a matrix unit."""
_ONLY = {
    "product.c": ("amx",),
    "prompt.c": ("amx",),
    "product_vector.c": VECTOR_LEVELS,
    "prompt_vector.c": VECTOR_LEVELS,
}
# No -march: every function names the instructions it needs, and is called where the processor has them.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-g0", "-ffp-contract=off"]


def supported() -> bool:
    """Whether there is anything to compile on this system."""
    return sys.platform == "linux" and platform.machine() in {"x86_64", "AMD64"}


def name(level: str) -> str:
    """Of the library's file."""
    return f"_thoughtmix_{level}.so"


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
    """Compile the libraries into a folder.

    Args:
        command: The compiler's; None: the first that is found.

    Returns:
        "", or in a few words why there are none. Those that were there are left as they were then.
    """
    if not supported():
        return "the kernels are for Linux on x86-64"
    command = command or compiler()
    if command is None:
        return "there is no C compiler (cc, or the package ziglang)"
    with tempfile.TemporaryDirectory(dir=into) as folder, ThreadPoolExecutor() as pool:
        made = [Path(folder) / name(level) for level in LEVELS]
        reasons = list(pool.map(_compile, [command] * len(LEVELS), LEVELS, made))
        for file, reason in zip(made, reasons, strict=True):  # an older compiler may not know a matrix unit
            if not reason:
                file.replace(into / file.name)
    return reasons[0] if all(reasons) else ""


def _compile(command: list[str], level: str, made: Path) -> str:
    sources = [str(file) for file in sorted(HERE.glob("*.c")) if level in _ONLY.get(file.name, LEVELS)]
    target = ["-target", "x86_64-linux-gnu.2.17"] if "ziglang" in command else []
    asked = [f"-DLEVEL={level.upper()}", f'-DSOURCES="{sources_digest()}"', "-o", str(made), *sources, "-lm"]
    try:
        ran = subprocess.run(
            [*command, *target, *FLAGS, *asked], capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} cannot be run: {error}"
    if ran.returncode or not made.exists():
        lines = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.splitlines() or [""]
        return f"{' '.join(command)} failed: {lines[0][:200]}"
    return ""


if __name__ == "__main__":
    reason = build()
    print(
        f"Not compiled: {reason}."
        if reason
        else f"Compiled in {HERE}: {', '.join(sorted(x.name for x in HERE.glob(name('*'))))}."
    )
