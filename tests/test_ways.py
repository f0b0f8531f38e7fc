"""What a prompt asks for, the rule that chooses a thinker, stock phrases, and ways that are put together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from askingland import Scripted, chat_model, numbered
from tiny import language_model
from tinyland import HashEmbedder

import thoughtmix
from thoughtmix import Pipeline
from thoughtmix.asking.agreement import group_answers
from thoughtmix.asking.one_answer import one_answer
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.bench.tasks import coverage_tasks
from thoughtmix.cli import main
from thoughtmix.core.selection import select_good
from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.core.types import Thought
from thoughtmix.engine.local import LocalEngine
from thoughtmix.report.text import in_words, summary
from thoughtmix.search.evaluators import Leaf, Substance
from thoughtmix.thinkers.auto import choose_thinker

pytest_plugins = ["tinyland"]
KINDS = Path(__file__).parent / "data" / "asked_kinds.tsv"
TEXTS = {"sentence", "long"}


@pytest.mark.parametrize(
    ("kind", "prompts"),
    [
        (
            "name",
            [
                "Name a bird.",
                "What is a popular spice?",
                "Name one great dream job.",
                "Name a fruit, please",
                "Say a number.",
                "Suggest a name for a boat.",
            ],
        ),
        ("phrase", ["Write a title for a mystery novel.", "A slogan for a bakery?"]),
        (
            "sentence",
            [
                "Name an unusual use for a brick.",
                "Give me an unusual idea for a birthday party.",
                "A party idea?",
                "What should I cook tonight?",
                "Name a fruit and say why.",
                "Write a tweet about learning to swim as an adult.",
                "Write a toast for my sister's wedding.",
                "Give me a metaphor for time.",
                "Write the first line of a novel about a lighthouse.",
            ],
        ),
        ("one", ["What is the capital of France?", "Who wrote Hamlet?", "What is 2 + 2?"]),
        (
            "long",
            [
                "Write a story about a brick.",
                "Write a poem about an idea.",
                "Explain why a title matters.",
                "Write a Python function that names a file.",
                "Hello",
                "Donne-moi une idée.",
                "",
                "Name a bird. " + "It flies. " * 60,
            ],
        ),
    ],
)
def test_what_a_prompt_asks_for(kind: str, prompts: list[str]) -> None:
    assert {prompt: kind_of_answer(prompt) for prompt in prompts} == dict.fromkeys(prompts, kind)


def test_the_rule_on_prompts_that_it_was_not_made_for() -> None:
    """131 prompts with the kind that a person would say: a third of NoveltyBench's (MIT), the others written for this. The
    rule was changed with one half of them in view; of the other it gets 55 of 64, where the former one got 42."""
    rows = [line.split("\t") for line in KINDS.read_text(encoding="utf-8").splitlines()]
    halves: dict[int, list[tuple[str, str]]] = {0: [], 1: []}
    for kind, prompt in rows:
        halves[hashlib.blake2b(prompt.encode()).digest()[0] % 2].append((kind, kind_of_answer(prompt)))
    right = {half: sum(said == told for said, told in own) for half, own in halves.items()}
    assert (len(halves[0]), len(halves[1])) == (67, 64) and right[0] >= 65 and right[1] >= 55, right
    short = [1 for own in halves.values() for said, told in own if said in TEXTS and told not in {*TEXTS, "one"}]
    assert len(short) <= 2, "texts that would be cut as names or phrases"


def test_the_tasks_with_known_answers_ask_for_names() -> None:
    assert {kind_of_answer(item.prompt) for item in coverage_tasks()} == {"name"}


def chosen(engine: Any, prompt: Any = "Name a bird.", n: int = 8, raw: bool = False, **how: Any) -> str:
    pipeline = Pipeline(engine=engine)
    auto = thoughtmix.get_thinker("auto")
    request = pipeline.request(auto, n, **how)
    return choose_thinker(engine, thoughtmix.core.request.Prompt.from_user(prompt, raw), request)[0].name


def test_auto_chooses_by_engine_prompt_and_settings() -> None:
    here, elsewhere = LocalEngine(chat_model()), Scripted(lambda call, i, said: "")
    assert (chosen(here), chosen(elsewhere)) == ("pool", "list")
    assert (chosen(here, "Name a use for a brick."), chosen(elsewhere, "Name a use for a brick.")) == (
        "pool",
        "sampling",
    )
    assert (chosen(here, "Who wrote Hamlet?"), chosen(elsewhere, "Who wrote Hamlet?")) == ("pool", "sampling")
    assert chosen(here, "Write a story.") == chosen(elsewhere, "Write a story.") == "sampling"
    for how in ({"n": 1}, {"temperature": 0}, {"creativity": 0.0}, {"temperature": [0.5] * 8}, {"regex": "a+"}):
        assert chosen(here, **how) == "sampling", how
    assert chosen(here, raw=True) == chosen(LocalEngine(language_model("llama"))) == "sampling"
    turns = [{"role": r, "content": "Name a bird."} for r in ("user", "assistant", "user")]
    assert chosen(here, turns) == "sampling" and chosen(here, turns[:1]) == "pool"
    assert chosen(LocalEngine(language_model("mixture"))) == "mixture"


def test_what_was_chosen_and_why_is_told() -> None:
    engine = Scripted(lambda call, i, said: numbered("Owl", "Wren"))
    made = Pipeline(engine=engine)("Name a bird.", 2, "auto", measure=False)
    assert made.texts == ["Owl", "Wren"] and made.thinker == "list"
    assert made.run["chosen"] == {"thinker": "list", "why": "it asks for one of several names"}
    assert in_words(made) == "2 answers by list. Chosen since it asks for one of several names."
    assert summary(made).startswith("2 thoughts by list (chosen: it asks for one of several names)")
    again = Pipeline(engine=engine)("Name a bird.", 2, made.thinker, measure=False, **made.settings["options"])
    assert again.texts == made.texts and "chosen" not in again.run


def test_which_answer_most_give() -> None:
    long = "It is Paris, which lies on a river in the north and is the largest of all French cities by far."
    asked = "What is the capital of France?"
    assert one_answer(asked, ["The capital of France is Paris.", long, "Paris", "Lyon"]) == {
        "answer": "Paris",
        "count": 3,
        "of": 4,
    }
    painted = "So far as we know it was painted by the famous Leonardo da Vinci between the years 1503 and 1506."
    told = {
        ("Who painted the Mona Lisa?", (painted, "Leonardo da Vinci", "Some friend of his.")): "Leonardo da Vinci",
        ("How many legs has a spider?", ("A spider has eight legs.", "8", "Six")): "eight",
        ("When was the first brick made?", ("1200 AD", "90 AD", "40 BC")): None,
        ("Is the earth flat?", ("No.", "No, the Earth is round.", "Yes")): "No",
        ("What is the opposite of hot?", ("The opposite of hot is cold.", "Cold", "warm")): "cold",
        ("What is the opposite of hot?", ("cold", "warm")): None,
        ("Why?", ("", "...")): None,
    }
    assert {given: one_answer(given[0], given[1])["answer"] for given in told} == told
    made = Pipeline(engine=Scripted(lambda call, i, said: "Paris" if i else "Lyon"))(asked, 3, "auto", measure=False)
    assert in_words(made).endswith("This question seems to have one answer: 2 of 3 say “Paris”.")
    made = Pipeline(engine=Scripted(lambda call, i, said: f"{i}"))(asked, 2, "auto", measure=False)
    assert in_words(made).endswith("one answer, and most of these do not agree on one.")
    assert "one_answer" not in Pipeline(engine=Scripted(lambda call, i, said: ""))("Write.", 2, measure=False).run


def test_a_pool_of_one_right_answer_keeps_all_and_those_that_agree_come_first() -> None:
    engine = Scripted(lambda call, i, said: ["Lyon", "It is Paris.", "Nice", "Paris!", "The city of Paris"][i])
    made = Pipeline(engine=engine)("What is the capital of France?", 5, "pool", measure=False)
    assert made.texts == ["It is Paris.", "Paris!", "The city of Paris", "Lyon", "Nice"]
    assert [t.origin.get("agreement") for t in made] == [3, 3, 3, None, None] and [t.seed for t in made][:2] == [1, 3]
    assert engine.said(0).endswith("Answer in one short sentence.") and len(engine.calls) == 1
    assert {s.sampling.temperature for s in engine.calls[0]} == {0.5}
    assert summary(made).startswith("5 thoughts by pool")


def test_python_keeps_law_5_unless_told_and_the_command_line_chooses(tinyland: Any, capsys: Any) -> None:
    made = thoughtmix.think("w5 w6", 2, measure=False, max_new_tokens=2)
    assert made.thinker == "sampling" and "chosen" not in made.run
    assert main(["think", "w5 w6", "-n", "2", "--max-new-tokens", "2", "--json"]) == 0
    assert '"why": "the text is to go on"' in capsys.readouterr().out
    assert main(["think", "w5 w6", "-n", "2", "--max-new-tokens", "2", "-o", "draws=arithmetic", "--json"]) == 0
    assert '"draws": "arithmetic"' in capsys.readouterr().out


def test_answers_that_repeat_the_question_come_last_and_near_ones_first() -> None:
    some = [Thought(t, (1,), 0, -1.0, "stop") for t in ("a bird", "brick", "black bird", "stone")]
    found = group_answers(some, "words", 0.3, HashEmbedder, "Name a bird.", "relevance")
    assert found.groups[0][0].text == "black bird" and found.groups[-1][0].text == "a bird"


def test_a_pool_asks_for_something_short_and_takes_a_phrase_out_of_its_quotes() -> None:
    said = ['"The Owl"', "“Night”", "A very long title that does not end…", "the owl", *["Wren"] * 2]
    engine = Scripted(lambda call, i, text: said[i])
    made = Pipeline(engine=engine)("Write a title for a novel.", 2, "pool", measure=False, rank="likelihood")
    assert [(t.text, t.origin["agreement"]) for t in made] == [("The Owl", 2), ("Wren", 2)]
    assert engine.said(0) == "user: Write a title for a novel.\n\nAnswer in a few words."
    assert {(s.max_new_tokens, s.stop) for s in engine.calls[0]} == {(20, ("\n",))}
    idea = Scripted(lambda call, i, text: "Bake it.")
    Pipeline(engine=idea)("Give me an idea.", 2, "pool", measure=False, group="words")
    assert idea.said(0).endswith("Answer in one short sentence.") and idea.calls[0][0].landing == 24


def test_a_list_of_names_in_a_pool_cannot_ramble_on() -> None:
    """One list of eight that tells a story would keep all others waiting for its end."""
    engine = Scripted(lambda call, i, text: "1. Owl\n2. Wren")
    Pipeline(engine=engine)("Name a bird.", 2, "pool", measure=False, lists=4)
    Pipeline(engine=engine)("Describe a bird.", 2, "pool", measure=False, lists=4, source="list")
    name, text = (max(s.max_new_tokens for s in call) for call in (engine.calls[0], engine.calls[-1]))
    assert name <= 3 * 24 < text


STOCK = [
    "I'm sorry for any confusion, but",
    "As an AI language model",
    "I apologize.",
    "Sorry, but I",
    "Thank you for it.",
    "As a helpful AI, I",
    "Awesome! I'm glad to assist.",
]


def test_stock_phrases() -> None:
    assert all(is_stock_phrase(text) for text in STOCK)
    assert not any(is_stock_phrase(t) for t in ("A door stop.", "I am a door.", "An apology of bricks.", "Sand.", ""))
    texts = [*STOCK, "A door stop.", "A boat anchor."]
    n = len(texts)
    d = [[float(i != j) for j in range(n)] for i in range(n)]
    quality = [float(-i) for i in range(n)]
    assert set(select_good(texts, d, quality, 2)) == {n - 2, n - 1}, "however likely they are"
    assert len(select_good(STOCK, d, quality[: n - 2], 3)) == 3
    leaves = [Leaf(text, (1,), (-1.0,), True) for text in (STOCK[0], "A door stop.")]
    assert Substance().scores("", leaves, ()) == [0.0, 1.0]


@pytest.mark.parametrize("thinker", ["list", "iterate", "plan", "pool"])
def test_ways_draw_apart(thinker: str, global_state_untouched: None) -> None:
    engine = LocalEngine(chat_model())
    own = {"group": "words"} if thinker == "pool" else {"source": "catalogue"} if thinker == "plan" else {}

    def think(draws: str) -> list[str]:
        settings: dict[str, Any] = {**own, "draws": draws, "max_new_tokens": 6, "measure": False}
        pipeline = Pipeline(engine=engine, embedder=HashEmbedder())  # type: ignore[arg-type]
        return pipeline("Name a fruit.", 4, thinker, **settings).texts

    assert think("arithmetic") == think("arithmetic") != think("independent")


@pytest.mark.parametrize("thinker", ["list", "iterate", "plan"])
def test_ways_go_through_branches(thinker: str, global_state_untouched: None) -> None:
    engine = LocalEngine(language_model("mixture"))
    own = {"source": "catalogue"} if thinker == "plan" else {}
    pipeline = Pipeline(engine=engine, embedder=HashEmbedder())  # type: ignore[arg-type]
    how: dict[str, Any] = {**own, "max_new_tokens": 4, "temperature": 1.0}
    made = [pipeline("w5 w6", 4, thinker, branches=branches, **how) for branches in (True, False, True)]
    likely = [[thought.logprob for thought in one] for one in made]
    assert likely[0] == likely[2] != likely[1], "a tiny mixture's branches move its texts little"
    assert len(made[0].select(2)) == 2
