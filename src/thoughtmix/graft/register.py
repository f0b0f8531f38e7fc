"""Our entries in PEFT's tables. Its own `register_peft_method` takes only names of its own enumeration."""

from __future__ import annotations

from typing import Any

from peft import mapping

from thoughtmix.graft.config import MoTConfig, MoTPeftType
from thoughtmix.graft.model import MoTModel


def register() -> None:
    """Idempotent."""
    tables: list[tuple[Any, Any]] = [
        (mapping.PEFT_TYPE_TO_CONFIG_MAPPING, MoTConfig),
        (mapping.PEFT_TYPE_TO_TUNER_MAPPING, MoTModel),
        (mapping.PEFT_TYPE_TO_PREFIX_MAPPING, MoTModel.prefix),
    ]
    for table, entry in tables:
        table[MoTPeftType.MOT] = entry
