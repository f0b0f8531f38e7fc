"""Every file that is written or read here: written whole or not at all, through whatever stands at its name, with the
permissions that are there or that the umask leaves; read up to a bound, so that no file hangs or fills the memory.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from thoughtmix.core.errors import InputError, ThoughtmixError

StrPath = str | os.PathLike[str]

READ_LIMIT = 2**28
"""Most bytes that are read of one file of settings, prompts or thoughts."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DESCRIPTOR = re.compile(r"/dev/(?:stdin|(stdout)|(stderr)|fd/(\d+))|/proc/self/fd/(\d+)")
_SPACE = "Free some space, then type the same again."
_HALF_PAIR = re.compile("[\ud800-\udfff]")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_whole(path: StrPath, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes to `path`, or leave `path` as it was. Raises as `written`."""
    with written(path) as part:
        if isinstance(content, str):
            content = content.encode("utf-8", errors="replace")  # half a surrogate pair has no bytes
        part.write_bytes(content)


@contextmanager
def written(path: StrPath) -> Iterator[Path]:
    """A temporary file to write, with the ending of `path`, which takes its place when the block ends and vanishes when
    it fails.

    A link stays a link: the file that it leads to is replaced. What is no regular file (a pipe, a device, a descriptor
    such as /dev/stdout) stays, and is written to. An earlier file's permissions are kept; a new one has what the umask
    leaves.

    Raises:
        InputError: There is no such folder, or the file may not be written.
        ThoughtmixError: The disk is full.
    """
    target = Path(path)
    with writing(target):
        if _is_stream(target):
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder) / f"part{target.suffix}"
                yield part
                _pour(part, target)
            return
        real = Path(os.path.realpath(target))
        part = real.with_name(f".{real.stem[:32]}.part-{secrets.token_hex(4)}{real.suffix[:16]}")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            before = _stat(real) or part.stat()
            yield part
            _take_over(part, before)
            _flush(part)
            part.replace(real)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def check_writable(path: StrPath) -> None:
    """Refuse a file that `written` could not write, before anything is computed for it. Raises `InputError`."""
    target = Path(path)
    with writing(target):
        if target.is_dir():
            raise InputError(f"{target} is a folder.", f"Name a file in it: {shlex.quote(str(target / 'result'))}")
        if _is_stream(target):
            return
        folder = Path(os.path.realpath(target)).parent
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", f"Type: mkdir -p {shlex.quote(str(folder))}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@contextmanager
def replaced_files(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which is made; its files take the places of those of the same names when the
    block ends, config.json last, since it marks a model. Raises as `written`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        part = folder / f"..part-{secrets.token_hex(4)}"
        part.mkdir()
        mode = stat.S_IMODE(part.stat().st_mode) & 0o666
        try:
            yield part
            files = sorted(part.iterdir(), key=lambda file: file.name == "config.json")
            for file in files:
                file.chmod(mode)  # safetensors makes 0600
                if before := _stat(folder / file.name):
                    _take_over(file, before)
                _flush(file)
            for file in files:
                file.replace(os.path.realpath(folder / file.name))
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends, and vanishes when it fails.

    Whatever lies beside `folder` under a temporary name was left by a process that was killed, and is removed first.
    Permissions are those of the folder before, or what the umask leaves.
    """
    target = Path(os.path.realpath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target.parent, target.name)
    work = target.with_name(f".{target.name}.part-{secrets.token_hex(4)}")
    work.mkdir()
    mode = stat.S_IMODE((_stat(target) or work.stat()).st_mode)
    try:
        yield work
        for path in sorted(work.rglob("*")):
            path.chmod(mode if path.is_dir() else mode & 0o666)  # safetensors makes 0600
            _flush(path)
        work.chmod(mode)
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


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of lines, which is made with its folder. When this returns, it is on the disk; when it
    raises, no part of the line is there. Raises as `written`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            before = file.seek(0, os.SEEK_END)
            file.seek(max(0, before - 1))
            torn = file.read(1) not in (b"", b"\n")  # a process was killed in the middle of the last line
            try:
                file.write(b"\n" * torn + line.encode(errors="replace") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), before)
                raise


@contextmanager
def writing(target: StrPath) -> Iterator[None]:
    """Turns what the file system says of `target` into one line that ends with what to type."""
    try:
        yield
    except ThoughtmixError:
        raise
    except Exception as error:
        if disk_full(error):
            raise ThoughtmixError(f"Cannot write {target}: no space left.", _SPACE) from None
        if not isinstance(error, OSError) and "null byte" not in str(error):  # a path with one is a ValueError
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Cannot write {target}: {reason}.", "Name a file in a folder you can write to.") from None


def disk_full(error: BaseException) -> bool:
    """Also of writers in Rust, whose errors are no OSError but spell its number out, and of torch.save, which says
    nothing more than that it could not write."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)):
        return True
    return any(f"(os error {number})" in str(error) for number in (*_FULL, 112))  # 112: Windows, disk full


def remove_stale(folder: Path, name: str = "") -> None:
    """Remove the temporary files and folders for `name` that a process left in `folder` when it was killed. Call it
    where no other process writes `name` now."""
    for stale in folder.glob(f".{glob.escape(name)}.part-*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    return path.stat() if path.exists() else None


def _is_stream(target: Path) -> bool:
    """Whether what is at `target` is to be written to, and not replaced."""
    if _DESCRIPTOR.fullmatch(str(target)):
        return True
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    return not stat.S_ISREG(mode)


def _pour(part: Path, target: Path) -> None:
    """The bytes of `part` into a stream. A descriptor of ours is written where it stands, behind what was printed."""
    with suppress(ValueError):  # a closed one
        sys.stdout.flush()
    found = _DESCRIPTOR.fullmatch(str(target))
    number = None
    if found:
        number = 1 if found[1] else 2 if found[2] else int(found[3] or found[4] or 0)
    handle = os.open(target, os.O_WRONLY) if number is None else os.dup(number)
    with part.open("rb") as source, os.fdopen(handle, "wb") as sink:
        shutil.copyfileobj(source, sink)


def _take_over(part: Path, before: os.stat_result) -> None:
    """Give `part` the owner and the permissions of what it replaces."""
    now = part.stat()
    if hasattr(os, "chown") and (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):  # only root may give files away
            os.chown(part, before.st_uid, before.st_gid)
    part.chmod(stat.S_IMODE(before.st_mode))


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


# --- reading ----------------------------------------------------------------------------------------------------------


def bounded_bytes(path: StrPath, limit: int = READ_LIMIT) -> bytes:
    """A file's bytes; of a pipe or a device, until it ends.

    Raises:
        OSError: It cannot be read, or holds more than `limit` bytes.
    """
    target = Path(path)
    with target.open("rb") as file:
        state = os.fstat(file.fileno())
        if stat.S_ISREG(state.st_mode) and state.st_size > limit:
            raise _too_large(target, limit)
        body = file.read(limit + 1)
    if len(body) > limit:
        raise _too_large(target, limit)
    return body


def bounded_text(path: StrPath, limit: int = READ_LIMIT) -> str:
    """A UTF-8 file's text; a byte-order mark is left out. Raises OSError as `bounded_bytes`, and UnicodeDecodeError."""
    return bounded_bytes(path, limit).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def why_unread(error: Exception) -> str:
    """What kept a file from being read, in words: its name and the system's reason, without the number of it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def read_stream(stream: TextIO, limit: int = READ_LIMIT) -> str:
    """What is piped in, without the line ends at its end, which `echo` and editors add and a shell's `$(...)` drops.
    Raises `InputError` for more than `limit` characters, or for what is no UTF-8."""
    try:
        text = stream.read(limit + 1)
    except UnicodeDecodeError:
        raise InputError("Standard input is not UTF-8.", "Pipe a UTF-8 text in.") from None
    if len(text) > limit:
        raise InputError(f"Standard input has more than {limit:,} characters.", "Pipe a shorter text in.")
    return text.rstrip("\r\n")


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON, is nested too deep, or holds half a pair."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if "\\ud" in text or "\\uD" in text:  # only an escape can spell one
        require_whole_characters(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError for what is no TOML, or is nested too deep."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def require_whole_characters(value: Any) -> None:
    """Raises ValueError where a text in `value` (mappings and lists of texts) holds half of a surrogate pair, which no
    tokenizer and no file takes."""
    if isinstance(value, str):
        if _HALF_PAIR.search(value):
            raise ValueError(f"{_shown(value)} holds half of a surrogate pair, which is no character")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            require_whole_characters(key)
            require_whole_characters(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            require_whole_characters(item)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")


def _too_large(path: Path, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it holds more than {limit / 2**20:.0f} MiB", str(path))
