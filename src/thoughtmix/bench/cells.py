"""Cells, the unit of work: one thinker, one setting, one prompt, one seed. Each is kept on disk as it finishes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.types import write_whole


@dataclass(frozen=True, slots=True)
class Cell:
    """Which thinker, which of its settings (an index), which item (its id), which seed."""

    thinker: str
    setting: int
    item: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.thinker}|{self.setting}|{self.item}|{self.seed}"


class Store:
    """A folder with `run.json` (what is run) and `cells.jsonl` (a line a finished cell, on disk before the next).

    Opening a folder again continues it; `torn` says whether the last line was half written, which loses that cell
    alone. Raises `InputError` when the folder holds another run.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._path = self.folder / "cells.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {folder}: {error.strerror}.", "Name another (--out).") from None
        self._same_run(json.loads(json.dumps(about)))
        self.torn = False
        self.records = self._read()

    def _same_run(self, about: Mapping[str, Any]) -> None:
        head = self.folder / "run.json"
        if not head.exists():
            write_whole(head, json.dumps(about, indent=1, ensure_ascii=False))
            return
        try:
            before = json.loads(head.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read {head}: {error}.", "Name another folder (--out).") from None
        differs = sorted(k for k in {*about, *before} if before.get(k) != about.get(k))
        if differs:
            raise InputError(
                f"{self.folder} holds a run with other settings ({', '.join(differs)}).",
                "Name another folder (--out), or type the same command again to continue it.",
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        out: dict[str, dict[str, Any]] = {}
        if not self._path.exists():
            return out
        body = self._path.read_bytes()
        whole = body[: body.rfind(b"\n") + 1]
        if len(whole) < len(body):
            self.torn = True
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                out[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self._path}, line {number} is damaged.", "Delete that line; its cell is then run again."
                ) from None
        return out

    def add(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Keep a finished cell. When this returns, it is on disk."""
        kept = {"key": cell.key, **record}
        line = json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"Cannot write {self._path}: {error.strerror}.", "Free some space, and type it again."
            ) from None
        self.records[cell.key] = kept
