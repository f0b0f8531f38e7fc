"""A well-known toy of character diffusion (nathan-barry/tiny-diffusion), rebuilt from its description, to compare with.

Model: parameterless norms, rotary positions, norms on queries and keys, squared ReLU, zero-initialised projections, a
learned embedding of the time step added at every position. Training: whole text in fixed batches in fixed order, the
first 16 positions never masked, mean cross-entropy over masked tokens. Sampling: argmax, the k surest a step, by Python
loops over elements; or all above a confidence of 0.9. Time runs the right way here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

STEPS = 128
CLEAN = 16


class TinyDiffusion(nn.Module):
    def __init__(self, vocab: int, mask_id: int, width: int = 384, layers: int = 6, heads: int = 6) -> None:
        super().__init__()
        self.mask_id, self.heads = mask_id, heads
        self.embed = nn.Embedding(vocab, width)
        self.time = nn.Embedding(STEPS, width)
        shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        self.blocks = nn.ModuleList(
            [nn.ModuleList([nn.Linear(a, b, bias=False) for a, b in shapes]) for _ in range(layers)]
        )
        self.head = nn.Linear(width, vocab, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        for zero in (self.head, *(b[i] for b in self.blocks for i in (1, 3))):  # type: ignore[index]
            nn.init.zeros_(zero.weight)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, t: Tensor | None = None) -> Any:
        """ids (b, n); t (b,) in 0..127; None: what the share of masked tokens says (what a sampler would pass)."""
        if t is None:
            share = (ids == self.mask_id).float().mean(1)
            t = ((share * STEPS).ceil().long() - 1).clamp(0, STEPS - 1)
        x = _norm(self.embed(ids) + self.time(t)[:, None])
        half = x.shape[-1] // self.heads // 2
        speed = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = (torch.arange(ids.shape[1], device=x.device)[:, None] * speed).repeat(1, 2)[None]
        for qkv, out, up, down in self.blocks:  # type: ignore[misc]
            q, k, v = qkv(_norm(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
            q, k = apply_rotary_pos_emb(q, k, angle.cos().to(q.dtype), angle.sin().to(q.dtype))
            y = F.scaled_dot_product_attention(_norm(q).to(v.dtype), _norm(k).to(v.dtype), v)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + down(F.relu(up(_norm(x))).square())
        return SimpleNamespace(logits=self.head(_norm(x)))


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


class TinyTask:
    """A `Task` for the shared trainer: its batches and its loss. Validated by `evaluate_with`."""

    def __init__(
        self, tokens: Tensor, context: int, batch: int, mask_id: int, evaluate_with: Any, seed: int = 0
    ) -> None:
        count = len(tokens) // (context * batch)
        self.batches = tokens[: count * context * batch].view(count, batch, context)
        self.mask_id, self.evaluate, self.seed = mask_id, evaluate_with, seed

    def batch(self, step: int, rows: range, total: int) -> dict[str, Tensor]:
        ids = self.batches[step % len(self.batches)][rows.start : rows.stop]
        draw = np.random.default_rng([self.seed, 5, step])
        t = torch.from_numpy(draw.integers(0, STEPS, total))[rows.start : rows.stop]
        masked = (
            torch.from_numpy(draw.random((total, ids.shape[1])))[rows.start : rows.stop] < ((t + 1) / STEPS)[:, None]
        )
        masked[:, :CLEAN] = False
        return {"ids": ids, "masked": masked, "t": t}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        masked = batch["masked"]
        logits = model(batch["ids"].masked_fill(masked, self.mask_id), None, batch["t"]).logits
        return F.cross_entropy(logits[masked].float(), batch["ids"][masked]), {}


@torch.no_grad()
def sample_topk(model: Any, ids: Tensor, mask_id: int, steps: int) -> Tensor:
    """The k surest masked tokens of each row at each step, chosen and written one by one."""
    ids = ids.clone()
    per_step = -(-int((ids == mask_id).sum(1).max()) // steps)
    for _ in range(steps):
        sure, best = model(ids).logits.softmax(-1).max(-1)
        for row in range(ids.shape[0]):
            open_places = [(float(sure[row, j]), j) for j in range(ids.shape[1]) if int(ids[row, j]) == mask_id]
            for _, j in sorted(open_places, reverse=True)[:per_step]:
                ids[row, j] = best[row, j]
    return ids


@torch.no_grad()
def sample_confident(model: Any, ids: Tensor, mask_id: int, threshold: float = 0.9) -> tuple[Tensor, int]:
    """All masked tokens above the threshold, at least the surest, until none is left; and the passes taken."""
    ids, passes = ids.clone(), 0
    while bool((ids == mask_id).any()):
        sure, best = model(ids).logits.softmax(-1).max(-1)
        passes += 1
        for row in range(ids.shape[0]):
            open_places = [j for j in range(ids.shape[1]) if int(ids[row, j]) == mask_id]
            keep = [j for j in open_places if float(sure[row, j]) >= threshold]
            for j in keep or sorted(open_places, key=lambda j: -float(sure[row, j]))[:1]:
                ids[row, j] = best[row, j]
    return ids, passes
