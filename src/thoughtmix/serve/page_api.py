"""/api: what the page needs beside OpenAI's endpoints."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from thoughtmix import __version__
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.selection import select, selection_facts
from thoughtmix.engine.caller import Caller
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.metrics.embedding import mean_distance, pairwise_distances, relevance, vendi
from thoughtmix.pipeline import AUTO
from thoughtmix.report.html import HEIGHT, WIDTH, layout
from thoughtmix.serve import schemas
from thoughtmix.serve.answers import DONE, server_sent_event
from thoughtmix.serve.errors import Refused, error_body
from thoughtmix.serve.limits import offered_schema
from thoughtmix.serve.service import AdmissionSlot, Service
from thoughtmix.serve.streaming import answer_beside
from thoughtmix.serve.threads import EventStream
from thoughtmix.thinkers.base import Work
from thoughtmix.thinkers.registry import get_thinker, thinker_names

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import Frame
    from thoughtmix.diffusion.load import DiffusionModel

LANGUAGES = ["en", "fr"]


def router(service: Service) -> APIRouter:
    """The routes under /api."""
    api = APIRouter(prefix="/api", responses=schemas.ERROR_RESPONSES)

    @api.get("/info")
    async def info() -> schemas.Info:
        """The model, the thinkers that work with it, and the limits."""
        return schemas.Info(
            version=__version__,
            model=service.lm.name,
            thinker=service.pipeline.thinker().name,
            suggested=AUTO,
            thinkers=_suitable_thinkers(service),
            limits=dataclasses.asdict(service.limits),
            diffusion=True,
            diffusion_model=_diffusion_name(service),
            languages=LANGUAGES,
        )

    @api.post("/map", response_model=schemas.Map)
    async def map_(body: schemas.MapRequest, http: Request) -> Response:
        """Texts as points of a plane, near ones near (classical scaling of their embeddings' distances)."""
        texts = body.texts if body.prompt is None else [*body.texts, body.prompt]
        return await _of_vectors(service, http, texts, partial(_mapped, body))

    @api.post("/select", response_model=schemas.Selection)
    async def select(body: schemas.SelectRequest, http: Request) -> Response:
        """The k most different of the texts that are good enough, best first."""
        n = len(body.texts)
        if body.k > n:
            raise Refused(400, f"Cannot select {body.k} of {n} texts. Pass k 1 to {n}.", param="k")
        if body.logprobs and len(body.logprobs) != n:
            raise Refused(400, f"{len(body.logprobs)} logprobs for {n} texts. Pass one a text.", param="logprobs")
        return await _of_vectors(service, http, body.texts, partial(_selected, body))

    @api.post("/diffuse", responses=schemas.STREAM_RESPONSES, response_class=Response)
    async def diffuse(body: schemas.DiffuseRequest, http: Request) -> Response:
        """Text out of noise along branches that compete, frame by frame."""
        tokens = body.branches * body.length
        if tokens > service.limits.tokens:
            raise Refused(400, f"branches x length is {tokens}, the limit is {service.limits.tokens}.", param="length")
        slot = service.admit(work=diffusion_work(body))
        streams = False
        try:
            frames = EventStream(service.threads, _Denoising(service, body, slot).run, slot.caller)
            first = await slot.unless_disconnected(http, frames.next())
            streams = True
            return StreamingResponse(_frame_events(frames, first, slot), media_type="text/event-stream")
        finally:
            if not streams:
                slot.release()

    return api


def diffusion_work(body: schemas.DiffuseRequest) -> Work:
    """Of a run of branches: each token once a pass. The packaged model reads characters."""
    return Work(0, body.branches * (len(body.prompt) + body.length) * min(body.steps, body.length))


def _suitable_thinkers(service: Service) -> list[schemas.ThinkerInfo]:
    found, engine = [], SharedEngine(service.scheduler)
    for name in thinker_names():
        try:
            thinker = get_thinker(name)
        except ThoughtmixError:  # a broken plug-in does not hide the others
            continue
        if thinker.suits(engine):
            schema = offered_schema(thinker, service.limits)
            help = {option: text for option, text in thinker.options.items() if option in schema["properties"]}
            found.append(
                schemas.ThinkerInfo(
                    name=name,
                    summary=thinker.summary,
                    options=help,
                    option_schema=schema,
                    streams=thinker.streams,
                    continues=thinker.continues,
                    creativity_is_temperature=thinker.creativity_is_temperature,
                )
            )
    return found


# --- maps and selections ---


async def _of_vectors(
    service: Service, http: Request, texts: Sequence[str], made_of: Callable[[Any, schemas.SideUsage], BaseModel]
) -> Response:
    """What is made of the texts' vectors (texts, d), rows of length 1, and of what they took; all of it in a thread."""
    if len(texts) > service.limits.texts:
        raise Refused(400, f"{len(texts)} texts; this server maps up to {service.limits.texts}.", param="texts")

    def make(caller: Caller) -> BaseModel:
        vectors = service.embedder.encode(texts, 32, caller.check)
        most = service.embedder.loaded.max_tokens or math.inf
        tokens = int(sum(min(count, most) for count in service.embedder.count_tokens(texts)))
        return made_of(vectors, schemas.SideUsage(total_tokens=tokens))

    return await answer_beside(service, http, texts, make)


def _mapped(body: schemas.MapRequest, vectors: Any, used: schemas.SideUsage) -> schemas.Map:
    """vectors: of the texts, and of the prompt behind them if there is one."""
    near = None if body.prompt is None else relevance(vectors[:-1], vectors[-1]).round(6).tolist()
    d = pairwise_distances(vectors[: len(body.texts)])
    first = min(body.first or len(d), len(d))
    figures = {"vendi": vendi(vectors[:first]), "mean_distance": mean_distance(vectors[:first])}
    if near is not None:
        figures["relevance"] = float(np.mean(near[:first]))
    rounded = np.asarray(d, dtype=np.float64).round(6).tolist()
    return schemas.Map(points=_points(d), distances=rounded, relevance=near, metrics=figures, usage=used)


def _selected(body: schemas.SelectRequest, vectors: Any, used: schemas.SideUsage) -> schemas.Selection:
    d = pairwise_distances(vectors)
    values = np.clip(body.logprobs or [0.0] * len(body.texts), -1e6, 1e6).tolist()
    told = (body.texts, d.tolist(), values)
    chosen = select(*told, body.k, body.quality_floor)
    others = [schemas.LeftOutText(**dataclasses.asdict(each)) for each in chosen.left_out]
    return schemas.Selection(
        indices=chosen.picked, left_out=others, facts=selection_facts(*told, chosen.picked), usage=used
    )


def _points(distances: Any) -> list[list[float]]:
    """In [0, 1] both ways, one scale, so that distances compare."""
    if len(distances) == 1:
        return [[0.5, 0.5]]
    size = max(WIDTH, HEIGHT)
    return [
        [round((x - WIDTH / 2) / size + 0.5, 4), round((y - HEIGHT / 2) / size + 0.5, 4)] for x, y in layout(distances)
    ]


# --- text diffusion, frame by frame ---

_LOCK = threading.Lock()
_PACKAGED: list[Any] = []  # the packaged model, once it is loaded


def _diffusion_model(service: Service) -> DiffusionModel:
    """The served model if it denoises, else the packaged one."""
    from thoughtmix.diffusion.load import load_diffusion, wrap_diffusion

    if not service.lm.causal:
        return wrap_diffusion(service.lm.model, service.lm.tokenizer, service.lm.name)
    with _LOCK:
        if not _PACKAGED:
            _PACKAGED.append(load_diffusion())
        return _PACKAGED[0]


def _diffusion_name(service: Service) -> str:
    from thoughtmix.diffusion.load import DEFAULT

    return DEFAULT if service.lm.causal else service.lm.name


class _Denoising:
    """One run of branches that compete, taking turns with the decoding steps. A frame says what each branch looks
    like; a branch keeps its place, and so does whoever replaces it."""

    def __init__(self, service: Service, body: schemas.DiffuseRequest, slot: AdmissionSlot) -> None:
        self.service, self.body, self.caller = service, body, slot.caller
        self._step = self._used = 0
        self._branches: list[dict[str, Any]] = [
            {"text": "", "confidence": [], "alive": True, "name": str(i + 1), "parent": None}
            for i in range(body.branches)
        ]
        self._places: dict[str, int] = {}  # of each branch by name

    def run(self, emit: Callable[[dict[str, Any]], None]) -> None:
        """In a thread of its own."""
        from thoughtmix.diffusion.branching import MultiBranchDiffusion
        from thoughtmix.diffusion.policies import Random
        from thoughtmix.diffusion.sampler import DenoisingConfig

        body, self.model = self.body, _diffusion_model(self.service)
        self.steps = min(body.steps, body.length)
        denoising = DenoisingConfig(Random(), self.steps)
        with SharedEngine(self.service.scheduler, self.caller).exclusive():
            diffusion = MultiBranchDiffusion(body.branches, self.model, denoising=denoising)
            diffusion.generate_parallel(
                body.prompt, body.length, seed=body.seed, on_frame=lambda frame: emit(self._frame(frame))
            )

    def _frame(self, frame: Frame) -> dict[str, Any]:
        self._step += 1
        self._used += frame.state.ids.numel()
        for row, (name, place) in enumerate(zip(frame.names, frame.lanes, strict=True)):
            parent = self._branches[place]["parent"]
            if self._places and name not in self._places:  # a copy: of the branch whose number it has
                parent = self._parent(name)
            self._branches[place] = {**self._text(frame, row), "alive": True, "name": name, "parent": parent}
        for place in set(range(len(self._branches))) - set(frame.lanes):
            self._branches[place] = {**self._branches[place], "alive": False}
        self._places = dict(zip(frame.names, frame.lanes, strict=True))
        branches = [dict(branch) for branch in self._branches]
        usage = {"total_tokens": self._used}  # so far
        return {"step": self._step, "steps": max(self._step, self.steps), "branches": branches, "usage": usage}

    def _parent(self, name: str) -> int | None:
        """Where the branch stood of which a new name is a copy: names of copies end in letters."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        number = name.rstrip(letters)
        return next((place for other, place in self._places.items() if other.rstrip(letters) == number), None)

    def _text(self, frame: Frame, row: int) -> dict[str, Any]:
        """A branch's text as it would be now, and how sure it is of each character: 0 where it is undecided."""
        real = frame.state.real[row]
        pieces = self.model.pieces(frame.stats.guess[row][real])
        decided = (~frame.state.masked[row][real]).tolist()
        sure = frame.state.confidence[row][real].tolist()
        text, confidence = "", list[float]()
        for piece, done, value in zip(pieces, decided, sure, strict=True):
            text += piece
            confidence += [max(0.01, round(value, 3)) if done else 0.0] * len(piece)
        return {"text": text, "confidence": confidence}


async def _frame_events(
    frames: EventStream[dict[str, Any]], frame: dict[str, Any] | None, slot: AdmissionSlot
) -> AsyncIterator[bytes]:
    """The stream. The room is given back when it ends or the client leaves."""
    try:
        while frame is not None:
            yield server_sent_event(frame)
            frame = await frames.next()
        yield DONE
    except Refused as error:
        yield server_sent_event(error_body(error)) + DONE
    finally:
        slot.release()
