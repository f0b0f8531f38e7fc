"""What is written and read: whole or not at all, through links and pipes, with permissions kept, up to a bound. All of
it inside tmp_path: no real device is opened."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thoughtmix.cli import main
from thoughtmix.core import files
from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.core.files import (
    append_line,
    bounded_text,
    check_writable,
    disk_full,
    parse_json,
    parse_toml,
    published,
    replaced_files,
    write_whole,
    written,
)
from thoughtmix.core.types import Thought, ThoughtSet


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def page(folder: Path) -> Path:
    """A thought set on disk, for commands to read."""
    path = folder / "set.json"
    ThoughtSet("p", (Thought("a", (1,), 0, -1.0, "stop"),), (), "sampling", "m", {}).to_json(path)
    return path


# --- through what is there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "x.html", tmp_path / "link.html"
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and names(tmp_path / "real") == ["x.html"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, link, got = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        write_whole(target, "through")
        reader.join(20)
    assert got == [b"through"] * 2 and stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    assert names(tmp_path) == ["link", "pipe"]


def test_the_command_writes_its_page_into_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe, got, source = tmp_path / "page.html", [], page(tmp_path)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert main(["show", str(source), "--html", str(pipe)]) == 0
    reader.join(20)
    assert got[0].startswith("<!doctype html>") and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """A null device of our own, where this user may make one; else a socket, which can only be refused."""
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        write_whole(device, "gone")
    except PermissionError:
        pass
    except InputError as error:  # made, but the file system allows no devices to be opened
        assert "ermission" in str(error) or "ermitted" in str(error)
    if device.exists():
        assert stat.S_ISCHR(device.stat().st_mode)
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "socket"))
        with pytest.raises(InputError, match="Cannot write"):
            write_whole(tmp_path / "socket", "x")
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert set(names(tmp_path)) <= {"null", "socket"}


def test_a_descriptor_is_written_where_it_stands(tmp_path: Path) -> None:
    """`> file` and /dev/stdout: what was printed before stays in front of it, what comes later goes behind."""
    out = tmp_path / "out.txt"
    handle = os.open(out, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(handle, b"before ")
        write_whole(f"/proc/self/fd/{handle}", "page")
        os.write(handle, b" after")
    finally:
        os.close(handle)
    assert out.read_text() == "before page after" and names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("asked", [0o644, 0o600, 0o664, 0o755])
def test_permissions_are_kept(asked: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(asked)
    write_whole(path, "new")
    assert mode(path) == asked and path.read_text() == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o027])
def test_new_files_and_folders_have_what_the_umask_leaves(
    mask: int, tmp_path: Path, umask: Callable[[int], object]
) -> None:
    umask(mask)
    write_whole(tmp_path / "file", "x")
    append_line(tmp_path / "lines", "x")
    with published(tmp_path / "graft") as work:
        (work / "inner").mkdir()
        handle = os.open(work / "inner" / "weights", os.O_CREAT | os.O_WRONLY, 0o600)  # as safetensors does
        os.close(handle)
    with replaced_files(tmp_path / "model") as part:
        os.close(os.open(part / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
    for file in ("file", "lines", "graft/inner/weights", "model/weights"):
        assert mode(tmp_path / file) == 0o666 & ~mask, file
    for folder in ("graft", "graft/inner", "model"):
        assert mode(tmp_path / folder) == 0o777 & ~mask, folder


# --- whole or not at all ----------------------------------------------------------------------------------------------


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [full, lambda *_: 1 / 0])
def test_what_fails_leaves_what_was_there(error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("old")
    expected = ThoughtmixError if error is full else ZeroDivisionError

    def fail(part: Path) -> None:
        (part / "config.json" if part.is_dir() else part).write_text("half")
        error()

    for place in (written(kept), written(tmp_path / "new.json"), replaced_files(tmp_path / "model")):
        with pytest.raises(expected), place as part:
            fail(part)
    with pytest.raises((expected, OSError)), published(tmp_path / "graft") as part:
        fail(part)
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ThoughtmixError, match="no space left. Free some space, then type the same again"):
        write_whole(kept, "new")
    assert kept.read_text() == "old" and names(tmp_path) == ["kept.json", "model"]


def test_a_line_that_finds_no_room_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(ThoughtmixError, match="no space left"):
            append_line(path, "two")
    path.write_bytes(path.read_bytes() + b'{"torn')
    append_line(path, "three")
    assert path.read_text() == 'one\n{"torn\nthree\n'


def test_leftovers_of_a_killed_process_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".graft.part-0011aabb").mkdir()
    (tmp_path / ".graft.backup").mkdir()
    with published(tmp_path / "graft"):
        pass
    assert names(tmp_path) == [".graft.backup", "graft"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_writers_word_for_a_full_disk(error: Exception, tmp_path: Path) -> None:
    assert disk_full(error)
    with pytest.raises(ThoughtmixError, match="no space left"), written(tmp_path / "x"):
        raise error


@pytest.mark.parametrize("path", ["{}/no/folder/x", "{}", "{}/" + "x" * 300, "{}/a\0b", "{}/file/x", "{}/loop"])
def test_places_that_cannot_be_written(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    for act in (check_writable, lambda where: write_whole(where, "x")):
        with pytest.raises(InputError) as found:
            act(path.format(tmp_path))
        assert "\n" not in str(found.value) and found.value.hint
    assert names(tmp_path) == before


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reading_has_a_bound(tmp_path: Path) -> None:
    path, pipe = tmp_path / "big", tmp_path / "pipe"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room: a hole
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="more than 256 MiB"):
        bounded_text(path)

    def endless() -> None:
        with pipe.open("wb") as sink:
            try:
                while True:
                    sink.write(bytes(2**16))
            except BrokenPipeError:
                pass

    writer = threading.Thread(target=endless)
    writer.start()
    with pytest.raises(OSError, match="more than 1 MiB"):
        bounded_text(pipe, 2**20)
    writer.join(20)
    assert not writer.is_alive()


def test_a_text_is_the_same_whatever_ends_its_lines(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert bounded_text(tmp_path / "x") == "a\nb\nc\n"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": "\\ud83d"}', '{"\\udc00": 1}', '[["\\uD800"]]', "{", "1" * 9999]
)
def test_json_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"too deep|half of|Expecting|digits"):
        parse_json(text)
    assert parse_json('"\\ud83d\\ude00"') == "😀"


def test_toml_that_is_nested_too_deep() -> None:
    with pytest.raises(ValueError, match="too deep"):
        parse_toml("a = " + "[" * 50_000)


def test_commands_and_files_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(page(tmp_path).read_text())
    body["thoughts"][0]["origin"] = {"x": "\ud83d"}
    (tmp_path / "half.json").write_text(json.dumps(body))
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**40)
    tries = [
        (["think", "caf\udce9"], "not UTF-8"),
        (["show", "x\udcff"], "not UTF-8"),
        (["show", str(tmp_path / "half.json")], "half of a surrogate pair"),
        (["show", str(tmp_path / "huge.json")], "more than 256 MiB"),
        (["show", str(tmp_path)], "Is a directory"),
        (["show", str(tmp_path / ("x" * 300))], "too long"),
        (["show", str(page(tmp_path)), "--html", str(tmp_path / ("x" * 300))], "too long"),
    ]
    for words, says in tries:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1, words
