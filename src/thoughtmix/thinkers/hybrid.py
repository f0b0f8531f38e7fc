"""Generator -> evaluator -> refiner, as a pipeline of any thinkers: "sampling>select>noise".

All stages but the last work on a pool of `drafts` texts that depends on prompt and settings alone (its seeds begin at
the option `draft`). The last stage makes the thoughts: the one of seed s from pool[s mod size], in direction s mod
(number of directions), with draws of seed s. So `n=1, seed=s+i` is thought i of `seed=s`, as for every thinker.

What each stage added is in `run["stages"]`, by scorers that selected nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request, StepEvent, TextEmbedder
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, local_model, require
from thoughtmix.models.judge import EndpointJudge
from thoughtmix.noise.rewriting import Idea, NoiseOptions, disturbances, rewrite
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, add_facts, embedding_work, packaged_embedder
from thoughtmix.thinkers.noise import denoising_work, rewriting_work
from thoughtmix.thinkers.registry import get_thinker, thinker_names

if TYPE_CHECKING:
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.models import LanguageModel

DEFAULT_STAGES = "sampling>select>noise"
MOST_STAGES = 16
REFINERS = ("noise", "renoise")
By = Literal["likelihood", "relevance", "difference", "both"]
SCORERS: Mapping[By, frozenset[str]] = {
    "likelihood": frozenset({"generator"}),
    "relevance": frozenset({"embedder"}),
    "difference": frozenset({"embedder"}),
    "both": frozenset({"generator", "embedder"}),
}
"""How drafts are selected -> the scorers that this uses, and that must therefore not report."""


class HybridThinker(Thinker):
    name = "hybrid"
    summary = "Drafts by any thinker, selects, and refines by noise or renoising; says what each stage added."
    elsewhere = "selects by relevance unless told; by=likelihood and by=both are refused, and first stages that are"
    in_vllm = elsewhere
    guided = True

    class Options(NoiseOptions):
        stages: str = option(
            DEFAULT_STAGES,
            "A thinker, then select, noise and renoise in any order",
            served=True,
            served_pattern=r"[\w\s>-]*",
        )
        drafts: int = option(8, "Texts that are drafted", served=True, served_max="thoughts", ge=1)
        keep: int | None = option(None, "How many drafts a selection leaves (half of them)", served=True, ge=1)
        draft: int = option(
            0,
            "The first draft's seed; drafts do not depend on the thoughts' seeds",
            served=True,
            ge=0,
            lt=2**62,
        )
        by: By = option(
            "likelihood",
            "What selects: both is likelihood and difference (left out, of a model elsewhere: relevance)",
            served=True,
        )
        judge: str | None = option(None, "A model, named as --model, that reports and selects nothing")
        report: bool = option(True, "Measure what each stage added", served=True)
        level: float = option(0.5, "Share of a draft's tokens that renoise forgets", served=True, gt=0, le=1)
        mask_model: str | None = option(
            None, "The mask predictor of renoise (shakespeare-diffusion, or the model itself if it is one)"
        )

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return Stages.parse(self.Options.model_validate(options)).texts(n)

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        """Stage by stage, with what selects and what reports."""
        given = self.Options.model_validate(options)
        stages = Stages.parse(given)
        names, made = (stages.generator, *stages.after), Work()
        causal, scorers = Capability.LEFT_TO_RIGHT in engine.capabilities, SCORERS[given.by]
        for i, name in enumerate(names):
            texts = max(n, stages.drafts) if i == len(names) - 1 else stages.drafts
            if i == 0:
                thinker = get_thinker(name)
                made += thinker.work(engine, texts, read, length, _shared_options(thinker, given))
            elif name == "noise" and causal:
                made += rewriting_work(texts, read, length, length)
            elif name in REFINERS:
                made += denoising_work(texts, length)
            reads, embeds = int(given.report), int(given.report)
            if name == "select":
                reads, embeds = reads + ("generator" in scorers), embeds + ("embedder" in scorers)
            made += Work(reads * causal * texts * (read + length))
            made += embedding_work(embeds * (texts + 1), max(read, length))
        return made

    def repetition(self, seed: int) -> Mapping[str, Any]:
        return {"draft": seed, "report": False}

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Raises `InputError` for settings that differ by thought: a pool has other thoughts than the result."""
        stages = Stages.parse(self.Options.model_validate(request.options))
        if stages.after[-1:] == ("select",) and request.n > stages.keep:
            raise InputError(f"{request.n} thoughts of {stages.keep} selected ones.", "Pass a larger keep (--option).")
        for name in ("temperature", "top_k", "top_p", "min_p", "top_nsigma"):
            if isinstance(getattr(request, name), tuple) and stages.after:
                raise InputError(f"hybrid takes one {name} for all thoughts.", "Pass one value.")
        if request.grammar is not None:
            _require_guided(stages)
        made, facts = _Run(engine, prompt, request, stages).thoughts()
        named = [
            dataclasses.replace(thought, seed=seed, origin={**thought.origin, "thinker": self.name})
            for thought, seed in zip(made, request.seeds, strict=False)  # a thinker may have fewer to give
        ]
        return named, facts


@dataclasses.dataclass(frozen=True, slots=True)
class Stages:
    """A pipeline, read and checked. generator: a thinker; after it select, noise and renoise in any order. drafts:
    texts that every stage but the last makes; keep: how many a selection leaves."""

    generator: str
    after: tuple[str, ...]
    drafts: int
    keep: int

    @classmethod
    def parse(cls, options: HybridThinker.Options) -> Stages:
        """From the thinker's options. Raises `InputError`, `UnknownName`."""
        names = [part.strip() for part in options.stages.split(">", MOST_STAGES)]
        if not names[0]:
            raise InputError(f"stages is {options.stages!r}.", f'Pass stages="{DEFAULT_STAGES}".')
        if len(names) > MOST_STAGES:
            raise InputError(f"stages names over {MOST_STAGES} stages.", f'Pass stages="{DEFAULT_STAGES}".')
        generators = [name for name in thinker_names() if name != "hybrid"]
        if names[0] not in generators:
            raise UnknownName("first stage", names[0], generators)
        for name in names[1:]:
            if name not in {"select", *REFINERS}:
                raise UnknownName("later stage", name, ("select", *REFINERS))
        drafts = options.drafts
        keep = max(1, drafts // 2) if options.keep is None else options.keep
        if keep > drafts:
            raise InputError(f"keep is {keep} of {drafts} drafts.", f"Pass keep=1 to {drafts}, or more drafts.")
        return cls(names[0], tuple(names[1:]), drafts, keep)

    @property
    def selects(self) -> bool:
        return "select" in self.after

    def texts(self, n: int) -> int:
        """Texts that are generated in all for n thoughts: with equal budgets, what each may be long."""
        own = self.generator == "noise"  # which drafts once more
        if not self.after:
            return n + own
        made = own + self.drafts + sum(self.drafts for name in self.after[:-1] if name in REFINERS)
        return made + (n if self.after[-1] in REFINERS else 0)


def _shared_options(thinker: Thinker, options: HybridThinker.Options) -> ThinkerOptions:
    """Of the first stage: what both have in common and was given."""
    shared = options.model_fields_set & set(NoiseOptions.model_fields) & set(thinker.Options.model_fields)
    return thinker.Options(**{name: getattr(options, name) for name in shared})


def _require_guided(stages: Stages) -> None:
    """Raises `InputError` where a stage would write what a grammar does not hold."""
    for name in (stages.generator, *stages.after):
        if name == "renoise" or (name in thinker_names() and not get_thinker(name).guided):
            raise InputError(f"The stage {name} holds its texts to no grammar.", f"Pass stages={DEFAULT_STAGES!r}.")


class _Run:
    """One call: a pool of texts is drafted, selected, refined and measured, stage by stage."""

    def __init__(self, engine: Engine, prompt: Prompt, request: Request, stages: Stages) -> None:
        self.engine, self.prompt, self.request, self.stages = engine, prompt, request, stages
        self.options = HybridThinker.Options.model_validate(request.options)
        self.causal = Capability.LEFT_TO_RIGHT in engine.capabilities
        if "by" not in self.options.model_fields_set and Capability.WEIGHTS not in engine.capabilities:
            self.options = self.options.model_copy(update={"by": "relevance"})
        require(engine, get_thinker(stages.generator).needs, f"The stage {stages.generator}")
        if stages.selects and "generator" in SCORERS[self.options.by] and self.causal:
            local_model(engine, f"by={self.options.by}")  # refused before anything is drafted
        rewrites = "noise" in stages.after and self.causal
        self.disturbances = disturbances(self.options, lambda: self.embedder) if rewrites else []
        self.judge = self._judge()
        renoises = "renoise" in stages.after or ("noise" in stages.after and not self.causal)
        self.mask_predictor = self._mask_predictor() if renoises else None
        self.progress = _Progress(request, stages.texts(request.n) * request.max_new_tokens)
        self.facts: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []  # of each stage, what it gave

    @cached_property
    def embedder(self) -> TextEmbedder:
        return (self.request.embedder or packaged_embedder)()

    def _judge(self) -> LanguageModel | EndpointJudge | None:
        from thoughtmix.models import load_model

        if self.options.judge is not None:
            return load_model(self.options.judge)
        return self.request.judge() if self.request.judge is not None else None

    def _mask_predictor(self) -> DiffusionModel:
        from thoughtmix.diffusion.load import load_diffusion, wrap_diffusion

        name = self.options.mask_model
        if name is None and not self.causal:
            model = local_model(self.engine, "renoise").model
            return wrap_diffusion(model.model, model.tokenizer, model.name)
        return load_diffusion(name)

    def thoughts(self) -> Thoughts:
        """n thoughts, and facts with `stages`. Interrupted midway: what the pool holds, as cancelled thoughts."""
        names = (self.stages.generator, *self.stages.after)
        pool: list[Thought] = []
        facts: Mapping[str, Any] = {}
        for i, name in enumerate(names):
            last = i == len(names) - 1
            self.progress.next_stage(last)
            if name == "select":
                pool, facts = self._select(pool), {}
            elif i == 0:
                pool, facts = self._generate(last)
            else:
                pool, facts = self._refine(pool, name, last)
            if facts.get("interrupted"):
                return self._stopped(pool, last), {**self.facts, **facts}
            if not last:
                pool = [t for t in pool if "error" not in t.origin] or pool  # what an endpoint failed to write
            self._measure(name, pool, facts)
        if names[-1] == "select":
            pool = [pool[seed % len(pool)] for seed in self.request.seeds]
        selected_by = self.options.by if self.stages.selects else None
        return pool, {**self.facts, "stages": self.rows, "selected_by": selected_by, "interrupted": False}

    def _under(self, last: bool, options: ThinkerOptions) -> Request:
        """The request of one stage: the thoughts' own seeds in the last, the pool's before."""
        on_step = self.progress.on_step if self.request.on_step else None
        request = dataclasses.replace(self.request, on_step=on_step, options=options)
        return request if last else dataclasses.replace(request, n=self.stages.drafts, seed=self.options.draft)

    def _generate(self, last: bool) -> Thoughts:
        thinker = get_thinker(self.stages.generator)
        options = _shared_options(thinker, self.options)
        return thinker.think(self.engine, self.prompt, self._under(last, options))

    def _refine(self, pool: Sequence[Thought], name: str, last: bool) -> Thoughts:
        """Each seed's text of the pool, disturbed by that seed."""
        request = self._under(last, ThinkerOptions())
        own = [pool[seed % len(pool)] for seed in request.seeds]
        if request.creativity == 0 or not any(t.text.strip() for t in pool):
            return own, {}
        if self.mask_predictor is not None and (name == "renoise" or not self.causal):
            return self._renoise(own, request, self.mask_predictor)
        ideas = [Idea.from_thought(t, self.engine) for t in own]
        return rewrite(self.engine, ideas, self.disturbances, request, before=self.prompt, thinker="hybrid")

    def _renoise(self, own: Sequence[Thought], request: Request, model: DiffusionModel) -> Thoughts:
        from thoughtmix.noise.denoising import renoise_texts

        temperature = request.temperature if request.temperature is not None else request.creativity
        assert not isinstance(temperature, tuple), "refused by the thinker"
        warm, texts = 1.0 if temperature is None else temperature, [t.text for t in own]
        try:
            if not isinstance(self.engine, LocalModelEngine):
                return renoise_texts(model, texts, request.seeds, self.options.level, temperature=warm)
            with self.engine.exclusive():
                return renoise_texts(model, texts, request.seeds, self.options.level, temperature=warm)
        except InputError as error:  # a draft, not the user, says what the mask predictor cannot read
            hint = "Name one that can: --option mask_model=... (or drop renoise)."
            raise InputError(error.message, hint) from None

    def _select(self, pool: Sequence[Thought]) -> list[Thought]:
        """The best of the pool, in the order picked."""
        from thoughtmix.metrics.embedding import pairwise_distances, relevance

        keep, by, texts = min(self.stages.keep, len(pool)), self.options.by, [t.text for t in pool]
        if by == "likelihood":
            return _top(pool, self._likelihood(texts), keep)
        prompt, vectors = self._embedded(texts)
        if by == "relevance":
            return _top(pool, relevance(vectors, prompt).tolist(), keep)
        distances = tuple(tuple(float(v) for v in row) for row in pairwise_distances(vectors))
        values = self._likelihood(texts) if by == "both" else [0.0] * len(pool)
        scored = tuple(t.with_scores(picked=v) for t, v in zip(pool, values, strict=True))
        return list(ThoughtSet(self.prompt.text, scored, distances=distances).select(keep, "picked"))

    def _embedded(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """Unit vectors of the prompt (d,) and the texts (n, d)."""
        vectors = self.embedder.encode([self.prompt.text or ".", *(t.strip() or "." for t in texts)])
        return vectors[0], vectors[1:]

    def _likelihood(self, texts: Sequence[str]) -> list[float]:
        local = local_model(self.engine, "by=likelihood")
        with local.exclusive():
            return _likelihood(local.model, local.encode(self.prompt), texts)

    def _measure(self, stage: str, pool: Sequence[Thought], facts: Mapping[str, Any]) -> None:
        """Add up what the stage cost, and measure what it gave.

        quality: likelihood (nats a token under the generator), relevance (cosine to the prompt), judge (nats a token
        under another model, or P(yes) of one at an endpoint, if there is one). diversity: distance (mean 1 - cosine
        over pairs), distinct_2. All higher is better. What needs a scorer that selected is left out."""
        from thoughtmix.metrics.embedding import mean_distance, relevance
        from thoughtmix.metrics.judge import judge_nll
        from thoughtmix.metrics.text import distinct_n

        self.facts = add_facts(self.facts, facts) if self.facts else dict(facts)
        row: dict[str, Any] = {"stage": stage, "texts": len(pool), "tokens": int(facts.get("tokens", 0))}
        self.rows.append(row)
        if not self.options.report:
            return
        texts = [t.text for t in pool]
        selected = SCORERS[self.options.by] if self.stages.selects else frozenset()
        quality: dict[str, float] = {}
        diversity: dict[str, float] = {"distinct_2": distinct_n(texts, 2)}
        if "embedder" not in selected:
            prompt, vectors = self._embedded(texts)
            quality["relevance"] = float(relevance(vectors, prompt).mean())
            diversity["distance"] = mean_distance(vectors)
        if "generator" not in selected and self.causal and isinstance(self.engine, LocalModelEngine):
            quality["likelihood"] = _mean(self._likelihood(texts))
        if isinstance(self.judge, EndpointJudge):
            said = [p for p in self.judge.probabilities(self.prompt.text, texts) if p is not None]
            quality |= {"judge": _mean(said)} if said else {}
        elif self.judge is not None:
            quality["judge"] = -float(judge_nll(self.prompt.text, texts, self.judge).mean())
        row["quality"] = {k: round(v, 4) for k, v in quality.items()}
        row["diversity"] = {k: round(v, 4) for k, v in diversity.items()}

    def _stopped(self, pool: Sequence[Thought], last: bool) -> list[Thought]:
        if last:
            return list(pool)
        return [dataclasses.replace(pool[s % len(pool)], finish="cancelled") for s in self.request.seeds]


def _likelihood(model: LanguageModel, prompt_ids: Sequence[int], texts: Sequence[str]) -> list[float]:
    """Log-likelihood of a token of each text as an answer to the prompt, in nats: alike for drafts and for what was
    rewritten under another prompt. Raises `InputError` for a model that does not read from left to right."""
    from thoughtmix.metrics.judge import ids_nll

    return [-float(v) for v in ids_nll(prompt_ids, texts, model)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _top(pool: Sequence[Thought], values: Sequence[float], keep: int) -> list[Thought]:
    order = sorted(range(len(pool)), key=lambda i: -values[i])
    return [pool[i] for i in order[:keep]]


class _Progress:
    """The engine's events of one stage after another as those of one run; only the last stage shows text."""

    def __init__(self, request: Request, total: int) -> None:
        self.request, self.total, self.before, self.done = request, total, 0, 0
        self.last = False

    def next_stage(self, last: bool) -> None:
        self.before += self.done
        self.done, self.last = 0, last

    def on_step(self, event: StepEvent) -> None:
        assert self.request.on_step is not None
        self.done = event.done
        n = self.request.n
        pieces, finished = (event.pieces, event.finished) if self.last else ([""] * n, [False] * n)
        self.request.on_step(StepEvent(pieces, self.before + event.done, self.total, finished))


THINKER = HybridThinker()
