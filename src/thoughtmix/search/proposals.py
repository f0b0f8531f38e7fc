"""What draws the next tokens of a leaf. A class with these few methods is a proposal; one batch asks it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from thoughtmix.engine import Sampler

if TYPE_CHECKING:
    from thoughtmix.engine.row_state import RowState
    from thoughtmix.models import LanguageModel


class Proposal(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def sampler(self) -> Sampler: ...

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        """What the rows of these seeds carry through the model; it may say how long a `tail` they need."""
        ...

    def settings(self) -> dict[str, Any]:
        """As JSON."""
        ...


@dataclass(frozen=True)
class SamplingProposal:
    """Plain sampling."""

    sampler: Sampler = field(default_factory=lambda: Sampler(min_p=0.1))
    name: str = "sampling"

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        from thoughtmix.engine.row_state import NO_ROW_STATE

        return NO_ROW_STATE

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **_sampler(self.sampler)}


@dataclass(frozen=True)
class MixtureProposal:
    """Routes of a mixture or a graft: each child draws its own for its tokens, and goes on from the keys and values of
    its ancestors' routes. (Where rows carry more than keys and values, a transformer trained as a mixture, the text
    so far is read again as a prompt.)"""

    creativity: float = 1.0
    sampler: Sampler = field(default_factory=lambda: Sampler(temperature=0.7, min_p=0.1))
    name: str = "mixture"

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        from thoughtmix.thinkers.mixture import branch_row_state

        return branch_row_state(model, seeds, [self.creativity] * len(seeds))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "creativity": self.creativity, **_sampler(self.sampler)}


def _sampler(sampler: Sampler) -> dict[str, float]:
    return {name: getattr(sampler, name) for name in ("temperature", "top_k", "top_p", "min_p", "top_nsigma")}
