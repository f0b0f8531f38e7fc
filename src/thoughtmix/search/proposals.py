"""What draws the next tokens of a leaf. A class with these few methods is a proposal; one batch asks it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from thoughtmix.decoding import Sampler

if TYPE_CHECKING:
    from thoughtmix.decoding.rows import RowState
    from thoughtmix.models import LanguageModel


class Proposal(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def sampler(self) -> Sampler: ...

    def carried(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
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

    def carried(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        from thoughtmix.decoding.rows import PLAIN

        return PLAIN

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

    def carried(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        from thoughtmix.mixture.thinker import carried_by

        return carried_by(model, seeds, [self.creativity] * len(seeds))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "creativity": self.creativity, **_sampler(self.sampler)}


def _sampler(sampler: Sampler) -> dict[str, float]:
    return {name: getattr(sampler, name) for name in ("temperature", "top_k", "top_p", "min_p", "top_nsigma")}
