"""Stage by stage: a pool of texts is drafted, selected, refined and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.registry import get_thinker
from thoughtmix.core.thinker import Request
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.hybrid.measures import likelihood, measured, question
from thoughtmix.hybrid.stages import Pipeline
from thoughtmix.metrics.embedding import pairwise_distances, relevance
from thoughtmix.noise.denoising import renoised
from thoughtmix.noise.options import HELP, turns, ways
from thoughtmix.noise.rewriting import Idea, rewrite
from thoughtmix.noise.words import check as check_words
from thoughtmix.thinkers.hybrid import Progress
from thoughtmix.thinkers.noise import together

if TYPE_CHECKING:
    from thoughtmix.models import Embedder, LanguageModel

Made = tuple[list[Thought], Mapping[str, Any]]


class Run:
    """One call. `facts` adds up; `stages` says what each stage added."""

    def __init__(self, model: LanguageModel, ids: Sequence[int], request: Request, pipeline: Pipeline) -> None:
        from thoughtmix.models import load_model

        self.model, self.ids, self.request, self.pipeline = model, list(ids), request, pipeline
        self.noise = {k: v for k, v in request.options.items() if k in HELP}
        self.asked = question(model, ids)
        self.found = ways(self.noise, lambda: self.embedder) if "noise" in pipeline.after and model.causal else []
        self.level = check_words(request.options.get("level", 0.5))
        name = request.options.get("judge")
        self.judge = load_model(str(name)) if name is not None else None
        self.diffusion = self._diffusion() if self._renoises() else None
        self.progress = Progress(request, pipeline.rows(request.n) * request.max_new_tokens)
        self.facts: dict[str, Any] = {}
        self.stages: list[dict[str, Any]] = []

    @cached_property
    def embedder(self) -> Embedder:
        from thoughtmix.models import load_embedder

        return load_embedder()

    def _renoises(self) -> bool:
        return "renoise" in self.pipeline.after or ("noise" in self.pipeline.after and not self.model.causal)

    def _diffusion(self) -> Any:
        from thoughtmix.diffusion.load import load_diffusion, wrap_diffusion

        name = self.request.options.get("mask_model")
        if name is None and not self.model.causal:
            return wrap_diffusion(self.model.model, self.model.tokenizer, self.model.name)
        return load_diffusion(None if name is None else str(name))

    def under(self, last: bool, **changes: Any) -> Request:
        """The request of one stage: the thoughts' own seeds in the last, the pool's before."""
        p = self.pipeline
        own = {} if last else {"n": p.drafts, "seed": p.draft}
        see = self.progress.see if self.request.on_step else None
        return dataclasses.replace(self.request, on_step=see, **{"options": {}, **own, **changes})

    def generate(self, last: bool) -> Made:
        options = self.noise if self.pipeline.generator == "noise" else {}
        thinker = get_thinker(self.pipeline.generator)
        return thinker.think(self.model, self.ids, self.under(last, options=options))

    def refine(self, pool: Sequence[Thought], name: str, last: bool) -> Made:
        """Each seed's text of the pool, disturbed by that seed."""
        request = self.under(last)
        own = [pool[seed % len(pool)] for seed in request.seeds]
        if request.creativity == 0 or not any(t.text.strip() for t in pool):
            return own, {}
        if self.diffusion is not None and (name == "renoise" or not self.model.causal):
            heat = request.temperature if request.temperature is not None else request.creativity
            assert not isinstance(heat, tuple), "refused by the thinker"
            warm = 1.0 if heat is None else heat
            texts = [t.text for t in own]
            try:
                return renoised(self.diffusion, texts, list(request.seeds), self.level, temperature=warm)
            except InputError as error:  # a draft, not the user, says what the mask predictor cannot read
                raise InputError(
                    error.message, "Name one that can: --option mask_model=... (or drop renoise)."
                ) from None
        ideas = [Idea.of(t, self.model) for t in own]
        return rewrite(self.model, ideas, turns(self.found, request.seeds), request, before=self.ids, thinker="hybrid")

    def select(self, pool: Sequence[Thought]) -> list[Thought]:
        """The best of the pool, in the order picked."""
        keep, by = min(self.pipeline.keep, len(pool)), self.pipeline.by
        texts = [t.text for t in pool]
        if by == "likelihood":
            return _top(pool, likelihood(self.model, self.ids, texts), keep)
        vectors = self.embedder.encode([self.asked or ".", *(t.strip() or "." for t in texts)])
        if by == "relevance":
            return _top(pool, relevance(vectors[1:], vectors[0]).tolist(), keep)
        distances = tuple(tuple(float(v) for v in row) for row in pairwise_distances(vectors[1:]))
        scored = [t.with_scores(picked=0.0) for t in pool]
        if by == "both":
            values = likelihood(self.model, self.ids, texts)
            scored = [t.with_scores(picked=v) for t, v in zip(pool, values, strict=True)]
        return list(ThoughtSet(self.asked, tuple(scored), distances=distances).select(keep, "picked"))

    def note(self, stage: str, pool: Sequence[Thought], facts: Mapping[str, Any]) -> None:
        """Add up what the stage cost, and measure what it gave."""
        self.facts = together(self.facts, facts) if self.facts else dict(facts)
        row: dict[str, Any] = {"stage": stage, "texts": len(pool), "tokens": int(facts.get("tokens", 0))}
        if self.request.options.get("report", True) not in (False, "false", "no", 0):
            row |= measured([t.text for t in pool], self.asked, self.ids, self.model, self.embedder, self.judge,
                            self.pipeline.used)  # fmt: skip
        self.stages.append(row)


def run(model: LanguageModel, ids: Sequence[int], request: Request, pipeline: Pipeline) -> Made:
    """n thoughts, and facts with `stages`. Interrupted in the middle: what the pool holds, as cancelled thoughts."""
    it = Run(model, ids, request, pipeline)
    stages = (pipeline.generator, *pipeline.after)
    pool: list[Thought] = []
    facts: Mapping[str, Any] = {}
    for i, name in enumerate(stages):
        last = i == len(stages) - 1
        it.progress.stage(last)
        if name == "select":
            pool, facts = it.select(pool), {}
        elif i == 0:
            pool, facts = it.generate(last)
        else:
            pool, facts = it.refine(pool, name, last)
        if facts.get("interrupted"):
            return _stopped(pool, request, last), {**it.facts, **facts}
        it.note(name, pool, facts)
    if stages[-1] == "select":
        pool = [pool[seed % len(pool)] for seed in request.seeds]
    extra = {
        "stages": it.stages,
        "selected_by": pipeline.by if pipeline.selects else None,
    }
    return pool, {**it.facts, **extra, "interrupted": False}


def _top(pool: Sequence[Thought], values: Sequence[float], keep: int) -> list[Thought]:
    order = sorted(range(len(pool)), key=lambda i: -values[i])
    return [pool[i] for i in order[:keep]]


def _stopped(pool: Sequence[Thought], request: Request, last: bool) -> list[Thought]:
    if last:
        return list(pool)
    return [dataclasses.replace(pool[s % len(pool)], finish="cancelled") for s in request.seeds]
