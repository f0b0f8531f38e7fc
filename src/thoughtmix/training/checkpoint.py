"""What a run writes, each file whole or not at all: the state to resume from, the model, the picture of its losses."""

from __future__ import annotations

import hashlib
import re
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

VERSION = 3


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


def load_state(path: Path, config: TrainConfig, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the state that `save_state` wrote.

    Args:
        about: What the run of now learns from and what learns; see `train_and_save`.

    Raises:
        ThoughtmixError: The file is missing or broken, or belongs to a run with other settings, other data, another
            tokenizer or another architecture: the first difference is named.
    """
    if not path.exists():
        raise ThoughtmixError(f"There is nothing to resume in {path.parent}.", "Leave out --resume.")
    anew = f"Start anew; type: rm {path}"
    try:
        body: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if body["version"] != VERSION:
            raise ThoughtmixError(f"{path} is of another format version.", anew)
        before, kept = body["config"], body["about"]
    except ThoughtmixError:
        raise
    except Exception as error:  # whatever a damaged zip archive makes torch raise
        raise ThoughtmixError(f"The checkpoint {path} is damaged.", anew) from error
    now = {**(about or {}), **{name: value for name, value in asdict(config).items() if name != "minutes"}}
    before = {**kept, **{name: value for name, value in before.items() if name != "minutes"}}
    for name in now:
        if before.get(name) != now[name]:
            raise _another(name, before.get(name), now[name])
    return body


_HASHED = re.compile(r"sha256:[0-9a-f]+")
_FLAGS = {"num_branches": "branches", "segment_length": "segment", "r": "rank"}
_ARGUMENTS = {"kind", "processes"}  # typed without dashes, if at all


def digest(value: Any) -> str:
    """A name for a text, or for anything whose repr says it all, by which `load_state` tells it from others."""
    body = value if isinstance(value, str) else repr(value)
    return f"sha256:{hashlib.sha256(body.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _another(name: str, before: Any, now: Any) -> ThoughtmixError:
    """The run to resume differs in `name`."""
    said = _FLAGS.get(name, name).replace("_", " ")
    flag = f"--{said.replace(' ', '-')}" if name not in _ARGUMENTS else said
    if any(_HASHED.fullmatch(str(value)) for value in (before, now)):
        return ThoughtmixError(
            f"The run to resume had another {said} ({before}, not {now}).",
            f"Pass the same {flag} as then, or leave out --resume and name another folder.",
        )
    if before is None or isinstance(before, (dict, list)):
        return ThoughtmixError(f"The run to resume had another {said}.", "Leave out --resume and name another folder.")
    hint = f"Pass {flag} {str(before).lower() if isinstance(before, bool) else before} again."
    return ThoughtmixError(f"The run to resume had another {said}: {before}, not {now}.", hint)


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
