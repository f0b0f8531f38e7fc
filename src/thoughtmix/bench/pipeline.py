"""The pipeline of a bench: one that notes what a thinker asked for while it answered."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from thoughtmix.pipeline import Pipeline

if TYPE_CHECKING:
    from thoughtmix.core.request import Prompt, Request
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.engine.engine import Engine
    from thoughtmix.thinkers.base import Thinker


class BenchPipeline(Pipeline):
    """A pipeline that notes whether a thinker asked for the embedder while it answered: it may have chosen by it."""

    asked_embedder = False

    def run(
        self, thinker: Thinker, prompt: Prompt, request: Request, *, measure: bool = True, engine: Engine | None = None
    ) -> ThoughtSet:
        def noted() -> Any:
            self.asked_embedder = True
            return self.embedder

        request = dataclasses.replace(request, embedder=noted)
        return super().run(thinker, prompt, request, measure=measure, engine=engine)
