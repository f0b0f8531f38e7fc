"""What an endpoint is asked, found out from what it answers: several answers at once, log-probabilities, tokens and
cost; judges and embedders elsewhere; our own server, whose thoughts are those of the model here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import openai  # noqa: F401  importing its transport may move the global random state
import pytest
from badserver import answer, serving
from serving import running
from tinyland import HashEmbedder

import thoughtmix
from thoughtmix import Pipeline, ThoughtSet
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.engine.endpoint import EndpointEngine
from thoughtmix.metrics import measure
from thoughtmix.models.address import base_url, find_key
from thoughtmix.models.chat import ChatRequest
from thoughtmix.models.embed import EndpointEmbedder
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.models.judge import EndpointJudge

QUICK: dict[str, Any] = {"first_wait": 0.01, "timeout": 2, "tries": 3}
TEXT = "A question?"


def alike(n: int, seed: int = 0) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": TEXT}], seed + i, 9, 0.5) for i in range(n)]


def test_several_answers_are_one_request_where_the_server_takes_it() -> None:
    with serving(lambda number, body: "n") as server:
        endpoint = Endpoint(server.url, "m", logprobs=True, prices=(1.0, 10.0), **QUICK)
        got = endpoint.complete(alike(5, 3))
    assert [(body["n"], body["seed"]) for body in server.seen] == [(5, 3)]
    assert [r.text for r in got] == [f"{TEXT[::-1]} {3 + i}" for i in range(5)], "each its own, by index"
    assert [r.seed for r in got] == [3, 4, 5, 6, 7] and endpoint.facts["seeds"] == "honoured"
    assert all(r.logprobs == [-0.5, -1.5] for r in got)
    assert endpoint.facts["prompt_tokens"] == 7 and endpoint.facts["completion_tokens"] == 10
    assert endpoint.facts["cost_usd"] == pytest.approx((7 * 1 + 10 * 10) / 1e6)


@pytest.mark.parametrize("refused", [False, True])
def test_a_server_that_takes_no_n_is_asked_one_by_one(refused: bool) -> None:
    """One answer to a request for several is kept, and the others are asked for; a refusal costs one request."""
    with serving(lambda number, body: "no n" if refused and "n" in body else "ok") as server:
        endpoint = Endpoint(server.url, "m", **QUICK)
        got = [*endpoint.complete(alike(4)), *endpoint.complete(alike(3, 4))]
    assert [r.text for r in got] == [TEXT[::-1]] * 7 and all(r.error is None for r in got)
    assert [body.get("n") for body in server.seen] == [4, *[None] * (7 if refused else 6)], "found out once"
    assert sorted({body["seed"] for body in server.seen}) == list(range(7))


def test_requests_that_differ_by_more_than_the_next_seed_stay_apart() -> None:
    warm = ChatRequest([{"role": "user", "content": TEXT}], 2, 9, 0.9)
    with serving(lambda number, body: "n") as server:
        Endpoint(server.url, "m", concurrency=1, **QUICK).complete([*alike(2), warm, *alike(2, 7)])
    assert [(body.get("n"), body["seed"]) for body in server.seen] == [(2, 0), (None, 2), (2, 7)]


def test_of_a_broken_stream_of_several_what_was_whole_stays() -> None:
    with serving(lambda number, body: "n cut" if number == 0 else "ok") as server:
        endpoint = Endpoint(server.url, "m", stream=True, **QUICK)
        got = endpoint.complete(alike(2, 5))
    assert [r.text for r in got] == [TEXT[::-1]] * 2 and [r.tries for r in got] == [1, 2]
    assert [(body.get("n"), body["seed"]) for body in server.seen] == [(2, 5), (None, 6)]
    assert endpoint.facts["troubles"] == {"cut": 1} and endpoint.facts["failed"] == 0


@pytest.mark.parametrize("name", ["seed", "logprobs"])
def test_what_a_server_does_not_take_is_left_out_and_said(name: str) -> None:
    with serving(lambda number, body: f"no {name}" if name in body else "n") as server:
        endpoint = Endpoint(server.url, "m", logprobs=True, concurrency=1, **QUICK)
        got = endpoint.complete(alike(1))
    assert len(server.seen) == 2 and got[0].error is None and endpoint.facts["left_out"] == [name]
    assert (got[0].logprobs is None) == (name == "logprobs")
    assert endpoint.facts["seeds"] == ("refused" if name == "seed" else "honoured") or name == "seed"


def test_an_unknown_likelihood_is_absent_not_zero() -> None:
    with serving(lambda number, body: "n") as server:
        known = Pipeline(engine=EndpointEngine(Endpoint(server.url, logprobs=True)), embedder=HashEmbedder())(TEXT, 3)
        unknown = Pipeline(engine=EndpointEngine(Endpoint(server.url)), embedder=HashEmbedder())(TEXT, 3)
    assert [t.mean_logprob for t in known] == [-1.0] * 3 and known[0].logprob == -2.0
    assert [(t.logprob, t.mean_logprob) for t in unknown] == [(None, None)] * 3
    again = ThoughtSet.from_json(unknown.to_json())
    assert again == unknown and json.loads(unknown.to_json())["thoughts"][0]["logprob"] is None
    assert len(again.select(2)) == 2, "by difference alone"
    with pytest.raises(InputError, match="no score 'mean_logprob'"):
        again.select(2, "mean_logprob")
    assert "nats/token" not in thoughtmix.report.text.plain(unknown) and "nats/token" in thoughtmix.report.text.plain(
        known
    )


def test_reasoning_is_kept_beside_the_thought_and_half_a_character_is_no_trouble() -> None:
    with serving(lambda number, body: "think" if number == 0 else "surrogate") as server:
        there = Pipeline("m", endpoint=server.url, embedder=HashEmbedder())
        thought, odd = there(TEXT, 1)[0], there(TEXT, 1)
    assert thought.origin["reasoning"] == "Hm, let me see." and thought.text == TEXT[::-1]
    assert odd.texts == ["half \ufffd of it"] and odd[0].origin["tries"] == 1
    odd.to_json().encode()


def test_our_own_server_gives_what_the_model_here_gives() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 7, "temperature": 1.3, "seed": 5, "measure": False}
    prompt = "w5 w9 w77 w33"
    with running() as server:
        there = Pipeline(endpoint=server.url)
        far = there(prompt, 4, "sampling", **settings)
        one = there(prompt, 1, "sampling", **{**settings, "seed": 7})
        streamed = Pipeline(engine=EndpointEngine(Endpoint(server.url, stream=True, logprobs=True)))(
            prompt, 4, "sampling", **settings
        )
        here = Pipeline(server.service.lm, weights="native")(prompt, 4, "sampling", raw=True, **settings)
    assert far.texts == here.texts == streamed.texts and one.texts == far.texts[2:3]
    assert far.run["endpoint"]["requests"] == 1 and far.run["endpoint"]["seeds"] == "honoured"
    assert streamed.run["endpoint"]["seeds"] == "honoured" and streamed.run["endpoint"]["completion_tokens"] > 0
    for a, b, c in zip(far, here, streamed, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3) and c.logprob == pytest.approx(b.logprob, abs=1e-3)
        assert (a.seed, a.finish) == (b.seed, b.finish)


def test_a_judge_elsewhere() -> None:
    made = ThoughtSet(TEXT, texts_alone("one", "two"))
    for said, logprobs, wanted in (("Yes", True, 0.75), ("No", True, 0.25), ("Yes", False, 1.0), ("Hm", True, None)):
        script = (
            (lambda number, body, said=said: f"says {said}")
            if logprobs
            else (lambda number, body, said=said: "no logprobs" if "logprobs" in body else f"says {said}")
        )
        with serving(script) as server:
            judged = measure(made, judge=EndpointJudge(Endpoint(server.url, "m", **QUICK)))
        scores = [t.scores.get("judge_yes") for t in judged]
        assert scores == [None if wanted is None else pytest.approx(wanted)] * 2, said
        assert ("judge_yes" in judged.metrics) == (wanted is not None)
        assert judged.run["judge"].startswith("m at 127.0.0.1")
    asked = sorted(body["messages"][0]["content"] for body in server.seen)
    assert asked[0].startswith("Question: A question?\n\nAnswer: one\n\nIs this a good answer")


def texts_alone(*texts: str) -> tuple[thoughtmix.Thought, ...]:
    return tuple(thoughtmix.Thought(text, (), i, None, "stop") for i, text in enumerate(texts))


def test_an_embedder_elsewhere() -> None:
    with serving(lambda number, body: "ok") as server:
        embedder = EndpointEmbedder(Endpoint(server.url, "m", key="k", **QUICK))
        got = embedder.encode(["eel", "", "x" * 400])
        assert np.allclose(np.linalg.norm(got, axis=1), 1) and got.dtype == np.float32 and got.shape == (3, 3)
        assert np.allclose(got[0] * 14**0.5, [3, 2, 1], atol=1e-5) and server.keys == ["Bearer k"]
        measured = Pipeline(endpoint=server.url, embedder=embedder)(TEXT, 2)
    assert "vendi" in measured.metrics and measured.run["embedder"].startswith("m at")
    with pytest.raises(ModelError, match="gives no embeddings: no connection"):
        EndpointEmbedder(Endpoint("http://127.0.0.1:9", "m", **QUICK)).encode(["a"])


def test_which_key_goes_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THOUGHTMIX_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.setenv("MINE", "mine")
    far, openai_url = "https://models.example.com/v1", "https://api.openai.com/v1"
    assert find_key(far) is None and find_key(openai_url) == "theirs"
    assert find_key("https://api.openai.com.example.com/v1") is None
    assert find_key(far, key_env="MINE") == "mine" and find_key(openai_url, key_env="MINE") == "mine"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example.com/openai/v1")
    assert find_key(far) == "theirs" and find_key("http://models.example.com/v1") is None
    assert find_key("https://models.example.com:8443/v1") is None
    with pytest.raises(InputError, match=r"over plain http.*--key-over-http"):
        find_key("http://10.0.0.7/v1", key_env="MINE")
    assert find_key("http://10.0.0.7/v1", key_env="MINE", over_http=True) == "mine"
    with pytest.raises(InputError, match=r"NONE holds no key\. Type: export NONE="):
        find_key(far, key_env="NONE")
    monkeypatch.setenv("THOUGHTMIX_API_KEY", "named")
    assert find_key(far) == "named" and find_key(far, "") == "theirs" and find_key("https://other/v1", "") is None
    assert base_url("http://h:1/v1/embeddings/") == "http://h:1/v1"
    with pytest.raises(InputError, match="no http address"):
        base_url("http://h:port")


def test_answers_are_those_of_their_prompts() -> None:
    with serving(lambda number, body: "n") as server:
        several = [*alike(3), *(ChatRequest([{"role": "user", "content": "Other."}], i) for i in range(3))]
        got = Endpoint(server.url, "m", **QUICK).complete(several)
    assert {body["n"] for body in server.seen} == {3}
    assert [r.text.rsplit(" ", 1)[0] for r in got] == [TEXT[::-1]] * 3 + ["Other."[::-1]] * 3
    assert {answer(body) for body in server.seen} == {TEXT[::-1], "Other."[::-1]}
