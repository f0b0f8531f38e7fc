"""What thoughts are taught: samples as tensors, the student that is asked about them, and one small class an objective.
A loss is nats a token, made small.

Axis letters: b samples, p prompt tokens, a answer tokens, k branches, v vocabulary, m likeliest tokens of the teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from thoughtmix.graft.adapter import routed, thoughts
from thoughtmix.graft.tuning.attention import small_attention
from thoughtmix.graft.tuning.distillation import DistillationSample

Batch = dict[str, Tensor]


def collate(samples: Sequence[DistillationSample], tail: int) -> Batch:
    """Samples as tensors: prompts padded on the left, answers on the right, so that all answers begin in one column.

    Args:
        samples: b of them, prompts of up to p tokens, answers of up to a.
        tail: Last tokens of a prompt that a thought reads itself.

    Returns:
        `ids` (b, p + a - 1), all but the answers' last tokens, and their `mask`; `answer` (b, a) and `counted` (b, a)
        bool; `top_ids`, `top` (b, a, m) of the teacher; `own` (b,) tokens of the prompt before the `tail` (b,); and
        `branch` (b,).
    """
    prompts = [sample.prompt_ids for sample in samples]
    b, p, a = len(samples), max(map(len, prompts)), max(len(sample.ids) for sample in samples)
    m = max((len(ids) for sample in samples for ids, _ in sample.top), default=0)
    ids, mask = torch.zeros(b, p + a, dtype=torch.int64), torch.zeros(b, p + a, dtype=torch.int64)
    top_ids, top = torch.zeros(b, a, m, dtype=torch.int64), torch.full((b, a, m), -torch.inf)
    for i, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        ids[i, p - len(prompt) : p] = torch.tensor(prompt)
        ids[i, p : p + len(sample.ids)] = torch.tensor(sample.ids)
        mask[i, p - len(prompt) : p + len(sample.ids)] = 1
        for j, (likeliest, values) in enumerate(sample.top):
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
        "branch": torch.tensor([sample.branch for sample in samples]),
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
        self.keys: list[tuple[Tensor, Tensor]] = []  # of each prompt, once
        self.prompt_of = torch.zeros(len(batch["ids"]), dtype=torch.int64)
        if self.head > 0 and not any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            self._prefill()

    @torch.no_grad()
    def _prefill(self) -> None:
        h = self.head
        both = torch.cat([self.batch["ids"][:, :h], self.batch["mask"][:, :h]], 1)
        prompts, self.prompt_of = both.unique(dim=0, return_inverse=True)
        ids, mask = prompts.split(h, 1)
        cache = DynamicCache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with thoughts(self.model, creativity=0.0), _contiguous_head(self.model), small_attention(self.model):
            self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        layers: Any = cache.layers
        if all(getattr(layer, "keys", None) is not None and layer.keys.shape[2] == h for layer in layers):
            self.keys = [(layer.keys, layer.values) for layer in layers]

    def of_rows(self, rows: Tensor) -> Student:
        """The student before these rows (of the batch's) alone, whose prompts are not read again; without the columns
        that only longer answers fill."""
        part = copy.copy(self)
        cut = self.batch["answer"].shape[1] - int(self.batch["counted"][rows].sum(1).max())
        part.batch = {name: x[rows] for name, x in self.batch.items()}
        for name in ("ids", "mask", "answer", "counted", "top_ids", "top") if cut else ():
            part.batch[name] = part.batch[name][:, :-cut]
        part.positions = (part.batch["mask"].cumsum(1) - 1).clamp(min=0)
        part.prompt_of = self.prompt_of[rows]
        return part

    def __call__(self, branch: Tensor) -> Tensor:
        """(b, a, v) float32 log-probabilities of the answers' tokens when row i travels through branch[i] alone."""
        with self._through(branch, None):
            return self._logits().float().log_softmax(-1)

    def counted(self, branch: Tensor, seeds: Tensor) -> Tensor:
        """(m, v) logits of the tokens that count, row by row, with the noise of seeds[i]."""
        with self._through(branch, seeds):
            return self._logits(self.batch["counted"])

    @torch.no_grad()
    def base(self) -> Tensor:
        """The same of the base model."""
        with thoughts(self.model, creativity=0.0):
            return self._logits(self.batch["counted"])

    def _through(self, branch: Tensor, seeds: Tensor | None) -> AbstractContextManager[None]:
        weights = torch.nn.functional.one_hot(branch, self.branches).float()
        return routed(self.model, weights, prompt_lengths=self.batch["own"], seed=seeds)

    def _logits(self, counted: Tensor | None = None) -> Tensor:
        begin, cache = 0, None
        if self.keys:
            begin, cache = self.head, DynamicCache()
            for i, (keys, values) in enumerate(self.keys):
                cache.update(keys[self.prompt_of], values[self.prompt_of], i)
        attention = small_attention(self.model) if self.keys else nullcontext()  # checkpoints attend again, later
        with _contiguous_head(self.model, counted), attention:
            out = self.model(
                input_ids=self.batch["ids"][:, begin:],
                attention_mask=self.batch["mask"],
                position_ids=self.positions[:, begin:],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=self.batch["answer"].shape[1],
            )
        logits: Tensor = out.logits
        return logits if counted is None else logits[0]


@contextmanager
def _contiguous_head(model: nn.Module, counted: Tensor | None = None) -> Iterator[None]:
    """Within, the head gets contiguous hidden states: for a slice, torch would copy its weights for every row. Where
    `counted` (b, a) says so, only those of tokens that count, as one row."""

    def given(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if counted is not None:
            inputs = tuple(x[:, -counted.shape[1] :][counted][None] for x in inputs)
        return tuple(x.contiguous() for x in inputs)

    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(given)
    try:
        yield
    finally:
        handle.remove()


def answer_logprobs(logprobs: Tensor, batch: Batch) -> Tensor:
    """(b,) log-probability of each whole answer, nats."""
    each = logprobs.gather(-1, batch["answer"][..., None])[..., 0]
    return (each * batch["counted"]).sum(1)


Loss = tuple[Tensor, Mapping[str, Tensor]]


class Objective(Protocol):
    """The loss of a batch, and what is worth plotting beside it."""

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        """draws (b,) int64: whatever this batch draws, it draws from these."""
        ...


def divergence(logprobs: Tensor, batch: Batch) -> Tensor:
    """(): mean KL(teacher || student) of a token, nats, over the teacher's m likeliest tokens and one bin for all the
    others (context distillation: Askell et al. 2021, sec. 2.3). logprobs (b, a, v)."""
    teacher = batch["top"]
    there = torch.isfinite(teacher)
    student = logprobs.gather(-1, batch["top_ids"]).masked_fill(~there, 0.0)
    p = teacher.exp() * there
    rest, own_rest = (1 - x.sum(-1).clamp(max=1 - 1e-4) for x in (p, student.exp() * there))
    each = (p * (teacher.masked_fill(~there, 0.0) - student)).sum(-1) + rest * (rest.log() - own_rest.log())
    counted = batch["counted"]
    return (each * counted).sum() / counted.sum()


def recoverable(own: Tensor, other: Tensor) -> Tensor:
    """(): -log of the odds that an answer came from its branch and not from one other, drawn: a bound on the mutual
    information of branch and answer by one negative (Poole et al. 2019, eq. 12). own, other (b,) log-probabilities."""
    return -F.logsigmoid(own - other).mean()


@dataclass(frozen=True, slots=True)
class StylesObjective:
    """Context distillation: branch k, without a context, answers as the base model does under context k. contrast:
    weight of `recoverable`, whose other branch is drawn among the rest."""

    branches: int
    contrast: float = 0.1

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        branch, student = batch["branch"], Student(model, batch, self.branches)
        logprobs = student(branch)
        loss = divergence(logprobs, batch)
        logs = {"lm_loss": loss}
        if self.contrast:
            other = (branch + 1 + draws % (self.branches - 1)) % self.branches
            apart = recoverable(answer_logprobs(logprobs, batch), answer_logprobs(student(other), batch))
            logs["contrast"] = apart
            loss = loss + self.contrast * apart
        return loss, logs


@dataclass(frozen=True, slots=True)
class ModesObjective:
    """The model's own answers, each taught to the branch that already likes it best (hard EM), every branch as often as
    any other (`balanced`): a mixture p(y|x) = mean_k p_k(y|x) whose branches split the answers among them. contrast: as
    above, but against the second best branch."""

    branches: int
    contrast: float = 0.1

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        student = Student(model, batch, self.branches)
        with torch.no_grad():
            every = [torch.full_like(batch["branch"], k) for k in range(self.branches)]
            liked = torch.stack([answer_logprobs(student(branch), batch) for branch in every], 1)  # (b, k)
            branch = balanced(liked)
            other = liked.scatter(1, branch[:, None], -torch.inf).argmax(1)
        own = answer_logprobs(student(branch), batch)
        loss = -own.sum() / batch["counted"].sum()
        logs = {"lm_loss": loss, "best": -(liked.amax(1).sum() / batch["counted"].sum())}
        if self.contrast:
            apart = recoverable(own, answer_logprobs(student(other), batch))
            logs["contrast"] = apart
            loss = loss + self.contrast * apart
        return loss, logs


def balanced(liked: Tensor) -> Tensor:
    """Each answer's branch, (b,): greedily the largest of liked - its answer's mean, no branch more than ceil(b / k)
    times. liked (b, k)."""
    b, k = liked.shape
    room = [-(-b // k)] * k
    chosen = torch.full((b,), -1, dtype=torch.int64)
    for at in (liked - liked.mean(1, keepdim=True)).flatten().argsort(descending=True).tolist():
        row, branch = divmod(at, k)
        if chosen[row] < 0 and room[branch]:
            chosen[row], room[branch] = branch, room[branch] - 1
    return chosen.to(liked.device)


@dataclass(frozen=True, slots=True)
class SpreadObjective:
    """The model's own right answers. Where each of a prompt's comes once, all are taught with equal weight: mass moves
    from the favourite to all of them."""

    branches: int

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        own = answer_logprobs(Student(model, batch, self.branches)(batch["branch"]), batch)
        loss = -own.sum() / batch["counted"].sum()
        return loss, {"lm_loss": loss}


@dataclass(frozen=True, slots=True)
class CorpusObjective:
    """A text: windows through drawn routes, two branches a window, with the mixture's own signals. entropy: how far the
    learned odds are from even; diversity: how alike two branches make the next token (their probability overlap)."""

    branches: int
    contrast: float = 0.1
    balance: float = 0.01

    def __call__(self, model: nn.Module, batch: Batch, draws: Tensor) -> Loss:
        first = draws % self.branches
        second = (first + 1 + draws // self.branches % (self.branches - 1)) % self.branches
        student = Student(model, batch, self.branches)
        one, two = student(first), student(second)
        counted = batch["counted"]
        loss = -(answer_logprobs(one, batch) + answer_logprobs(two, batch)).sum() / (2 * counted.sum())
        overlap = (torch.minimum(one, two).exp().sum(-1) * counted).sum() / counted.sum()
        logs = {"lm_loss": loss, "overlap": overlap}
        loss = loss + self.contrast * overlap
        odds = [p for name, p in model.named_parameters() if "mot_prior" in name]
        if odds and self.balance:
            uneven = sum((p.float().log_softmax(-1).exp() * p.float().log_softmax(-1)).sum() for p in odds) / len(odds)
            logs["uneven"] = torch.as_tensor(uneven)
            loss = loss + self.balance * uneven
        return loss, logs
