"""Read the prompts of a decode in pieces, so that rows that run already wait for a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from thoughtmix.decoding.fused import FusedPath
from thoughtmix.decoding.path import _keeps_logits
from thoughtmix.decoding.prefix import Prompt, SharedPrefix
from thoughtmix.decoding.rows import PLAIN
from thoughtmix.decoding.shared import SharedPath, Unsupported, alone


class Beginnings:
    """Keys and values of the last prompt that was read, for the next that begins alike: a chat template's system
    prompt, the same for everybody, is read once. Fused path only."""

    most, least = 512, 8  # tokens that are kept; tokens below which sharing is not worth it

    def __init__(self) -> None:
        self._weights: Any = None
        self._ids: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def of(self, weights: Any, ids: Sequence[int]) -> Prompt | None:
        """What is known of a prompt, at most all but its last token."""
        if weights is not self._weights:
            return None
        same = 0
        for a, b in zip(ids[:-1], self._ids, strict=False):
            if a != b:
                break
            same += 1
        if same < self.least:
            return None
        return Prompt([k[:, :same] for k in self._keys], [v[:, :same] for v in self._values], same, 0)

    def keep(self, weights: Any, ids: Sequence[int], read: Prompt) -> None:
        self._weights, self._ids = weights, list(ids[: self.most])
        whole = len(ids) <= self.most  # else a copy, so that the rest can go
        self._keys, self._values = (
            list(kept) if whole else [x[:, : self.most].clone() for x in kept] for kept in (read.keys, read.values)
        )


class Reading:
    """Prompts of one decode on their way into keys and values. counts: rows of each prompt. known: how others began."""

    def __init__(
        self,
        route: FusedPath | SharedPath,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        capacity: int,
        known: Beginnings | None = None,
    ) -> None:
        self.known = known or Beginnings()
        self.route, self.prompts, self.counts, self.capacity = route, [list(p) for p in prompts], counts, capacity
        self.read: list[Prompt] = []
        self.logits: list[Tensor] = []
        self._at = 0  # tokens of the current prompt that are read
        self._part: Any = None  # what is read of it: a `Prompt`, or a cache

    @property
    def done(self) -> bool:
        return len(self.read) == len(self.prompts)

    @torch.no_grad()
    def advance(self, tokens: int) -> int:
        """Read up to so many tokens more; how many were read."""
        left = tokens
        while left > 0 and not self.done:
            ids = self.prompts[len(self.read)]
            if self._at == 0 and isinstance(self.route, FusedPath):
                self._part = self.known.of(self.route.weights, ids)
                self._at = self._part.length if self._part else 0
            piece = ids[self._at : self._at + left]
            last = self._at + len(piece) == len(ids)
            logits = self._fused(piece) if isinstance(self.route, FusedPath) else self._shared(self.route, piece)
            left -= len(piece)
            self._at += len(piece)
            if last:
                self.logits.append(logits)
                self.read.append(self._finished(ids))
                if isinstance(self.route, FusedPath):
                    self.known.keep(self.route.weights, ids, self.read[-1])
                self._at, self._part = 0, None
        return tokens - left

    def result(self) -> tuple[SharedPrefix, Tensor]:
        """The state that a step goes on from, and the logits (rows, vocabulary) of each row's first token."""
        state = SharedPrefix(self.read, self.capacity)
        logits = torch.stack(self.logits)
        return state, logits.repeat_interleave(torch.tensor(list(self.counts), device=logits.device), 0)

    def _finished(self, ids: list[int]) -> Prompt:
        rows = self.counts[len(self.read)]
        if isinstance(self._part, Prompt):
            self._part.rows, self._part.length = rows, len(ids)
            return self._part
        keys, values = [x.keys for x in self._part.layers], [x.values for x in self._part.layers]
        if any(k is None or k.shape[2] != len(ids) for k in keys):
            raise Unsupported("a cache that does not keep every key")
        return Prompt([k[0] for k in keys], [v[0] for v in values], len(ids), rows)

    @torch.inference_mode()
    def _fused(self, ids: list[int]) -> Tensor:
        """(vocabulary,) logits after these tokens, which follow what was read of the prompt."""
        assert isinstance(self.route, FusedPath)
        w = self.route.weights
        if self._part is None and len(ids) == len(self.prompts[len(self.read)]):
            logits, self._part = self.route._read(ids)
            return logits
        if self._part is None:
            none = torch.empty(w.h, 0, w.d, dtype=w.dtype, device=w.embed.device)
            n = len(w.layers)
            self._part = Prompt([none] * n, [none] * n, 0, 0)
        prompt, start, device = self._part, self._at, w.embed.device
        end = start + len(ids)
        seen = torch.arange(end, device=device)[None] <= torch.arange(start, end, device=device)[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)  # (heads, t, d)
            k = prompt.keys[layer] = torch.cat([prompt.keys[layer], k], 1)
            v = prompt.values[layer] = torch.cat([prompt.values[layer], v], 1)
            k, v = (x.repeat_interleave(w.g, 0)[None] for x in (k, v))
            mixed = F.scaled_dot_product_attention(q[None], k, v, attn_mask=seen, scale=1.0)
            return mixed[0].transpose(0, 1).flatten(1)

        hidden = w.run(torch.tensor(ids, device=device), torch.arange(start, end, device=device), attend)
        return w.head(w.norm(hidden[-1:]))[0]

    def _shared(self, route: SharedPath, ids: list[int]) -> Tensor:
        model = route.model
        if self._part is None:
            self._part = DynamicCache()
        extra: dict[str, Any] = {"logits_to_keep": 1} if _keeps_logits(type(model)) else {}
        with alone(model), PLAIN.quiet():
            out = model(
                input_ids=torch.tensor([ids], device=model.device),
                past_key_values=self._part,
                use_cache=True,
                **extra,
            )
        return out.logits[0, -1]
