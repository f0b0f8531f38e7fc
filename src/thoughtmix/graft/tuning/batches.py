"""Lessons as tensors: prompts padded on the left, answers on the right, so that all answers begin in one column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from thoughtmix.graft.context import routed, thoughts
from thoughtmix.graft.tuning.lessons import Lesson

Batch = dict[str, Tensor]


def collate(lessons: Sequence[Lesson], tail: int) -> Batch:
    """b lessons, prompts of up to p tokens, answers of up to a: `ids` (b, p + a - 1), all but the answers' last tokens,
    and their `mask`; `answer` (b, a) and `counted` (b, a) bool; `top_ids`, `top` (b, a, m) of the teacher; `own` (b,)
    tokens of the prompt before the `tail` (b,) that a thought reads itself; `branch` (b,)."""
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
        "tail": torch.tensor([min(tail, len(x)) for x in prompts]),
        "branch": torch.tensor([lesson.branch for lesson in lessons]),
    }


class Student:
    """The grafted model before a batch: its prompts are read once, by the base model, up to what thoughts read
    themselves. What comes after is all that branches touch, so that only this is run with gradients, and for as many
    branches as an objective asks for."""

    def __init__(self, model: nn.Module, batch: Batch, branches: int) -> None:
        self.model, self.batch, self.branches = model, batch, branches
        prompt = batch["ids"].shape[1] + 1 - batch["answer"].shape[1]
        self.head = prompt - max(1, int(batch["tail"].max()))  # the last token says what comes first
        self.positions = (batch["mask"].cumsum(1) - 1).clamp(min=0)
        self.keys: list[tuple[Tensor, Tensor]] = []
        if self.head > 0 and not getattr(model, "is_gradient_checkpointing", False):
            self._read()

    @torch.no_grad()
    def _read(self) -> None:
        h = self.head
        some = torch.cat([self.batch["ids"][:, :h], self.batch["mask"][:, :h]], 1).unique(dim=0, return_inverse=True)
        ids, mask = some[0].split(h, 1)
        cache = DynamicCache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with thoughts(self.model, creativity=0.0), _whole(self.model):
            self.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                       use_cache=True, logits_to_keep=1)  # fmt: skip
        layers: Any = cache.layers
        if all(getattr(layer, "keys", None) is not None and layer.keys.shape[2] == h for layer in layers):
            self.keys = [(layer.keys[some[1]], layer.values[some[1]]) for layer in layers]

    def __call__(self, branch: Tensor) -> Tensor:
        """(b, a, v) float32 log-probabilities of the answers' tokens when row i travels through branch[i] alone."""
        weights = torch.nn.functional.one_hot(branch, self.branches).float()
        begin, cache = 0, None
        if self.keys:
            begin, cache = self.head, DynamicCache()
            for i, (keys, values) in enumerate(self.keys):
                cache.update(keys, values, i)
        how: Any = {"use_cache": cache is not None, "past_key_values": cache}
        with routed(self.model, weights, prompt_lengths=self.batch["own"]), _whole(self.model):
            out = self.model(input_ids=self.batch["ids"][:, begin:], attention_mask=self.batch["mask"],
                             position_ids=self.positions[:, begin:], logits_to_keep=self.batch["answer"].shape[1],
                             **how)  # fmt: skip
        return out.logits.float().log_softmax(-1)


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    """Within, the head gets contiguous hidden states: for a slice, torch would copy its weights for every row."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda module, inputs: tuple(x.contiguous() for x in inputs))
    try:
        yield
    finally:
        handle.remove()


def token_logprobs(logprobs: Tensor, batch: Batch) -> Tensor:
    """(b,) log-probability of each whole answer, nats."""
    each = logprobs.gather(-1, batch["answer"][..., None])[..., 0]
    return (each * batch["counted"]).sum(1)
