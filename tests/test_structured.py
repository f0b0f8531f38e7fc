"""Texts held to a grammar: valid by construction, drawn from the masked and renormalised steps, each its seed's own."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest
import torch
from lettered import lettered_model
from pydantic import BaseModel
from tiny import VOCABULARY, language_model
from tinyland import HashEmbedder

from thoughtmix import InputError, Pipeline
from thoughtmix.core.grammar import Grammar
from thoughtmix.engine.engine import Capability, SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.engine.scheduler import Scheduler
from thoughtmix.engine.shared import SharedEngine
from thoughtmix.engine.without_replacement import Excluded

PROMPT = (40, 41, 42, 43)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["red", "green"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "on": {"type": "boolean"},
    },
    "required": ["kind", "n", "on"],
    "additionalProperties": False,
}
FORM = Grammar.from_json_schema(SCHEMA)


def ask(seed: int = 0, grammar: Grammar | None = FORM, tokens: int = 80, **more: Any) -> SequenceRequest:
    return SequenceRequest(PROMPT, seed, max_new_tokens=tokens, grammar=grammar, **more)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(lettered_model(), weights="native")


def check(text: str) -> Any:
    made = json.loads(text)
    jsonschema.validate(made, SCHEMA)
    return made


# --- valid, whatever samples ---


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=3.0),
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.5),
        SamplingParams(min_p=0.2),
        SamplingParams(top_nsigma=1.0),
    ],
    ids=lambda p: f"T{p.temperature:g}-k{p.top_k}-p{p.top_p:g}-m{p.min_p:g}-s{p.top_nsigma:g}",
)
def test_every_ended_text_is_valid(engine: LocalEngine, sampling: SamplingParams) -> None:
    done = engine.generate([ask(seed, sampling=sampling) for seed in range(6)])
    for output in done.outputs:
        assert output.finish == "stop" and check(output.text)
        assert not set(output.token_ids) & engine.model.eos_ids, "nothing can follow: no end token is drawn"


@pytest.mark.parametrize("path", ["fused", "shared", "expanded", "recompute"])
def test_on_every_path(path: Any) -> None:
    done = LocalEngine(lettered_model(), path=path).generate([ask(1), ask(2, grammar=None, tokens=5)])
    assert check(done.outputs[0].text) and len(done.outputs[1].token_ids) == 5


def test_arithmetic_offsets_and_without_replacement(engine: LocalEngine) -> None:
    apart = engine.generate([ask(i, offset=i / 4) for i in range(4)]).outputs
    assert all(check(output.text) for output in apart)
    first = engine.generate([ask(grammar=Grammar.from_regex("[ab]"), tokens=4)], without_replacement=True).outputs[0]
    taken = (Excluded(tuple(first.token_ids), tuple(first.shares)),)
    again = engine.generate(
        [ask(s, grammar=Grammar.from_regex("[ab]"), tokens=4, exclude=taken) for s in range(4)],
        without_replacement=True,
    )
    assert {output.text for output in again.outputs} == {"a", "b"} - {first.text}


def test_rows_of_different_grammars_are_what_they_are_alone(engine: LocalEngine) -> None:
    forms = [FORM, None, Grammar.from_regex(r"[0-9]{3}-[a-z]+"), FORM, Grammar.from_regex("(yes|no)")]
    together = engine.generate([ask(i, form, 60) for i, form in enumerate(forms)]).outputs
    for i, (form, output) in enumerate(zip(forms, together, strict=True)):
        alone = engine.generate([ask(i, form, 60)]).outputs[0]
        assert (alone.token_ids, alone.finish) == (output.token_ids, output.finish)
    assert re.fullmatch(r"(yes|no)", together[4].text) and check(together[0].text)


def test_law_5_in_a_shared_batch(engine: LocalEngine) -> None:
    asked = [ask(7), ask(8, grammar=None, tokens=30), ask(9, Grammar.from_regex("[a-f]{4,9}"))]
    alone = [engine.generate([one]).outputs[0].token_ids for one in asked]
    from concurrent.futures import ThreadPoolExecutor

    with Scheduler(engine.model, rows=8) as scheduler, ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda one: SharedEngine(scheduler).generate([one]).outputs[0].token_ids, asked))
    assert made == alone


# --- whose distribution ---


def _masked_steps(engine: LocalEngine, texts: set[str], temperature: float = 1.0) -> dict[str, float]:
    """Probability of each text of a finite language: the product, over tokens, of the model's probability among the
    tokens that the language allows there. Told from the texts themselves, without a grammar library."""
    model, end = engine.model, min(engine.model.eos_ids)
    pieces = {i: model.decode([i]) for i in range(3, VOCABULARY) if model.decode([i])}
    found: dict[str, float] = Counter()

    def go(ids: list[int], text: str, p: float) -> None:
        rest = {t[len(text) :] for t in texts if t.startswith(text)}
        if rest == {""}:  # nothing can follow
            found[text] += p
            return
        allowed = [i for i, piece in pieces.items() if any(r.startswith(piece) for r in rest)]
        allowed += [end] if "" in rest else []
        with torch.no_grad():
            logits = model.model(torch.tensor([[*PROMPT, *ids]])).logits[0, -1].double()
        shares = (logits[allowed] / temperature).softmax(-1).tolist()
        for token, share in zip(allowed, shares, strict=True):
            if token == end:
                found[text] += p * share
            else:
                go([*ids, token], text + pieces[token], p * share)

    go([], "", 1.0)
    return found


def test_the_distribution_is_that_of_the_masked_steps(engine: LocalEngine) -> None:
    texts = {a + b for a in ("", "a", "ab", "abc", "12") for b in ("x", "c", "bc", "xy")}
    exact = _masked_steps(engine, texts, 2.0)
    assert set(exact) == texts and math.isclose(sum(exact.values()), 1, rel_tol=1e-9)
    form = Grammar.from_regex("(a|ab|abc|12)?(x|c|bc|xy)")
    count = 3000
    done = engine.generate([ask(s, form, 8, sampling=SamplingParams(temperature=2.0)) for s in range(count)])
    seen = Counter(output.text for output in done.outputs)
    chi = sum((seen[t] - count * p) ** 2 / (count * p) for t, p in exact.items() if count * p >= 1)
    # seeds are fixed: this holds or not, at every run alike; by chance it fails for one choice of seeds in 10^5
    assert set(seen) <= texts and chi < len(texts) + 60


def test_shares_are_those_of_the_masked_steps(engine: LocalEngine) -> None:
    texts = {"yes", "no", "none", "n"}
    exact = _masked_steps(engine, texts)
    form, taken, found = Grammar.from_regex("yes|no|none|n"), [], Counter[str]()
    for seed in range(200):
        output = engine.generate([ask(seed, form, 8, exclude=tuple(taken))], without_replacement=True).outputs[0]
        one = Excluded(tuple(output.token_ids), tuple(output.shares))
        if any(one.token_ids == other.token_ids for other in taken):
            break  # all that there is
        taken.append(one)
        found[output.text] += math.prod(output.shares)
    assert {t: round(p, 5) for t, p in found.items()} == {t: round(p, 5) for t, p in exact.items()}


def test_logprobs_are_the_untouched_models(engine: LocalEngine) -> None:
    output = engine.generate([ask(3)]).outputs[0]
    with torch.no_grad():
        logits = engine.model.model(torch.tensor([[*PROMPT, *output.token_ids]])).logits[0, len(PROMPT) - 1 : -1]
    exact = logits.log_softmax(-1).gather(1, torch.tensor(output.token_ids)[:, None])[:, 0]
    np.testing.assert_allclose(output.logprobs, exact.numpy(), atol=1e-4)


# --- where a text ends ---


def test_a_cut_text_says_so(engine: LocalEngine) -> None:
    output = engine.generate([ask(0, tokens=4)]).outputs[0]
    assert output.finish == "length" and len(output.token_ids) == 4
    just = engine.generate([ask(0, Grammar.from_regex("abc|def"), tokens=3)]).outputs[0]
    assert just.finish == "stop" and just.text in {"abc", "def"}


def test_the_end_comes_only_where_the_text_may_end(engine: LocalEngine) -> None:
    words = Grammar.from_regex("([a-z]{2} )+")
    for output in engine.generate([ask(s, words, 60) for s in range(8)]).outputs:
        if output.finish == "stop":
            assert re.fullmatch("([a-z]{2} )+", output.text) and output.token_ids[-1] in engine.model.eos_ids


def test_a_stop_string_ends_only_a_whole_text(engine: LocalEngine) -> None:
    form = Grammar.from_regex('"[a-c]{6}"|[d-f]{3,30}')
    for output in engine.generate([ask(s, form, 40, stop=("b", "e")) for s in range(16)]).outputs:
        assert re.fullmatch('"[a-c]{6}"|[d-f]{3,30}', output.text) or output.finish == "length"
        assert "e" not in output.text[3:]
    assert check(engine.generate([ask(5, stop=('"', "e"))]).outputs[0].text), "within JSON no text is whole"


# --- what cannot be followed ---


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "no-such"}, "no-such"),
        ({"type": "strin"}, "strin"),
        ({"not": {}}, "not"),
        ({"$ref": "http://example.org/x"}, "example.org"),
        ({"type": "object", "x-guidance": {"lenient": True}, "propertyNames": {}}, "propertyNames"),
        ("{", "no JSON"),
        ("[1]", "not list"),
        (7, "not int"),
        ({"const": float("nan")}, "no JSON"),
    ],
)
def test_law_8_schemas(schema: Any, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as told:
        Grammar.from_json_schema(schema)
    assert "\n" not in str(told.value) and told.value.hint


@pytest.mark.parametrize(
    ("pattern", "said"), [("(?=a)b", "look-a"), ("(a", "unclosed"), (r"(a)\1", "backref"), ("", "''")]
)
def test_law_8_expressions(pattern: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as told:
        Grammar.from_regex(pattern)
    assert "\n" not in str(told.value) and told.value.hint


def test_tokens_without_bytes_are_refused() -> None:
    with pytest.raises(InputError, match="no bytes"):
        LocalEngine(language_model("llama")).generate([ask()])


# --- from the front door ---


class Use(BaseModel):
    kind: Literal["red", "green"]
    on: bool


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(lettered_model(), embedder=HashEmbedder())


@pytest.mark.parametrize("thinker", ["sampling", "noise", "hybrid"])
def test_thinkers_give_objects(pipeline: Pipeline, thinker: str) -> None:
    options = {"stages": "sampling>noise", "drafts": 3, "report": False} if thinker == "hybrid" else {}
    made = pipeline("ab", 3, thinker, json_schema=Use, max_new_tokens=50, measure=False, options=options, creativity=1)
    assert all(Use.model_validate_json(thought.text) for thought in made)
    assert made.settings["json_schema"]["properties"]["on"]["type"] == "boolean"


def test_mixtures_and_experts_give_objects() -> None:
    from lettered import tokenizer
    from tiny import tiny, tiny_mixture

    from thoughtmix.models import wrap_model

    for thinker, model in (("mixture", tiny_mixture()), ("experts", tiny("mixtral"))):
        lm = wrap_model(model, tokenizer(), name=thinker)
        made = Pipeline(lm)("ab", 3, thinker, json_schema=SCHEMA, max_new_tokens=90, measure=False)
        assert all(check(thought.text) for thought in made)


def test_select_and_metrics_see_objects(pipeline: Pipeline) -> None:
    made = pipeline("ab", 6, json_schema=SCHEMA, max_new_tokens=60)
    chosen = made.select(2)
    assert len({json.dumps(check(t.text)) for t in chosen}) == 2


@pytest.mark.parametrize("thinker", ["search", "diffusion"])
def test_others_refuse_by_name(pipeline: Pipeline, thinker: str) -> None:
    with pytest.raises(InputError, match="(grammar|left to right).*--thinker|needs"):
        pipeline("ab", 2, thinker, regex="[ab]+")


def test_hybrid_refuses_stages_that_are_not_held(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="stage renoise"):
        pipeline("ab", 2, "hybrid", regex="[ab]+", options={"stages": "sampling>renoise"})


def test_both_and_neither(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="one of the two"):
        pipeline("ab", 2, json_schema=SCHEMA, regex="a")
    assert "regex" not in pipeline("ab", 1, max_new_tokens=2, measure=False).settings
    assert Capability.GUIDED in pipeline.engine.capabilities


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from thoughtmix.cli import main

    (tmp_path / "bad.json").write_text('{"type": "strin"}')
    assert main(["think", "x", "--json-schema", str(tmp_path / "bad.json")]) == 2
    assert "strin" in capsys.readouterr().err
    assert main(["think", "x", "--json-schema", str(tmp_path / "none.json")]) == 2
    assert "--json-schema FILE" in capsys.readouterr().err
    assert main(["think", "x", "--regex", "(a"]) == 2
    assert "unclosed" in capsys.readouterr().err
