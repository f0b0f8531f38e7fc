"""What a run writes, each file whole or not at all: the state to resume from, the model, the picture of its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.files import remove_stale, replaced_files, writing, written
from thoughtmix.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 2


def save_state(path: Path, body: dict[str, Any], config: TrainConfig) -> None:
    """Write everything a run needs to go on as if it had never stopped.

    Raises:
        ThoughtmixError: It cannot be written; a state that was there before then stays.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, path.stem)
        with written(path) as part:
            torch.save({"version": VERSION, "config": asdict(config), **body}, part)


def load_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Read the state that `save_state` wrote.

    Raises:
        ThoughtmixError: The file is missing or broken, or belongs to a run with other settings.
    """
    if not path.exists():
        raise ThoughtmixError(f"There is nothing to resume in {path.parent}.", "Leave out --resume.")
    try:
        body: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged zip archive makes torch raise
        raise ThoughtmixError(f"The checkpoint {path} is damaged.", "Start anew without --resume.") from error
    if body.get("version") != VERSION:
        raise ThoughtmixError(f"{path} is of another format version.", "Start anew without --resume.")
    now = asdict(config)
    other = [name for name, value in body["config"].items() if now.get(name) != value and name != "minutes"]
    if other:
        raise ThoughtmixError(
            f"The run to resume had another {', '.join(other)}.", f"Pass {other[0]}={body['config'][other[0]]} again."
        )
    return body


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer, complete before any old one in `folder` is replaced file by file."""
    from thoughtmix.models.hardware import quiet

    with quiet(), replaced_files(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def save_loss_curve(name: str, log: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses of the run `name`, in nats a token, against steps; the ending of `path` chooses the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no window, no global state
    axes = figure.subplots()
    losses = _smooth([entry.get("lm_loss", entry["loss"]) for entry in log])
    axes.plot([entry["step"] for entry in log], losses, color="C0", alpha=0.5, linewidth=1, label=f"{name}, training")
    seen = [entry for entry in log if "val_loss" in entry]
    if seen:
        losses = [entry["val_loss"] for entry in seen]
        axes.plot([entry["step"] for entry in seen], losses, "C0o-", markersize=3, label=f"{name}, validation")
    axes.set(xlabel="step", ylabel="loss, nats a token", title=f"{name}: {len(log)} steps")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with written(path) as part:
        figure.savefig(part)


def _smooth(values: Sequence[float], decay: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start (Kingma and Ba 2015, algorithm 1)."""
    mean, out = 0.0, []
    for i, value in enumerate(values, 1):
        mean = decay * mean + (1 - decay) * value
        out.append(mean / (1 - decay**i))
    return out
