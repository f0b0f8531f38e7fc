"""What is asked: one prompt with everything needed to ask it again and to read the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["open", "coverage", "reasoning"]
"""open: judged by a model. coverage: answers are checked, and counted when distinct. reasoning: one right result."""


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of the bench. Plain data: it travels to other processes and into the record."""

    id: str
    kind: Kind
    prompt: str
    paraphrases: tuple[str, ...] = ()
    """Other ways to ask the same, for the baseline of that name."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What a reader needs beyond the id: the numbers and the target of a countdown."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text answers."""

    answer: str | None
    """In a form in which equal answers are equal; None when no answer could be read."""
    valid: bool


Reader = Callable[[str], Reading]
UNREAD = Reading(None, False)
