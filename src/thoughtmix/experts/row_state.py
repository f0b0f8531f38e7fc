"""What a row of the decoding engine carries: its place in the controller."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from thoughtmix.engine.row_state import Read
from thoughtmix.experts.controller import ExpertController


class ExpertRowState:
    """The `RowState` of thoughts under a controller, of which control row i is row i of the request. A prompt that
    rows share is read by the model's own routing."""

    unshared_suffix = 0
    is_lora = False

    def __init__(self, controller: ExpertController, rows: int) -> None:
        self.controller = controller
        self.live = list(range(rows))

    def row_lora(self) -> None:
        return None

    def reorder(self, order: Sequence[int]) -> None:
        self.live = [self.live[old] for old in order]

    def prefilling(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        return self.controller.using(self.live[rows] if read == "each" else None)

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        return self.controller.using(self.live[rows])

    def probing(self) -> AbstractContextManager[None]:
        return self.controller.using(None)
