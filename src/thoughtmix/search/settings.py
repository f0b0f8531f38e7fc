"""What a search is made with, when it stops, and what it has spent."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtmix.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the tree depends on, beside prompt, seed, proposal and evaluators."""

    length: int = 64
    """Tokens of the longest thought."""
    step: int = 8
    """Tokens of a node."""
    width: int = 4
    """Children drawn at a leaf."""
    batch: int = 4
    """Leaves a round."""
    rollouts: bool = False
    """Value a child by one continuation of it to the end (which is then a leaf of its own), not as it stands."""
    exploration: float = 0.5
    urgency: float = 0.0
    """Both as in `Tree`."""
    stop: tuple[str, ...] = ()
    """Strings that end a thought."""

    def __post_init__(self) -> None:
        for name in ("length", "step", "width", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass 1 or more ({name}=4).")
        if not 0 <= self.exploration < float("inf") or not 0 <= self.urgency <= 1:
            raise InputError(
                f"exploration is {self.exploration}, urgency {self.urgency}.",
                "Pass exploration 0 or more, and urgency from 0 to 1.",
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop. tokens: drawn in all, the completion of open leaves included. seconds: of this run, with that;
    models are loaded before, and the set is measured after it."""

    tokens: int = 2048
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or (self.seconds is not None and not self.seconds > 0):
            raise InputError(f"A budget of {self.tokens} tokens and {self.seconds} seconds.", "Pass more than 0.")


@dataclass(slots=True)
class Spent:
    """Tokens drawn; tokens that went through the model; rounds; seconds in the model, in evaluators, and in all."""

    drawn: int = 0
    computed: int = 0
    rounds: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    judging_seconds: float = 0.0
    seconds: float = 0.0
