"""Set reward: a graft's branches are taught by what their thoughts add to a set, drawn by our own engine.

A step draws n thoughts of every prompt, thought i through branch i modulo K, and makes small

    mean over thoughts of  -A_i log q_i(y_i)  +  kl * mean over its tokens of KL(branch || base model),

with the advantages A of `set_reward.py` and q the distribution that the engine draws from, temperature and min-p
included: so draws are on policy, and no ratio is needed. A text that the model did not end itself is worth nothing.
Prompts whose advantages are all 0 teach nothing and are not read again.

With `posterior` above 0 a right answer y of branch k is also credited with posterior * p(k | y), where p(k | y) is
p_k(y) / sum over all branches of p_j(y), less the mean of that over the set's other thoughts: what every branch would
say earns 1 / K of what one alone says (skills that are told apart: Eysenbach et al. 2019, eq. 3, on right answers
alone).

Axis letters: b rows (a thought each), a answer tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.selection import LOOPS, repetition
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.engine import SequenceOutput
from thoughtmix.graft.adapter import require_graft
from thoughtmix.graft.tuning.distillation import DistillationSample
from thoughtmix.graft.tuning.objectives import Batch, Student, answer_logprobs, collate
from thoughtmix.graft.tuning.set_loss import set_loss
from thoughtmix.graft.tuning.set_prompts import PracticePrompt, drawn_prompts
from thoughtmix.graft.tuning.set_reward import Credit, advantages, determinant_credit, relevance, shapley_credit
from thoughtmix.models import LanguageModel
from thoughtmix.models.embed import Embedder
from thoughtmix.training.pace import evenly

_PARTED = 32
"""Thoughts of a step from which the shorter half goes through the model apart from the longer."""


@dataclass(frozen=True, slots=True)
class SetConfig:
    """How thoughts are drawn and what departing costs.

    Args:
        kl: Weight of the KL from the base model (nats a token).
        posterior: Credit of a right answer that its branch alone would give, beside what the set credits it with.
        temperature: Of the draws.
        min_p: Of the draws.
        max_new_tokens: Most tokens of an answer that can be checked.
        open_tokens: Most tokens of an answer to an open prompt.
        thoughts: Of a set; None: one a branch. With a graft of a single branch this is plain LoRA under set reward.

    Raises:
        InputError: A value does not fit.
    """

    kl: float = 0.1
    temperature: float = 0.9
    min_p: float = 0.1
    max_new_tokens: int = 10
    open_tokens: int = 24
    thoughts: int | None = None
    posterior: float = 0.0

    def __post_init__(self) -> None:
        if (
            self.kl < 0
            or self.posterior < 0
            or self.temperature <= 0
            or self.max_new_tokens < 2
            or self.open_tokens < 2
        ):
            raise InputError(
                "A number is below what works.",
                "Pass --kl 0, --posterior 0, --temperature 0.1, --max-new-tokens 2, or more.",
            )
        if self.thoughts is not None and self.thoughts < 2:
            raise InputError(f"A set of {self.thoughts} thoughts.", "Pass --thoughts 2, or more.")

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(temperature=self.temperature, min_p=self.min_p)


@dataclass(frozen=True, slots=True)
class DrawnSet:
    """The thoughts of one prompt and what each is worth.

    answers: What each gave, None where that is worth nothing; an open text is its own. advantage (n,).
    """

    prompt_ids: tuple[int, ...]
    open: bool
    seeds: tuple[int, ...]
    outputs: tuple[SequenceOutput, ...]
    answers: tuple[str | None, ...]
    advantage: np.ndarray[Any, np.dtype[np.float64]]


class SetTask:
    """The trainer's `Task`. A batch names prompts and seeds, a function of the step; the thoughts are drawn with the
    loss, by the weights of that moment, so that a run resumed draws the same."""

    def __init__(
        self,
        lm: LanguageModel,
        practice: Sequence[PracticePrompt],
        validation: Sequence[PracticePrompt],
        embedder: Embedder | None,
        settings: SetConfig,
        seed: int = 0,
    ) -> None:
        self.graft = require_graft(lm.model)
        self.branches = self.graft.config.num_branches
        self.n = settings.thoughts or self.branches
        if self.n < 2:
            raise InputError("A graft of one branch makes sets of one.", "Pass --thoughts 8, or graft 8 (--branches).")
        if not practice or not validation:
            raise InputError("There are no prompts to practise on or to check by.", "Pass more prompts.")
        if embedder is None and any(p.answer is None for p in (*practice, *validation)):
            raise InputError("Open prompts need an embedder.", "Pass one, or leave them out.")
        self.lm, self.engine, self.embedder, self.settings, self.seed = lm, LocalEngine(lm), embedder, settings, seed
        self.practice, self.validation = list(practice), list(validation)

    def batch(self, step: int, rows: range, total: int) -> Batch:
        chosen = drawn_prompts(self.practice, step, total, self.seed)[rows.start : rows.stop]
        longest = self.settings.max_new_tokens * self.n
        return {"chosen": torch.tensor(chosen), "ids": torch.zeros(len(chosen), longest, dtype=torch.int64)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        chosen = batch["chosen"].tolist()
        sets = self.draw([(self.practice[i], way, seed) for i, way, seed in chosen])
        rows = len(sets) * self.n
        logs = self._logs(sets)
        if self.settings.posterior:
            sets, logs["posterior"] = self._credit_posterior(model, sets)
        taught = [s for s in sets if np.abs(s.advantage).max() > 1e-9]
        if not taught:  # nobody was better than anybody: no step, and yet something to differentiate
            loss = 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
        else:
            loss, kl = self._loss_of(model, taught, rows)
            open = torch.tensor([s.open for s in taught]).repeat_interleave(self.n)
            for name, mine in (("kl", ~open), ("kl_open", open)):
                logs[name] = kl[mine].mean() if bool(mine.any()) else 0.0
        return loss, {name: torch.as_tensor(value, dtype=torch.float32) for name, value in logs.items()}

    def _loss_of(self, model: Any, sets: Sequence[DrawnSet], rows: int) -> tuple[Tensor, Tensor]:
        """(): the sums over these thoughts of -A log q, and of the mean KL of a token from the base model, over `rows`;
        and (b,) that KL, on the CPU. Thoughts of like length go through the model together."""
        settings = self.settings
        student = self._student(model, sets, [range(self.n)] * len(sets))
        batch, device = student.batch, self.lm.device
        seeds = torch.tensor([seed for s in sets for seed in s.seeds], device=device)
        advantage = torch.tensor(np.concatenate([s.advantage for s in sets]), dtype=torch.float32, device=device)
        lengths = batch["counted"].sum(1)
        losses, kls = [], torch.zeros(len(lengths))
        for some in lengths.argsort(stable=True).chunk(2 if len(lengths) >= _PARTED else 1):
            part = student.of_rows(some)
            tokens = lengths[some]
            loss, kl = set_loss(
                part.counted(part.batch["branch"], seeds[some]),
                part.base(),
                part.batch["answer"][part.batch["counted"]],
                (advantage[some] / rows).repeat_interleave(tokens),
                (settings.kl / rows / tokens).repeat_interleave(tokens),
                settings.temperature,
                settings.min_p,
            )
            losses.append(loss)
            kls[some.cpu()] = torch.stack([x.mean() for x in kl.split(tokens.tolist())]).cpu()
        return torch.stack(losses).sum(), kls

    def _student(self, model: Any, sets: Sequence[DrawnSet], which: Sequence[Sequence[int]]) -> Student:
        """Before these thoughts of each set."""
        samples = [
            DistillationSample("", s.prompt_ids, k % self.branches, tuple(s.outputs[k].token_ids), ())
            for s, some in zip(sets, which, strict=True)
            for k in some
        ]
        batch = {name: x.to(self.lm.device) for name, x in collate(samples, self.graft.config.tail).items()}
        return Student(model, batch, self.branches)

    @torch.no_grad()
    def _credit_posterior(self, model: Any, sets: Sequence[DrawnSet]) -> tuple[list[DrawnSet], float]:
        """The sets with what their right answers are credited with as their branches' own, and the mean p(k | y)."""
        which = [[] if s.open else [k for k, a in enumerate(s.answers) if a is not None] for s in sets]
        if not any(which):
            return list(sets), 0.0
        student = self._student(model, sets, which)
        branch = student.batch["branch"]
        liked = [answer_logprobs(student(torch.full_like(branch, j)), student.batch) for j in range(self.branches)]
        posterior = torch.stack(liked, 1).double().softmax(1).gather(1, branch[:, None])[:, 0].cpu().numpy()
        out, at = [], 0
        for s, some in zip(sets, which, strict=True):
            credit = np.zeros(self.n)
            credit[some] = self.settings.posterior * posterior[at : at + len(some)]
            at += len(some)
            others = (credit.sum() - credit) / (self.n - 1)
            out.append(replace(s, advantage=s.advantage + credit - others))
        return out, float(posterior.mean())

    @torch.no_grad()
    def draw(self, prompts: Sequence[tuple[PracticePrompt, int, int]]) -> list[DrawnSet]:
        """A set for each (prompt, way, first seed): all of them in one batch of the engine."""
        k, s = self.n, self.settings
        encoded = [tuple(self.lm.encode(p.ways[way])) for p, way, _ in prompts]
        sequences, seeds = [], []
        for (p, _, first), ids in zip(prompts, encoded, strict=True):
            longest = s.open_tokens if p.answer is None else s.max_new_tokens
            seeds += [first + i for i in range(k)]
            sequences += [SequenceRequest(ids, first + i, s.sampling, longest) for i in range(k)]
        weights = torch.eye(self.branches)[torch.arange(k) % self.branches].repeat(len(prompts), 1)
        state = self.graft.row_state(seeds, [1.0] * len(seeds), self.lm.device, weights)
        was_training = self.lm.model.training
        self.lm.model.eval()
        try:
            done = self.engine.generate(sequences, row_state=state)
        finally:
            self.lm.model.train(was_training)
        if done.interrupted:
            raise KeyboardInterrupt
        out = []
        for i, ((p, way, _), ids) in enumerate(zip(prompts, encoded, strict=True)):
            outputs = tuple(done.outputs[i * k : (i + 1) * k])
            answers, credit = self._judged(p, p.ways[way], outputs)
            own = tuple(seeds[i * k : (i + 1) * k])
            out.append(DrawnSet(ids, p.answer is None, own, outputs, answers, advantages(credit, k)))
        return out

    def _judged(
        self, prompt: PracticePrompt, asked: str, outputs: Sequence[SequenceOutput]
    ) -> tuple[tuple[str | None, ...], Credit]:
        """What each text gave, and what the set credits it with."""
        texts = [o.text.strip() if o.finish == "stop" else "" for o in outputs]
        if prompt.answer is not None:
            answers = tuple(prompt.answer(text) if text else None for text in texts)
            return answers, shapley_credit(answers)
        assert self.embedder is not None
        vectors = self.embedder.encode([asked, *(text or "." for text in texts)])
        whole = np.array([bool(text) and repetition(text) < LOOPS for text in texts])
        quality = whole * relevance(vectors[1:] @ vectors[0])
        answers = tuple(text if q > 0 else None for text, q in zip(texts, quality, strict=True))
        return answers, determinant_credit(vectors[1:], quality)

    def _logs(self, sets: Sequence[DrawnSet]) -> dict[str, Any]:
        """Shares of all thoughts: valid (by place in the set, too), distinct and valid, ended; open ones apart. Always
        the same names, since processes that train together take their mean: 0 where there was nothing."""
        logs: dict[str, Any] = {}
        for open, ending in ((False, ""), (True, "_open")):
            mine = [s for s in sets if s.open == open]
            logs[f"kl{ending}"] = 0.0
            if not mine:
                logs |= dict.fromkeys([f"{name}{ending}" for name in ("valid", "distinct", "ended")], 0.0)
                logs |= {f"valid{ending}_{k}": 0.0 for k in range(self.n)}
                continue
            right = np.array([[a is not None for a in s.answers] for s in mine])
            logs[f"valid{ending}"] = right.mean()
            logs[f"distinct{ending}"] = np.mean([len(set(s.answers) - {None}) / self.n for s in mine])
            logs[f"ended{ending}"] = np.mean([[o.finish == "stop" for o in s.outputs] for s in mine])
            logs |= {f"valid{ending}_{k}": share for k, share in enumerate(right.mean(0))}
        return logs

    @torch.no_grad()
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """On a share of the validation prompts, with seeds of their own: `val_valid` and `val_distinct`, shares of the
        thoughts on prompts with known answers, and `val_loss`, 1 - `val_distinct` (of open ones where all are)."""
        chosen = [self.validation[i] for i in evenly(len(self.validation), share)]
        sets = self.draw([(p, 0, 2**50 + 64 * i) for i, p in enumerate(chosen)])
        logs = self._logs(sets)
        found = {f"val_{name}": float(logs[name]) for name in ("valid", "distinct", "valid_open")}
        known = any(not s.open for s in sets)
        return {"val_loss": 1 - found["val_distinct" if known else "val_valid_open"], **found}
