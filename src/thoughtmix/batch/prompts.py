"""Many prompts through one loaded pipeline, their rows in shared steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from thoughtmix.batch.records import Record
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import ThoughtSet
from thoughtmix.engine.engine import Engine
from thoughtmix.thinkers.base import Thinker

if TYPE_CHECKING:
    from thoughtmix.core.waiting import NothingYet
    from thoughtmix.engine.concurrent import ConcurrentEngines

Finish = Callable[[ThoughtSet], ThoughtSet]


class OnePrompt(Protocol):
    """What `Pipeline` has, and is needed of it here."""

    @property
    def engine(self) -> Engine: ...
    @property
    def embedder(self) -> Any: ...
    @property
    def judge(self) -> Any: ...
    def run(
        self, thinker: Thinker, prompt: Prompt, request: Request, *, measure: bool = True, engine: Engine | None = None
    ) -> ThoughtSet: ...


def think_many(
    pipeline: OnePrompt,
    thinker: Thinker,
    request: Request,
    records: Iterable[Record | NothingYet],
    *,
    measure: bool = True,
    ordered: bool = True,
    rows: int | None = None,
    finish: Finish | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Record, ThoughtSet]]:
    """Each record with its thoughts; of one that fails, with a set without thoughts and `run["error"]`.

    Args:
        pipeline: Its engine is used by all.
        thinker, request: As for each; `request.seed` is the batch's, see `Record.seed`.
        records: Are taken as there is room for them.
        measure: Whether sets are measured.
        ordered: In the order of the records, else as they end.
        rows: Most rows in a step; None: as many as pay and as the memory holds.
        finish: What becomes of each set in the end.
        facts: For each `ThoughtSet.run`.

    Raises:
        InputError: No prompt could be served so.
        ModelError: A model cannot be loaded.
    """
    from thoughtmix.engine.concurrent import concurrent_engines
    from thoughtmix.engine.threads import EphemeralThreadExecutor

    def load() -> None:
        _ = pipeline.engine
        _ = (pipeline.embedder, pipeline.judge) if measure else None

    EphemeralThreadExecutor("thoughtmix-load").submit(load).result()  # the OpenMP team of loading goes with it
    texts = max(request.n, thinker.texts(request.n, request.options))
    with concurrent_engines(pipeline.engine, texts, request.max_new_tokens, rows) as engines:
        shared = _InTurns(pipeline, engines)
        one = _OnePrompt(pipeline, engines, thinker, dataclasses.replace(request, embedder=lambda: shared))
        one.measure, one.finish, one.facts = measure, finish, facts or {}
        yield from engines.map(one.think, records, ordered)


class _InTurns:
    """The embedder, for thinkers that need one on the way: in turns with the steps, and one thread at a time."""

    def __init__(self, pipeline: OnePrompt, engines: ConcurrentEngines) -> None:
        self.pipeline, self.turns = pipeline, engines.turns

    @property
    def name(self) -> str:
        return str(self.pipeline.embedder.name)

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        """See `TextEmbedder.encode`."""
        with self.turns:
            return self.pipeline.embedder.encode(texts, batch_size)


class _OnePrompt:
    """What is done for each record, in a thread of its own."""

    measure: bool
    finish: Finish | None
    facts: Mapping[str, Any]

    def __init__(self, pipeline: OnePrompt, engines: ConcurrentEngines, thinker: Thinker, request: Request) -> None:
        self.pipeline, self.engines, self.thinker, self.request = pipeline, engines, thinker, request

    def think(self, engine: Engine, record: Record) -> ThoughtSet:
        """Raises nothing but what ends the whole batch."""
        request = dataclasses.replace(self.request, seed=record.seed(self.request.seed))
        if record.prompt is None:
            return self._failed(record, request, record.error)
        try:
            made = self.pipeline.run(self.thinker, record.prompt, request, measure=False, engine=engine)
            if self.measure:
                from thoughtmix.metrics import measure

                with self.engines.turns:
                    made = measure(made, embedder=self.pipeline.embedder, judge=self.pipeline.judge)
            made = self.finish(made) if self.finish else made
        except ThoughtmixError as error:
            return self._failed(record, request, str(error))
        except Exception as error:
            return self._failed(record, request, f"internal error: {type(error).__name__}: {error}"[:300])
        return dataclasses.replace(made, run={**made.run, **self.facts})

    def _failed(self, record: Record, request: Request, error: str) -> ThoughtSet:
        prompt = record.prompt
        return ThoughtSet(
            prompt="" if prompt is None else prompt.text,
            messages=() if prompt is None else prompt.messages,
            thoughts=(),
            thinker=self.thinker.name,
            model=self.pipeline.engine.name,
            settings={**request.recorded(), "raw": prompt is not None and prompt.raw},
            run={"error": " ".join(error.split()), **self.facts},
        )
