"""`Pipeline`: a model that is kept loaded, and what it makes of prompts.

Data flows one way: prompt -> engine -> thinker -> ThoughtSet -> metrics.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from thoughtmix.asking.one_answer import one_answer
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.batch.prompts import think_many
from thoughtmix.batch.records import Record
from thoughtmix.core.errors import InputError, Interrupted, ModelError
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.languages import NAMES, language_of
from thoughtmix.core.options import ThinkerOptions
from thoughtmix.core.request import LANDING, SETTINGS, Message, OnStep, Prompt, PromptLike, Request
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.engine.engine import Capability, Engine, TokenEngine, require
from thoughtmix.engine.named import model_name, named_engine
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.call import typed_options
from thoughtmix.thinkers.registry import as_thinker, auto_thinker, get_thinker, thinker_names

if TYPE_CHECKING:
    from thoughtmix.engine.local import LocalEngine
    from thoughtmix.models import Embedder, LanguageModel
    from thoughtmix.models.endpoint import Endpoint
    from thoughtmix.models.judge import EndpointJudge

AUTO = "auto"
"""The name of the thinker that chooses another for each prompt: what the command line takes unless told otherwise."""
PathName = Literal["auto", "fused", "shared", "expanded", "recompute"]
Weights = Literal["auto", "native", "fp16", "bf16"]


class Pipeline:
    """A loaded model that turns prompts into thought sets; call it as often as you like.

    Args:
        model: None for the default (SmolLM2-135M-Instruct), a local folder, a Hugging Face id, or a `LanguageModel`.
        dtype: auto (bfloat16 where the hardware multiplies it, else float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, ...
        weights: How the weights are multiplied by: auto, native (as loaded), fp16 (x86 CPUs) or bf16 (x86 CPUs that
            multiply it).
        path: The decoding path: auto, fused, shared, expanded or recompute (see `thoughtmix.engine.backends`).
        embedder: What measures how far thoughts lie apart; None for the packaged one.
        judge: A model that scores every thought's NLL, named like `model`, or an `Endpoint`, which is asked whether the
            answer is good; it should not be the generator.
        engine: "local", "endpoint" or "vllm", or any `Engine`, in place of `model`, `weights` and `path`. None: the
            endpoint where one is named, else local.
        engine_options: Of engine="vllm": arguments of `vllm.LLM`, such as tensor_parallel_size or max_model_len.
        endpoint: An OpenAI-compatible server, "http://host:port", "@profile" of the config file, or an `Endpoint`;
            `model` is then its model's name there (None: the first that it lists).
        on_progress: Called with a line for each long step of loading.

    Models are loaded at the first call.

    Raises:
        ModelError: A model cannot be loaded.
    """

    def __init__(
        self,
        model: str | LanguageModel | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        weights: Weights = "auto",
        path: PathName = "auto",
        embedder: str | Embedder | None = None,
        judge: str | LanguageModel | Endpoint | None = None,
        engine: str | Engine | None = None,
        engine_options: Mapping[str, Any] | None = None,
        endpoint: str | Endpoint | None = None,
        on_progress: Callable[..., None] | None = None,
    ) -> None:
        asked = model_name(model)
        made = named_engine(
            engine,
            asked,
            endpoint,
            engine_options,
            {"dtype": dtype, "device": device, "weights": weights, "path": path},
            on_progress,
        )
        self.asked = (asked, endpoint, judge)
        """Model, endpoint and judge as they were given."""
        self._model, self._embedder, self._judge, self._engine = asked, embedder, judge, made
        self.dtype, self.device, self.weights, self.path = dtype, device, weights, path
        self._on_progress = on_progress

    def _load(self, model: str | LanguageModel | None) -> LanguageModel:
        from thoughtmix.models import load_model

        if model is not None and not isinstance(model, str):
            return model
        return load_model(model, dtype=self.dtype, device=self.device, on_progress=self._on_progress)

    @cached_property
    def model(self) -> LanguageModel:
        """The generating model of a pipeline without an engine of its own."""
        if self._engine is not None:
            raise InputError(f"This pipeline has an engine ({self._engine.kind}) of its own.", "Ask the engine.")
        return self._load(self._model)

    @cached_property
    def engine(self) -> Engine:
        """What continues sequences: the engine that was given, else our own loop over `model`."""
        return self.local_engine if self._engine is None else self._engine

    @cached_property
    def local_engine(self) -> LocalEngine:
        """Our own loop over `model`."""
        from thoughtmix.engine.local import LocalEngine

        return LocalEngine(self.model, self.path, self.weights)

    @cached_property
    def judge(self) -> LanguageModel | EndpointJudge | None:
        """The judging model, if one was named."""
        from thoughtmix.models.endpoint import Endpoint
        from thoughtmix.models.judge import EndpointJudge

        if isinstance(self._judge, Endpoint):
            return EndpointJudge(self._judge)
        return None if self._judge is None else self._load(self._judge)

    @cached_property
    def embedder(self) -> Embedder:
        """What measures how far thoughts lie apart."""
        from thoughtmix.models import load_embedder

        if self._embedder is not None and not isinstance(self._embedder, str):
            return self._embedder
        return load_embedder(self._embedder, on_progress=self._on_progress)

    @overload
    def __call__(
        self, prompt: PromptLike, n: int = 8, thinker: str | Thinker | None = None, **settings: Any
    ) -> ThoughtSet: ...
    @overload
    def __call__(
        self,
        prompt: list[str] | tuple[str, ...] | list[list[Message]],
        n: int = 8,
        thinker: str | Thinker | None = None,
        **settings: Any,
    ) -> list[ThoughtSet]: ...
    def __call__(
        self,
        prompt: Any,
        n: int = 8,
        thinker: str | Thinker | None = None,
        *,
        raw: bool = False,
        measure: bool = True,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> ThoughtSet | list[ThoughtSet]:
        """n thoughts for one prompt, with the settings of `thoughtmix.think`; for a list of prompts a list of sets, see
        `stream`."""
        kind = self.thinker(thinker)
        request = self.request(kind, n, on_step=on_step, **settings)
        if not _are_many(prompt):
            return self.run(kind, Prompt.from_user(prompt, raw), request, measure=measure)
        if on_step is not None:
            raise InputError("on_step follows one prompt, and a list was given.", "Use Pipeline.stream(prompts).")
        made = [thoughts for _, thoughts in think_many(self, kind, request, _records(prompt, raw), measure=measure)]
        if all("error" in thoughts.run for thoughts in made):
            raise ModelError(f"All {len(made)} prompts failed, the first: {made[0].run['error']}", "Ask one alone.")
        return made

    def stream(
        self,
        prompts: Iterable[PromptLike],
        n: int = 8,
        thinker: str | Thinker | None = None,
        *,
        ordered: bool = True,
        rows: int | None = None,
        raw: bool = False,
        measure: bool = True,
        **settings: Any,
    ) -> Iterator[ThoughtSet]:
        """A set for each prompt, as they end; the prompts are taken, and the sets made, as they are asked for.

        Rows of many prompts share the steps. Prompt k has the seed `seed + k * 2**20` (`batch.records.SEED_STRIDE`). A
        prompt that cannot be served gives a set without thoughts whose `run["error"]` says why.

        Args:
            prompts: Any number.
            n: How many thoughts for each prompt.
            thinker: As for one prompt.
            raw: As for one prompt.
            measure: As for one prompt.
            ordered: In the order of the prompts; else as they end (`run["index"]` says which it was).
            rows: Most rows in a step; None: as many as pay and as the memory holds.
            settings: The others of a call for one prompt, and the thinker's options.

        Raises:
            InputError: Settings that no prompt could be served with.
            ModelError: A model cannot be loaded.
        """
        kind = self.thinker(thinker)
        request = self.request(kind, n, **settings)
        many = think_many(self, kind, request, _records(prompts, raw), measure=measure, ordered=ordered, rows=rows)
        for record, thoughts in many:
            yield dataclasses.replace(thoughts, run={**thoughts.run, "index": record.index})

    def request(
        self,
        thinker: Thinker,
        n: int = 8,
        *,
        options: Mapping[str, Any] | ThinkerOptions | None = None,
        **settings: Any,
    ) -> Request:
        """The checked settings of a call, and the thinker's options among them. Raises `InputError`, `UnknownName`."""
        own = {name: _frozen(settings.pop(name)) for name in (SETTINGS - {"n", "judge"}) & set(settings)}
        stop = own.pop("stop", ())
        stop = () if stop is None else stop
        own.setdefault("landing", LANDING)
        form = Grammar.given(own.pop("json_schema", None), own.pop("regex", None))
        return Request(
            n=n,
            **own,
            stop=(stop,) if isinstance(stop, str) else stop,
            grammar=form,
            options=typed_options(thinker, options, settings),
            embedder=lambda: self.embedder,
            judge=None if self._judge is None else lambda: self.judge,
        )

    def thinker(self, thinker: str | Thinker | None = None) -> Thinker:
        """By name; None: the one that the engine's model is made for, `mixture` where it was trained or grafted to have
        thought branches, `diffusion` where it writes in any order, else `sampling`. Raises `UnknownName`,
        `ThoughtmixError`."""
        if thinker is None:
            return auto_thinker(self.engine)
        return get_thinker(thinker) if isinstance(thinker, str) else as_thinker(thinker)

    def run(
        self, thinker: Thinker, prompt: Prompt, request: Request, *, measure: bool = True, engine: Engine | None = None
    ) -> ThoughtSet:
        """A checked request: what `__call__` does once settings are parsed.

        Args:
            thinker: Whose `Options` `request.options` is.
            prompt: What is asked.
            request: The settings.
            measure: Whether to embed the thoughts and measure the set.
            engine: In place of the pipeline's own: the server gives each of its callers one.

        Raises:
            InputError: The request cannot be served.
            ModelError: An endpoint failed for every thought.
            Interrupted: It was stopped; carries what was complete.
        """
        engine = self.engine if engine is None else engine
        thinker, request, choice = thinker.resolve(engine, prompt, request)
        require(engine, thinker.needs, f"The thinker {thinker.name}")
        if request.grammar is not None:
            _require_guided(thinker, engine)
        if request.drawn:
            _require_continuing(thinker, engine)
        began = time.perf_counter()
        thoughts, facts = thinker.think(engine, prompt, request)
        facts = {
            **facts,
            **choice,
            **_language_warning(engine, prompt),
            **_one_answer(prompt, thoughts),
            "wall_seconds": round(time.perf_counter() - began, 4),
        }
        interrupted = bool(facts.pop("interrupted", False))
        result = ThoughtSet(
            prompt=prompt.text,
            messages=prompt.messages,
            thoughts=tuple(thoughts),
            thinker=thinker.name,
            model=engine.name,
            settings={**request.recorded(), "raw": prompt.raw},
            run={**facts, **engine.environment()},
        )
        if interrupted:
            raise Interrupted(result)
        if thoughts and all(t.origin.get("error") and not t.text for t in thoughts):
            why = thoughts[0].origin["error"]
            raise ModelError(f"{engine.name} gave no thought: {why}.", "Check --endpoint, or try later.")
        if measure:
            from thoughtmix.metrics import measure as measured

            result = measured(result, embedder=self.embedder, judge=self.judge)
        return result


def _language_warning(engine: Engine, prompt: Prompt) -> dict[str, str]:
    """The fact `warning`, where the prompt is in a language that the model is not known to write."""
    known = engine.model.languages if isinstance(engine, TokenEngine) else ()
    read = language_of(prompt.text) if known else None
    if read is None or read in known:
        return {}
    can = ", ".join(NAMES[code] for code in known)
    return {"warning": f"The prompt is {NAMES[read]}, and {engine.name} was trained to write {can}."}


def _one_answer(prompt: Prompt, thoughts: Sequence[Thought]) -> dict[str, Any]:
    """The fact `one_answer`, where a question seems to have one right answer: which one most thoughts give."""
    if prompt.raw or len(thoughts) < 2 or kind_of_answer(prompt.text) != "one":
        return {}
    return {"one_answer": one_answer(prompt.text, [t.text for t in thoughts])}


def _require_continuing(thinker: Thinker, engine: Engine) -> None:
    """Raises `InputError` unless it goes on with a text that has begun."""
    if not thinker.continues:
        raise InputError(f"The thinker {thinker.name} does not continue a text.", "Type --thinker sampling.")
    require(engine, {Capability.TOKENS}, "To continue a text with its seed")


def _require_guided(thinker: Thinker, engine: Engine) -> None:
    """Raises `InputError` where thoughts would not be held to a grammar."""
    if not thinker.guided:
        can = ", ".join(name for name in thinker_names() if get_thinker(name).guided)
        raise InputError(f"{thinker.name} holds its texts to no grammar.", f"Pass one that does: --thinker {can}.")
    require(engine, {Capability.GUIDED}, "A JSON schema or regular expression")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _are_many(prompt: Any) -> bool:
    """A list of texts or of conversations, where one conversation is a list of messages."""
    several = isinstance(prompt, (list, tuple)) and len(prompt) > 0
    return several and all(isinstance(one, (str, list, tuple, Prompt)) for one in prompt)


def _records(prompts: Iterable[PromptLike], raw: bool) -> Iterator[Record]:
    for index, prompt in enumerate(prompts):
        yield Record(index, Prompt.from_user(prompt, raw))
