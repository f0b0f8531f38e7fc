"""n answers in one generation: the model sees what it has said, and is asked for something else each time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thoughtmix.asking.answers import ListedAnswer
from thoughtmix.asking.conversation import TURN, short_prompt
from thoughtmix.asking.draws import DrawOptions
from thoughtmix.asking.enumerating import DEMONSTRATION, Form, ListRequest, enumerate_answers
from thoughtmix.asking.progress import Progress
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, SequenceRequest
from thoughtmix.engine.requests import as_thoughts, one_sampling, run_facts
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, add_facts, one_temperature, sum_facts

DEFAULT_TEMPERATURE = 1.0
_LISTS = 4


class ListThinker(Thinker):
    name = "list"
    summary = "n different answers in one generation, taken apart; creativity is the temperature."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "draws=arithmetic is refused"
    elsewhere = "parts have no likelihood of their own; draws=arithmetic and branches are refused"

    class Options(DrawOptions):
        form: Form = option(
            "plain",
            "How the list is written: plain (numbered), json, or verbalized (JSON with stated probabilities)",
            served=True,
        )
        demonstrations: int | None = option(
            None,
            "Lists that are shown before (left out: two where a name is asked for, which small models need, else none)",
            served=True,
            ge=0,
            le=2,
        )
        chains: int | None = option(
            None,
            "Lists that are written side by side, each of a part of the n (left out: four of a model in this process, "
            "since small models copy what stands in a long one; one elsewhere)",
            served=True,
            served_max="thoughts",
            ge=1,
        )
        rounds: int = option(3, "How often a list may be asked for, or for what it lacks", served=True, ge=1, le=16)
        distinct: bool = option(True, "Leave out what another of the lists has, too", served=True)
        fill: bool = option(True, "Ask for what no list gave by itself", served=True)

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        given = self.Options.model_validate(options)
        chains = _chains(engine, given, n)
        first = chains * (read + (2 if given.demonstrations is None else given.demonstrations) * DEMONSTRATION)
        more = (given.rounds - 1) * chains * TURN
        kept = Capability.PREFIXES in engine.capabilities and not given.branches
        again = 0 if kept else (given.rounds - 1) * (first + n * length)
        return Work(read + first + n * length + more + again)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Answers of one list are not independent: here the *set* depends on (prompt, settings, seed) alone, where n
        is one of the settings. `Thought.seed` is the set's seed; `origin` has the answer's list and its place in it.

        All rounds together draw n * max_new_tokens tokens at most. A thought's tokens and log-probabilities are those
        of its part of the list, given all that stands before; where a part maps onto no tokens, it has none.
        """
        options = self.Options.model_validate(request.options)
        sampling = one_sampling(request, one_temperature(request, self.name, DEFAULT_TEMPERATURE), self.name)
        chains = _chains(engine, options, request.n)
        counts = [request.n // chains + (i < request.n % chains) for i in range(chains)]
        tokens = request.n * request.max_new_tokens
        progress = Progress(request, tokens)
        asked = ListRequest(
            prompt=prompt,
            seed=request.seed,
            sampling=sampling,
            tokens=tokens,
            form=options.form,
            shown=options.demonstrations,
            rounds=options.rounds,
            stop=request.stop,
            draws=options,
            distinct=options.distinct,
        )
        made = enumerate_answers(engine, asked, counts, progress)
        origin = {"thinker": self.name, "form": options.form, "temperature": sampling.temperature}
        thoughts = [
            _thought(answer, request.seed, {**origin, "list": i})
            for answer, i in sorted(
                ((answer, i) for i, answers in enumerate(made.lists) for answer in answers),
                key=lambda pair: (pair[0].position, pair[1]),
            )
        ]
        facts = {**sum_facts(made.runs), "rounds": len(made.runs)}
        if options.fill and len(thoughts) < request.n and made.tokens_left and not facts["interrupted"]:
            more, spent = _alone(engine, prompt, request, sampling, len(thoughts), made.tokens_left, progress)
            thoughts += [replace(t, origin={**origin, **t.origin}) for t in more]
            facts = {**add_facts(facts, spent), "alone": len(more)}
        progress.finish([t.text for t in thoughts])
        return thoughts, {**facts, "missing": request.n - len(thoughts)}


def _chains(engine: Engine, options: ListThinker.Options, n: int) -> int:
    here = isinstance(engine, LocalModelEngine)
    return min(options.chains or (_LISTS if here else 1), n)


def _thought(answer: ListedAnswer, seed: int, origin: dict[str, Any]) -> Thought:
    stated = {} if answer.probability is None else {"probability": answer.probability}
    return Thought(
        answer.text,
        answer.token_ids,
        seed,
        float(sum(answer.logprobs)) if answer.logprobs else None,
        answer.finish,
        answer.logprobs,
        {**origin, "position": answer.position, **stated},
    )


def _alone(
    engine: Engine,
    prompt: Prompt,
    request: Request,
    sampling: SamplingParams,
    have: int,
    tokens: int,
    progress: Progress,
) -> Thoughts:
    """What no list gave, as answers of their own, of what tokens are left, with a hint at their length."""
    prompt = short_prompt(engine, prompt)
    missing = min(request.n - have, tokens)
    each = min(request.max_new_tokens, tokens // missing)
    seeds = request.seeds[have : have + missing]
    landing = int(request.landing * each)
    asked = [SequenceRequest(prompt, seed, sampling, each, request.stop, landing=landing) for seed in seeds]
    done = engine.generate(asked, on_step=progress.on_step)
    return as_thoughts(done.outputs, seeds, [{"form": "alone"}] * missing), run_facts(done)


THINKER = ListThinker()
