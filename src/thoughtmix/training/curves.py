"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def loss_curve(logs: Mapping[str, Sequence[Mapping[str, float]]], path: Path, title: str = "") -> None:
    """Training and validation loss (nats a token) against steps of one or several runs, by name; the ending of `path`
    chooses the format (.svg, .png). Written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no window, no global state
    axes = figure.subplots()
    for i, (name, log) in enumerate(logs.items()):
        steps = [entry["step"] for entry in log]
        losses = [entry.get("lm_loss", entry["loss"]) for entry in log]
        axes.plot(steps, _smooth(losses), color=f"C{i}", alpha=0.5, linewidth=1, label=f"{name}, training")
        seen = [entry for entry in log if "val_loss" in entry]
        if seen:
            axes.plot(
                [e["step"] for e in seen], [e["val_loss"] for e in seen], f"C{i}o-", markersize=3,
                label=f"{name}, validation",
            )  # fmt: skip
    axes.set(xlabel="step", ylabel="loss, nats a token", title=title)
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
