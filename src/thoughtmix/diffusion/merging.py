"""One text out of several: what the best branches agree on is kept, the rest is denoised again around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.sampler import Meter, Plan, denoise
from thoughtmix.diffusion.walk import opened


def agreement(canvas: Canvas, rows: Sequence[int], share: float = 1.0, run: int = 3) -> tuple[Tensor, Tensor]:
    """(where (t,) bool, ids (t,)): open positions at which at least `share` of these rows hold the same token, and that
    token (of equally frequent ones the first row's), in runs of at least `run` positions: two unrelated texts agree on
    single characters by chance, hardly on three in a row."""
    if len(rows) < 2:
        raise InputError(f"{len(rows)} branches cannot agree.", "Pass 2 or more (--merge 2).")
    if not 0 < share <= 1 or run < 1:
        raise InputError(f"share {share}, run {run}.", "Pass a share in (0, 1] and a run of 1 or more.")
    at = torch.as_tensor(rows, device=canvas.ids.device)
    some = canvas.ids[at]
    counts = (some[:, None] == some[None]).sum(1)  # (k, t): rows that hold this row's token
    most = counts.max(0)
    ids = some.gather(0, most.indices[None])[0]
    where = (most.values >= share * len(rows) - 1e-9) & opened(canvas)[at].all(0) & ~canvas.masked[at].any(0)
    return _runs(where, run), ids


def merge(
    model: DiffusionModel,
    canvas: Canvas,
    rows: Sequence[int],
    plan: Plan | None = None,
    *,
    seed: int = 0,
    share: float = 1.0,
    run: int = 3,
    meter: Meter | None = None,
) -> tuple[Canvas, Tensor]:
    """(a canvas of one finished row, which positions (t,) of it were agreed on). rows: of one prompt and length, best
    first. Given tokens stay locked. Raises `InputError`."""
    where, ids = agreement(canvas, rows, share, run)
    first = canvas.pick([rows[0]])
    if not bool((opened(canvas)[list(rows)] == opened(first)).all()):
        raise InputError("These branches are not of one prompt and length.", "Merge branches of one prompt.")
    locked = first.locked | where
    start = Canvas.of(
        torch.where(where, ids, first.ids), first.real & ~locked, [seed], locked=locked, real=first.real,
        temperature=first.temperature, fill=model.fill,
    )  # fmt: skip
    return denoise(model.denoiser, start, plan, meter=meter), where


def _runs(where: Tensor, least: int) -> Tensor:
    """where (t,), runs shorter than `least` left out."""
    if least == 1 or not len(where):
        return where
    starts = torch.cat([where[:1], where[1:] & ~where[:-1]]).cumsum(0)  # a number a run
    length = torch.bincount(starts[where], minlength=int(starts[-1]) + 1)
    return where & (length[starts] >= least)
