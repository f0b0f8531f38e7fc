"""The user's cache folder: where it is, one process at a time, and folders that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from thoughtmix.core.errors import CacheError, ThoughtmixError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ELSEWHERE = "THOUGHTMIX_CACHE=/path thoughtmix pull"


def cache_dir() -> Path:
    """THOUGHTMIX_CACHE, else `thoughtmix` in the platform's cache folder. Not created here."""
    named = os.environ.get("THOUGHTMIX_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        if not base.is_absolute():  # unset, or to be ignored as the XDG specification says
            base = home / ".cache"
    return base / "thoughtmix"


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


def disk_full(error: BaseException) -> bool:
    """Also for writers in Rust, whose errors are no OSError but spell its number out."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(f"(os error {number})" in str(error) for number in (*_FULL, 112))  # 112: Windows, disk full


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `target` when the block ends, and vanishes when it fails.

    Call it under `locked`: whatever lies beside `target` under a temporary name was left by a process that
    was killed, and is removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target.parent, target.name)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield work
        for path in sorted(work.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600: no shared cache
            _flush(path)
        work.chmod(0o755)
        _flush(work)
        if target.exists():
            old = work.with_name(f"{work.name}.old")
            target.rename(old)
            work.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            work.rename(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def remove_stale(folder: Path, name: str) -> None:
    """Remove the temporary folders that were made for `name`. Call it under the lock that guards `name`."""
    for stale in folder.glob(f".{name}.*"):
        shutil.rmtree(stale, ignore_errors=True)


def _flush(path: Path) -> None:
    """To the disk itself, so that a rename never outlives what it names."""
    if path.is_file():
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    elif os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
