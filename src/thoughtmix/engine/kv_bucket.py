"""One bucket of the batch KV cache: places of like size as one tensor, and attention over all of them at once.

Axis letters as in kv_cache.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoughtmix.engine.memory import untouched_zeros


@dataclass(slots=True, eq=False)
class Place:
    """One prompt and the rows that continue it, rows 0 to `rows` - 1 at slot `slot` of a bucket."""

    bucket: Bucket
    slot: int
    length: int  # tokens of the prompt
    rows: int
    own: NDArray[np.int64]  # (n,) own tokens stored, by row
    source: Any = None  # the caller's, what it knows of the prompt
    root: Any = None  # keys and values of the prompt's first tokens, where they lie elsewhere
    seat: Any = None  # the path's, where it stands in memory


@dataclass(slots=True, eq=False)
class Bucket:
    """Places of equal room. own_keys, own_values: (l, p, n, h, s, d). prompt_keys, prompt_values: (l, p, h, t, d); of a
    lone prompt of a batch that nobody joins its own lists instead."""

    own_keys: Tensor
    own_values: Tensor
    prompt_keys: Tensor | list[Tensor]
    prompt_values: Tensor | list[Tensor]
    places: list[Place | None] = field(default_factory=list)
    # Of the coming step:
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)  # p, n, longest prompt t, most own tokens s with the coming one
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (p, n) own tokens
    prompts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # (p,) prompt tokens
    even: bool = True  # whether all rows have as many own tokens and prompt tokens: nothing is masked
    full: bool = True  # whether there is a row in every slot
    seen: tuple[Tensor, Tensor] | None = None  # prompts and lengths on the device, where steps keep their shapes
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by window
    rows: Tensor | None = None  # which of the batch's rows stand here; None: all, in the order of their slots
    slots: Tensor | None = None  # where: place * n + number
    write: Tensor | None = None  # (rows h,) where each row's newest key goes in a layer seen as (..., d)
    # A layer each; at one row, to slice costs as much as to attend, so views are made once for all layers:
    newest: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # where the coming token's go, (p n, h, d)
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # keys (p n h, d, s) and values (p n h, s, d)
    prompt: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # keys (p h, d, t) and values (p h, t, d)


def attend(bucket: Bucket, layer: int, query: Tensor, window: int | None, softcap: float | None) -> Tensor:
    """query: (p n, h, g, d), every slot of the bucket; so is the result. The prompt's part is one matrix product for
    all rows of a place: (h, n g, d) x (h, d, t)."""
    p, n, t, s = bucket.shape
    _, h, g, d = query.shape
    (keys, values), (prompt_keys, prompt_values) = bucket.own[layer], bucket.prompt[layer]
    mask = None if bucket.even else _mask(bucket, window, query)
    if bucket.even and window is not None:  # what is out of sight is not even looked at
        first, first_prompt = max(0, s - window), min(t, max(0, t + s - window))
        keys, values, s = keys[..., first:], values[:, first:], s - first
        prompt_keys, prompt_values, t = (
            prompt_keys[..., first_prompt:],
            prompt_values[:, first_prompt:],
            t - first_prompt,
        )
    by_row = query.reshape(p * n * h, g, d)
    own = torch.bmm(by_row, keys)  # (p n h, g, s)
    if n == 1:
        shared = torch.bmm(by_row, prompt_keys)  # (p h, g, t)
    else:
        by_head = query.view(p, n, h, g, d).transpose(1, 2).reshape(p * h, n * g, d)
        shared = torch.bmm(by_head, prompt_keys).view(p, h, n, g, t)
        own = own.view(p, n, h, g, s).transpose(1, 2)
    scores = torch.cat([shared, own], -1)  # (p, h, n, g, t + s), or (p h, g, t + s)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores.view(p, h, n, g, t + s).add_(mask)
    weight = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    if n == 1:
        mixed = torch.bmm(weight[..., t:], values)
        return mixed.add_(torch.bmm(weight[..., :t], prompt_values)).view(p, h, g, -1)
    from_prompt = torch.bmm(weight.view(p * h, n * g, t + s)[..., :t], prompt_values).view(p, h, n, g, -1)
    own_weight = weight[..., t:].transpose(1, 2).reshape(p * n * h, g, s)
    mixed = torch.bmm(own_weight, values).view(p, n, h, g, -1)
    return mixed.add_(from_prompt.transpose(1, 2)).view(p * n, h, g, -1)


def _mask(bucket: Bucket, window: int | None, like: Tensor) -> Tensor:
    """(p, 1, n, 1, t + s): 0, or -inf where a row may not look; made once a step and window."""
    if window not in bucket.masks:
        p, n, t, s = bucket.shape
        if bucket.seen is not None and window is None:
            bucket.masks[window] = _mask_there(bucket.seen, bucket.shape, like)
            return bucket.masks[window]
        prompts, lengths = bucket.prompts[:, None, None], bucket.lengths[:, :, None]  # (p, 1, 1), (p, n, 1)
        on_prompt, on_own = np.arange(t) < prompts, np.arange(s) <= lengths
        if window is not None:
            oldest = prompts + lengths + 1 - window  # the first position that is visible
            on_prompt, on_own = on_prompt & (np.arange(t) >= oldest), on_own & (np.arange(s) + prompts >= oldest)
        seen = np.concatenate([np.broadcast_to(on_prompt, (p, n, t)), np.broadcast_to(on_own, (p, n, s))], -1)
        hidden = np.where(seen, np.float32(0), np.float32(-math.inf))[:, None, :, None]
        bucket.masks[window] = torch.from_numpy(hidden).to(device=like.device, dtype=like.dtype)
    return bucket.masks[window]


def _mask_there(seen: tuple[Tensor, Tensor], shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """The same, computed where the keys are, by what a recorded step can be told."""
    (p, n, t, s), (prompts, lengths) = shape, seen
    on_prompt = torch.arange(t, device=like.device) < prompts[:, None, None]  # (p, 1, t)
    on_own = torch.arange(s, device=like.device) <= lengths[..., None]  # (p, n, s)
    visible = torch.cat([on_prompt.expand(p, n, t), on_own], -1)[:, None, :, None]
    return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill_(~visible, -math.inf)


def double_slots(bucket: Bucket) -> None:
    """Twice as many slots."""
    for name in ("prompt_keys", "prompt_values", "own_keys", "own_values"):
        old: Tensor = getattr(bucket, name)
        new = zeros((old.shape[0], 2 * old.shape[1], *old.shape[2:]), old)
        new[:, : old.shape[1]] = old
        setattr(bucket, name, new)


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros: what is masked must be finite. On CPUs without touching the memory before something is written there."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return untouched_zeros(shape, like.dtype)
