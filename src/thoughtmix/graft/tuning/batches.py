"""Lessons as tensors: prompts padded on the left, answers on the right, so that all answers begin in one column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoughtmix.graft.context import routed
from thoughtmix.graft.tuning.lessons import Lesson

Batch = dict[str, Tensor]


def collate(lessons: Sequence[Lesson], tail: int) -> Batch:
    """b lessons, prompts of up to p tokens, answers of up to a: `ids` (b, p + a - 1), all but the answers' last tokens,
    and their `mask`; `answer` (b, a) and `counted` (b, a) bool; `top_ids`, `top` (b, a, m) of the teacher; `own` (b,)
    tokens of the prompt before those that a thought reads itself; `branch` (b,)."""
    prompts = [lesson.prompt_ids for lesson in lessons]
    b, p, a = len(lessons), max(map(len, prompts)), max(len(lesson.ids) for lesson in lessons)
    m = max((len(ids) for lesson in lessons for ids, _ in lesson.top), default=0)
    ids, mask = torch.zeros(b, p + a, dtype=torch.int64), torch.zeros(b, p + a, dtype=torch.int64)
    top_ids, top = torch.zeros(b, a, m, dtype=torch.int64), torch.full((b, a, m), -torch.inf)
    for i, (prompt, lesson) in enumerate(zip(prompts, lessons, strict=True)):
        ids[i, p - len(prompt) : p] = torch.tensor(prompt)
        ids[i, p : p + len(lesson.ids)] = torch.tensor(lesson.ids)
        mask[i, p - len(prompt) : p + len(lesson.ids)] = 1
        for j, (likeliest, values) in enumerate(lesson.top):
            top_ids[i, j, : len(likeliest)], top[i, j, : len(values)] = torch.tensor(likeliest), torch.tensor(values)
    return {
        "ids": ids[:, :-1],
        "mask": mask[:, :-1],
        "answer": ids[:, p:],
        "counted": mask[:, p:].bool(),
        "top_ids": top_ids,
        "top": top,
        "own": torch.tensor([max(0, len(x) - tail) for x in prompts]),
        "branch": torch.tensor([lesson.branch for lesson in lessons]),
    }


def answer_logprobs(model: nn.Module, batch: Batch, branch: Tensor, branches: int) -> Tensor:
    """(b, a, v) float32 log-probabilities of the answers' tokens when row i travels through branch[i] alone."""
    weights = torch.nn.functional.one_hot(branch, branches).float()
    a = batch["answer"].shape[1]
    positions = (batch["mask"].cumsum(1) - 1).clamp(min=0)
    how: Any = {"input_ids": batch["ids"], "attention_mask": batch["mask"], "position_ids": positions}
    with routed(model, weights, prompt_lengths=batch["own"]):
        return model(**how, use_cache=False, logits_to_keep=a).logits.float().log_softmax(-1)


def token_logprobs(logprobs: Tensor, batch: Batch) -> Tensor:
    """(b,) log-probability of each whole answer, nats."""
    each = logprobs.gather(-1, batch["answer"][..., None])[..., 0]
    return (each * batch["counted"]).sum(1)
