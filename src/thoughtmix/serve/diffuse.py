"""A denoising as frames on the wire: what every branch looks like at each step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from thoughtmix.engine.scheduler import Caller, TimedOut
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.serve import answers, schemas
from thoughtmix.serve.errors import Refused, body_of, refusal

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import Frame
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.serve.service import Service, Ticket

_LOCK = threading.Lock()
_KEPT: list[Any] = []  # the packaged model, once it is loaded


def canvas_model(service: Service) -> DiffusionModel:
    """The served model if it denoises, else the packaged one."""
    from thoughtmix.diffusion.load import load_diffusion, wrap_diffusion

    if not service.lm.causal:
        return wrap_diffusion(service.lm.model, service.lm.tokenizer, service.lm.name)
    with _LOCK:
        if not _KEPT:
            _KEPT.append(load_diffusion())
        return _KEPT[0]


class Film:
    """A denoising in a thread, its frames in the event loop. It takes turns with the decoding steps."""

    def __init__(
        self, service: Service, asked: schemas.DiffuseRequest, caller: Caller, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.service, self.asked, self.caller, self._loop = service, asked, caller, loop
        self._news: asyncio.Queue[dict[str, Any] | Refused | None] = asyncio.Queue()
        self._step = 0
        self._lanes: list[dict[str, Any]] = [
            {"text": "", "confidence": [], "alive": True, "parent": None} for _ in range(asked.branches)
        ]
        self._names: dict[str, int] = {}
        service.threads.submit(self._work)

    async def next(self) -> dict[str, Any] | None:
        """The next frame; None: that was the last. Raises `Refused`."""
        news = await self._news.get()
        if isinstance(news, Refused):
            raise news
        return news

    def _tell(self, news: dict[str, Any] | Refused | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop is closed: nobody listens
            self.caller.cancelled = True

    def _work(self) -> None:
        try:
            from thoughtmix.diffusion.branching import MultiBranchDiffusion
            from thoughtmix.diffusion.policies import Random
            from thoughtmix.diffusion.sampler import DenoisingConfig

            asked, self.model = self.asked, canvas_model(self.service)
            steps = min(asked.steps, asked.length)
            denoising = DenoisingConfig(Random(), steps)
            diffusion = MultiBranchDiffusion(asked.branches, self.model, denoising=denoising)
            with SharedEngine(self.service.scheduler, self.caller).exclusive() as self._let_others:
                diffusion.generate_parallel(asked.prompt, asked.length, seed=asked.seed, on_frame=self._seen)
            self._tell(None)
        except KeyboardInterrupt:
            self._tell(refusal(TimedOut("The request's time is up.", "Ask for less.")))
        except BaseException as error:
            self._tell(refusal(error))

    def _seen(self, frame: Frame) -> None:
        self._step += 1
        names = dict(zip(frame.names, frame.lanes, strict=True))
        for row, (name, lane) in enumerate(zip(frame.names, frame.lanes, strict=True)):
            parent = self._lanes[lane]["parent"]
            if self._names and name not in self._names:  # a copy: of the branch whose number it has
                parent = self._origin(name)
            self._lanes[lane] = {**self._look(frame, row), "alive": True, "parent": parent}
        for lane in set(range(len(self._lanes))) - set(frame.lanes):
            self._lanes[lane] = {**self._lanes[lane], "alive": False}
        self._names = names
        steps = max(self._step, min(self.asked.steps, self.asked.length))
        self._tell({"step": self._step, "steps": steps, "branches": [dict(lane) for lane in self._lanes]})
        self._let_others()

    def _origin(self, name: str) -> int | None:
        root = name.rstrip("abcdefghijklmnopqrstuvwxyz")
        return next(
            (lane for other, lane in self._names.items() if other.rstrip("abcdefghijklmnopqrstuvwxyz") == root), None
        )

    def _look(self, frame: Frame, row: int) -> dict[str, Any]:
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


async def frames(film: Film, first: dict[str, Any] | None, ticket: Ticket) -> AsyncIterator[bytes]:
    """The stream. The room is given back when it ends or the client leaves."""
    frame = first
    try:
        while frame is not None:
            yield answers.sse(frame)
            frame = await film.next()
        yield answers.DONE
    except Refused as error:
        yield answers.sse(body_of(error))
        yield answers.DONE
    finally:
        ticket.cancel()
        ticket.leave()
