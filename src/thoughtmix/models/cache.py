"""The user's cache folder: where it is, one process at a time, and folders that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from thoughtmix.errors import CacheError


def cache_dir() -> Path:
    """THOUGHTMIX_CACHE, else `thoughtmix` in the platform's cache folder. Not created here."""
    named = os.environ.get("THOUGHTMIX_CACHE")
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "thoughtmix"


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """Hold the lock `name` of the cache (other processes wait); gives the cache folder, created."""
    from filelock import FileLock  # huggingface_hub's own dependency

    with explained():
        folder = cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            yield folder


@contextlib.contextmanager
def explained(needs_mb: int = 900) -> Iterator[None]:
    """Turn what the file system says into one line with a way out."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        folder = cache_dir()
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise CacheError(
                f"No space left in {folder}; about {needs_mb} MB are needed.",
                "Free some, or name another folder: THOUGHTMIX_CACHE=/path thoughtmix pull",
            ) from None
        raise CacheError(
            f"Cannot use the cache {folder}: {error.strerror or error}.",
            "Name another folder: THOUGHTMIX_CACHE=/path thoughtmix pull",
        ) from None


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `target` when the block ends, and vanishes when it fails.

    Call it under `locked`: what an earlier, killed process left beside `target` is removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        work.chmod(0o755)
        if target.exists():
            old = work.with_name(f"{work.name}.old")
            target.rename(old)
            work.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
