"""What draws the next tokens of a leaf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from thoughtmix.engine.row_state import NO_ROW_STATE, RowState
from thoughtmix.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


class Proposal(Protocol):
    """A class with these few members is a proposal; one batch asks it once."""

    @property
    def sampling(self) -> SamplingParams: ...

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        """What the rows of these seeds carry through the model; see `RowState`."""
        ...

    def settings(self) -> dict[str, Any]:
        """As JSON."""
        ...


@dataclass(frozen=True)
class SamplingProposal:
    """Plain sampling."""

    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(min_p=0.1))
    name: str = "sampling"

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        return NO_ROW_STATE

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.sampling)}


@dataclass(frozen=True)
class MixtureProposal:
    """Routes of a mixture or a graft: each child draws its own for its tokens, and goes on from the keys and values of
    its ancestors' routes. (Where rows carry more than keys and values, a transformer trained as a mixture, the text
    so far is read again as a prompt.)"""

    creativity: float = 1.0
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.7, min_p=0.1))
    name: str = "mixture"

    def row_state(self, model: LanguageModel, seeds: Sequence[int]) -> RowState:
        from thoughtmix.graft.branched import branch_row_state

        return branch_row_state(model, seeds, [self.creativity] * len(seeds))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "creativity": self.creativity, **asdict(self.sampling)}
