"""Keep a part of finished texts and denoise the rest again: noise an idea, or merge what several branches agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise, predict_logits
from thoughtmix.diffusion.state import DiffusionState
from thoughtmix.engine.counter_rng import key, uniform

FORGETTING = ("random", "span", "unsure")
_FORGET, _OFFSET = 0x464F52, 0x4F4646
_STRIDE = 8  # passes with which the confidence in an existing text is read


@dataclass(frozen=True)
class Renoised:
    """New versions of a text."""

    original: str
    level: float  # share of its tokens that was to be forgotten, of those that are not locked
    texts: tuple[str, ...]  # one a seed
    distances: tuple[float, ...]  # of each from the original, edits a character: 0 equal, 1 nothing left
    seeds: tuple[int, ...]
    forgotten: float  # share of all tokens that was
    state: DiffusionState  # the finished rows


def forget(
    model: DiffusionModel,
    text: str,
    level: float,
    seeds: Sequence[int],
    *,
    how: str = "random",
    lock: Sequence[str | tuple[int, int]] = (),
    span: int = 12,
    temperature: float = 1.0,
    cost: ForwardCost | None = None,
) -> DiffusionState:
    """Rows of a text with a share of its tokens undecided.

    Args:
        level: That share, of the tokens that are not locked.
        seeds: One a row.
        how: random, by each row's own seed; span: stretches of `span` tokens, by its seed; unsure: those that the
            model finds least likely (8 passes of one row), the same for all rows.
        lock: Texts (wherever they stand), or ranges of characters, that are never touched, not by remasking either.

    Raises:
        InputError: For a text or level that does not fit, and when everything is locked.
        UnknownName: For another `how`.
    """
    if not 0 < level <= 1:
        raise InputError(f"The level is {level}.", "Pass more than 0, at most 1 (--level 0.5).")
    if how not in FORGETTING:
        raise UnknownName("way of forgetting", how, FORGETTING)
    if span < 1 or not seeds:
        raise InputError(f"span {span}, {len(seeds)} rows.", "Pass 1 or more of each (-n 4).")
    ids, fixed = _tokens_and_locks(model, text, lock)
    if bool(fixed.all()):
        raise InputError("Everything is locked.", "Lock less (--lock).")
    if model.context is not None and len(ids) > model.context:
        raise InputError(f"The text has {len(ids)} tokens, {model.name} reads {model.context}.", "Shorten it.")
    device = model.denoiser.device
    rows, locked = ids.to(device).expand(len(seeds), -1), fixed.to(device).expand(len(seeds), -1)
    nothing = torch.zeros_like(locked)
    whole = DiffusionState.from_tokens(rows, nothing, seeds, locked=locked, temperature=temperature, fill=model.fill)
    order = _forgetting_order(model, whole, how, span, cost).masked_fill(locked, torch.inf)
    rank = order.argsort(dim=1, stable=True).argsort(1)
    return whole.remask(rank < max(1, round(level * int((~fixed).sum()))), model.fill)


def renoise(
    model: DiffusionModel,
    text: str,
    level: float,
    n: int = 4,
    *,
    seed: int = 0,
    config: DenoisingConfig | None = None,
    cost: ForwardCost | None = None,
    **settings: Any,
) -> Renoised:
    """Write n new versions of `text`; version i depends on seed + i alone.

    Args:
        level: Share of its tokens that is forgotten.
        config: How it is denoised; None: 64 steps of `random`.
        settings: Further arguments of `forget`.

    Raises:
        InputError, UnknownName: As `forget`.
    """
    seeds = list(range(seed, seed + n))
    start = forget(model, text, level, seeds, cost=cost, **settings)
    done = denoise(model.denoiser, start, config or DenoisingConfig(Random(), steps=64), cost=cost)
    texts = model.texts(done)
    distances = tuple(edit_distance(text, new) for new in texts)
    return Renoised(text, level, tuple(texts), distances, tuple(seeds), float(start.masked[0].double().mean()), done)


def edit_distance(a: str, b: str) -> float:
    """Levenshtein distance over the longer length, 0 to 1; 0 for two empty texts."""
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1] / max(1, len(a))


def token_confidence(model: DiffusionModel, whole: DiffusionState, cost: ForwardCost | None = None) -> Tensor:
    """(1, t) probability of each writable token of one finished row given most of the others; 1 where given.

    Every eighth token is hidden at a time, eight ways.
    """
    rows = whole.select_rows([0] * _STRIDE)
    places = torch.arange(whole.ids.shape[1], device=whole.ids.device)
    where = places[None] % _STRIDE == torch.arange(_STRIDE, device=whole.ids.device)[:, None]
    hidden = rows.remask(where, model.fill)
    _, logits = predict_logits(model.denoiser, hidden, cost=cost)
    p = logits.log_softmax(-1).gather(2, whole.ids.expand(_STRIDE, -1)[..., None])[..., 0].exp()
    return torch.where(hidden.masked, p, 0.0).sum(0, keepdim=True) + (~hidden.masked).all(0, keepdim=True).float()


def _tokens_and_locks(model: DiffusionModel, text: str, lock: Sequence[str | tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """(ids (t,) with the tokens that the model puts around a text, which (t,) never change)."""
    if not text.strip():
        raise InputError("The text is empty.", 'Type one: thoughtmix renoise "To be, or not to be"')
    spans = []
    for item in lock:
        if isinstance(item, str):
            at = text.find(item) if item else -1
            if at < 0:
                raise InputError(
                    f"The text does not contain {item!r}.", "Lock a part of it, letter for letter (--lock)."
                )
            while at >= 0:
                spans.append((at, at + len(item)))
                at = text.find(item, at + 1)
        else:
            spans.append(item)
    inner, offsets = model.encoder.spans(text)
    unknown = model.tokenizer.unk_token_id
    if unknown is not None and unknown in inner:
        begin, end = offsets[inner.index(unknown)]
        raise InputError(f"{model.name} does not know {text[begin:end]!r}.", "Leave it out of the text.")
    held = [any(a < end and b > begin for a, b in spans) for begin, end in offsets]
    fixed = [*[True] * len(model.before), *held, *[True] * len(model.after)]
    return torch.tensor([*model.before, *inner, *model.after]), torch.tensor(fixed)


def _forgetting_order(
    model: DiffusionModel, whole: DiffusionState, how: str, span: int, cost: ForwardCost | None
) -> Tensor:
    """(b, t) float64: what is lowest is forgotten first."""
    keys = key(whole.streams, _FORGET)
    if how == "random":
        return uniform(key(keys[:, None], whole.position_ids), 1)[..., 0]
    if how == "span":  # stretches from a random offset, in random order, each forgotten from its beginning
        shift = (uniform(key(keys, _OFFSET), 1)[:, 0] * span).long()
        place = whole.position_ids + shift[:, None]
        return uniform(key(keys[:, None], place // span), 1)[..., 0] + 1e-9 * (place % span)
    return token_confidence(model, whole.select_rows([0]), cost).double().expand(len(whole), -1)


def agreement(state: DiffusionState, rows: Sequence[int], share: float = 1.0, run: int = 3) -> tuple[Tensor, Tensor]:
    """What several rows agree on.

    Args:
        rows: Best first.
        share: At a position that is agreed on, at least this share of the rows hold the same token.
        run: Positions come in runs of at least so many: two unrelated texts agree on single characters by chance,
            hardly on three in a row.

    Returns:
        The writable positions that are agreed on (t,) bool, and the token there (t,), of equally frequent ones the
        first row's.

    Raises:
        InputError: For fewer than two rows, and numbers out of range.
    """
    if len(rows) < 2:
        raise InputError(f"{len(rows)} branches cannot agree.", "Pass 2 or more (--merge 2).")
    if not 0 < share <= 1 or run < 1:
        raise InputError(f"share {share}, run {run}.", "Pass a share in (0, 1] and a run of 1 or more.")
    some = state.select_rows(rows)
    counts = (some.ids[:, None] == some.ids[None]).sum(1)  # (k, t): rows that hold this row's token
    most = counts.max(0)
    ids = some.ids.gather(0, most.indices[None])[0]
    where = (most.values >= share * len(rows) - 1e-9) & some.writable.all(0) & ~some.masked.any(0)
    starts = torch.cat([where[:1], where[1:] & ~where[:-1]]).cumsum(0)  # a number a run
    length = torch.bincount(starts[where], minlength=int(starts[-1]) + 1)
    return where & (length[starts] >= run), ids


def merge(
    model: DiffusionModel,
    state: DiffusionState,
    rows: Sequence[int],
    config: DenoisingConfig | None = None,
    *,
    seed: int = 0,
    share: float = 1.0,
    run: int = 3,
    cost: ForwardCost | None = None,
) -> tuple[DiffusionState, Tensor]:
    """Make one text of several: what they agree on is kept, the rest is denoised again around it.

    Args:
        rows: Of one prompt and length, best first. Given tokens stay locked.
        share, run: As in `agreement`.

    Returns:
        A state of one finished row, and which positions (t,) of it were agreed on.

    Raises:
        InputError: When the rows are not of one prompt, or too few.
    """
    where, ids = agreement(state, rows, share, run)
    first = state.select_rows([rows[0]])
    if not bool((state.writable[list(rows)] == first.writable).all()):
        raise InputError("These branches are not of one prompt and length.", "Merge branches of one prompt.")
    locked = first.locked | where
    start = DiffusionState.from_tokens(
        torch.where(where, ids, first.ids),
        first.real & ~locked,
        [seed],
        locked=locked,
        real=first.real,
        temperature=first.temperature,
        fill=model.fill,
    )
    return denoise(model.denoiser, start, config, cost=cost), where
