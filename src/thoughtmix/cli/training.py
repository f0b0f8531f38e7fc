"""What is said of a training while it runs, and when it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from thoughtmix.cli.reporting import Reporter

if TYPE_CHECKING:
    from thoughtmix.training.trainer import TrainingProgress, TrainingResult


def training_words(report: Reporter, say: Callable[[str], None]) -> Callable[[TrainingProgress], None]:
    """What follows the steps of a training: each renews the line of progress, each evaluation leaves one."""
    last: dict[str, float] = {}

    def step(p: TrainingProgress) -> None:
        nonlocal last
        say(f"Training: step {p.step:,} of {p.steps:,}, loss {p.loss:.3f}, {duration(p.seconds_left)} left")
        if p.last_evaluation and p.last_evaluation != last:
            last = p.last_evaluation
            found = ", ".join(f"{_EVALUATIONS.get(name, name)} {value:.4f}" for name, value in last.items())
            report.note(f"step {p.step:,} of {p.steps:,}: {found}, {p.tokens_per_second:,.0f} tokens/s")

    return step


_EVALUATIONS = {
    "val_loss": "validation loss",
    "val_loss_0": "of the deterministic output",
    "val_loss_marginal": "averaged over modes",
    "val_given": "with a prefix",
    "val_recovered": "branches recovered",
    "val_valid": "valid",
    "val_distinct": "distinct valid",
    "val_valid_open": "valid of open prompts",
}
"""What evaluations call their values -> what to say."""


def stopped(result: TrainingResult) -> str:
    """What to say of a training that Ctrl-C ended."""
    if result.kept is None:
        return "Stopped before a step was kept. Type the same again to start."
    where = "" if result.kept == result.steps else f" from step {result.kept}"
    return f"Stopped at step {result.steps}. Type the same with --resume to go on{where}."


def duration(seconds: float) -> str:
    """ "35 s", "4 min 10 s", "2 h 05 min"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
