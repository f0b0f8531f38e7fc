"""What `vllm serve` needs for the thoughts of a graft: their LoRA adapters, and the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import write_whole
from thoughtmix.engine.vllm_loading import RANKS
from thoughtmix.models.packaged import default_folder, names_default

SCRIPT = "serve.sh"


def serve_command(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """The words of `vllm serve` for an export.

    Args:
        folder: Where `export_lora` wrote.
        facts: What that returned.

    Raises:
        InputError: vLLM serves no adapters of that rank.
    """
    names = [entry["adapter"] for entry in facts["thoughts"]]
    configs = [json.loads((folder / name / "adapter_config.json").read_text(encoding="utf-8")) for name in names]
    rank = max(config["r"] for config in configs)
    limit = next((known for known in RANKS if known >= rank), None)
    if limit is None:
        raise InputError(f"The adapters have rank {rank}; vLLM serves up to {RANKS[-1]}.", "Graft with a lower --rank.")
    base, served = str(facts["base_model"]), str(facts["base_model"])
    if names_default(base):
        base = str(default_folder() or base)
    slots = len(names) + 1  # a spare one: the CPU build gives a request without adapter what is in the last slot
    modules = [f"{name}={(folder / name).resolve()}" for name in names]
    return [
        *("vllm", "serve", base, "--served-model-name", Path(served).name or served),
        *("--enable-lora", "--max-lora-rank", str(limit), "--max-loras", str(slots), "--max-cpu-loras", str(slots)),
        *("--lora-modules", *modules),
    ]


def write_serve_script(folder: Path, command: list[str]) -> Path:
    """The command as a script beside the adapters; further words (--port 9000, --tensor-parallel-size 2) go to vLLM."""
    file = folder / SCRIPT
    write_whole(file, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    file.chmod(file.stat().st_mode | 0o111)
    return file
