"""The endpoint client against a real server that refuses, drips, lies, limits and hangs up."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import openai  # noqa: F401  importing its transport may move the global random state, which requests must not
import pytest
from badserver import serving

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.chat import ChatRequest, split_reasoning
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.models.trouble import retry_after

QUICK: dict[str, Any] = {"first_wait": 0.01, "timeout": 0.8, "tries": 4}


def asks(n: int) -> list[ChatRequest]:
    return [
        ChatRequest([{"role": "user", "content": f"question {i}"}], seed=i, max_tokens=9, temperature=0.5)
        for i in range(n)
    ]


def wanted(n: int) -> list[str]:
    return [f"question {i}"[::-1] for i in range(n)]


@pytest.mark.parametrize("stream", [False, True])
def test_many_conversations_within_the_bound(
    stream: bool, monkeypatch: pytest.MonkeyPatch, global_state_untouched: None
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    monkeypatch.setenv("THOUGHTMIX_API_KEY", "first")
    pieces: dict[int, str] = {}
    with serving(lambda number, body: "ok") as server:
        endpoint = Endpoint(server.url, concurrency=3, stream=stream, **QUICK)
        got = endpoint.complete(asks(9), lambda i, text: pieces.update({i: pieces.get(i, "") + text}))
    assert [r.text for r in got] == wanted(9)
    assert all(r.finish == "stop" and r.error is None and r.tries == 1 and r.tokens for r in got)
    assert 1 < server.most <= 3
    assert server.keys == ["Bearer first"] * 9
    assert {b["model"] for b in server.seen} == {"tiny-1"}, "the first that it lists"
    assert sorted(b["seed"] for b in server.seen) == list(range(9))
    assert {(b["max_tokens"], b["temperature"], "top_p" in b) for b in server.seen} == {(9, 0.5, False)}
    assert [pieces[i] for i in range(9)] == wanted(9)
    assert endpoint.facts.pop("completion_tokens") >= 9
    assert endpoint.facts == {
        "requests": 9,
        "retries": 0,
        "waited_seconds": 0,
        "troubles": {},
        "failed": 0,
        "concurrency": 3,
        "prompt_tokens": 0,
        "seeds": "sent",
    }


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("hangup", "cut"), ("short", "cut"), ("cut", "cut"), ("slow", "slow"), ("drip", "slow"), ("html", "malformed"),
     ("empty", "malformed"), ("null", "malformed"), ("badstream", "malformed"), ("errorstream", "error"), ("500", "server"),
     ("503", "server"), ("429", "rate-limited")],
)  # fmt: skip
def test_each_fault_is_tried_again(fault: str, kind: str) -> None:
    with serving(lambda number, body: fault if number in {0, 2} else "ok") as server:
        endpoint = Endpoint(
            server.url, "m", concurrency=1, stream=fault in {"cut", "badstream", "errorstream"}, **QUICK
        )
        got = endpoint.complete(asks(2))
    assert [r.text for r in got] == wanted(2), "and nothing of a broken try is left in the text"
    assert [r.tries for r in got] == [2, 2]
    assert endpoint.facts["troubles"] == {kind: 2}
    assert endpoint.facts["retries"] == 2 and endpoint.facts["failed"] == 0


def test_one_that_fails_loses_no_other() -> None:
    def script(number: int, body: dict[str, Any]) -> str:
        return "cut" if body["seed"] == 1 else "ok"

    with serving(script) as server:
        endpoint = Endpoint(server.url, "m", stream=True, concurrency=2, **QUICK)
        got = endpoint.complete(asks(4))
    assert [r.text for r in got if r.error is None] == [w for i, w in enumerate(wanted(4)) if i != 1]
    assert got[1].finish == "cancelled" and got[1].tries == 4
    assert got[1].error == "the stream broke off"
    assert got[1].text == wanted(4)[1][:6], "what had arrived"
    assert endpoint.facts["failed"] == 1 and endpoint.facts["troubles"] == {"cut": 4}


def test_pieces_are_told_once_though_a_try_broke() -> None:
    told: list[str] = []
    with serving(lambda number, body: "cut" if number == 0 else "ok") as server:
        Endpoint(server.url, "m", stream=True, **QUICK).complete(asks(1), lambda i, text: told.append(text))
    assert "".join(told) == wanted(1)[0]


def test_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    endpoint = Endpoint(url, "m", **{**QUICK, "tries": 3})
    (got,) = endpoint.complete(asks(1))
    assert (got.error, got.finish, got.tries) == ("no connection", "cancelled", 3)
    assert endpoint.facts["troubles"] == {"refused": 3}
    with pytest.raises(ModelError, match="lists no model: no connection"):
        Endpoint(url, **{**QUICK, "tries": 1}).complete(asks(1))


def test_waiting_grows_and_a_limit_holds_for_all() -> None:
    with serving(lambda number, body: "500" if number < 3 else "ok") as server:
        Endpoint(server.url, "m", concurrency=1, timeout=2, tries=4, first_wait=0.1).complete(asks(1))
    gaps = [b - a for a, b in zip(server.when, server.when[1:], strict=False)]
    for k, gap in enumerate(gaps):
        assert gap >= 0.1 * 2**k * 0.5, "at least half of the wait, the jitter's low end"
    with serving(lambda number, body: "429" if number == 0 else "ok") as server:
        Endpoint(server.url, "m", concurrency=1, **QUICK).complete(asks(3))
    assert server.when[1] - server.when[0] >= 0.3, "Retry-After, though the back-off is 0.01 s, and for the others too"
    with serving(lambda number, body: "429") as server:
        server.retry_after = "3600"
        endpoint = Endpoint(server.url, "m", **QUICK)
        (got,) = endpoint.complete(asks(1))
    assert len(server.seen) == 1 and "asks to wait 3600 s" in str(got.error)


def test_no_second_try_where_none_can_help() -> None:
    for status, says in (
        ("400", "refuses the request (400): this is 400"),
        ("404", "no such address"),
        ("401", "wants a key"),
    ):
        with serving(lambda number, body, status=status: status) as server:
            (got,) = Endpoint(server.url, "m", **QUICK).complete(asks(1))
        assert len(server.seen) == 1 and says in str(got.error)


def test_the_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THOUGHTMIX_API_KEY", "sk-secret")
    with serving(lambda number, body: "403") as server:
        endpoint = Endpoint(server.url, "m", **QUICK)
        (got,) = endpoint.complete(asks(1))
    assert server.keys == ["Bearer sk-secret"]
    assert "the key is refused (403)" in str(got.error)
    assert "secret" not in f"{got} {endpoint.facts} {endpoint.name}"


def test_a_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THOUGHTMIX_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    with serving(lambda number, body: "ok") as server:
        (got,) = Endpoint(server.url, "m", **QUICK).complete(asks(1))
        Endpoint(server.url, "m", key="mine", **QUICK).complete(asks(1))
    assert got.error is None and server.keys == [None, "Bearer mine"]
    assert "org-secret" not in str(server.headers)
    assert Endpoint("https://api.openai.com/v1")._key == "sk-secret"
    assert Endpoint("http://10.0.0.7:8000")._key is None
    assert Endpoint("https://10.0.0.7:8000", key="mine")._key == "mine"
    for url in ("http://10.0.0.7:8000", "http://api.openai.com", "http://localhost.example.com"):
        with pytest.raises(InputError, match=r"not sent to .* over plain http\. Pass an https:// address, unset") as at:
            Endpoint(url, key="mine")
        assert "mine" not in str(at.value)
    for url in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"):
        assert Endpoint(url, key="mine")._key == "mine"
    monkeypatch.setenv("THOUGHTMIX_API_KEY", "sk-secret")
    with pytest.raises(InputError, match="over plain http") as at:
        Endpoint("http://h")
    assert "secret" not in str(at.value)


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_kept_apart(stream: bool) -> None:
    told: list[str] = []
    with serving(lambda number, body: ["think", "reasoning"][body["seed"]]) as server:
        endpoint = Endpoint(server.url, "m", stream=stream, **QUICK)
        got = endpoint.complete(asks(2), lambda i, text: told.append(text))
    assert [r.text for r in got] == wanted(2)
    assert [r.reasoning for r in got] == ["Hm, let me see."] * 2
    assert sorted("".join(told)) == sorted("".join(wanted(2))), "nobody is shown the reasoning"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_ran_out_is_no_failure_to_try_again(stream: bool) -> None:
    with serving(lambda number, body: "ran out") as server:
        endpoint = Endpoint(server.url, "m", stream=stream, **QUICK)
        (got,) = endpoint.complete(asks(1))
    assert len(server.seen) == 1
    assert (got.text, got.finish, got.reasoning) == ("", "length", "Hm, let me see.")
    assert "its tokens went into reasoning" in str(got.error)


def test_answers_that_would_be_the_same_again_cost_one_request() -> None:
    for fault, says, finish in (
        ("declines", "it declines: No.", "cancelled"),
        ("blank", "the answer is empty", "stop"),
        ("filtered", "a content filter held the answer back", "cancelled"),
    ):
        with serving(lambda number, body, fault=fault: fault) as server:
            (got,) = Endpoint(server.url, "m", **QUICK).complete(asks(1))
        assert (len(server.seen), got.error, got.finish) == (1, says, finish)


def test_parameters_that_a_server_refuses_are_found_out() -> None:
    def script(number: int, body: dict[str, Any]) -> str:
        if "max_tokens" in body:
            return "no max_tokens"
        return "no temperature" if "temperature" in body else "ok"

    with serving(script) as server:
        endpoint = Endpoint(server.url, "m", concurrency=1, **QUICK)
        got = endpoint.complete(asks(3))
    assert [r.text for r in got] == wanted(3)
    assert [r.tries for r in got] == [3, 1, 1], "once for all"
    assert server.seen[-1]["max_completion_tokens"] == 9 and "max_tokens" not in server.seen[-1]
    assert endpoint.facts["left_out"] == ["temperature"] and endpoint.facts["retries"] == 0


def test_texts_as_servers_send_them() -> None:
    for fault in ("parts", "byte order mark"):
        with serving(lambda number, body, fault=fault: fault) as server:
            (got,) = Endpoint(server.url, "m", **QUICK).complete(asks(1))
        assert (got.text, got.tries) == (wanted(1)[0], 1)
    assert split_reasoning("half \ud83d, whole \ud83d\ude42") == ("half \ufffd, whole 🙂", "")
    assert split_reasoning("first this</think>then that") == ("then that", "first this")
    assert split_reasoning("<thi") == ("", "") and split_reasoning("<this>") == ("<this>", "")
    html = "Write <think>hm</think> around it."
    assert split_reasoning(html) == (html, ""), "within an answer it is text"


def test_connections_are_kept_between_calls() -> None:
    with serving(lambda number, body: "ok") as server:
        endpoint = Endpoint(server.url, "m", concurrency=2, **QUICK)
        for _ in range(3):
            endpoint.complete(asks(4))
    assert len(server.ports) <= 2


def test_ctrl_c_keeps_what_is_there() -> None:
    def see(i: int, text: str) -> None:
        if i == 1:
            raise KeyboardInterrupt

    with serving(lambda number, body: "ok" if number < 2 else "slow") as server:
        endpoint = Endpoint(server.url, "m", concurrency=1, **{**QUICK, "timeout": 5})
        began = time.monotonic()
        got = endpoint.complete(asks(4), see)
    assert endpoint.interrupted and time.monotonic() - began < 3
    assert [r.finish for r in got] == ["stop", "stop", "cancelled", "cancelled"]
    assert all(r.error is None for r in got)


def test_who_waits_is_asked_while_a_server_is_silent() -> None:
    def see(i: int, text: str) -> None:
        assert not text
        raise KeyboardInterrupt

    with serving(lambda number, body: "slow") as server:
        endpoint = Endpoint(server.url, "m", **{**QUICK, "timeout": 5})
        got = endpoint.complete(asks(2), see)
    assert endpoint.interrupted and [r.finish for r in got] == ["cancelled", "cancelled"]


def test_addresses() -> None:
    for given in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/chat/completions"):
        assert Endpoint(given).base == "http://h:1/v1"
    assert Endpoint("https://h/api/openai").base == "https://h/api/openai"
    for bad in ("", "h:1", "ftp://h", "http://", "http://user:pw@h", "http://h?key=1"):
        with pytest.raises(InputError) as caught:
            Endpoint(bad)
        assert (caught.value.hint and "pw" not in str(caught.value).replace(bad, "")) or bad in str(caught.value)


def test_retry_after() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "-3"}) == 0
    later = retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)})
    assert later is not None and 25 < later <= 30
    for odd in ("", "soon", "nan", "inf"):
        assert retry_after({"retry-after": odd}) is None
