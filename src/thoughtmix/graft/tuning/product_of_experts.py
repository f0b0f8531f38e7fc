"""Answers that several contexts give together: at each token their log-probabilities are averaged.

The product of experts of one model under k prompts (Hinton 2002, eq. 1, with equal weights): what is said under one
context alone is mostly a slip, what is likely under all of them mostly right.

Axis letters: k contexts, b answers, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtmix.engine import Generation, SequenceRequest
from thoughtmix.engine.backends.base import DecodingPath, Start
from thoughtmix.engine.backends.hidden import NotesHidden
from thoughtmix.engine.backends.probe import choose
from thoughtmix.engine.job import Job, PromptGroups
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.loop import run
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.models import LanguageModel


def blend(logprobs: Tensor, own: Tensor, weight: float) -> Tensor:
    """mean_k + weight * (own context's - mean_k), normalised.

    Args:
        logprobs: (k, b, v).
        own: (b,) int64, the context of each answer.
        weight: 0: the contexts together; 1: the own one alone.

    Returns:
        (b, v).
    """
    mean = logprobs.mean(0)
    mine = logprobs[own, torch.arange(len(own), device=own.device)]
    return (mean + weight * (mine - mean)).log_softmax(-1)


class ProductOfExpertsPath(NotesHidden):
    """A `DecodingPath` over another: of the inner rows, one a (context, answer), it makes one distribution an answer.
    Prompt k of a batch is context k; a row's prompt is its own context."""

    name = "product of experts"

    def __init__(self, inner: DecodingPath, weight: float) -> None:
        self.inner, self.weight = inner, weight

    @property
    def weights_kind(self) -> str:
        return self.inner.weights_kind

    def start(self, asked: Start) -> tuple[Tensor, int]:
        k, b = len(asked.prompts), sum(asked.counts)
        first, computed = self.inner.start(Start(asked.prompts, [b] * k, asked.capacity))
        assert first is not None, "nothing is known of the prompts"
        each = torch.arange(k, device=first.device)
        self.own = each.repeat_interleave(torch.tensor(list(asked.counts), device=first.device))  # (b,)
        self.place = torch.arange(k * b, device=first.device).view(k, b)  # where (context, answer) stands within
        return blend(first.float().log_softmax(-1)[self.place], self.own, self.weight), computed

    def step(self, tokens: Tensor) -> Tensor:
        wide = torch.empty(self.place.numel(), dtype=tokens.dtype, device=tokens.device)
        wide[self.place.flatten()] = tokens.repeat(len(self.place))
        return blend(self.inner.step(wide).float().log_softmax(-1)[self.place], self.own, self.weight)

    def drop(self, gone: list[int]) -> list[int]:
        left = sorted(set(range(len(self.own))) - set(gone))
        order = torch.tensor(self.inner.drop(sorted(self.place[:, gone].flatten().tolist())), device=self.own.device)
        now = torch.full((self.place.numel(),), -1, device=order.device)
        now[order] = torch.arange(len(order), device=order.device)  # old place within -> new
        self.place, self.own = now[self.place[:, left]], self.own[left]
        return left

    def keep(self, row: int, ids: list[int]) -> Prefix:
        """The tokens alone: what was read belongs to several texts."""
        return Prefix(tuple(ids))

    def close(self) -> None:
        self.inner.close()


@torch.no_grad()
def decode_product_of_experts(
    lm: LanguageModel,
    contexts: Sequence[tuple[int, ...]],
    sequences: Sequence[SequenceRequest],
    weight: float,
    top: int,
) -> Generation:
    """Decode sequences that are drawn from the blend of all contexts and each one's own.

    Args:
        lm: The teacher.
        contexts: The question under each of k contexts, as token ids.
        sequences: The answers; the prompt of each is one of `contexts`.
        weight: See `blend`.
        top: How many likeliest tokens of each step are noted.
    """
    path = ProductOfExpertsPath(choose(lm.model, prompts=len(contexts)), weight)
    engine = LocalEngine(lm)
    own = [contexts.index(tuple(engine.encode(s.prompt))) for s in sequences]
    groups = PromptGroups([list(ids) for ids in contexts], own, sequences)
    return run(Job(lm, groups, top_logprobs=top), path)
