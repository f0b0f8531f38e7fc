"""Training text: read, checked, split. The splits are contiguous: neighbouring windows of one text are near copies."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.core.errors import InputError, ThoughtmixError

NAMED = {
    "tiny-shakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )
}
"""Texts that can be fetched by name: address and SHA-256. Nothing is fetched unless its name is given."""


@dataclass(frozen=True, slots=True)
class Splits:
    """train, validation (what training may look at), held out (what nothing may look at before the report)."""

    train: str
    validation: str
    held_out: str


def read_text(source: str, cache: Path | None = None) -> str:
    """The text of a UTF-8 file, or of one of `NAMED` by its name (fetched once into `cache`, checksum verified).

    Raises `InputError` for a file that is missing, empty or not UTF-8, `ThoughtmixError` when fetching fails.
    """
    path = Path(source)
    if not path.exists() and source in NAMED:
        path = _fetch(source, cache)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"There is no file {source}.", f"Pass a text file, or a name: {', '.join(NAMED)} (--data)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        raise InputError(f"{source} cannot be read: {why}.", "Pass a UTF-8 text file (--data).") from None
    if not text.strip():
        raise InputError(f"{source} is empty.", "Pass a file with text (--data).")
    return text


def split(text: str, validation: float = 0.1, held_out: float = 0.0) -> Splits:
    """The first part to train on, then `held_out`, then `validation` (so that the last tenth is what nanoGPT validates
    on, whatever is held out). Raises `InputError` when nothing is left."""
    if not (0 < validation < 1 and 0 <= held_out < 1 and validation + held_out < 1):
        raise InputError(f"Shares {validation} and {held_out} leave nothing to train on.", "Pass shares below 1.")
    end = int(len(text) * (1 - validation))
    begin = int(len(text) * (1 - validation - held_out))
    return Splits(text[:begin], text[end:], text[begin:end])


def _fetch(name: str, cache: Path | None) -> Path:
    from thoughtmix.models import cache_dir

    address, digest = NAMED[name]
    folder = cache or cache_dir() / "data"
    target = folder / f"{name}.txt"
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
        return target
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            body = answer.read()
    except OSError as error:
        raise ThoughtmixError(f"{name} cannot be fetched: {error}.", "Pass the file instead: --data FILE.") from None
    if hashlib.sha256(body).hexdigest() != digest:
        raise ThoughtmixError(f"{name} was fetched but is not the pinned text.", "Pass the file instead: --data FILE.")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(body)
    part.replace(target)
    return target
