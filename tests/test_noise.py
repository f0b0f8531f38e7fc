"""Noise: the catalogue, masking, prompts, the thinker's laws, `SemanticNoiser` here and on an endpoint, the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx  # noqa: F401  its own import moves the global random state
import pytest
from badserver import answer, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from noiseland import IDEA, NAMES, chat_model, directions
from tiny import language_model
from tinyland import HashEmbedder

from thoughtmix import Interrupted, Pipeline, cli
from thoughtmix.core.errors import InputError, ModelError, UnknownName
from thoughtmix.core.selection import select_diverse
from thoughtmix.engine.endpoint import EndpointEngine
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.noise import LANGUAGES, STRENGTHS, Catalogue, SemanticNoiser, most_different
from thoughtmix.noise.prompts import HOLE, Disturbance, few_shot, mask_words, messages, prompt_ids

pytest_plugins = ["tinyland"]
PROMPT = "w9 w10 w11"


@pytest.fixture
def own(tmp_path: Path) -> str:
    return directions(tmp_path)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(chat_model(), embedder=HashEmbedder())


# --- catalogue ------------------------------------------------------------------------------------------------------


def test_the_catalogue_is_whole() -> None:
    catalogue = Catalogue.load()
    assert len(catalogue) >= 24
    assert catalogue.families == ["style", "angle", "constraint", "creative"]
    texts = [d.instruction(s, lang) for d in catalogue.values() for s in STRENGTHS for lang in LANGUAGES]
    assert len(set(texts)) == len(catalogue) * 6, "every level of every direction says something else"
    assert all(t[-1] in ".?!" for t in texts)


def test_unknown_names_say_what_was_meant() -> None:
    catalogue = Catalogue.load()
    for wrong, near in (
        (lambda: catalogue["metafor"], "metaphor"),
        (lambda: catalogue.choose(["styl"]), "style"),
        (lambda: catalogue.compose("poem+critik"), "critic"),
        (lambda: catalogue["poem"].instruction("chaotc"), "chaotic"),
        (lambda: SemanticNoiser(language_model("llama")).add_creative_noise("w5", "creatve"), "creative"),
    ):
        with pytest.raises(UnknownName, match=f"Did you mean '{near}'"):
            wrong()


def test_families_take_turns_and_names_compose() -> None:
    catalogue = Catalogue.load()
    turns = catalogue.choose()
    assert [w[0].family for w in turns[:8]] == catalogue.families * 2
    assert {w[0].name for w in turns} == set(catalogue)
    both = catalogue.choose(["angle"], ["poem+critic", "steps"])
    assert [tuple(d.name for d in w) for w in both[:3]] == [("poem", "critic"), ("steps",), ("child",)]
    assert {w[0].family for w in both[2:]} == {"angle"}


def test_directions_of_ones_own(own: str, tmp_path: Path) -> None:
    catalogue = Catalogue.load(own)
    assert catalogue["red"].instruction("vague") == "w42"
    assert catalogue["green"].instruction("chaotic") == "w50 w51", "one text serves every strength"
    assert "own" in catalogue.families
    with pytest.raises(UnknownName, match="language 'fr'"):
        catalogue["red"].instruction(language="fr")
    again = tmp_path / "again.toml"
    again.write_text('[[direction]]\nname = "poem"\nfamily = "style"\nen = "Sing it."')
    assert Catalogue.load(str(again))["poem"].instruction() == "Sing it."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [[direction]]"),
        ("x = [", "Cannot read"),
        ('[[direction]]\nname = "a"', "lacks name or family"),
        ('[[direction]]\nname = "a"\nfamily = "f"', "says nothing"),
        ('[[direction]]\nname = "a"\nfamily = "f"\nen = 3', "no text"),
        ('[[direction]]\nname = "a"\nfamily = "f"\nen = { mild = "x" }', "Unknown strength"),
        ('[[direction]]\nname = "a+b"\nfamily = "f"\nen = "x"', "comma or plus"),
        ('[[direction]]\nname = "a"\nfamily = "f"\nen = "x"\nde = "y"', "Unknown key"),
        ('[[direction]]\nname = "a"\nfamily = "f"\nen = "x"\n' * 2, "two directions 'a'"),
    ],
)
def test_a_damaged_file_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        Catalogue.load(str(path))
    assert caught.value.hint and "\n" not in str(caught.value)


def test_the_most_different_are_nested() -> None:
    """The order's first n are what choosing n gives, for every n: so a direction does not depend on n."""
    choices = Catalogue.load().choose()
    embedder = HashEmbedder()
    order = most_different(choices, embedder)
    assert sorted(w[0].name for w in order) == sorted(w[0].name for w in choices)
    vectors = embedder.encode([w[0].instruction() for w in choices]).astype(float)
    d = (1 - vectors @ vectors.T).clip(0)
    for n in (1, 3, 8, 20):
        assert [choices[i] for i in select_diverse(d.tolist(), [0.0] * len(choices), n, 0.0)] == order[:n]
    assert order != choices


# --- masking --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.from_regex(r"[a-zé]{1,6}", fullmatch=True), min_size=1, max_size=30),
    st.floats(0.01, 1),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_masking_hides_so_many_words(words: list[str], level: float, seed: int) -> None:
    text = ", ".join(words) + "."
    out = mask_words(text, level, seed)
    assert out.count(HOLE) == max(1, round(level * len(words))), "commas between: no hole swallows another"
    assert out == mask_words(text, level, seed)
    assert re.sub(r"\w+", "", out) == re.sub(r"\w+", "", text), "punctuation and spacing stay"


def test_masking_in_spans_and_by_seed() -> None:
    text = " ".join(f"w{i}" for i in range(40))
    assert len({mask_words(text, 0.3, s) for s in range(6)}) == 6
    spans, words = (
        sum(mask_words(text, 0.4, s, how).count(HOLE) for s in range(20)) / 20 for how in ("span", "random")
    )
    assert spans < 7 < words, "16 words in stretches of up to 4: few holes; one by one: many"
    assert mask_words(text, 1, 0) == HOLE == mask_words("...", 0.5, 0)
    for level in (0, 1.2, -1, True, "x"):
        with pytest.raises(InputError, match="holes is"):
            mask_words(text, level, 0)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="Did you mean 'span'"):
        mask_words(text, 0.5, 0, "spam")


# --- prompts --------------------------------------------------------------------------------------------------------


def test_several_directions_are_one_rewriting() -> None:
    catalogue = Catalogue.load()
    disturbance = Disturbance(catalogue.compose("poem+critic"), "precise", "fr")
    (asked,) = messages("Une idée.", disturbance)
    assert asked["content"].startswith("Une idée.\n\nFais tout ceci à la fois : 1. Réécris-le")
    assert "2. Nomme sa plus grande faiblesse" in asked["content"]
    assert disturbance.origin == {
        "direction": "poem+critic",
        "family": "style+angle",
        "strength": "precise",
        "language": "fr",
    }


def test_a_conversation_goes_on_in_tokens(own: str) -> None:
    """The prompt is the chat template's own of the whole conversation, and all directions share all but the end."""
    model, catalogue = chat_model(), Catalogue.load(own)
    before = model.encode(PROMPT)
    made = []
    for name in NAMES.split(","):
        disturbance = Disturbance((catalogue[name],))
        ids = prompt_ids(model, IDEA, disturbance, before=before)
        assert ids == model.encode(messages(IDEA, disturbance, before=[{"role": "user", "content": PROMPT}]))
        made.append(ids)
    shared = len(before) + len(IDEA.split())
    assert len({tuple(ids[:shared]) for ids in made}) == 1 and len(set(map(tuple, made))) == 3


def test_a_base_model_is_shown_examples() -> None:
    catalogue = Catalogue.load()
    text = few_shot("Lend out\ntools.", Disturbance((catalogue["poem"],)))
    assert text.endswith("Text: Lend out tools.\nTask: Rewrite it as a short poem of four lines.\nNew text:")
    assert text.count("New text:") == 3
    holes = few_shot("Lend out tools.", Disturbance((), holes=0.5), seed=1)
    assert HOLE in holes.rsplit("Text:", 1)[1] and "Fill in each gap ___" in holes


# --- the thinker's laws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"idea": IDEA},
        {"idea": IDEA, "holes": 0.5},
        {"draft": 5},
        {"order": "different"},
        {"strength": "vague", "directions": "red+blue,green"},
    ],
)
def test_a_thought_depends_on_its_own_seed_alone(
    how: dict[str, Any], own: str, pipeline: Pipeline, tinyland: Any, global_state_untouched: None
) -> None:
    if how.get("strength") == "vague":
        how = {**how, "directions": "red,green"}
    options = {"directions": NAMES, **how, "file": own, "max_new_tokens": 7, "measure": False}
    many = pipeline(PROMPT, 5, "noise", seed=30, **options)
    assert len({t.token_ids for t in many}) > 2
    for i in (0, 3, 4):
        alone = pipeline(PROMPT, 1, "noise", seed=30 + i, **options)[0]
        assert (alone.token_ids, alone.text, alone.origin) == (many[i].token_ids, many[i].text, many[i].origin)
    assert pipeline(PROMPT, 9, "noise", seed=30, **options).texts[:5] == many.texts


def test_base_models_too() -> None:
    base = Pipeline(language_model("gpt2"), embedder=HashEmbedder())
    many = base(PROMPT, 4, "noise", max_new_tokens=6, seed=8, measure=False)
    assert base(PROMPT, 1, "noise", max_new_tokens=6, seed=10, measure=False)[0].token_ids == many[2].token_ids
    assert many.run["prompts"] >= 1 and many[0].origin["idea"]


def test_creativity_0_disturbs_nothing(pipeline: Pipeline, own: str) -> None:
    plain = pipeline(PROMPT, 3, "sampling", creativity=0, max_new_tokens=9, measure=False)
    still = pipeline(PROMPT, 3, "noise", creativity=0, max_new_tokens=9, measure=False)
    assert [t.token_ids for t in still] == [t.token_ids for t in plain]
    assert [t.seed for t in still] == [0, 1, 2]
    assert pipeline(PROMPT, 2, "noise", creativity=0, idea=IDEA, measure=False).texts == [IDEA] * 2
    cold = {"temperature": 0.0, "directions": NAMES, "file": own, "max_new_tokens": 9, "measure": False}
    assert (
        pipeline(PROMPT, 6, "noise", seed=0, **cold).texts[:3] == pipeline(PROMPT, 6, "noise", seed=0, **cold).texts[3:]
    )


def test_the_draft_is_the_likeliest_answer_and_origin_says_all(pipeline: Pipeline, own: str) -> None:
    greedy = pipeline(PROMPT, 1, "sampling", creativity=0, max_new_tokens=8, measure=False)[0]
    got = pipeline(PROMPT, 3, "noise", directions=NAMES, file=own, strength="precise", max_new_tokens=8)
    assert {t.origin["idea"] for t in got} == {greedy.text}
    assert [(t.origin["direction"], t.origin["family"], t.origin["strength"]) for t in got] == [
        ("red", "style", "precise"),
        ("green", "angle", "precise"),
        ("blue", "own", "precise"),
    ]
    assert got.run["prompts"] == 3
    assert got.run["tokens"] == sum(len(t.token_ids) for t in got) + len(greedy.token_ids)
    drawn = pipeline(PROMPT, 1, "noise", directions=NAMES, file=own, draft=3, max_new_tokens=8, measure=False)
    assert drawn[0].origin["idea"] == pipeline(PROMPT, 1, "sampling", seed=3, max_new_tokens=8, measure=False)[0].text
    json.loads(got.to_json())


def test_a_draft_cut_by_a_stop_string_goes_on_without_it(pipeline: Pipeline, own: str) -> None:
    from thoughtmix.noise.rewriting import Idea

    whole = pipeline(PROMPT, 1, "sampling", creativity=0, max_new_tokens=8, measure=False)[0]
    words = whole.text.split()
    cut = pipeline(PROMPT, 1, "sampling", creativity=0, max_new_tokens=8, stop=words[-1], measure=False)[0]
    assert Idea.from_thought(whole, pipeline.engine).ids == whole.token_ids
    assert cut.text != whole.text and Idea.from_thought(cut, pipeline.engine) == Idea(cut.text)
    got = pipeline(PROMPT, 1, "noise", directions=NAMES, file=own, max_new_tokens=8, stop=words[-1], measure=False)[0]
    assert got.origin["idea"] == cut.text


def test_equal_prompts_are_read_once(pipeline: Pipeline, own: str) -> None:
    got = pipeline(PROMPT, 9, "noise", directions=NAMES, file=own, max_new_tokens=4, measure=False)
    assert got.run["prompts"] == 3
    assert len({t.text for t in got}) > 3, "three of a direction, each drawn by its own seed"


def test_progress_and_ctrl_c(pipeline: Pipeline, own: str) -> None:
    seen: list[Any] = []
    pipeline(PROMPT, 3, "noise", directions=NAMES, file=own, max_new_tokens=6, measure=False, on_step=seen.append)
    assert all(len(e.pieces) == 3 for e in seen)
    assert [e.done for e in seen] == sorted(e.done for e in seen) and seen[-1].done <= seen[-1].total == seen[0].total
    for after in (2, 12):  # within the draft, within the rewriting

        def stop(event: Any, after: int = after) -> None:
            if event.done >= after:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted) as caught:
            pipeline(PROMPT, 3, "noise", directions=NAMES, file=own, max_new_tokens=8, on_step=stop)
        assert [t.seed for t in caught.value.thoughts] == [0, 1, 2]


def test_bad_options_are_one_line(pipeline: Pipeline, own: str) -> None:
    for bad, says in (
        ({"families": "styl"}, "Did you mean 'style'"),
        ({"strength": "wild"}, "Unknown strength"),
        ({"language": "de"}, "language"),
        ({"holes": 2}, "holes is 2"),
        ({"holes": 0.5, "mask": "spn"}, "'span'"),
        ({"order": "x"}, "Unknown order"),
        ({"idea": " "}, "idea is empty"),
        ({"draft": -1}, "draft is -1"),
        ({"directions": "poem,,"}, "directions is"),
        ({"file": own, "directions": "red", "language": "fr"}, "language"),
        ({"file": "/nowhere.toml"}, "Cannot read"),
        ({"familys": "style"}, "Did you mean 'families'"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            pipeline(PROMPT, 2, "noise", max_new_tokens=4, **bad)
        assert caught.value.hint


def test_a_mask_predictor_denoises(tinyland: Any) -> None:
    from thoughtmix.diffusion.load import load_diffusion
    from thoughtmix.models import wrap_model  # the real loader is patched away here

    dm = load_diffusion()
    masks = Pipeline(wrap_model(dm.denoiser.model, dm.tokenizer, "shakespeare-diffusion"), embedder=HashEmbedder())
    idea = "To be, or not to be: that is the question"
    got = masks("ROMEO:", 3, "noise", idea=idea, holes=0.4, seed=2, measure=False)
    assert len(set(got.texts)) == 3 and all(t != idea and len(t) == len(idea) for t in got.texts)
    assert masks("ROMEO:", 1, "noise", idea=idea, holes=0.4, seed=4, measure=False).texts == got.texts[2:]
    assert got[0].origin["direction"] == "words" and got.run["path"] == "diffusion"
    forgotten = round(0.4 * len(idea))
    assert all(sum(v < 0 for v in t.token_logprobs) <= forgotten and t.logprob < 0 for t in got), (
        "what was kept costs nothing"
    )
    assert masks("ROMEO:", 2, "noise", idea=idea, creativity=0, measure=False).texts == [idea] * 2
    noiser = SemanticNoiser(masks.model, embedder=HashEmbedder())
    assert noiser.disturb(idea, 3, holes=0.4, seed=2, measure=False).texts == got.texts
    drafted = masks("ROMEO:", 2, "noise", max_new_tokens=20, measure=False)
    assert len({t.origin["idea"] for t in drafted}) == 1 and len(set(drafted.texts)) == 2
    with pytest.raises(InputError, match="follows no instructions"):
        masks("ROMEO:", 2, "noise", idea=idea, families="style")


# --- SemanticNoiser -------------------------------------------------------------------------------------------------


def test_noiser(own: str, global_state_untouched: None) -> None:
    noiser = SemanticNoiser(chat_model(), files=[own], embedder=HashEmbedder())
    one = noiser.add_creative_noise(IDEA, "red", max_new_tokens=6)
    assert one and one == noiser.add_creative_noise(IDEA, "red", max_new_tokens=6)
    others = [
        one,
        noiser.add_creative_noise(IDEA, "red", strength="vague", max_new_tokens=6, seed=1),
        noiser.add_creative_noise(IDEA, "red+green", max_new_tokens=6, seed=2),
        noiser.add_creative_noise(IDEA, ["red", "green"], max_new_tokens=6, seed=2),
    ]
    assert others[2] == others[3] and len(set(others)) == 3
    assert noiser.add_creative_noise(IDEA, "own", max_new_tokens=6) == noiser.add_creative_noise(
        IDEA, "blue", max_new_tokens=6
    )
    got = noiser.disturb(IDEA, 4, directions=NAMES, seed=6, max_new_tokens=6)
    assert noiser.disturb(IDEA, 1, directions=NAMES, seed=8, max_new_tokens=6)[0].text == got[2].text
    assert len(got.distances) == 4 and got.prompt == IDEA and len(got.select(2)) == 2
    for wrong in ("", "  "):
        with pytest.raises(InputError, match="idea is empty"):
            noiser.disturb(wrong)


def test_noiser_on_an_endpoint() -> None:
    with serving(lambda number, body: "ok") as server:
        noiser = SemanticNoiser(endpoint=server.url, embedder=HashEmbedder())
        got = noiser.disturb(
            "An idea.", 5, families="style,creative", prompt="A question?", seed=7, max_new_tokens=11, stop="END"
        )
        one = noiser.add_creative_noise("An idea.", "poem")
    assert [b["seed"] for b in sorted(server.seen[:5], key=lambda b: b["seed"])] == [7, 8, 9, 10, 11]
    assert {(b["max_tokens"], b["temperature"], tuple(b["stop"])) for b in server.seen[:5]} == {(11, 0.7, ("END",))}
    assert all([m["role"] for m in b["messages"]] == ["user", "assistant", "user"] for b in server.seen[:5])
    by = {b["seed"]: answer(b) for b in server.seen[:5]}
    assert got.texts == [by[t.seed] for t in got], "each its own, in order"
    assert {t.origin["family"] for t in got} == {"style", "creative"} and got.model.startswith("tiny-1 at 127.0.0.1")
    assert got.run["endpoint"]["requests"] == 5 and "vendi" in got.metrics
    assert one[::-1].startswith("An idea.\n\nRewrite it as a short poem")
    json.loads(got.to_json())


def test_a_failing_endpoint_loses_no_finished_thought() -> None:
    with serving(lambda number, body: "500" if body["seed"] == 2 else "ok") as server:
        how = {"tries": 3, "first_wait": 0.01}
        noiser = SemanticNoiser(endpoint=Endpoint(server.url, **how), embedder=HashEmbedder())
        got = noiser.disturb("An idea.", 4)
        with pytest.raises(ModelError, match="gave no thought: the server fails"):
            noiser.add_creative_noise("An idea.", "poem", seed=2)
        with pytest.raises(ModelError, match="gave no thought: the server fails"):
            noiser.disturb("An idea.", 1, seed=2)
        with pytest.raises(InputError, match="takes no top_k"):
            noiser.disturb("An idea.", 1, top_k=5)
        assert noiser.disturb("An idea.", 2, creativity=0).texts == ["An idea."] * 2
    assert [t.finish for t in got] == ["stop", "stop", "cancelled", "stop"]
    assert got[2].origin["error"].startswith("the server fails (500)") and got[2].origin["tries"] == 3
    assert got.run["endpoint"]["troubles"] == {"server": 3} and got.run["endpoint"]["failed"] == 1


def test_a_draft_and_its_rewritings_on_an_endpoint(own: str) -> None:
    """The thinker drafts there, goes on in the same conversation, and n texts come back; creativity 0 is the draft."""
    how: dict[str, Any] = {"directions": "red,green", "file": own, "max_new_tokens": 7}
    with serving(lambda number, body: "ok") as server:
        pipeline = Pipeline(engine=EndpointEngine(Endpoint(server.url)), embedder=HashEmbedder())
        got = pipeline("A question?", 3, "noise", seed=4, **how)
        alone = pipeline("A question?", 1, "noise", seed=5, measure=False, **how)
        itself = pipeline("A question?", 2, "noise", standalone=True, measure=False, **how)
        still = pipeline("A question?", 2, "noise", creativity=0, measure=False, **how)
        with pytest.raises(InputError, match=r"takes no top_k.*local model"):
            pipeline("A question?", 2, "noise", top_k=5, **how)
    draft = "A question?"[::-1]
    first, *rest = server.seen[:4]
    assert first["messages"] == [{"role": "user", "content": "A question?"}] and first["temperature"] == 0
    assert sorted(body["seed"] for body in rest) == [4, 5, 6] and {body["temperature"] for body in rest} == {0.7}
    for body in rest:
        question, answered, asked = body["messages"]
        assert question["content"] == "A question?" and answered == {"role": "assistant", "content": draft}
        assert asked["content"].startswith("w50 w51" if body["seed"] % 2 else "w40 w41")
    assert {t.origin["idea"] for t in got} == {draft} and not any(t.token_ids for t in got)
    assert [t.origin["direction"] for t in got] == ["red", "green", "red"] and "vendi" in got.metrics
    assert alone.texts == got.texts[1:2] and alone.run["tokens"] >= 2
    assert itself[0].text[::-1].startswith(f"{draft}\n\nw40 w41"), "a text of its own, without the question"
    assert still.texts == [draft] * 2 and {t.origin["direction"] for t in still} == {"draft"}


def test_a_draft_that_fails_is_not_disturbed() -> None:
    with serving(lambda number, body: "500") as server:
        engine = EndpointEngine(Endpoint(server.url, "tiny-1", tries=1))
        with pytest.raises(ModelError, match="gave no thought: the server fails"):
            Pipeline(engine=engine, embedder=HashEmbedder())("A question?", 3, "noise")
    assert len(server.seen) == 1


# --- the command ----------------------------------------------------------------------------------------------------


def test_list_needs_no_model(capsys: Any, own: str) -> None:
    assert cli.main(["noise", "--list"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "style" and "  metaphor             Turn it into a metaphor" in out
    assert cli.main(["noise", "--list", "--language", "fr", "--strength", "vague", "--file", own]) == 0
    assert "Trouve-lui une image." in (out := capsys.readouterr().out) and "w61" in out
    assert cli.main(["noise", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(Catalogue.load())


def test_list_imports_no_torch() -> None:
    code = "import sys, thoughtmix.noise; from thoughtmix.cli import main; main(['noise', '--list']); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_the_command(tinyland: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    assert (
        cli.main(["noise", IDEA, "-n", "3", "--families", "style", "--max-new-tokens", "5", "--html", str(page)]) == 0
    )
    out = capsys.readouterr().out
    assert "poem · " in out and "3 answers by noise" in out and "<html" in page.read_text()
    with serving(lambda number, body: "400" if body["seed"] == 1 else "ok") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        code = cli.main(["noise", "An idea.", "-n", "3", "--endpoint", server.url, "--model", "big", "--json"])
    got = capsys.readouterr()
    assert code == 1 and "1 of 3 thoughts failed" in got.err
    body = json.loads(got.out)
    assert [t["finish"] for t in body["thoughts"]] == ["stop", "cancelled", "stop"]
    assert "secret" not in got.out + got.err and {b["model"] for b in server.seen} == {"big"}
    with serving(lambda number, body: "400") as server:
        assert cli.main(["noise", "An idea.", "-n", "2", "--endpoint", server.url, "--json"]) == 1
    got = capsys.readouterr()
    assert got.out == "" and "gave no thought" in got.err and got.err.count("\n") == 1


def test_a_terminal_shows_them_growing(tinyland: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        encoding, said = "utf-8", ""

        def write(self, text: str) -> int:
            self.said += text
            return len(text)

        def flush(self) -> None: ...
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    with serving(lambda number, body: "ok") as server:
        assert cli.main(["noise", "An idea.", "-n", "2", "--endpoint", server.url]) == 0
    assert all(b["stream"] for b in server.seen)
    assert "by noise" in screen.said
    assert cli.main(["noise", IDEA, "-n", "2", "--max-new-tokens", "4"]) == 0
    assert "tokens ·" in screen.said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["noise"], "idea is empty"),
        (["noise", "x", "--families", "angel"], "Did you mean 'angle'"),
        (["noise", "x", "--endpoint", "nowhere"], "no http address"),
        (["noise", "x", "--select", "9"], "Cannot select 9"),
        (["noise", "x", "--holes", "3"], "holes is 3"),
        (["noise", "x", "--file", "no.toml"], "Cannot read"),
        (["noise", "x", "-n", "0"], "n is 0"),
        (["noise", "--list", "--strength", "mild"], "Unknown strength"),
    ],
)
def test_bad_commands_are_one_line(tinyland: Any, capsys: Any, words: list[str], says: str) -> None:
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.model
def test_real_weights() -> None:
    exact = Pipeline(dtype="float32", device="cpu", weights="native")
    ask = "Give me an idea for a birthday party."
    got = exact(ask, 3, "noise", max_new_tokens=8, measure=False)
    assert len(set(got.texts)) == 3 and got.run["prompts"] == 3
    assert exact(ask, 1, "noise", seed=2, max_new_tokens=8, measure=False)[0].token_ids == got[2].token_ids
