"""More answers than are wanted, drawn in one batch. Short ones that agree are joined, and the most agreed upon kept; of
long ones those that are sound and differ most. Of a question with one right answer: which one most of them give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from thoughtmix.asking.agreement import Group, Rank, group_answers
from thoughtmix.asking.conversation import PARAGRAPH, is_text, restated, short_prompt
from thoughtmix.asking.drafts import keep_sound
from thoughtmix.asking.draws import Draws, arithmetic_offsets
from thoughtmix.asking.one_answer import most_say
from thoughtmix.asking.progress import Progress
from thoughtmix.asking.question import Kind, kind_of_answer, tells_about
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, require
from thoughtmix.engine.requests import as_thoughts, one_sampling, run_facts, sampling_params, thought_sequences
from thoughtmix.thinkers.base import (
    Thinker,
    Thoughts,
    Work,
    add_facts,
    embedding_work,
    one_temperature,
    packaged_embedder,
)
from thoughtmix.thinkers.registry import get_thinker

DEFAULT_TEMPERATURE = {"agreed": 0.9, "sound": 1.0, "all": 0.5}  # by what is kept
_GRAFTED = 1.1  # of short answers by a graft: docs/results/known-answers.md
_DRAFTS = 1.5  # texts of full length for each that is wanted, at sampling's own temperature
_FACTOR = {"list": 4, "sampling": 3, "mixture": 3, "iterate": 4, "plan": 2}
_SENTENCE, _PHRASE = 48, 20  # tokens of an answer that a hint keeps short, at most
_NAME = 24  # of a name in a list: one list that rambles on would keep all others waiting for its end
_LEAST, _WARMER = 4, 0.3  # tokens a name of a second draw, at least, and how much warmer that is
_EXAMPLES = 4096  # tokens of all contexts' examples, at most


@dataclasses.dataclass(frozen=True, slots=True)
class _Chosen:
    """The options, with what auto came to."""

    given: PoolThinker.Options
    source: str
    factor: float
    keep: Literal["agreed", "sound", "all"] = "agreed"

    @property
    def sound(self) -> bool:
        """Whether texts of full length are drawn, and the sound ones kept."""
        return self.keep == "sound"

    def drawn(self, n: int) -> int:
        """Answers in all, for n that are wanted."""
        return math.ceil(n * self.factor)

    def source_options(self, engine: Engine) -> ThinkerOptions:
        """The source's own options: drawn apart where it can; lists that need not differ from each other, since it is
        counted how often they agree."""
        own: dict[str, Any] = {"draws": self.draws(engine)}
        if self.source == "iterate":
            own["chains"] = math.ceil(self.factor)
        if self.source == "plan":
            own |= {"source": "ideas", "factor": 1}
        if self.source == "list":
            own |= {"chains": self.given.lists, "distinct": False, "rounds": 1, "fill": False}
        return get_thinker(self.source).Options(**own)

    def draws(self, engine: Engine) -> Draws:
        if self.given.draws != "auto":
            return self.given.draws
        apart = Capability.ARITHMETIC in engine.capabilities and self.source in {"sampling", "mixture"}
        return "arithmetic" if apart else "independent"


class PoolThinker(Thinker):
    name = "pool"
    summary = "Draws several times n answers; keeps short ones that agree, of long ones the sound and most different."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "draws=arithmetic is refused"
    elsewhere = "source=mixture and draws=arithmetic are refused"

    class Options(ThinkerOptions):
        source: Literal["auto", "sampling", "mixture", "list", "iterate", "plan"] = option(
            "auto",
            "The thinker that draws; auto: list where a name is asked for, else sampling; plan: an idea for each first",
            served=True,
        )
        factor: float | None = option(
            None,
            f"Answers drawn for each that is wanted (left out: {_FACTOR['list']} in lists, {_DRAFTS} where keep is "
            f"sound, else {_FACTOR['sampling']})",
            served=True,
            ge=1,
            le=16,
        )
        lists: int = option(
            8, "Lists that source=list writes them in, side by side", served=True, served_max="thoughts", ge=1
        )
        draws: Literal["auto", "independent", "arithmetic"] = option(
            "auto", "How they are drawn: auto is arithmetic (apart) where the engine can", served=True
        )
        examples: Literal["none", "short", "long"] = option(
            "none", "Show examples of answers first, short or long ones, which small models take as a rule", served=True
        )
        group: Group = option(
            "auto", "Which answers agree: words, the same but for case and the like; embedding, near ones", served=True
        )
        rank: Rank = option(
            "relevance",
            "What decides between short answers that equally many agree on: nearness to the prompt, or likelihood",
            served=True,
        )
        keep: Literal["auto", "agreed", "sound", "all"] = option(
            "auto",
            "What is kept: agreed, the answers that most agree on, which are asked to be short; sound, of texts of "
            "full length the most different that are whole, repeat nothing and keep to the prompt; all: as many short "
            "ones as are wanted, first those that say what most say; auto: sound where a sentence or more is asked "
            "for, all where one right answer is",
            served=True,
        )
        near: float = option(0.15, "Distance (1 - cosine) below which two answers agree", served=True, gt=0, lt=2)

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return max(
            get_thinker(own.source).texts(own.drawn(n), get_thinker(own.source).Options())
            for own in self._possible(options)
        )

    def _possible(self, options: ThinkerOptions) -> list[_Chosen]:
        own = self.Options.model_validate(options)
        sources = ("list", "sampling") if own.source == "auto" else (own.source,)
        return [_Chosen(own, source, own.factor or _FACTOR[source]) for source in sources]

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        works = []
        for own in self._possible(options):
            drawn = get_thinker(own.source).work(engine, own.drawn(n), read, length, own.source_options(engine))
            shown = Work(_EXAMPLES) if own.given.examples != "none" else Work()
            if own.source == "list":  # a second draw reads all of it again, and writes what the first left
                shown += get_thinker("list").work(engine, own.drawn(n), read, 0, own.source_options(engine))
            works.append(drawn + shown + embedding_work(own.drawn(n) * (own.given.group != "words"), length))
        return Work(max(work.tokens for work in works), max(work.side for work in works))

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Thoughts are chosen beside each other: here the *set* depends on (prompt, settings, seed) alone, where n is
        one of the settings. `Thought.seed` is the seed by which its source drew it.

        How many agree ranks them, then their nearness to the prompt by the request's embedder (or their likelihood);
        what only repeats the prompt comes last. Lists that name fewer things than are wanted are drawn once more. Long
        answers (over five words) agree when the request's embedder finds them near, and of their groups the most
        different good ones are kept (`core.selection.select_good`): what that embedder then reports of the set, it has
        had a hand in, and `run["pool"]["grouped_by"]` says so. Of texts of full length (keep=sound) it has chosen, too,
        and `run["pool"]["left_out"]` counts why others were left out.
        """
        options = self.Options.model_validate(request.options)
        own = _chosen(prompt, options)
        names = own.keep == "agreed" and own.source == "mixture"
        warm = one_temperature(request, self.name, _GRAFTED if names else DEFAULT_TEMPERATURE[own.keep])
        one_sampling(request, warm, self.name)  # refuses what differs by thought
        many = dataclasses.replace(
            request,
            n=own.drawn(request.n),
            temperature=warm,
            creativity=None,
            options=ThinkerOptions(),
            on_step=None,
        )
        progress = Progress(request, many.n * many.max_new_tokens)
        many = dataclasses.replace(many, on_step=progress.on_step)
        drawn, facts = _draw(engine, prompt, many, own)
        whole = _answers(drawn, prompt, request.n, own)
        if not whole and own.source == "list" and options.source == "auto":  # it copied the demonstrations
            own = dataclasses.replace(own, source="sampling")
            drawn, more = _draw(engine, prompt, many, own)
            whole, facts = _answers(drawn, prompt, request.n, own), add_facts(facts, more)
        if not whole:
            return drawn[: request.n], facts
        embedder = request.embedder or packaged_embedder
        pool: dict[str, Any] = {}
        if own.keep == "all":
            kept = [_named(t, self.name, own.source, **more) for t, more in _as_most_say(prompt.text, whole)]
        elif own.keep == "sound":
            sound, pool["left_out"] = keep_sound(whole, request.n, prompt.text, embedder)
            kept = [_named(t, self.name, own.source) for t in sound]
        else:
            rank: Rank = "likelihood" if options.group == "words" else options.rank
            how = (options.group, options.near, embedder, prompt.text, rank)
            agreement = group_answers(whole, *how)
            again = _second(many, own, facts) if len(agreement.groups) < request.n else None
            if again is not None:
                others, more = _draw(engine, prompt, again, own)
                drawn, facts = [*drawn, *others], add_facts(facts, more)
                agreement = group_answers(_answers(drawn, prompt, request.n, own), *how)
            pool = {"groups": len(agreement.groups), "grouped_by": agreement.grouped_by}
            kept = [_named(t, self.name, own.source, agreement=count) for t, count in agreement.best(request.n)]
        thoughts = kept[: request.n]
        progress.finish([t.text for t in thoughts])
        return thoughts, {**facts, "pool": {"drawn": len(drawn), **pool}, "missing": request.n - len(thoughts)}


def _draw(engine: Engine, prompt: Prompt, many: Request, own: _Chosen) -> Thoughts:
    """What the source draws, asked as suits the prompt. Raises `InputError`."""
    source = get_thinker(own.source)
    if own.given.examples != "none":
        return _after_examples(engine, prompt, many, own)
    require(engine, source.needs, f"source={source.name}")
    long = own.sound or own.source in {"list", "iterate", "plan"}
    asked = prompt if long else short_prompt(engine, prompt)
    kind = kind_of_answer(prompt.text)
    if asked is not prompt:
        many = _short(many, kind)
    elif kind == "name" and not own.sound:
        many = dataclasses.replace(many, max_new_tokens=min(many.max_new_tokens, _NAME))
    drawn, facts = source.think(engine, asked, dataclasses.replace(many, options=own.source_options(engine)))
    short = kind in {"name", "phrase"} and not own.sound
    return [_unquoted(t) for t in drawn] if short else drawn, facts


def _answers(drawn: Sequence[Thought], prompt: Prompt, n: int, own: _Chosen) -> list[Thought]:
    """Those that say something, and, while there are n others, do not only tell about what is asked for."""
    whole = [t for t in drawn if t.text.strip() and "error" not in t.origin]
    answers = [t for t in whole if own.keep != "agreed" or not tells_about(prompt.text, t.text)]
    return answers if len(answers) >= n else whole


def _second(many: Request, own: _Chosen, facts: Mapping[str, Any]) -> Request | None:
    """Another draw, warmer, by the seeds behind and of the tokens that are left, where lists named too few things; None
    where too few are left."""
    left = (many.n * min(many.max_new_tokens, _NAME) - int(facts.get("tokens", 0))) // many.n
    if own.source != "list" or left < _LEAST:
        return None
    assert isinstance(many.temperature, (int, float))  # one for all: `one_sampling`
    return dataclasses.replace(
        many, seed=many.seed + many.n, temperature=many.temperature + _WARMER, max_new_tokens=left
    )


def _named(thought: Thought, thinker: str, source: str, **more: Any) -> Thought:
    return dataclasses.replace(thought, origin={**thought.origin, "thinker": thinker, "source": source, **more})


def _as_most_say(prompt: str, drawn: list[Thought]) -> list[tuple[Thought, dict[str, int]]]:
    """All of them, first those that give the answer that most give, each with how many do, and stock phrases last."""
    _, which = most_say(prompt, [t.text for t in drawn])
    same = [(t, {"agreement": sum(which)}) for t, says in zip(drawn, which, strict=True) if says]
    others = [t for t, says in zip(drawn, which, strict=True) if not says]
    return [*same, *((t, {}) for t in sorted(others, key=lambda t: is_stock_phrase(t.text)))]


def _short(many: Request, kind: Kind) -> Request:
    """With room for a sentence, which ends in the second half of it; or for a phrase, which ends with its line."""
    if kind == "phrase":
        length = min(many.max_new_tokens, _PHRASE)
        return dataclasses.replace(many, max_new_tokens=length, landing=0.0, stop=(*many.stop, "\n"))
    length = min(many.max_new_tokens, _SENTENCE)
    return dataclasses.replace(many, max_new_tokens=length, landing=max(many.landing, 0.5) if many.landing else 0.0)


def _unquoted(thought: Thought) -> Thought:
    """A phrase without the quotation marks around it."""
    return dataclasses.replace(thought, text=thought.text.strip(' "“”'))


def _chosen(prompt: Prompt, options: PoolThinker.Options) -> _Chosen:
    """What draws: lists where a name is asked for, whose items are short and known; the rest is invented one by one,
    since a small model copies the items of its list. With examples: sampling."""
    source, keep = options.source, options.keep
    kind = kind_of_answer(prompt.text)
    told = options.examples == "none" and options.group == "auto"
    if keep == "auto" and told and kind == "one" and source == "auto":
        keep = "all"
    if source == "auto":
        names = kind in {"name", "one"} and keep not in {"sound", "all"} and options.examples == "none"
        source = "list" if names else "sampling"
    if keep == "auto":
        texts = told and kind in {"sentence", "long"} and source in {"sampling", "mixture", "plan"}
        keep = "sound" if texts else "agreed"
    factor = options.factor or {"sound": _DRAFTS, "all": 1.0}.get(keep, _FACTOR[source])
    return _Chosen(options, source, factor, keep)


def _after_examples(engine: Engine, prompt: Prompt, many: Request, own: _Chosen) -> Thoughts:
    """Answer i after the examples of context i, in turns: those that taught the packaged graft. Raises `InputError`."""
    from thoughtmix.graft.tuning.prompts import built_in_contexts

    if own.source != "sampling":
        raise InputError(
            f"source={own.source} shows examples of its own.", "Pass source=sampling, or leave out examples."
        )
    options = own.given
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
    offsets = arithmetic_offsets(engine, prompts, many.seeds, own.draws(engine))
    stop = (*many.stop, *(PARAGRAPH if is_text(engine, prompt) else ()))
    done = engine.generate(thought_sequences(many, prompts, params, offsets, stop), on_step=many.on_step)
    origins = [
        {"temperature": p.temperature, "context": contexts[s % len(contexts)].name}
        for s, p in zip(many.seeds, params, strict=True)
    ]
    return as_thoughts(done.outputs, many.seeds, origins), run_facts(done)


THINKER = PoolThinker()
