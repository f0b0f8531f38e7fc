"""A thread that owns an engine of vLLM's: it alone calls it, and hands every caller the outputs of their own requests.

vLLM batches whatever requests it holds, so callers in other threads share its steps. One thread for all of them: its
engine is not made for several, and on CPUs each thread that computes would keep a team of workers of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

News = list[tuple[int, Any]] | BaseException
"""Of one step: (number of the request in its submission, vLLM's output for it); or what went wrong."""


@dataclass(eq=False)
class Submission:
    """Requests of one caller. `news` gets what each step brings of them."""

    ids: list[str]
    news: queue.SimpleQueue[News] = field(default_factory=queue.SimpleQueue)


class StepThread:
    """vLLM's engine and the thread that steps it.

    Args:
        load: Makes the engine (a `vllm.LLM`), in that thread.
        isolated: A context manager around every call of the engine.

    Raises:
        BaseException: What `load` raises.
    """

    def __init__(self, load: Callable[[], Any], isolated: Callable[[], Any]) -> None:
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._owner: dict[str, tuple[Submission, int]] = {}
        self._number, self._isolated = itertools.count(), isolated
        loaded: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, args=(load, loaded), name="thoughtmix-vllm", daemon=True)
        self._thread.start()
        self.llm = _wait(loaded)

    def submit(self, requests: Sequence[tuple[Any, Any, Any]]) -> Submission:
        """Begin these: (prompt, sampling parameters, LoRA request or None) each."""
        made = Submission([f"thought-{next(self._number)}" for _ in requests])
        self._inbox.put(lambda: self._add(made, requests))
        return made

    def abort(self, submission: Submission, numbers: Sequence[int]) -> None:
        """End these requests of it, as far as they have not ended. Their last outputs may still come."""
        self._inbox.put(lambda: self._abort([submission.ids[i] for i in numbers]))

    def cancel(self, error: BaseException) -> None:
        """End whatever is at work; its callers get the error."""
        self._inbox.put(lambda: self._fail(error))

    def close(self) -> None:
        """End the engine, and the thread."""
        self._inbox.put(None)
        self._thread.join()

    # --- in the thread ---

    def _run(self, load: Callable[[], Any], loaded: Future[Any]) -> None:
        try:
            with self._isolated():
                llm = load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        self._engine: Any = llm.llm_engine
        loaded.set_result(llm)
        del llm
        going = True
        while going:
            try:
                going = self._obey()
                if going:
                    with self._isolated():
                        self._tell(self._engine.step())
            except BaseException as error:  # of a step or of what a caller asked for: the thread outlives both
                self._fail(error)
        with self._isolated():
            self._engine.engine_core.shutdown()
            del self._engine

    def _obey(self) -> bool:
        """Do what callers have asked for; waits while there is nothing to step. False: it is the end."""
        while True:
            try:
                command = self._inbox.get(block=not self._owner)
            except queue.Empty:
                return True
            if command is None:
                return False
            with self._isolated():
                command()

    def _add(self, made: Submission, requests: Sequence[tuple[Any, Any, Any]]) -> None:
        try:
            for i, (name, (prompt, params, lora)) in enumerate(zip(made.ids, requests, strict=True)):
                self._engine.add_request(name, prompt, params, lora_request=lora)
                self._owner[name] = (made, i)
        except BaseException as error:
            self._abort(made.ids)
            made.news.put(error)

    def _abort(self, ids: Sequence[str]) -> None:
        open = [name for name in ids if self._owner.pop(name, None) is not None]
        if open:
            self._engine.abort_request(open)

    def _tell(self, outputs: Sequence[Any]) -> None:
        news: dict[Submission, list[tuple[int, Any]]] = {}
        for output in outputs:
            if output.request_id in self._owner:
                submission, number = self._owner[output.request_id]
                news.setdefault(submission, []).append((number, output))
                if output.finished:
                    del self._owner[output.request_id]
        for submission, items in news.items():
            submission.news.put(items)

    def _fail(self, error: BaseException) -> None:
        """Whatever is at work ends with it."""
        for submission in {submission for submission, _ in self._owner.values()}:
            submission.news.put(error)
        with contextlib.suppress(Exception):  # an engine that is broken ends nothing, and they have been told
            self._abort(list(self._owner))


def _wait(loaded: Future[Any]) -> Any:
    """Its result. Not one wait for ever: Ctrl-C must come through on every system."""
    while True:
        try:
            return loaded.result(timeout=0.2)
        except TimeoutError:
            if loaded.done():
                raise
