"""The thinkers that ask several times: `iterate`, `pool` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from askingland import Scripted, chat_model, numbered
from tiny import language_model
from tinyland import HashEmbedder

import thoughtmix
from thoughtmix import InputError, Pipeline
from thoughtmix.asking.agreement import group_answers
from thoughtmix.asking.answers import plain_answer
from thoughtmix.core.request import StepEvent
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability
from thoughtmix.engine.local import LocalEngine
from thoughtmix.metrics.distance_correlation import transmission, transmissions
from thoughtmix.report.text import summary

ASKED = "Name a fruit."
AGAIN = "Give another answer, different from all before."


def think(engine: Any, thinker: str, n: int = 4, prompt: Any = ASKED, **how: Any) -> thoughtmix.ThoughtSet:
    pipeline = Pipeline(engine=engine, embedder=HashEmbedder())  # type: ignore[arg-type]
    return pipeline(prompt, n, thinker, measure=False, **how)


class TestIterate:
    def test_chains_see_their_own(self) -> None:
        engine = Scripted(lambda call, i, said: f"answer {call}{i}")
        made = think(engine, "iterate", 5, chains=2, sees="own", demonstrations=1, seed=7)
        assert made.texts == ["answer 00", "answer 01", "answer 10", "answer 11", "answer 20"]
        assert [t.seed for t in made] == [7, 8, 9, 10, 11]
        assert [(t.origin["chain"], t.origin["turn"]) for t in made] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
        assert [len(call) for call in engine.calls] == [2, 2, 1]
        last = engine.said(2)
        assert last.endswith(f"user: {ASKED}\nassistant: answer 00\nuser: {AGAIN}\nassistant: answer 10\nuser: {AGAIN}")
        assert "answer 01" not in last and last.startswith("user: Name a tool of a carpenter.\nassistant: Hammer")

    def test_or_all_of_the_rounds_before(self) -> None:
        engine = Scripted(lambda call, i, said: f"answer {call}{i}")
        think(engine, "iterate", 4, chains=2, sees="all", demonstrations=0)
        assert engine.said(1, 0) == engine.said(1, 1)
        answers = ["answer 00", "answer 01"]
        assert engine.said(1) == f"user: {ASKED}\n" + "\n".join(f"assistant: {a}\nuser: {AGAIN}" for a in answers)

    @pytest.mark.parametrize("sees", ["own", "all"])
    def test_a_thought_depends_on_what_it_sees_and_not_on_n(self, sees: str, global_state_untouched: None) -> None:
        engine = LocalEngine(chat_model())
        how: dict[str, Any] = {"max_new_tokens": 5, "chains": 2, "sees": sees, "demonstrations": 1}
        six = think(engine, "iterate", 6, **how)
        assert think(engine, "iterate", 3, **how).texts == six.texts[:3]
        assert think(engine, "iterate", 6, seed=1, **how).texts != six.texts

    @pytest.mark.parametrize("sees", ["own", "all"])
    def test_what_was_read_is_not_read_again(self, sees: str, monkeypatch: pytest.MonkeyPatch) -> None:
        lm = chat_model()

        class Counting(LocalEngine):
            def generate(self, *given: Any, **more: Any) -> Any:
                done = super().generate(*given, **more)
                computed.append(done.computed - sum(len(o.token_ids) - 1 for o in done.outputs))
                return done

        computed: list[int] = []
        how: dict[str, Any] = {"max_new_tokens": 6, "chains": 2, "sees": sees}
        one = think(Counting(lm), "iterate", 6, **how)
        kept = list(computed)
        computed.clear()
        monkeypatch.setattr(Counting, "capabilities", LocalEngine(lm).capabilities - {Capability.PREFIXES})
        two = think(Counting(lm), "iterate", 6, **how)
        assert one.texts == two.texts, "and they say the same"
        assert kept[0] == computed[0] and sum(kept[1:]) < sum(computed[1:]) / 2

    def test_a_conversation_that_outgrows_the_context_forgets(self) -> None:
        lm = chat_model()  # it reads 256 tokens
        made = think(LocalEngine(lm), "iterate", 12, chains=1, max_new_tokens=40, demonstrations=0)
        assert len(made) == 12 and made.run["missing"] == 0

    def test_texts_are_shown_while_they_grow(self) -> None:
        seen: list[StepEvent] = []
        made = think(LocalEngine(chat_model()), "iterate", 3, chains=2, max_new_tokens=3, on_step=seen.append)
        assert ["".join(e.pieces[i] for e in seen) for i in range(3)] == made.texts
        assert all(seen[-1].finished) and [e.done for e in seen] == sorted(e.done for e in seen)

    def test_a_failed_turn_is_no_part_of_the_conversation(self) -> None:
        class Failing(Scripted):
            def generate(self, sequences: Any, **more: Any) -> Any:
                done = super().generate(sequences, **more)
                if len(self.calls) == 1:
                    done.outputs[0].error, done.outputs[0].text, done.outputs[0].finish = "no", "", "cancelled"
                return done

        engine = Failing(lambda call, i, said: f"answer {call}{i}")
        made = think(engine, "iterate", 4, chains=2, sees="own", demonstrations=0)
        assert made.texts == ["", "answer 01", "answer 10", "answer 11"] and made[0].origin["error"] == "no"
        assert engine.said(1, 0) == f"user: {ASKED}"

    def test_on_a_model_without_turns(self) -> None:
        engine = LocalEngine(language_model("llama"))
        assert len(think(engine, "iterate", 3, prompt="w5 w6", max_new_tokens=4, chains=1)) == 3


class TestPool:
    def test_the_most_agreed_upon_are_kept(self) -> None:
        said = ["Fig", "a Pear.", "Kiwi", "pear", "Plum", "fig!", "Pear", "Lime"]
        engine = Scripted(lambda call, i, text: said[i])
        made = think(engine, "pool", 2, source="sampling", factor=4, rank="likelihood")
        assert [(plain_answer(t.text), t.origin["agreement"]) for t in made] == [("pear", 3), ("fig", 2)]
        assert made.run["pool"] == {"drawn": 8, "groups": 5, "grouped_by": "words"}
        assert {t.origin["thinker"] for t in made} == {"pool"} and {t.origin["source"] for t in made} == {"sampling"}
        assert all(thought.text == said[thought.seed] for thought in made), "a thought's seed is its draw's"

    def test_lists_that_name_too_few_things_are_drawn_once_more(self) -> None:
        """Warmer, by other seeds, and of the tokens that are left."""
        engine = Scripted(lambda call, i, text: numbered("Fig", "Pear") if call == 0 else numbered("Figs", f"Lime {i}"))
        made = think(engine, "pool", 3, lists=2)
        assert (
            made.texts[:2] == ["Fig", "Pear"] and made.texts[2].startswith("Lime") and made.run["pool"]["groups"] >= 3
        )
        first, second = engine.calls
        assert {s.sampling.temperature for s in second} == {1.2} and made.run["missing"] == 0
        assert not {s.seed for s in first} & {s.seed for s in second}
        assert sum(s.max_new_tokens for s in second) <= sum(s.max_new_tokens for s in first)
        think(enough := Scripted(lambda call, i, text: numbered("Fig", "Pear", "Lime")), "pool", 3, lists=4)
        assert len(enough.calls) == 1

    def test_where_lists_only_copy_their_demonstrations_names_are_sampled(self) -> None:
        engine = Scripted(lambda call, i, text: "1. Hammer\n2. Tango" if "Give" in text else f"The card {i}")
        made = think(engine, "pool", 2, "Pick a card.")
        assert len(made) == 2 and made[0].text.startswith("The card") and made[0].origin["source"] == "sampling"

    def test_one_name_in_singular_and_plural_agrees(self) -> None:
        """As most have written it."""
        said = ["Pears", "Figs", "a pear", "fig", "PEAR.", "Lime"]
        made = think(Scripted(lambda call, i, text: said[i]), "pool", 3, source="sampling", factor=2, rank="likelihood")
        assert [(t.text, t.origin["agreement"]) for t in made] == [("a pear", 3), ("Figs", 2), ("Lime", 1)]

    def test_second_ones_fill_what_groups_do_not(self) -> None:
        engine = Scripted(lambda call, i, text: "Fig" if i else "Pear")
        assert sorted(think(engine, "pool", 3, source="sampling", factor=2, group="words").texts) == [
            "Fig",
            "Fig",
            "Pear",
        ]

    def test_likelihood_breaks_ties_and_whole_answers_come_first(self) -> None:
        def thought(text: str, logprob: float, finish: Any = "stop") -> Thought:
            return Thought(text, (1,), 0, logprob, finish)

        some = [thought("Fig", -3.0), thought("Pear", -1.0), thought("pear", -0.5, "length"), thought("Lime", -2.0)]
        found = group_answers(some, "auto", 0.3, HashEmbedder)
        assert [(t.text, count) for t, count in found.best(3)] == [("Pear", 2), ("Lime", 1), ("Fig", 1)]
        assert found.grouped_by == "words"

    def test_long_answers_agree_by_meaning(self) -> None:
        texts = ["a b c d e f", "a b c d e g", "h i j k l m", "n o p q r s", "n o p q r t", "n o p q r u"]
        found = group_answers([Thought(t, (1,), 0, -1.0, "stop") for t in texts], "auto", 0.4, HashEmbedder)
        assert found.grouped_by == "embedding" and [len(group) for group in found.groups] == [3, 2, 1]
        assert {t.text[0] for t, _ in found.best(3)} == {"a", "h", "n"}
        assert found.best(1)[0][1] == 3

    @pytest.mark.parametrize("source", ["sampling", "list", "iterate"])
    def test_any_source_draws_factor_times_as_many(self, source: str, global_state_untouched: None) -> None:
        engine = LocalEngine(chat_model())
        how: dict[str, Any] = {"source": source, "factor": 3, "max_new_tokens": 6, "group": "words"}
        made = think(engine, "pool", 2, **how)
        assert len(made) <= 2 and made.run["missing"] == 2 - len(made) and made.run["tokens"] <= 2 * 3 * 6
        assert think(engine, "pool", 2, **how).texts == made.texts
        thinker = thoughtmix.get_thinker("pool")
        assert thinker.texts(2, thinker.Options(source=source, factor=3)) == 6

    def test_of_long_answers_the_sound_and_different_are_kept(self) -> None:
        """What is cut, loops, stutters or says nothing is drawn again, as far as the draws go."""
        said = [
            "I'm sorry for any confusion about a party.",
            "a party with a dragon and a party",
            "a party with a dragon and a party",
            "a party on the the old ship",
            "a party that never comes to its end and so is…",
            "a party under water for an idea",
        ]
        engine = Scripted(lambda call, i, text: said[i])
        asked = "Give me an idea for a party."
        made = think(engine, "pool", 2, asked, factor=3)
        assert set(made.texts) == {said[1], said[5]} and {t.origin["thinker"] for t in made} == {"pool"}
        assert made.run["pool"] == {"drawn": 6, "left_out": {"copy": 1, "cut": 1, "repeats": 1, "stock": 1}}
        assert engine.said(0) == f"user: {asked}", "no hint at the length"
        assert {s.sampling.temperature for s in engine.calls[0]} == {1.0}
        worst = think(Scripted(lambda call, i, text: said[3 + (i > 0)]), "pool", 3, asked)
        assert said[3] not in worst.texts, "a cut one before one that repeats itself"
        echo = f"I like it that you ask: {asked.upper()}"
        made = think(Scripted(lambda call, i, text: echo if i else said[5]), "pool", 1, asked, factor=4)
        assert made.texts == [said[5]] and made.run["pool"]["left_out"] == {"echoes": 3}, (
            "what only says the prompt again"
        )
        few = think(Scripted(lambda call, i, text: said[4]), "pool", 3, asked)
        assert len(few) == 3, "a bad one is better than none"

    def test_what_tells_about_a_phrase_is_none(self) -> None:
        """As long as there are enough others."""
        said = ["A catchy slogan for a bakery.", "Rise with us", "A slogan: fresh", "Loaf life", "Slogans", "Crumbs"]
        engine = Scripted(lambda call, i, text: said[i % 6])
        made = think(engine, "pool", 3, "Write a slogan for a bakery.")
        assert set(made.texts) == {"Rise with us", "Loaf life", "Crumbs"} and made.run["pool"]["drawn"] == 9
        assert len(think(engine, "pool", 3, "Write a slogan for a bakery.", factor=1)) == 3

    def test_an_idea_for_each_first(self) -> None:
        ideas = numbered("a ship", "a dragon", "a cave", "a circus")
        engine = Scripted(lambda call, i, said: ideas if call == 0 else f"{said.rpartition(': ')[2]} with cake")
        made = think(engine, "pool", 2, "Give me an idea for a party.", source="plan", factor=2)
        assert len(engine.calls[0]) == 1 and len(engine.calls[1]) == 4, "twice as many are written out"
        assert all(t.text == f"{t.origin['specification']} with cake" for t in made)
        assert {t.origin["specified_by"] for t in made} == {"ideas"} and made.run["missing"] == 0

    def test_routes_of_a_mixture_are_pooled(self) -> None:
        made = think(
            LocalEngine(language_model("mixture")),
            "pool",
            2,
            prompt="w5",
            source="mixture",
            max_new_tokens=2,
            group="words",
        )
        assert len(made) == 2 and all(t.origin["source"] == "mixture" and t.origin["creativity"] == 1 for t in made)
        assert {t.origin["temperature"] for t in made} == {1.1}

    def test_examples_go_before(self) -> None:
        engine = Scripted(lambda call, i, text: "Fig")
        think(engine, "pool", 4, factor=2, examples="short", group="words")
        asked = [engine.said(0, i) for i in range(8)]
        assert len(set(asked)) == 8 and all(f"user: {ASKED}" in text for text in asked)
        with pytest.raises(InputError, match="examples of its own"):
            think(engine, "pool", 4, source="list", examples="short")

    def test_what_cannot_be_is_refused_before_anything_is_drawn(self) -> None:
        engine = Scripted(lambda call, i, text: "Fig")
        with pytest.raises(InputError, match="source=mixture needs"):
            think(engine, "pool", source="mixture")
        with pytest.raises(InputError, match="needs arithmetic"):
            think(engine, "pool", draws="arithmetic")
        assert not engine.calls


class TestPlan:
    def test_specifications_are_written_spread_and_followed(self) -> None:
        wrote = ["with water", "with water too", "in the dark", "for a child", "for a child too", "as a gift"]
        engine = Scripted(lambda call, i, said: numbered(*wrote) if call == 0 else said.rpartition(": ")[2])
        made = think(engine, "plan", 3, factor=2)
        assert len(engine.calls) == 2 and len(engine.calls[1]) == 3, "one batch of answers"
        assert [t.origin["specification"] for t in made] == made.texts
        assert len({text.removesuffix(" too") for text in made.texts}) == 3, "the most different of six"
        assert {t.origin["specified_by"] for t in made} == {"model"} and made.run["specifications"] == 6
        assert "Give 6 very different directions" in engine.said(0)
        assert engine.said(1).startswith(f"user: {ASKED}\n\nTake this direction: with water")

    def test_ideas_are_drawn_in_short_lists_and_written_out(self) -> None:
        lists = [numbered("**a ship**", "A ship.", "a cave"), numbered('"a dragon"', "a circus", "a tree", "a moon")]
        engine = Scripted(lambda call, i, said: lists[i] if call == 0 else said.rpartition(": ")[2])
        made = think(engine, "plan", 4, source="ideas")
        assert len(engine.calls[0]) == 2 and "Give 4 different answers" in engine.said(0)
        assert engine.said(1).startswith(f"user: {ASKED}\n\nUse this idea: a ship")
        assert len(set(made.texts)) == 4 and {t.origin["specified_by"] for t in made} == {"ideas"}

    def test_what_the_model_cannot_write_comes_from_the_catalogue(self) -> None:
        engine = Scripted(lambda call, i, said: "I cannot " * 30 if "directions" in said else "Fig")
        made = think(engine, "plan", 3)
        assert {t.origin["specified_by"] for t in made} == {"catalogue"}

    @pytest.mark.parametrize("source", ["catalogue", "noise"])
    def test_other_sources(self, source: str) -> None:
        engine = Scripted(lambda call, i, said: "Fig")
        made = think(engine, "plan", 5, source=source)
        assert len(engine.calls) == 1 and len({t.origin["specification"] for t in made}) == 5
        assert {t.origin["specified_by"] for t in made} == {source}
        assert len(think(engine, "plan", 70, source=source)) == 70, "they are gone through again"

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        file = tmp_path / "own.txt"
        file.write_text("# mine\nIn one word.\n\nAs a song.\n")
        engine = Scripted(lambda call, i, said: "Fig")
        made = think(engine, "plan", 3, source=str(file))
        assert {t.origin["specification"] for t in made} == {"In one word.", "As a song."}
        with pytest.raises(InputError, match=r"Cannot read the specifications.*source=model"):
            think(engine, "plan", 3, source=str(tmp_path / "none"))

    def test_it_is_shown(self) -> None:
        from thoughtmix.report.html import page
        from thoughtmix.report.text import plain, render

        engine = Scripted(lambda call, i, said: numbered("in <b>", "as a gift") if call == 0 else f"answer {i}")
        made = think(engine, "plan", 2, factor=1)
        assert "as a gift" in plain(made) and "as a gift" in page(made) and "in <b>" not in page(made)
        assert render(made) is not None

    def test_on_a_local_model(self, global_state_untouched: None) -> None:
        engine = LocalEngine(chat_model())
        made = think(engine, "plan", 3, max_new_tokens=4, draws="arithmetic")
        assert len(made) == 3 and think(engine, "plan", 3, max_new_tokens=4, draws="arithmetic").texts == made.texts


class TestTransmission:
    def test_its_ends(self) -> None:
        points = np.random.default_rng(0).normal(size=(12, 3))
        d = np.linalg.norm(points[:, None] - points[None], axis=-1)
        assert transmission(d, 2 * d) == pytest.approx(1)
        others = [
            transmission(d, np.linalg.norm(q[:, None] - q[None], axis=-1))
            for q in np.random.default_rng(1).normal(size=(400, 12, 3))
        ]
        assert abs(float(np.mean(others))) < 0.02, "without any influence it is 0 on average, however few there are"
        assert transmission(d[:3, :3], d[:3, :3]) is None
        assert transmission(1 - np.eye(5), d[:5, :5]) is None, "all equally far apart: nothing can be seen"

    def test_it_is_the_published_one(self) -> None:
        """Székely & Rizzo (2014), proposition 1: the inner product of U-centred matrices over n (n - 3)."""
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=7), rng.normal(size=7)
        a, b = np.abs(x[:, None] - x), np.abs(y[:, None] - y)
        n = len(a)

        def centred(d: Any) -> Any:
            out = np.zeros_like(d)
            for i in range(n):
                for j in range(n):
                    if i != j:
                        out[i, j] = d[i, j] - d[i].sum() / (n - 2) - d[:, j].sum() / (n - 2)
                        out[i, j] += d.sum() / ((n - 1) * (n - 2))
            return out

        u, v = centred(a), centred(b)
        assert transmission(a, b) == pytest.approx((u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum()))

    def test_of_each_source_with_several_values(self) -> None:
        thoughts = [
            Thought(
                f"t{i}", (), i, 0.0, "stop", origin={"style": i % 2, "mode": 1, "specification": f"w{i}", "chain": i}
            )
            for i in range(6)
        ]
        answers = np.asarray([[0.0 if i % 2 == j % 2 else 1.0 for j in range(6)] for i in range(6)])
        got = transmissions(thoughts, answers, lambda texts: answers)
        assert got == {"transmission_style": pytest.approx(1), "transmission_specification": pytest.approx(1)}

    def test_it_is_measured_beside_the_others(self) -> None:
        engine = Scripted(lambda call, i, said: f"answer {said.rpartition(': ')[2]}")
        pipeline = Pipeline(engine=engine, embedder=HashEmbedder())  # type: ignore[arg-type]
        made = pipeline(ASKED, 5, "plan", source="catalogue")
        assert made.metrics["transmission_specification"] > 0.5
        assert "specification to text" in summary(made)
