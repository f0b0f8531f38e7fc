"""Noise an idea: forget part of a text and denoise it again in several directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.sampler import Meter, Plan, denoise, predict
from thoughtmix.engine.counter_rng import key, uniform

HOW = ("random", "span", "unsure")
_FORGET, _OFFSET = 0x464F52, 0x4F4646
_STRIDE = 8  # passes with which the confidence in an existing text is read


@dataclass(frozen=True)
class Renoised:
    """texts: one a seed; distances: of each from the original, edits a character (0 equal, 1 nothing left); forgotten:
    share of all tokens that was; canvas: the finished rows."""

    original: str
    level: float
    texts: tuple[str, ...]
    distances: tuple[float, ...]
    seeds: tuple[int, ...]
    forgotten: float
    canvas: Canvas


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
    meter: Meter | None = None,
) -> Canvas:
    """One row a seed of `text`, with round(level * open tokens) of its tokens undecided. lock: texts (wherever they
    stand), or ranges of characters, that are never touched. how: random, by each row's own seed; span: stretches of
    `span` tokens, by its seed; unsure: those that the model finds least likely (8 passes of one row), the same for all
    rows. The rest may be remasked by a plan that does so; locked spans may not. Raises `InputError`."""
    if not 0 < level <= 1:
        raise InputError(f"The level is {level}.", "Pass more than 0, at most 1 (--level 0.5).")
    if how not in HOW:
        raise UnknownName("way of forgetting", how, HOW)
    if span < 1 or not seeds:
        raise InputError(f"span {span}, {len(seeds)} rows.", "Pass 1 or more of each (-n 4).")
    ids, held = _tokens(model, text, lock)
    fixed = torch.zeros(len(ids), dtype=torch.bool)
    fixed[: len(model.before)] = True
    fixed[len(ids) - len(model.after) :] = True
    fixed |= held
    if bool(fixed.all()):
        raise InputError("Everything is locked.", "Lock less (--lock).")
    if model.context is not None and len(ids) > model.context:
        raise InputError(f"The text has {len(ids)} tokens, {model.name} reads {model.context}.", "Shorten it.")
    device = model.denoiser.device
    rows, locked = ids.to(device).expand(len(seeds), -1), fixed.to(device).expand(len(seeds), -1)
    none = torch.zeros_like(locked)
    whole = Canvas.of(rows, none, seeds, locked=locked, temperature=temperature, fill=model.fill)
    rank = _order(model, whole, how, span, meter).masked_fill(locked, torch.inf).argsort(dim=1, stable=True).argsort(1)
    count = max(1, round(level * int((~fixed).sum())))
    return whole.remask(rank < count, model.fill)


def renoise(
    model: DiffusionModel,
    text: str,
    level: float,
    n: int = 4,
    *,
    seed: int = 0,
    plan: Plan | None = None,
    on_step: Callable[..., None] | None = None,
    meter: Meter | None = None,
    **settings: Any,
) -> Renoised:
    """n new versions of `text`; version i depends on seed + i alone. settings: those of `forget`."""
    seeds = list(range(seed, seed + n))
    start = forget(model, text, level, seeds, meter=meter, **settings)
    done = denoise(model.denoiser, start, plan or Plan(Random(), steps=64), on_step=on_step, meter=meter)
    texts = model.texts(done)
    far = tuple(distance(text, new) for new in texts)
    return Renoised(text, level, tuple(texts), far, tuple(seeds), float(start.masked[0].double().mean()), done)


def curve(
    model: DiffusionModel, text: str, levels: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 1.0), n: int = 4, **settings: Any
) -> list[Renoised]:
    """How far the new versions lie from the original, a point a level."""
    return [renoise(model, text, level, n, **settings) for level in levels]


def distance(a: str, b: str) -> float:
    """Levenshtein distance over the longer length, 0 to 1; 0 for two empty texts."""
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1] / max(1, len(a))


def _tokens(model: DiffusionModel, text: str, lock: Sequence[str | tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """(ids (t,) with the model's own frame, which (t,) are locked)."""
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
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = [*model.before, *found["input_ids"], *model.after]
    unknown = model.tokenizer.unk_token_id
    if unknown is not None and unknown in found["input_ids"]:
        begin, end = found["offset_mapping"][found["input_ids"].index(unknown)]
        raise InputError(f"{model.name} does not know {text[begin:end]!r}.", "Leave it out of the text.")
    held = [any(a < end and b > begin for a, b in spans) for begin, end in found["offset_mapping"]]
    frame = ([False] * len(model.before), [False] * len(model.after))
    return torch.tensor(ids), torch.tensor([*frame[0], *held, *frame[1]], dtype=torch.bool)


def _order(model: DiffusionModel, whole: Canvas, how: str, span: int, meter: Meter | None) -> Tensor:
    """(b, t) float64: what is lowest is forgotten first."""
    keys = key(whole.streams, _FORGET)
    if how == "random":
        return uniform(key(keys[:, None], whole.places), 1)[..., 0]
    if how == "span":  # stretches from a random offset, in random order, each forgotten from its beginning
        shift = (uniform(key(keys, _OFFSET), 1)[:, 0] * span).long()
        place = whole.places + shift[:, None]
        block = place // span
        return uniform(key(keys[:, None], block), 1)[..., 0] + 1e-9 * (place % span)
    return confidence(model, whole.pick([0]), meter).double().expand(len(whole), -1)


def confidence(model: DiffusionModel, whole: Canvas, meter: Meter | None = None) -> Tensor:
    """(1, t) probability of each open token of one finished row given most of the others: every eighth is hidden at a
    time, eight ways. 1 where given."""
    _, t = whole.ids.shape
    rows = whole.pick([0] * _STRIDE)
    where = (
        torch.arange(t, device=whole.ids.device)[None] % _STRIDE
        == torch.arange(_STRIDE, device=whole.ids.device)[:, None]
    )
    hidden = rows.remask(where, model.fill)
    _, logits = predict(model.denoiser, hidden, meter=meter)
    p = logits.log_softmax(-1).gather(2, whole.ids.expand(_STRIDE, -1)[..., None])[..., 0].exp()
    return torch.where(hidden.masked, p, 0.0).sum(0, keepdim=True) + (~hidden.masked).all(0, keepdim=True).float()
