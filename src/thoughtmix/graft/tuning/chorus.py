"""Answers that several contexts give together: at each token their log-probabilities are averaged.

The product of experts of one model under k prompts (Hinton 2002, eq. 1, with equal weights): what is said under one
context alone is mostly a slip, what is likely under all of them mostly right.

Axis letters: k contexts, b answers, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from thoughtmix.decoding import Row
    from thoughtmix.models import LanguageModel


def blend(logprobs: Tensor, own: Tensor, weight: float) -> Tensor:
    """mean_k + weight * (own context's - mean_k), normalised. logprobs (k, b, v), own (b,) int64; -> (b, v).
    weight 0: the contexts together; 1: the own one alone."""
    mean = logprobs.mean(0)
    mine = logprobs[own, torch.arange(len(own), device=own.device)]
    return (mean + weight * (mine - mean)).log_softmax(-1)


@torch.no_grad()
def sing(
    lm: LanguageModel, asked: Sequence[Sequence[int]], rows: Sequence[Row], weight: float, max_new_tokens: int, top: int
) -> list[tuple[list[int], list[Any]]]:
    """Of each row, drawn from the blend of all contexts and its own (`row.prompt`): its tokens, with the end, and the
    `top` likeliest ids and log-probabilities of each. asked: the k contexts with the question, as token ids. Rows draw
    by their seed alone."""
    from thoughtmix.decoding.probe import choose
    from thoughtmix.decoding.randomness import uniforms
    from thoughtmix.decoding.rows import PLAIN
    from thoughtmix.decoding.sampling import SamplerBatch, draw

    k, b = len(asked), len(rows)
    device = lm.model.device
    route = choose(lm.model, carried=PLAIN, prompts=k)
    own = torch.tensor([row.prompt for row in rows], device=device)
    chance = uniforms([row.seed for row in rows], max_new_tokens, device)
    sampler = SamplerBatch.of([row.sampler for row in rows], device)
    place = torch.arange(k * b, device=device).view(k, b)  # where the row of (context, answer) stands in the batch
    live, said = list(range(b)), [([], []) for _ in rows]  # type: list[int], list[tuple[list[int], list[Any]]]
    try:
        logits = route.start([list(a) for a in asked], [b] * k, max_new_tokens).repeat_interleave(b, 0)
        for step in range(max_new_tokens):
            mixed = blend(logits.float().log_softmax(-1)[place], own[live], weight)
            keep = torch.tensor(live, device=device)
            ids = draw(mixed, chance[keep, step], sampler.rows(keep)).ids
            best = mixed.topk(min(top, mixed.shape[-1]))
            for row, token, names, values in zip(
                live, ids.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
            ):
                said[row][0].append(token)
                said[row][1].append((names, values))
            stay = [i for i, token in enumerate(ids.tolist()) if token not in lm.eos_ids]
            if not stay:
                break
            if len(stay) < len(live):
                gone = place[:, [i for i in range(len(live)) if i not in set(stay)]].flatten().tolist()
                order = {old: new for new, old in enumerate(route.drop(sorted(gone)))}
                place = torch.tensor([[order[int(p)] for p in line[stay]] for line in place.cpu()], device=device)
                live, ids = [live[i] for i in stay], ids[stay]
            tokens = torch.empty(place.numel(), dtype=torch.int64, device=device)
            tokens[place.flatten()] = ids.repeat(k)
            logits = route.step(tokens)
    finally:
        route.close()
    return said
