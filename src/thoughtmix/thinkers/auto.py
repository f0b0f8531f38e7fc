"""The rule that chooses for the user: by engine, by what is asked for, by the settings of the call. docs/ways.md has
the table that it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from thoughtmix.asking.conversation import is_text
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.core.options import ThinkerOptions
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Engine, TokenEngine
from thoughtmix.thinkers.base import Thinker, Thoughts, Work
from thoughtmix.thinkers.registry import auto_thinker, get_thinker

_HERE, _ELSEWHERE, _ELSE = "pool", "list", "sampling"
"""Where one of several names is asked for, of a model in this process and of one elsewhere; and for all the rest.
Of a model in this process a pool makes sentences, too."""
_WHY = {
    "name": "it asks for one of several names",
    "phrase": "it asks for one of several phrases",
    "sentence": "it asks for a sentence or more",
    "one": "it asks for one answer, not for one of several",
    "long": "it asks for a text, or for what no rule knows",
}


class AutoThinker(Thinker):
    name = "auto"
    summary = "Chooses: a pool where names, titles, sentences or one right answer are asked for, else plain sampling."
    creativity_is_temperature = True

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return max(thinker.texts(n, thinker.Options()) for thinker in _candidates())

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        works = [thinker.work(engine, n, read, length, thinker.Options()) for thinker in _candidates()]
        return Work(max(work.tokens for work in works), max(work.side for work in works))

    def resolve(self, engine: Engine, prompt: Prompt, request: Request) -> tuple[Thinker, Request, Mapping[str, Any]]:
        chosen, why = choose_thinker(engine, prompt, request)
        request = dataclasses.replace(request, options=chosen.Options())
        return chosen, request, {"chosen": {"thinker": chosen.name, "why": why}}

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        chosen, request, facts = self.resolve(engine, prompt, request)
        thoughts, more = chosen.think(engine, prompt, request)
        return thoughts, {**more, **facts}


def choose_thinker(engine: Engine, prompt: Prompt, request: Request) -> tuple[Thinker, str]:
    """The thinker for a request, and why in a few words.

    1. A model that was made for a thinker (a mixture, a graft, a mask predictor) has that one.
    2. Plain sampling, whose thought i is its seed's own, where only that can serve: one thought, a grammar, a setting a
       thought, creativity or temperature 0, a raw prompt, a model without turns, a conversation of several turns.
    3. Where one of several names or titles is asked for (`asking.question`): a pool, or one list of an endpoint, which
       then reads and writes least.
    4. Where one of several sentences is asked for, of a model in this process: a pool, which draws some more than are
       wanted and keeps the sound ones. They differ as much as sampled ones, and fewer are cut, repeat or say nothing.
    5. Where a question has one right answer, of a model in this process: a pool, too, which asks for short ones, draws
       them at a low temperature, and says what most of them say.
    6. Plain sampling for the rest: long texts, languages that the rule does not read.
    """
    made = auto_thinker(engine)
    if made.name != _ELSE:
        return made, "the model is made for it"
    if why := _only_sampling(engine, prompt, request):
        return made, why
    kind, here = kind_of_answer(prompt.text), isinstance(engine, TokenEngine)
    if kind in {"name", "phrase"} or (kind in {"sentence", "one"} and here):
        return get_thinker(_HERE if here else _ELSEWHERE), _WHY[kind]
    return made, _WHY[kind]


def _only_sampling(engine: Engine, prompt: Prompt, request: Request) -> str:
    """Why nothing but sampling can serve; empty: others can."""
    each = (request.temperature, request.top_k, request.top_p, request.min_p, request.top_nsigma)
    turns = [message for message in prompt.messages if message.get("role") != "system"]
    reasons = {
        "one thought is asked for": request.n == 1,
        "texts are held to a grammar": request.grammar is not None,
        "thoughts have settings of their own": any(isinstance(value, (tuple, list)) for value in each),
        "nothing is to be drawn": 0 in {request.creativity, request.temperature},
        "the text is to go on": is_text(engine, prompt),
        "it is a conversation": len(turns) > 1,
    }
    return next((why for why, holds in reasons.items() if holds), "")


def _candidates() -> list[Thinker]:
    return [get_thinker(name) for name in (_HERE, _ELSEWHERE, _ELSE)]


THINKER = AutoThinker()
