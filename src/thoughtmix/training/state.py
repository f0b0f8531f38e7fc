"""What a run needs to go on as if it had never stopped, in one file that is written whole or not at all."""

from __future__ import annotations

import errno
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.training.config import TrainConfig

VERSION = 2


def save_state(path: Path, body: dict[str, Any], config: TrainConfig) -> None:
    """Raises `ThoughtmixError` when it cannot be written; a state that was there before then stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        torch.save({"version": VERSION, "config": asdict(config), **body}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        part.unlink(missing_ok=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "write" in str(error)
        raise ThoughtmixError(
            f"The checkpoint {path} could not be written{': no space left' if full else ''}.",
            "Free some space, then go on with --resume.",
        ) from error


def load_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Raises `ThoughtmixError` for a missing or broken file, and for a run with other settings."""
    if not path.exists():
        raise ThoughtmixError(f"There is nothing to resume in {path.parent}.", "Leave out --resume.")
    try:
        body: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged zip archive makes torch raise
        raise ThoughtmixError(f"The checkpoint {path} is damaged.", "Start anew without --resume.") from error
    if body.get("version") != VERSION:
        raise ThoughtmixError(f"{path} is of another format version.", "Start anew without --resume.")
    now = asdict(config)
    other = [k for k, v in body["config"].items() if _plain(now.get(k)) != _plain(v) and k not in {"minutes"}]
    if other:
        raise ThoughtmixError(
            f"The run to resume had another {', '.join(other)}.", f"Pass {other[0]}={body['config'][other[0]]} again."
        )
    return body


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
