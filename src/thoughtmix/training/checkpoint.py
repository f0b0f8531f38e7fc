"""What a run writes, each file whole or not at all: the state to resume from, the model, the picture of its losses."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 2


def save_state(path: Path, body: dict[str, Any], config: TrainConfig) -> None:
    """Write everything a run needs to go on as if it had never stopped.

    Raises:
        ThoughtmixError: It cannot be written; a state that was there before then stays.
    """
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

    part = folder / ".part"
    with quiet():
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda f: f.name == "config.json"):  # config.json last: it marks a model
        file.replace(folder / file.name)
    part.rmdir()


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
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(part)
    part.replace(path)


def _smooth(values: Sequence[float], decay: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start (Kingma and Ba 2015, algorithm 1)."""
    mean, out = 0.0, []
    for i, value in enumerate(values, 1):
        mean = decay * mean + (1 - decay) * value
        out.append(mean / (1 - decay**i))
    return out
