"""Levels of abstraction: a text read while it is still being denoised, with how sure the model is of each character."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.branching import Frame
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.sampler import Meter, predict
from thoughtmix.diffusion.walk import Watch, filled

LEVELS = {"rough": 0.25, "refined": 0.65, "polished": 1.0}
"""The share of the text that is decided at least."""


@dataclass(frozen=True)
class Reading:
    """One row at one step. pieces: the text of each token, given ones included; confidence: of each, 1 where given;
    decided, given: flags a token; filled: share of the open positions that is decided."""

    pieces: tuple[str, ...]
    confidence: tuple[float, ...]
    decided: tuple[bool, ...]
    given: tuple[bool, ...]
    filled: float

    @property
    def level(self) -> str:
        """The highest one reached; below the first, "noise"."""
        return next((name for name in reversed(LEVELS) if self.filled >= LEVELS[name] - 1e-9), "noise")

    @property
    def text(self) -> str:
        """The best guess at the whole text."""
        return "".join(self.pieces)

    @property
    def characters(self) -> list[tuple[str, float]]:
        """Each character of `text` with the confidence of its token."""
        return [(c, p) for piece, p in zip(self.pieces, self.confidence, strict=True) for c in piece]

    def masked_text(self, blank: str = "·") -> str:
        """The text with what is undecided left blank."""
        return "".join(p if d else blank * max(1, len(p)) for p, d in zip(self.pieces, self.decided, strict=True))


def readings(model: DiffusionModel, canvas: Canvas, watch: Watch) -> list[Reading]:
    """All rows, by what their last steps said."""
    share = filled(canvas).tolist()
    out = []
    for i, real in enumerate(canvas.real):
        out.append(
            Reading(
                tuple(model.pieces(watch.guess[i][real])),
                tuple(watch.certainty[i][real].tolist()),
                tuple((~canvas.masked[i][real]).tolist()),
                tuple(canvas.locked[i][real].tolist()),
                share[i],
            )
        )
    return out


def read(model: DiffusionModel, canvas: Canvas, meter: Meter | None = None) -> list[Reading]:
    """All rows of any canvas, with one forward pass for what is undecided."""
    watch = Watch.of(canvas)
    if bool(canvas.masked.any()):
        _, logits = predict(model.denoiser, canvas, meter=meter)
        top = logits.log_softmax(-1).max(-1)
        watch.guess = canvas.ids.where(~canvas.masked, top.indices)
        watch.certainty = watch.certainty.where(~canvas.masked, top.values.exp())
    return readings(model, canvas, watch)


class Levels:
    """Give it to `on_frame`; then read any branch at any level. Canvases never change, so keeping them is enough."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.frames: list[Frame] = []

    def __call__(self, frame: Frame) -> None:
        self.frames.append(frame)

    def at(self, level: str | float, lane: int = 0) -> Reading:
        """The branch drawn in `lane`, as it first reached this level: a name of `LEVELS`, or a share from 0 to 1.
        Raises `UnknownName` and, when no branch of this lane got there, `InputError`."""
        if isinstance(level, str):
            if level not in LEVELS:
                raise UnknownName("level", level, LEVELS)
            level = LEVELS[level]
        for frame in self.frames:
            if lane in frame.lanes:
                row = frame.lanes.index(lane)
                if float(filled(frame.canvas)[row]) >= level - 1e-9:
                    return self._reading(frame, row)
        raise InputError(f"Branch {lane + 1} never reached {level:.0%}.", "Name another branch, or a lower level.")

    def all(self, lane: int = 0) -> list[Reading]:
        """Every step of a lane."""
        return [self._reading(f, f.lanes.index(lane)) for f in self.frames if lane in f.lanes]

    def _reading(self, frame: Frame, row: int) -> Reading:
        return readings(self.model, frame.canvas.pick([row]), frame.watch.pick([row]))[0]
