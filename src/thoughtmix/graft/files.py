"""A graft as a folder: whole or not there, and naming a base model that another machine finds, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.models.cache import published

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


def base_name(lm: LanguageModel, asked: str | None) -> str:
    """What a graft of this model says it is for: the default model's name, a hub id, or where the folder is."""
    if lm.is_default:
        return lm.name
    return str(Path(asked).expanduser().resolve()) if asked and Path(asked).expanduser().is_dir() else str(asked)


def save_graft(peft: Any, folder: str | Path, base: str, half: bool = False) -> None:
    """Write a grafted model's adapters into `folder`, in PEFT's form, for `load_model` and stock PEFT.

    peft: the PEFT model. base: see `base_name`. half: numbers in 16 bits, which are float32 again when loaded. Asks no
    hub. Raises `InputError` when it cannot be written.
    """
    for config in peft.peft_config.values():
        config.base_model_name_or_path = base
    with written(folder) as work:
        peft.save_pretrained(work, save_embedding_layers=False)
        for file in work.rglob("*.safetensors") if half else ():
            tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
            save_file(tensors, file, metadata={"format": "pt"})


def refuse(folder: Path, mark: str = "adapter_config.json") -> None:
    """Raises `InputError` where `written` would not write."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file()):
        raise InputError(f"{folder} holds other things.", "Name a new folder.")


@contextmanager
def written(folder: str | Path, mark: str = "adapter_config.json") -> Iterator[Path]:
    """A folder to write into, which then takes the place of `folder`. Only an earlier one, which holds `mark`, or an
    empty one is replaced. Raises `InputError`."""
    target = Path(folder).expanduser()
    refuse(target, mark)
    try:
        with published(target) as work:
            yield work
    except ThoughtmixError:
        raise
    except OSError as error:
        raise InputError(
            f"Cannot write {target}: {error.strerror or error}.", "Name a folder that you can write to."
        ) from None
