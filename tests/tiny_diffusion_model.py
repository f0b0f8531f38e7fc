"""A tiny diffusion model of random weights over characters, and a table whose conditionals are those of one joint."""

from __future__ import annotations

import itertools
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from thoughtmix.diffusion.denoiser import MaskPredictor
from thoughtmix.diffusion.load import DiffusionModel, wrap_diffusion
from thoughtmix.diffusion.train import diffusion_tokenizer, new_model
from thoughtmix.training.data import split
from thoughtmix.training.language import Shape

TEXT = "To be, or not to be: that is the question.\nROMEO: Whether it is nobler in the mind to suffer?\n" * 4


@cache
def tiny_diffusion(seed: int = 0) -> DiffusionModel:
    shape = Shape(2, 32, 2, 32)
    tokenizer = diffusion_tokenizer(split(TEXT), shape)
    model = new_model(tokenizer, shape, seed)
    with torch.no_grad():  # a fresh head is zero: every token equally likely
        for p in model.parameters():
            if p.ndim == 2 and not p.any():
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return wrap_diffusion(model, tokenizer, "tiny")


class Joint:
    """A joint distribution over `letters`**`length` texts, and the mask predictor that knows it exactly."""

    def __init__(self, length: int = 3, letters: int = 3, seed: int = 0) -> None:
        self.length, self.letters, self.mask = length, letters, letters
        draw = np.random.default_rng(seed)
        self.p = draw.dirichlet(np.full(letters**length, 0.5)).reshape((letters,) * length)
        self.texts = list(itertools.product(range(letters), repeat=length))

    def conditionals(self, row: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """(length, letters) of a row with masks."""
        seen = self.p[tuple(slice(None) if c == self.mask else slice(c, c + 1) for c in row)]
        out = np.zeros((self.length, self.letters))
        for i in range(self.length):
            marginal = seen.sum(tuple(j for j in range(self.length) if j != i))
            out[i] = marginal if row[i] == self.mask else np.eye(self.letters)[row[i]]
        return out / out.sum(1, keepdims=True)

    def __call__(self, ids: torch.Tensor, attention_mask: Any = None) -> Any:
        known = {row: self.conditionals(row) for row in {tuple(r) for r in ids.tolist()}}
        p = torch.tensor(np.stack([known[tuple(r)] for r in ids.tolist()]))
        return SimpleNamespace(logits=torch.nn.functional.pad(p.log(), (0, 1), value=-torch.inf))

    def model(self) -> DiffusionModel:
        denoiser = MaskPredictor(self, self.mask, self.letters + 1)
        return DiffusionModel(denoiser, _Letters(), "joint")


class _Letters:
    unk_token_id = None

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join("abcdefgh"[i] for i in ids)
