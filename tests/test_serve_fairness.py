"""No admissible request, of any route or thinker, keeps a small chat waiting: counted in turns and tokens, not seconds.

A chat's own turns are what it has alone. Between two of them stands at most one piece of somebody else's work, and a
piece is bounded. The worst request of a route is searched for, over the bounds of its options, by what it declares.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from decoding import Row
from serving import Running, running
from test_continuous import call_of, scheduled
from test_decoding import lm
from tiny import tiny

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.request import Prompt
from thoughtmix.diffusion.denoiser import MaskPredictor, rows_at_once
from thoughtmix.engine.fair_lock import FairLock
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.serve.embedder import batches_of
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.limits import Limits, check_work
from thoughtmix.serve.page_api import diffusion_work
from thoughtmix.serve.schemas import ChatRequest, DiffuseRequest
from thoughtmix.thinkers.base import Work

SMALL = {"work": 16_000, "side_work": 20_000, "tokens": 4000, "thoughts": 16, "default_tokens": 6}
PROMPT = " ".join(f"w{i}" for i in range(5, 30))


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    with running(**SMALL) as made:
        yield made


class Noted(FairLock):
    """Who has a turn, in order: own, the batch's; beside, anybody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def _acquire(self, first: bool) -> None:
        super()._acquire(first)
        self.seen.append("own" if first else "beside")


def chats(service: Any, **body: Any) -> Any:
    asked = ChatRequest(messages=[{"role": "user", "content": PROMPT}], **body)
    return service.check(asked, Prompt(PROMPT, raw=True), 1, top_logprobs=0, max_tokens=asked.max_tokens)


def choices(schema: dict[str, Any]) -> list[Any]:
    """Values of an option to try: its choices, its bounds, and powers of two between them."""
    kinds = [schema, *schema.get("anyOf", ())]
    for kind in kinds:
        if "enum" in kind:
            return [choice for choice in kind["enum"] if choice != "mixture"]  # the model here has no branches
        if kind.get("type") == "boolean":
            return [False, True]
        if kind.get("type") == "integer":
            return [1, 2, 4, 16, 64, 256, 1024]
    return []


def worst_chat(service: Any, thinker: str, schema: dict[str, Any], dice: random.Random) -> tuple[dict[str, Any], Work]:
    """By changing one thing at a time, as long as it is admitted and declares more."""

    def declared(body: dict[str, Any]) -> Work | None:
        try:
            return chats(service, thinker=thinker, **body).work
        except (Refused, ThoughtmixError, ValueError):
            return None

    options = {name: choices(each) for name, each in schema["properties"].items() if choices(each)}
    if thinker == "hybrid":
        options["stages"] = [">".join(["sampling", *["noise"] * k]) for k in (0, 1, 3, 6, 12, 15)]
    body: dict[str, Any] = {"n": 1, "max_tokens": 8}
    best = declared(body)
    assert best is not None
    for _ in range(150):
        name = dice.choice(["n", "max_tokens", "measure", *options])
        if name in options:
            new = {**body, "options": {**body.get("options", {}), name: dice.choice(options[name])}}
        else:
            new = {**body, name: dice.choice([False, True] if name == "measure" else [1, 2, 4, 8, 16, 32, 64, 100])}
        found = declared(new)
        if found is not None and found.tokens + found.side >= best.tokens + best.side:
            body, best = new, found
    return body, best


def beside(here: Running, heavy: Callable[[], object]) -> tuple[list[str], list[str]]:
    """The turns during a small chat alone, and beside a heavy request that is under way."""
    service, small = here.service, {"messages": [{"role": "user", "content": "w5 w9"}], "max_tokens": 2, "seed": 1}

    def chat() -> list[str]:
        turns = service.scheduler.turns
        before = len(turns.seen)  # type: ignore[attr-defined]
        assert httpx.post(here.url + "/v1/chat/completions", json=small, timeout=60).status_code == 200
        return list(turns.seen[before:])  # type: ignore[attr-defined]

    service.scheduler.turns = Noted()  # nobody has a turn between two requests
    chat()
    alone = chat()
    under_way = threading.Event()
    turns = service.scheduler.turns

    class Told(list):  # type: ignore[type-arg]
        def append(self, item: str) -> None:
            super().append(item)
            under_way.set()

    turns.seen = Told()
    with ThreadPoolExecutor(1) as pool:
        running_one = pool.submit(heavy)
        assert under_way.wait(30)
        got = chat()
        running_one.result()
    return alone, got


def assert_fair(alone: list[str], got: list[str]) -> None:
    assert alone.count("own") >= 2 and "beside" not in alone
    # From the first of its turns to the last the batch is never kept waiting for two pieces of other work.
    first, last = got.index("own"), len(got) - 1 - got[::-1].index("own")
    during = got[first : last + 1]
    assert all(a == "own" or b == "own" for a, b in pairwise(during)), during


@pytest.mark.parametrize("thinker", ["sampling", "noise", "search", "hybrid"])
def test_a_small_chat_beside_the_worst_request_of_a_thinker(here: Running, thinker: str) -> None:
    offered = {t["name"]: t["option_schema"] for t in httpx.get(here.url + "/api/info").json()["thinkers"]}
    body, work = worst_chat(here.service, thinker, offered[thinker], random.Random(thinker))
    limits = here.service.limits
    assert work.tokens <= limits.work and work.side <= limits.side_work
    assert max(work.tokens / limits.work, work.side / limits.side_work) > 0.1, (body, work)

    def heavy() -> None:
        asked = {"messages": [{"role": "user", "content": PROMPT}], "seed": 3, "thinker": thinker, **body}
        with contextlib.suppress(httpx.ReadTimeout):  # it has shown what it does; leaving frees its rows
            httpx.post(here.url + "/v1/chat/completions", json=asked, timeout=4)

    assert_fair(*beside(here, heavy))


def test_a_small_chat_beside_the_worst_diffusion_and_the_worst_map(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, dice = here.service.limits, random.Random(1)
    best, found = 0, DiffuseRequest(branches=1)
    for _ in range(300):
        asked = DiffuseRequest(
            branches=dice.randint(1, 16), steps=dice.randint(1, 256), length=dice.choice([1, 16, 64, 256, 512])
        )
        work = diffusion_work(asked)
        if best < work.side <= limits.side_work and asked.branches * asked.length <= limits.tokens:
            best, found = work.side, asked
    assert best > 0.7 * limits.side_work
    pieces: list[int] = []
    real = MaskPredictor.__call__

    def noted(self: Any, ids: Any, mask: Any, memory: Any) -> Any:
        model = self.model
        self.model = lambda i, m: pieces.append(i.numel()) or model(i, m)
        try:
            return real(self, ids, mask, memory)
        finally:
            self.model = model

    monkeypatch.setattr(MaskPredictor, "__call__", noted)

    def diffuse() -> None:
        with httpx.stream("POST", here.url + "/api/diffuse", json=found.model_dump(), timeout=30) as stream:
            for number, _ in enumerate(stream.iter_lines()):
                if number > 20:
                    break

    assert_fair(*beside(here, diffuse))
    assert max(pieces) <= max(rows_at_once(1), found.length), "one row, or few short ones, between two turns"

    texts = [" ".join(f"w{dice.randrange(3, 159)}" for _ in range(200)) for _ in range(limits.texts)]

    def map_() -> None:
        assert httpx.post(here.url + "/api/map", json={"texts": texts[:70]}, timeout=60).status_code == 200

    assert_fair(*beside(here, map_))
    for part in batches_of(texts, 32):
        assert len(part) == 1, "each of these has 256 tokens and more"


@pytest.mark.parametrize(
    ("path", "body", "bound"),
    [
        ("/api/diffuse", {"branches": 16, "length": 100, "steps": 256}, "--side-work"),
        ("/api/map", {"texts": ["w5 " * 300] * 200}, "--side-work"),
        ("/api/select", {"texts": ["w5 " * 300] * 200, "k": 2}, "--side-work"),
        ("/v1/embeddings", {"input": ["w5 " * 300] * 200}, "--side-work"),
        ("/v1/chat/completions", {"thinker": "hybrid", "options": {"stages": ">".join(["sampling", *["noise"] * 15])}, "max_tokens": 20}, "--work"),
        ("/v1/chat/completions", {"thinker": "search", "options": {"rollouts": True, "width": 16, "batch": 16}, "n": 2, "max_tokens": 50}, "--work"),
        ("/v1/completions", {"prompt": ["w5"] * 16, "n": 15, "max_tokens": 100}, "--work"),
    ],
)  # fmt: skip
def test_what_costs_too_much_is_refused_in_one_line_that_names_the_bound(
    here: Running, path: str, body: dict[str, Any], bound: str
) -> None:
    said = {"messages": [{"role": "user", "content": PROMPT}]} if "chat" in path else {}
    got = httpx.post(here.url + path, json={**said, **body}, timeout=60)
    error = got.json()["error"]
    assert got.status_code == 400 and error["code"] == "too_much_work", got.text
    assert bound in error["message"] and "\n" not in error["message"]


def test_together_they_cost_no_more_than_the_server_holds() -> None:
    with running(work=1000, queue=64) as here:
        slots = [here.service.admit(work=Work(1000)) for _ in range(16)]
        with pytest.raises(Refused, match="full"):
            here.service.admit(work=Work(1000))
        for slot in slots:
            slot.release()
        assert here.service._work == Work()
        with pytest.raises(Refused, match="--work"):
            check_work(Work(1001), here.service.limits)
        check_work(Work(10**4, 10**5), Limits())


def test_what_was_used_is_reported(here: Running) -> None:
    """Drafts count, and what the model read."""
    body = {"messages": [{"role": "user", "content": "w5"}], "thinker": "hybrid", "seed": 1, "max_tokens": 8}
    got = httpx.post(here.url + "/v1/chat/completions", json=body, timeout=60).json()
    assert "usage" in got, got
    drawn, run = got["usage"]["completion_tokens"], got["thoughtmix"]["run"]
    assert drawn == sum(stage["tokens"] for stage in run["stages"]) > 8
    assert run["computed"] >= drawn


def test_a_short_prompt_overtakes_a_long_one_and_a_full_batch() -> None:
    model, ticks = lm(tiny("llama")), list[Any]()
    with scheduled(model, rows=16, chunk=8, observe=ticks.append) as scheduler, ThreadPoolExecutor(3) as pool:
        many = {"prompts": [[5, 6]], "rows": [Row(seed=s) for s in range(16)], "max_new_tokens": 100}
        long = {"prompts": [[7] * 200], "rows": [Row(seed=0)], "max_new_tokens": 2}
        short = {"prompts": [[8, 9]], "rows": [Row(seed=1)], "max_new_tokens": 2}
        with scheduler.turns:
            full = pool.submit(call_of, SharedEngine(scheduler), many)
            while scheduler.waiting < 1:
                pass
            slow = pool.submit(call_of, SharedEngine(scheduler), long)
            while scheduler.waiting < 2:
                pass
            quick = pool.submit(call_of, SharedEngine(scheduler), short)
            while scheduler.waiting < 3:
                pass
        quick.result(30)
        assert len(ticks) < 12 and not slow.done() and not full.done()
        assert slow.result(60).outputs and full.result(60).outputs


def test_who_overtakes_waits_for_no_piece_of_the_long_prompt_at_once() -> None:
    """And the long one goes on every other turn at least, however many overtake it."""
    model, ticks = lm(tiny("llama")), list[Any]()
    with scheduled(model, chunk=8, observe=ticks.append) as scheduler, ThreadPoolExecutor(10) as pool:
        long = {"prompts": [[7] * 100], "rows": [Row(seed=0)], "max_new_tokens": 2}
        short = [{"prompts": [[8, 9 + n]], "rows": [Row(seed=n)], "max_new_tokens": 30} for n in range(9)]
        with scheduler.turns:
            waiting = [pool.submit(call_of, SharedEngine(scheduler), long)]
            while scheduler.waiting < 1:
                pass
            for count, each in enumerate(short, 2):
                waiting.append(pool.submit(call_of, SharedEngine(scheduler), each))
                while scheduler.waiting < count:
                    pass
        for future in waiting:
            future.result(30)
    read = [tick.read for tick in ticks if tick.read]
    alone = [at for at, tokens in enumerate(read) if tokens == 2]
    assert len(alone) >= 4, "short ones, by themselves"
    assert all(b - a > 1 for a, b in pairwise(alone)), "and never two turns in a row"
