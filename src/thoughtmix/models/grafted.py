"""What a graft's modules and hooks show to code that does not import the graft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class GraftedModule(Protocol):
    """A module of the model with thought branches beside it (`thoughtmix.graft.MoTLayer`)."""

    @property
    def thought_graft(self) -> object | None:
        """The graft at work, if any: another object for another adapter."""
        ...

    def thought_update(self) -> tuple[int, Tensor, Tensor] | None:
        """This module's number in the graft at work, and its branches as one low-rank update B (A x): A (m, inputs)
        and B (outputs, m), which a row's `RowLora` scales and shifts between the two. None: no graft is at work."""
        ...


@runtime_checkable
class GraftHooks(Protocol):
    """The object whose methods are a graft's forward hooks; a step that computes the update itself needs none."""

    thought_hooks: bool
