"""The thinker `list`: what it asks, what it takes apart, when it asks again, and what it spends."""

from __future__ import annotations

import re
from typing import Any

import pytest
from askingland import Scripted, chat_model, numbered
from badserver import serving
from tiny import language_model

import thoughtmix
from thoughtmix import InputError, Pipeline
from thoughtmix.asking.answers import near_copy, plain_answer, same_name
from thoughtmix.asking.conversation import Conversation
from thoughtmix.core.request import StepEvent
from thoughtmix.engine.local import LocalEngine

ASKED = "Name a fruit."


def think(engine: Any, n: int = 4, prompt: Any = ASKED, **how: Any) -> thoughtmix.ThoughtSet:
    return Pipeline(engine=engine)(prompt, n, "list", measure=False, **how)


def test_it_asks_again_for_what_is_missing() -> None:
    rounds = [numbered("Apple", "Pear", "apple."), numbered("Pear", "Fig", "Plum", first=3)]
    engine = Scripted(lambda call, i, said: rounds[call])
    made = think(engine)
    assert made.texts == ["Apple", "Pear", "Fig", "Plum"]
    assert (made.run["rounds"], made.run["missing"]) == (2, 0)
    assert [t.origin["position"] for t in made] == [0, 1, 2, 3]
    first, again = engine.said(0), engine.said(1)
    assert first.endswith(f"user: {ASKED}\n\nGive 4 different answers, numbered from 1 to 4.")
    assert first.count("assistant:") == 2, "two demonstrations"
    assert again.startswith(first) and "1. Apple" in again, "it shows what is there"
    assert again.endswith("Give 2 more answers, numbered from 3 to 4, each different from all before.")
    assert engine.calls[0][0].stop == ("\n5.",), "and no more than n are wanted"


def test_rounds_and_tokens_are_bounded() -> None:
    stubborn = Scripted(lambda call, i, said: numbered("Apple") if call < 3 else f"Fruit {i}")
    made = think(stubborn, rounds=3)
    assert len(stubborn.calls) == 4 and made.texts == ["Apple", "Fruit 0", "Fruit 1", "Fruit 2"]
    assert [t.origin["form"] for t in made] == ["plain", "alone", "alone", "alone"]
    assert made.run["alone"] == 3
    budgets = [sum(s.max_new_tokens for s in call) for call in stubborn.calls]
    assert budgets[0] == 4 * 96 and budgets == sorted(budgets, reverse=True)
    cut = Scripted(lambda call, i, said: numbered("Apple", "Pear", "A fruit that is…"))
    made = think(cut)
    assert len(cut.calls) == 1, "its tokens are spent"
    assert made.texts == ["Apple", "Pear", "A fruit that is"] and [t.finish for t in made] == ["stop", "stop", "length"]
    assert made.run["missing"] == 1


def test_a_cut_answer_gives_way_to_a_whole_one() -> None:
    def script(call: int, i: int, said: str) -> str:
        first = [numbered("Apple", "Pear", "A fru…"), numbered("Fig", "Plum", "Lime", "Kiwi")]
        return first[i] if call == 0 else f"Alone {i}"

    made = think(Scripted(script), n=7, chains=2)
    assert made.texts[:2] == ["Apple", "Fig"], "lists take turns"
    assert set(made.texts) == {"Apple", "Pear", "A fru", "Fig", "Plum", "Lime", "Alone 0"}


def test_lists_side_by_side_are_distinct_unless_told_otherwise() -> None:
    def script(call: int, i: int, said: str) -> str:
        return numbered("Apple", "Pear") if call == 0 else numbered("Fig", "Plum", first=3)

    engine = Scripted(script)
    made = think(engine, chains=2)
    assert made.texts == ["Apple", "Pear", "Fig", "Plum"] or sorted(made.texts) == ["Apple", "Fig", "Pear", "Plum"]
    assert len(engine.calls[0]) == 2 and len(engine.calls[1]) == 1, "only the list that lacks some goes on"
    assert [s.seed for s in engine.calls[0]] == [0, 1]
    both = think(Scripted(script), chains=2, distinct=False)
    assert both.texts == ["Apple", "Apple", "Pear", "Pear"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "Fig", "probability": 0.3}, {"text": "Pear", "probability": 0.05}]',
        '[{"probability": 0.3, "text": "Fig"}, {"probability": "5%", "text": "Pear"}]',
        '```json\n[{"text": "Fig", "probability": 30%},\n {"text": "Pear", "probability": 5%',
        "<response><text>Fig</text><probability>0.3</probability></response>\n"
        "<response><text>Pear</text><probability>0.05</probability></response>",
        "1. Fig (probability: 0.3)\n2. Pear (probability: 5%)",
    ],
)
def test_stated_probabilities_survive_whatever_is_written(text: str) -> None:
    made = think(Scripted(lambda call, i, said: text), 2, form="verbalized")
    assert [(t.text, t.origin["probability"]) for t in made] == [("Fig", 0.3), ("Pear", 0.05)]


def test_forms_are_asked_for_with_demonstrations_of_that_form() -> None:
    for form, shown in (("json", '["Hammer", '), ("verbalized", '"probability": 0.3'), ("plain", "1. Hammer\n2. ")):
        engine = Scripted(lambda call, i, said: '["Fig", "Pear"]')
        made = think(engine, 2, form=form, demonstrations=1)
        assert made.texts == ["Fig", "Pear"]
        assert shown in engine.said(0)
        assert "Drill" not in engine.said(0), "as many as are asked for"


def test_a_conversation_is_kept_and_must_end_with_a_question() -> None:
    engine = Scripted(lambda call, i, said: numbered("Fig", "Pear"))
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"}, {"role": "user", "content": ASKED}]  # fmt: skip
    assert think(engine, 2, prompt=chat, demonstrations=1).texts == ["Fig", "Pear"]
    lines = engine.said(0)
    assert (
        lines.startswith("system: Be brief.\nuser: Name a tool")
        and "user: Hi\nassistant: Hello\nuser: Name a fruit." in lines
    )
    with pytest.raises(InputError, match=r"ends with an answer.*--thinker sampling"):
        think(engine, 2, prompt=chat[:3])
    with pytest.raises(InputError, match="a value a thought"):
        think(engine, 2, temperature=[0.5, 1.0])


def test_progress_is_told_and_the_texts_come_at_the_end() -> None:
    seen: list[StepEvent] = []
    rounds = [numbered("Apple", "Pear"), numbered("Fig", "Plum", first=3)]
    think(Scripted(lambda call, i, said: rounds[call]), on_step=seen.append)
    assert [e.done for e in seen] == [10, 20, 20] and {e.total for e in seen} == {384}
    assert list(seen[-1].pieces) == ["Apple", "Pear", "Fig", "Plum"] and all(seen[-1].finished)
    assert not any(any(e.pieces) for e in seen[:-1])


def test_on_a_local_model_tokens_are_those_of_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = chat_model()
    monkeypatch.setattr("thoughtmix.asking.answers.list_items", lambda text: text.removeprefix("1.").split()[:3])
    made = think(LocalEngine(lm), 6, max_new_tokens=4, seed=3)
    assert 0 < made.run["tokens"] <= 24
    listed = [t for t in made if t.origin["form"] != "alone"]
    assert listed and all(lm.decode(t.token_ids).strip() == t.text for t in listed)
    assert all(
        len(t.token_logprobs) == len(t.token_ids) == 1 and t.logprob == sum(t.token_logprobs) < 0 for t in listed
    )
    assert think(LocalEngine(lm), 6, max_new_tokens=4, seed=3).texts == made.texts
    assert think(LocalEngine(lm), 6, max_new_tokens=4, seed=4).texts != made.texts


def test_what_was_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round computes only what is new, and says the same as one that reads all again."""
    lm = chat_model()
    monkeypatch.setattr("thoughtmix.asking.answers.list_items", lambda text: re.sub(r"^\d+\.", "", text).split()[:1])

    class Counting(LocalEngine):
        computed: list[int]

        def generate(self, *given: Any, **more: Any) -> Any:
            done = super().generate(*given, **more)
            self.computed.append(done.computed - sum(len(o.token_ids) - 1 for o in done.outputs))
            return done

    kept, again = Counting(lm), Counting(lm)
    kept.computed, again.computed = [], []
    how: dict[str, Any] = {"max_new_tokens": 40, "rounds": 2, "temperature": 1.5, "chains": 1}
    monkeypatch.setattr("thoughtmix.asking.enumerating._stops", lambda *given: ("w8", "w9", "w10", "w11", "w12", "w13"))
    one = think(kept, 3, **how)
    monkeypatch.setattr(Conversation, "keeps", property(lambda self: False))
    two = think(again, 3, **how)
    assert one.texts == two.texts
    assert kept.computed[0] == again.computed[0] and kept.computed[1] < again.computed[1] / 2


def test_a_model_without_turns_goes_on_with_a_begun_list() -> None:
    lm = language_model("llama")
    made = think(LocalEngine(lm), 3, prompt="w5 w6", max_new_tokens=4)
    assert 1 <= len(made) <= 3 and made.run["tokens"] <= 12


def test_on_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.engine.endpoint import EndpointEngine
    from thoughtmix.models.endpoint import Endpoint

    monkeypatch.setattr("badserver.answer", lambda body: numbered("Fig", "Pear", "Plum"))
    with serving(lambda number, body: "ok") as server:
        made = think(EndpointEngine(Endpoint(server.url)), 3)
    assert made.texts == ["Fig", "Pear", "Plum"] and len(server.seen) == 1
    assert server.seen[0]["max_tokens"] == 3 * 96 and server.seen[0]["stop"] == ["\n4."]


def test_the_answer_of_a_model_here_is_begun_and_says_how_long_each_is() -> None:
    lm, seen = chat_model(), list[str]()

    class Reading(LocalEngine):
        def generate(self, sequences: Any, **more: Any) -> Any:
            seen.extend(lm.decode(s.prompt) for s in sequences if isinstance(s.prompt, tuple))
            return super().generate(sequences, **more)

    made = think(Reading(lm), 6, max_new_tokens=3)
    assert len({t.origin.get("list", 0) for t in made} | {0, 1, 2, 3}) == 4, "four lists, since small models copy"
    assert seen and all(text.endswith(lm.decode(lm.encoder.text("1.", frame=False))) for text in seen[:4])
    asked = Scripted(lambda call, i, said: numbered("Bake it.", "Burn it."))
    think(asked, 2, prompt="Give me an idea for a party.")
    assert asked.said(0) == "user: Give me an idea for a party.\n\n" \
        "Give 2 different answers, numbered from 1 to 2, one short sentence each."  # fmt: skip


def test_an_answer_with_a_word_changed_is_no_other_answer() -> None:
    assert near_copy("a party with a birthday cake and a hat", "a party with a birthday cake and a dog")
    assert near_copy("parties with a cake and hats", "party with a cake and hat")
    assert not near_copy("a party with a birthday cake", "swim with the seals at night")
    assert not near_copy("north carolina", "south carolina") and not near_copy("blue jay", "blue jays")
    copies = ["Use it as a very heavy door stop", "Use it as a very heavy book stop", "Grind it to sand."]
    engine = Scripted(lambda call, i, said: numbered(*copies) if call == 0 else f"Alone {i}")
    assert think(engine, 3, rounds=1).texts == [copies[0], copies[2], "Alone 0"]


def test_what_is_copied_from_a_demonstration_is_no_answer() -> None:
    engine = Scripted(lambda call, i, said: numbered("Hammer", "Tango", "Fig", "Chisels", "Pear"))
    assert think(engine, 2).texts == ["Fig", "Pear"]
    assert think(engine, 2, prompt="Name some tools.").texts == ["Hammer", "Fig"], "unless it is asked for"
    assert think(engine, 2, demonstrations=0).texts == ["Hammer", "Tango"]


def test_singular_and_plural_are_one_name() -> None:
    same = ["apple apples", "cherry cherries", "peach peaches", "movie movies", "tomato tomatoes", "wolf wolves"]
    same += ["woman women", "mouse mice", "bus buses", "pomme pommes", "headache headaches"]
    other = [
        "glass glasses",
        "c cs",
        "1980 1980s",
        "new news",
        "william williams",
        "bus bu",
        "pêche péché",
        "pear peach",
    ]
    other += ["princes princess", "laos lao", "mars mar", "fig figurine"]
    for pair, is_same in [*((p, True) for p in same), *((p, False) for p in other)]:
        one, two = pair.split()
        assert same_name(one, two) is same_name(two, one) is is_same, pair
    assert same_name("blue jay", "blue jays") and same_name("bird of paradise", "birds of paradise")
    assert not same_name("blue jay", "jays") and not same_name("", "a")
    assert same_name("rhine", "river rhine", "Name a river.") and not same_name("rhine", "river rhine")
    assert not same_name("north korea", "south korea", "North Korea or South Korea?")
    assert same_name("art of war", 'art of war" by b. f. ashby') and same_name("number 1: a hammer", "number 1")
    assert same_name("rhône", "rhone") and not same_name("bär", "bar") and not same_name("pêche", "péché")
    assert same_name("einstein", "albert einstein", "Name a scientist.") and not same_name("sudan", "south sudan")
    assert not same_name("night: a tale", "night: a song") and not same_name("stand by me", "stand")
    engine = Scripted(lambda call, i, said: numbered("Apple", "Apples", "An apple.", "Pears", "Fig", "Pear"))
    assert think(engine, 3).texts == ["Apple", "Pears", "Fig"]


def test_two_ways_to_write_one_answer() -> None:
    assert {plain_answer(t) for t in ("The Fig.", "fig", " “Fig” ", "a  fig!", "**Fig**")} == {"fig"}
    assert plain_answer("Bread & Biscuits.") == plain_answer("bread and biscuits")
    assert plain_answer("A") == "a" and plain_answer("...") == "" and plain_answer("C++") != plain_answer("C")
