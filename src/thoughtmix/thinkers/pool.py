"""More answers than are wanted, drawn in one batch; those that agree are joined, and the most agreed upon are kept."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from thoughtmix.asking.agreement import Group, group_answers
from thoughtmix.asking.conversation import PARAGRAPH, is_text, restated
from thoughtmix.asking.draws import Draws, arithmetic_offsets
from thoughtmix.asking.progress import Progress
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, require
from thoughtmix.engine.requests import as_thoughts, one_sampling, run_facts, sampling_params, thought_sequences
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, embedding_work, one_temperature, packaged_embedder
from thoughtmix.thinkers.registry import get_thinker

DEFAULT_TEMPERATURE = 0.9
_EXAMPLES = 4096  # tokens of all contexts' examples, at most


class PoolThinker(Thinker):
    name = "pool"
    summary = "Draws several times n answers, joins those that agree, keeps the n most agreed upon."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "draws=arithmetic is refused"
    elsewhere = "source=mixture and draws=arithmetic are refused"

    class Options(ThinkerOptions):
        source: Literal["sampling", "mixture", "list", "iterate"] = option(
            "list", "The thinker that draws", served=True
        )
        factor: int = option(4, "Answers drawn for each that is wanted", served=True, ge=1, le=16)
        draws: Literal["auto", "independent", "arithmetic"] = option(
            "auto", "How they are drawn: auto is arithmetic (apart) where the engine can", served=True
        )
        examples: Literal["none", "short", "long"] = option(
            "none", "Show examples of answers first, short or long ones, which small models take as a rule", served=True
        )
        group: Group = option(
            "auto", "Which answers agree: words, the same but for case and the like; embedding, near ones", served=True
        )
        near: float = option(0.3, "Distance (1 - cosine) below which two answers agree", served=True, gt=0, lt=2)

    def texts(self, n: int, options: ThinkerOptions) -> int:
        own = self.Options.model_validate(options)
        source = get_thinker(own.source)
        return source.texts(n * own.factor, source.Options())

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        given = self.Options.model_validate(options)
        source, many = get_thinker(given.source), n * given.factor
        drawn = source.work(engine, many, read, length, _source_options(engine, given))
        shown = Work(_EXAMPLES) if given.examples != "none" else Work()
        return drawn + shown + (embedding_work(many, length) if given.group != "words" else Work())

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Thoughts are chosen beside each other: here the *set* depends on (prompt, settings, seed) alone, where n is
        one of the settings. `Thought.seed` is the seed by which its source drew it.

        How many agree ranks them, then their likelihood; no scorer that reports does. Long answers (over five words)
        agree when the request's embedder finds them near, and of their groups the most different good ones are kept
        (`core.selection.select_good`): what that embedder then reports of the set, it has had a hand in, and
        `run["pool"]["grouped_by"]` says so.
        """
        options = self.Options.model_validate(request.options)
        warm = one_temperature(request, self.name, DEFAULT_TEMPERATURE)
        one_sampling(request, warm, self.name)  # refuses what differs by thought
        many = dataclasses.replace(
            request,
            n=request.n * options.factor,
            temperature=warm,
            creativity=None,
            options=ThinkerOptions(),
            on_step=None,
        )
        progress = Progress(request, many.n * many.max_new_tokens)
        many = dataclasses.replace(many, on_step=progress.on_step)
        source, used = get_thinker(options.source), _source_options(engine, options)
        if options.examples == "none":
            require(engine, source.needs, f"source={source.name}")
            drawn, facts = source.think(engine, prompt, dataclasses.replace(many, options=used))
        else:
            drawn, facts = _after_examples(engine, prompt, many, options)
        whole = [t for t in drawn if t.text.strip() and "error" not in t.origin]
        if not whole:
            return drawn[: request.n], facts
        agreement = group_answers(whole, options.group, options.near, request.embedder or packaged_embedder)
        thoughts = [
            dataclasses.replace(t, origin={**t.origin, "thinker": self.name, "source": source.name, "agreement": count})
            for t, count in agreement.best(request.n)
        ]
        progress.finish([t.text for t in thoughts])
        pool = {"drawn": len(drawn), "groups": len(agreement.groups), "grouped_by": agreement.grouped_by}
        return thoughts, {**facts, "pool": pool, "missing": request.n - len(thoughts)}


def _source_options(engine: Engine, options: PoolThinker.Options) -> ThinkerOptions:
    """The source's own options: drawn apart where it can; lists that need not differ from each other, since it is
    counted how often they agree."""
    kind = get_thinker(options.source).Options
    own: dict[str, Any] = {"draws": _draws(engine, options)}
    if options.source in {"list", "iterate"}:
        own["chains"] = options.factor
    if options.source == "list":
        own["distinct"] = False
    return kind(**own)


def _draws(engine: Engine, options: PoolThinker.Options) -> Draws:
    if options.draws != "auto":
        return options.draws
    apart = Capability.ARITHMETIC in engine.capabilities and options.source in {"sampling", "mixture"}
    return "arithmetic" if apart else "independent"


def _after_examples(engine: Engine, prompt: Prompt, many: Request, options: PoolThinker.Options) -> Thoughts:
    """Answer i after the examples of context i, in turns: those that taught the packaged graft. Raises `InputError`."""
    from thoughtmix.graft.tuning.prompts import built_in_contexts

    if options.source != "sampling":
        raise InputError(
            f"source={options.source} shows examples of its own.", "Pass source=sampling, or leave out examples."
        )
    contexts = built_in_contexts()
    asked = [
        restated(
            engine,
            prompt,
            f"{prompt.text}\n\n{c.instruction}".strip(),
            c.open if options.examples == "long" else c.examples,
        )
        for c in contexts
    ]
    prompts = [asked[seed % len(asked)] for seed in many.seeds]
    params = sampling_params(many, many.temperature or 0.0)
    offsets = arithmetic_offsets(engine, prompts, many.seeds, _draws(engine, options))
    stop = (*many.stop, *(PARAGRAPH if is_text(engine, prompt) else ()))
    done = engine.generate(thought_sequences(many, prompts, params, offsets, stop), on_step=many.on_step)
    origins = [
        {"temperature": p.temperature, "context": contexts[s % len(contexts)].name}
        for s, p in zip(many.seeds, params, strict=True)
    ]
    return as_thoughts(done.outputs, many.seeds, origins), run_facts(done)


THINKER = PoolThinker()
