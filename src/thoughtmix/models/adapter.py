"""A PEFT adapter folder: which base model it is for, and the base model with it in place."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError, ThoughtmixError
from thoughtmix.models.grafted import GraftedModule
from thoughtmix.models.packaged import GENERATOR

if TYPE_CHECKING:
    from thoughtmix.models.language import LanguageModel

CONFIG = "adapter_config.json"
SHIPPED = Path(__file__).parents[1] / "graft" / "weights" / "smollm2"
"""The graft that comes with this package, for the default model."""
_LOCK = Lock()
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_folder(name: str | None) -> Path | None:
    """The folder, when `name` is one of an adapter."""
    try:
        folder = Path(name or "").expanduser()
        found = bool(name) and (folder / CONFIG).is_file() and not (folder / "config.json").is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null character, a user that is not known
        return None
    return folder if found else None


def base_of(folder: Path) -> str:
    """The base model that the adapter names. Raises `ModelError`."""
    try:
        base = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / CONFIG} is not readable: {error}.", "Save the adapter again.") from None
    if not base or not isinstance(base, str):
        raise ModelError(
            f"The adapter {folder} does not name its base model.",
            f"Set base_model_name_or_path in {folder / CONFIG} (a folder, a Hugging Face id, or {GENERATOR.title}).",
        )
    # PEFT notes where the base model lay on the machine that saved: of the default model, a folder of the cache.
    return GENERATOR.title if Path(base).name.startswith(f"{GENERATOR.name}-") else base


def put_on(base: LanguageModel, folder: Path) -> LanguageModel:
    """The base model with the adapter in place, which stays as PEFT injects it. Raises `ModelError`."""
    from peft import PeftModel

    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(f"The adapter {folder} has no weights ({WEIGHTS[0]}).", "Save the adapter again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # missing weights: PEFT fills them at random, and only warns
            kind: Any = PeftModel
            peft = kind.from_pretrained(base.model, str(folder), local_files_only=True)
    except ThoughtmixError:
        raise
    except Exception as error:  # PEFT, safetensors and torch each have errors of their own
        reason = " ".join((str(error) or type(error).__name__).split())[:200].rstrip(".")
        raise ModelError(f"Cannot put the adapter {folder} on {base.name}: {reason}.", "Save it again.") from None
    model = peft.get_base_model().eval().requires_grad_(False)
    return replace(base, model=model, name=folder.resolve().name, is_default=False)


def put_shipped(base: LanguageModel) -> None:
    """Put the graft of this package on the default model, in place, once. Whoever carries no thoughts through it, plain
    sampling say, still has the base model, bit for bit."""
    with _LOCK:
        if not any(isinstance(module, GraftedModule) for module in base.model.modules()):
            put_on(base, SHIPPED)
