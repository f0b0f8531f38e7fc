"""How many steps the models of an experiment get, so that all of it takes the minutes that it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thoughtmix.core.errors import InputError

TIMED = 8
"""Steps that are timed."""
WINDOWS = 32
"""Of validation, that an evaluation on the way looks at."""
EVALUATIONS = 5
"""On the way of a training, or one more."""
FEWEST = 20
"""Steps of a training."""
_AFTER = 0.03  # of the minutes: intervals, what serves which text, the page
_MARGIN = 1.1  # of what is named as needed, so that it will do


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that things take with one kind of model.

    step: Of training. evaluation: On the way. last: The evaluation at the end. first: A model's first texts, for which
    the decoding paths are tried. development, held_out: A set of texts for these prompts, written and scored.
    """

    step: float
    evaluation: float
    last: float
    first: float
    development: float
    held_out: float


def fitting_steps(
    minutes: float,
    trainings: Mapping[str, int],
    costs: Mapping[str, Costs],
    sets: Mapping[tuple[str, str], int],
    spent: float,
) -> int:
    """Steps of every training.

    Args:
        minutes: For all.
        trainings: Kind -> how many models of it are trained.
        costs: Of each kind.
        sets: (kind, development or held-out) -> how many sets of texts.
        spent: Seconds that are gone.

    Raises:
        InputError: Even the fewest steps do not fit; it names the minutes that do.
    """
    beside, step = spent, 0.0
    for kind, count in trainings.items():
        cost = costs[kind]
        beside += count * ((EVALUATIONS + 0.5) * cost.evaluation + cost.last + cost.first)
        beside += sets.get((kind, "development"), 0) * cost.development
        beside += sets.get((kind, "held-out"), 0) * cost.held_out
        step += count * cost.step
    steps = int(((1 - _AFTER) * 60 * minutes - beside) / max(step, 1e-9))
    if steps < FEWEST:
        needed = math.ceil(10 * _MARGIN * (beside + FEWEST * step) / (1 - _AFTER) / 60) / 10
        raise InputError(
            f"This experiment takes {needed:g} minutes here at least, not {minutes:g}.",
            f"Pass --minutes {needed:g}, or less to do (--ablations none, -n 4, --max-new-tokens 50, --limit 12).",
        )
    return steps
