"""Thoughts that end with a sentence: where one ends, and how an engine lands there."""

from __future__ import annotations

from typing import Any

import pytest
from badserver import serving
from tiny import language_model

import thoughtmix
from thoughtmix import InputError, Pipeline
from thoughtmix.core.request import Request
from thoughtmix.core.sentences import ends_sentence, sentence_end
from thoughtmix.engine import SamplingParams, SequenceRequest
from thoughtmix.engine.local import LocalEngine

pytest_plugins = ["tinyland"]


@pytest.mark.parametrize(
    "text",
    [
        "It is.",
        "Is it?",
        'He said "go."',
        "It is (so).",
        "It is so…",
        "**It is so.**",
        "これはペンです。",
        "One\n\n",
        "In 1988. ",
        "ok!\n",
        "It is (or was) `so`.",
        "```\nx = 1\n```\n\n",
    ],
)
def test_here_a_sentence_ends(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "It is",
            "It costs 3.",
            "Ask Dr.",
            "e.g.",
            "1.",
            "One.\n2.",
            'He said "go.',
            "so,",
            "",
            "J.",
            "It. is",
            "a:\n",
        ),
        *("But first,\n\n", "Ideas:\n\n", "A date (e.g. today.", "Use a dot (`.", "```\nprint(1.\n\n", "It is `so."),
    ],
)
def test_and_here_it_does_not(text: str) -> None:
    assert not ends_sentence(text)


def test_the_last_whole_sentence() -> None:
    for text in ("One. Two. Thr", 'One. "Two." Thr', "One. Two.\nThr", "One. Two. Ask Dr. Thr", "One. Two. 3.5 thr"):
        assert text[: sentence_end(text)].replace('"', "") == "One. Two."
    assert sentence_end("One and two") == 0
    assert "First paragraph"[: sentence_end("First paragraph\n\nsecond par")] == "First paragraph"


def decode_of(plain: Any, ids: Any, words: dict[str, str], how: Any) -> str:
    return " ".join(words.get(word, word) for word in plain(ids, **how).split())


def made(engine: LocalEngine, landing: int, most: int = 20, seeds: int = 4) -> list[Any]:
    sampling = SamplingParams(temperature=1.5)
    asked = [SequenceRequest((5, 9, 77), s, sampling, most, end_ids=frozenset(), landing=landing) for s in range(seeds)]
    return engine.generate(asked).outputs


def test_it_ends_with_the_first_sentence_of_its_last_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(language_model("llama"))
    exact = made(engine, 0)
    words = {f"w{i}": "end." for i in range(3, 160, 3)}  # a third of all words ends a sentence
    plain = engine.model.tokenizer.decode
    monkeypatch.setattr(engine.model.tokenizer, "decode", lambda ids, **how: decode_of(plain, ids, words, how))
    landed = made(engine, 12)
    assert all(o.finish == "sentence" and o.text.endswith(".") for o in landed)
    for whole, short in zip(exact, landed, strict=True):
        assert short.token_ids == whole.token_ids[: len(short.token_ids)], "only where it ends is another"
        assert 8 <= len(short.token_ids) <= 20 and len(short.logprobs) == len(short.token_ids)
        ends = [i + 1 for i, token in enumerate(whole.token_ids) if token % 3 == 0]
        assert len(short.token_ids) == next(i for i in ends if i >= 8)


def test_what_is_unfinished_is_cut_back(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(language_model("llama"))
    exact = made(engine, 0)
    last = [o.token_ids[13] for o in exact]  # in the 14th place a sentence ends, in the landing of 4 none does
    words = {f"w{i}": "end." for i in last if all(i not in o.token_ids[16:] for o in exact)}
    plain = engine.model.tokenizer.decode
    monkeypatch.setattr(engine.model.tokenizer, "decode", lambda ids, **how: decode_of(plain, ids, words, how))
    landed = made(engine, 4)
    back = [o for o in landed if o.finish == "sentence"]
    assert back and all(len(o.token_ids) + o.dropped == 20 and o.text.endswith(".") for o in back)
    assert all(len(o.logprobs) == len(o.token_ids) for o in landed)
    others = [(a, b) for a, b in zip(exact, landed, strict=True) if b.finish == "length"]
    assert all(a.token_ids == b.token_ids for a, b in others), "without a sentence nothing changes"


def test_without_sentences_nothing_changes(global_state_untouched: None) -> None:
    engine = LocalEngine(language_model("llama"))
    assert [o.token_ids for o in made(engine, 8)] == [o.token_ids for o in made(engine, 0)]
    pipeline = Pipeline(engine=engine)
    one = pipeline("w5", 3, "sampling", max_new_tokens=6, measure=False)
    assert one.texts == pipeline("w5", 3, "sampling", max_new_tokens=6, landing=0, measure=False).texts
    assert one.settings["landing"] == 0.33


def test_on_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.engine.endpoint import EndpointEngine
    from thoughtmix.models.endpoint import Endpoint

    reply = {"choices": [{"message": {"content": "One two three. Fo"}, "finish_reason": "length"}]}
    monkeypatch.setattr("badserver._whole", lambda *given, **more: reply)
    with serving(lambda number, body: "ok") as server:
        pipeline = Pipeline(engine=EndpointEngine(Endpoint(server.url)))
        whole = pipeline("Count.", 1, "sampling", measure=False)
        exact = pipeline("Count.", 1, "sampling", measure=False, landing=0)
    assert (whole[0].text, whole[0].finish) == ("One two three.", "sentence")
    assert (exact[0].text, exact[0].finish) == ("One two three. Fo", "length")
    assert {body["max_tokens"] for body in server.seen} == {96}, "the budget is what was asked for"


def test_settings_and_files() -> None:
    assert Request(max_new_tokens=96, landing=0.33).landing_tokens == 31
    with pytest.raises(InputError, match=r"landing is 2.*--landing 0.33"):
        Request(landing=2)
    thought = thoughtmix.Thought("One.", (1,), 0, -1.0, "sentence")
    saved = thoughtmix.ThoughtSet("Count.", (thought,))
    assert thoughtmix.ThoughtSet.from_dict(saved.to_dict())[0].finish == "sentence"


def test_languages_are_told_by_their_common_words() -> None:
    from thoughtmix.core.languages import language_of

    for language, text in (
        ("en", "Name an unusual use for a brick."),
        ("en", "Tell me something surprising about bees."),
        ("fr", "Donne-moi une idée originale d’anniversaire pour mon fils."),
        ("fr", "Trouve un usage inattendu d'une brique."),
        ("de", "Nenne mir eine ungewöhnliche Verwendung für einen Ziegelstein."),
        ("es", "Dame una idea para una fiesta de cumpleaños."),
        ("ja", "煉瓦の変わった使い方を教えてください。"),
        ("ru", "Назови необычное применение кирпича."),
        (None, "Paris?"),
        (None, "w5 w6 w7"),
        (None, ""),
    ):
        assert language_of(text) == language, text


def test_a_language_that_the_model_does_not_write_is_told(
    monkeypatch: pytest.MonkeyPatch, tinyland: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    from thoughtmix.cli import main

    engine = LocalEngine(dataclasses.replace(language_model("llama"), languages=("en",)))
    pipeline = Pipeline(engine=engine)
    french = "Donne-moi une idée pour la fête de mon fils."
    made = pipeline(french, 1, "sampling", max_new_tokens=2, measure=False)
    assert made.run["warning"] == "The prompt is French, and tiny-llama was trained to write English."
    assert "warning" not in pipeline("Give me an idea for a party.", 1, "sampling", max_new_tokens=2, measure=False).run
    monkeypatch.setattr("thoughtmix.models.load_model", lambda *given, **how: engine.model)
    assert main(["think", french, "-n", "1", "--max-new-tokens", "2", "--no-measure"]) == 0
    assert "trained to write English. Name a model that knows it (--model)." in capsys.readouterr().err


def test_repetition_is_seen_and_told() -> None:
    from thoughtmix.core.selection import repeats, stutters
    from thoughtmix.report.text import facts

    assert stutters("It was the the night's night.") == 2
    assert stutters("Ha ha, very very good. Good night, night owl. 5 5") == 0
    assert repeats("one two three " * 20) and not repeats("A plain sentence of a few words, said once.")
    loop = thoughtmix.Thought("the night's night", (1,), 0, -1.0, "stop")
    assert "repeats itself" in facts(loop)
    saved = thoughtmix.metrics.measure(
        thoughtmix.ThoughtSet("w5", (loop, loop, thoughtmix.Thought("So.", (1,), 0, -1.0)))
    )
    assert saved.metrics["repeating"] == pytest.approx(2 / 3, abs=1e-5) and saved[0].scores["stutters"] == 1
