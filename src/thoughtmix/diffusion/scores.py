"""How good a branch looks midway. Higher is better. Scores compare branches at the same level of noise only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, NumericsError, UnknownName
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.walk import Watch, opened

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

NAMES = ("fill", "path")
_LEAST = 1e-30  # a probability below this counts as this


@dataclass(frozen=True)
class Sight:
    """All branches (b rows) at one moment."""

    model: DiffusionModel
    canvas: Canvas
    watch: Watch

    @cached_property
    def texts(self) -> list[str]:
        """Each branch's best guess, prompt and all."""
        return self.model.texts(self.canvas.replace(ids=self.watch.guess))


Score = Callable[[Sight], Tensor]
"""-> (b,) float64."""


def fill(sight: Sight) -> Tensor:
    """Mean log-probability, nats, of the best guess at the positions that were undecided before the last step, by that
    step's logits: no further pass (as in TReASURe). Of finished rows, `path`."""
    done = sight.canvas.left == 0
    where = torch.where(done[:, None], opened(sight.canvas), sight.watch.fresh)
    return _mean_log(sight.watch.certainty, where)


def path(sight: Sight) -> Tensor:
    """The same over all open positions; of a decided one, the probability when it was kept."""
    return _mean_log(sight.watch.certainty, opened(sight.canvas))


def of_texts(judge: Callable[[Sequence[str]], Any]) -> Score:
    """A score from any function of the texts (best guesses, prompt included) that gives a number each."""

    def score(sight: Sight) -> Tensor:
        values = torch.as_tensor(judge(sight.texts), dtype=torch.float64).reshape(-1)
        if len(values) != len(sight.canvas):
            raise InputError(
                f"The score gave {len(values)} numbers for {len(sight.canvas)} texts.", "Return one number a text."
            )
        return values.to(sight.canvas.ids.device)

    return score


def likelihood(judge: LanguageModel, batch_size: int = 32) -> Callable[[Sequence[str]], Tensor]:
    """A judge of texts: mean log-probability of a token under an autoregressive model, each given those before it."""

    @torch.no_grad()
    def score(texts: Sequence[str]) -> Tensor:
        rows = [list(judge.tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"]) for t in texts]
        longest = max(map(len, rows), default=0)
        if judge.context_length is not None and longest > judge.context_length:
            raise InputError(
                f"A text has {longest} tokens, the judge {judge.name} reads {judge.context_length}.",
                "Name a judge with a longer context (--score).",
            )
        out = torch.zeros(len(rows), dtype=torch.float64)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for at in range(0, len(order), batch_size):
            some = order[at : at + batch_size]
            width = max(2, *(len(rows[i]) for i in some))
            ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in some], device=judge.device)
            # Padding stands behind everything that a causal model can see: no mask is needed.
            logits = judge.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            logp = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].double().cpu()
            for i, row in zip(some, logp, strict=True):
                n = len(rows[i]) - 1
                out[i] = row[:n].mean() if n > 0 else 0.0
        return out

    return score


def score_of(name: str | Callable[[Sequence[str]], Any]) -> Score:
    """ "fill", "path", or a function of texts. Raises `UnknownName`."""
    if not isinstance(name, str):
        return of_texts(name)
    if name not in NAMES:
        raise UnknownName("score", name, NAMES)
    return {"fill": fill, "path": path}[name]


def checked(scores: Tensor) -> Tensor:
    """Raises `NumericsError` for scores that are no numbers."""
    if not bool(scores.isfinite().all()):
        raise NumericsError("A score is NaN or infinite.", "Check the judge (--score).")
    return scores.double()


def _mean_log(certainty: Tensor, where: Tensor) -> Tensor:
    logs = certainty.double().clamp(min=_LEAST).log() * where
    return logs.sum(1) / where.sum(1).clamp(min=1)
