"""A denoising as a film: what every branch looked like at each step, kept small, for a page or a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import Frame
    from thoughtmix.diffusion.load import DiffusionModel

MOST = 160
"""Frames that a page shows; of more, so many spread evenly."""


class Film:
    """Give it to `on_frame`."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.frames: list[Frame] = []

    def __call__(self, frame: Frame) -> None:
        self.frames.append(frame)

    def to_dict(self, most: int = MOST) -> dict[str, Any]:
        """pieces: texts of tokens; frames: step (number), round, filled (share), cut (the last look before branches are
        given up), and rows: [lane, indices of pieces, marks]. A mark is a letter a token: 0-9 undecided, a-j decided,
        both by confidence in tenths; z given."""
        pieces: dict[str, int] = {}
        frames = []
        for at, cut in self._chosen(most):
            frame = self.frames[at]
            rows = [[lane, *self._row(frame, i, pieces)] for i, lane in enumerate(frame.lanes)]
            many = (frame.canvas.real & ~frame.canvas.locked).sum(1).clamp(min=1)
            filled = float((1 - frame.canvas.left / many).mean())
            frames.append(
                {"step": at + 1, "round": frame.round, "filled": round(filled, 3), "cut": cut, "rows": rows}
            )  # fmt: skip
        return {"pieces": list(pieces), "frames": frames, "steps": len(self.frames)}

    def _chosen(self, most: int) -> list[tuple[int, bool]]:
        """Which frames, in order; the last of a round twice, the second time as a cut."""
        n = len(self.frames)
        ends = {i for i in range(n - 1) if self.frames[i].round != self.frames[i + 1].round}
        step = max(1.0, n / most)
        picked = {int(i * step) for i in range(int(n / step))} | ends | ({n - 1} if n else set())
        out = []
        for i in sorted(picked):
            out.append((i, False))
            if i in ends:
                out.append((i, True))
        return out

    def _row(self, frame: Frame, row: int, pieces: dict[str, int]) -> tuple[list[int], str]:
        real = frame.canvas.real[row]
        ids = [pieces.setdefault(p, len(pieces)) for p in self.model.pieces(frame.watch.guess[row][real])]
        marks = [
            "z" if given else "abcdefghij"[tenth] if decided else str(tenth)
            for given, decided, tenth in zip(
                frame.canvas.locked[row][real].tolist(),
                (~frame.canvas.masked[row][real]).tolist(),
                (frame.watch.certainty[row][real] * 10).long().clamp(0, 9).tolist(),
                strict=True,
            )
        ]
        return ids, "".join(marks)


def drawing(nodes: Sequence[Sequence[dict[str, Any]]], levels: Sequence[float]) -> dict[str, Any]:
    """Where nodes and lines of an ancestry stand: a column a moment, a line a lane. nodes: of `Ancestry.to_dict`."""
    lanes = 1 + max(n["lane"] for row in nodes for n in row)
    width, line, left = 720, 26, 40
    xs = [left + round(x * (width - 2 * left)) for x in [*levels, 1.0]]

    def y(lane: int) -> int:
        return 42 + lane * line

    dots, lines = [], []
    for at, row in enumerate(nodes):
        for n in row:
            dots.append({**n, "x": xs[at], "y": y(n["lane"])})
            came = nodes[at - 1][n["parent"]] if at else {"lane": n["lane"]}
            lines.append(
                {"x1": xs[at - 1] if at else 10, "y1": y(came["lane"]), "x2": xs[at], "y2": y(n["lane"]),
                 "round": at, "lane": n["lane"]}
            )  # fmt: skip
    ticks = [{"x": x, "text": "end" if i == len(levels) else f"{levels[i]:.0%}"} for i, x in enumerate(xs)]
    return {"dots": dots, "lines": lines, "ticks": ticks, "width": width, "height": y(lanes - 1) + 20}
