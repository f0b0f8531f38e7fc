"""What several thinkers draw with: offsets of arithmetic sampling, and the branches of a graft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import Capability, Engine, local_model, require
from thoughtmix.engine.row_state import NO_ROW_STATE

if TYPE_CHECKING:
    from thoughtmix.engine.row_state import RowState

Draws = Literal["independent", "arithmetic"]


def draws_option() -> Draws:
    """The option of thinkers whose sequences may be drawn apart."""
    help = "How thoughts are drawn: independent, or arithmetic: neighbouring seeds apart, each still as likely."
    return cast("Draws", option("independent", help, served=True))


class DrawOptions(ThinkerOptions):
    """How sequences are drawn, whatever they are asked."""

    draws: Draws = draws_option()
    branches: bool = option(
        False, "Each sequence goes its own way through the branches of a mixture or a graft", served=True
    )

    def row_state(self, engine: Engine, seeds: Sequence[int]) -> RowState:
        """What the rows of these seeds take through the model. Raises `InputError` where it has no branches."""
        if not self.branches:
            return NO_ROW_STATE
        from thoughtmix.graft.branched import branch_rows

        require(engine, {Capability.BRANCHES}, "branches=true")
        return branch_rows(engine, seeds, [1.0] * len(seeds))[0]

    def offsets(
        self, engine: Engine, prompts: Sequence[Prompt | tuple[int, ...]], seeds: Sequence[int]
    ) -> list[float | None]:
        """`SequenceRequest.offset` of each sequence."""
        return arithmetic_offsets(engine, prompts, seeds, self.draws, self.branches)


def arithmetic_offsets(
    engine: Engine,
    prompts: Sequence[Prompt | tuple[int, ...]],
    seeds: Sequence[int],
    draws: Draws,
    routed: bool = False,
) -> list[float | None]:
    """`SequenceRequest.offset` of each sequence. routed: see `engine.rng.arithmetic_offset`."""
    if draws == "independent":
        return [None] * len(seeds)
    from thoughtmix.engine.rng import arithmetic_offset

    require(engine, {Capability.ARITHMETIC}, "draws=arithmetic")
    local = local_model(engine, "draws=arithmetic")
    ids = {prompt if isinstance(prompt, tuple) else id(prompt): local.encode(prompt) for prompt in prompts}
    return [
        arithmetic_offset(seed, ids[prompt if isinstance(prompt, tuple) else id(prompt)], routed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
