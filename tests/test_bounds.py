"""What comes with a model does not keep a machine busy for ever."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from noiseland import chat_model

from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.models.bounds import require_buildable
from thoughtmix.models.chat_template import render

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        ({"num_hidden_layers": 126}, True),
        ({"num_hidden_layers": 61, "n_routed_experts": 384, "shared_expert_intermediate_size": 20480}, True),
        ({"num_hidden_layers": 10**9}, False),
        ({"num_hidden_layers": 1e9}, False),
        ({"text_config": {"n_layer": 10**6}}, False),
        ({"num_hidden_layers": 1000, "num_local_experts": 1000}, False),
    ],
)
def test_sizes_that_nobody_can_lay_out(sizes: dict[str, Any], fits: bool, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **sizes}))
    if fits:
        require_buildable(str(tmp_path))
        return
    for words in (
        ["cost", str(tmp_path)],
        ["cost", str(tmp_path / "config.json")],
        ["think", "w5", "--model", str(tmp_path)],
    ):
        assert main(words) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert "more than can be laid out" in said


SAID = {"role": "user", "content": "w5"}
DOUBLED = "{% set n = namespace(x=START) %}{% for i in range(60) %}{% set n.x = GROWN %}{% endfor %}{{ n.x }}"
ENDLESS = [
    '{{ "x" * 10**10 }}',
    '{{ 10**10 * "x" }}',
    "{% set n = 10**10 %}{% set x = 'x' %}{{ x * n }}",
    "{{ ([0] * 10**9)|length }}",
    "{{ 7**(10**9) }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ '%*d' % (10**9, 3) }}",
    "{{ '%1000000000d'|format(3) }}",
    "{{ '{:1000000000}'.format(3) }}",
    "{{ '{:{}}'.format(3, 10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ ('\\t' * 9999).expandtabs(10**6) }}",
    "{{ 'x'|center(10**9) }}",
    "{{ ('\\n' * 9999)|indent(10**6) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ ['x']|map('center', 10**9)|first }}",
    "{{ (3).to_bytes(10**10, 'big') }}",
    "{% for line in [1]|batch(10**9, 'x') %}{{ line|length }}{% endfor %}",
    "{{ ([['x'] * 9999] * 9999)|sum(start=[])|length }}",
    "{{ ('x' * 9999).replace('', 'x' * 9999) }}",
    "{{ ('x' * 9999)|replace('x', 'x' * 9999) }}",
    "{{ (['x' * 9999] * 9999)|join }}",
    "{{ ''.join(['x' * 9999] * 9999) }}",
    "{{ ('x' * 9999).join(['y'] * 9999) }}",
    "{{ lipsum(n=10**9) }}",
    DOUBLED.replace("START", "'x'").replace("GROWN", "n.x + n.x"),
    DOUBLED.replace("START", "'x'").replace("GROWN", "n.x ~ n.x"),
    DOUBLED.replace("START", "'x'").replace("GROWN", "n.x|replace('x', 'xx')"),
    DOUBLED.replace("START", "[]").replace("GROWN", "[n.x, n.x]"),
    DOUBLED.replace("START", "[]").replace("GROWN", "[n.x, n.x]").replace("{{ n.x }}", "{{ n.x|string|length }}"),
    DOUBLED.replace("START", "[]").replace("GROWN", "[n.x, n.x]").replace("{{ n.x }}", "{{ n.x|tojson }}"),
    DOUBLED.replace("START", "[1]").replace("GROWN", "n.x + n.x"),
    "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = y %}{% endfor %}",
    "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "f(" * 40 + "'x'" + ")" * 40 + " }}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_that_asks_for_all_memory_is_refused(template: str) -> None:
    """Under a limit on memory, so that a failure fails this test and not the machine."""
    lm = chat_model()
    lm.tokenizer.chat_template = template
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        with pytest.raises(InputError, match="characters or items|wide field|undefined"):
            lm.encode([{"role": "user", "content": "w5"}])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_templates_within_bounds_render_as_ever() -> None:
    """As transformers renders them, character for character."""
    lm = chat_model()
    for template in (
        "{% for m in messages %}{{ '%-8s' % m.role ~ ': ' + m.content|trim|replace('z', 'bb') }}{{ '-' * 3 }}\n{% endfor %}",
        "{{ messages|tojson(indent=2) }}{{ '{:>8}'.format('x') }}{{ [1, 'a']|join(', ')|indent(4) }}",
        "{% generation %}{% set x = 1 %}{{ messages[0].content.split(' ')|join('-') }}{% endgeneration %}{{ 7 // 2 ** 3 }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 1 %}{% break %}"
        "{% endif %}{{ m }}{% endfor %}{{ dict(a=[1, 2]) }}{{ strftime_now('%%') }}{{ bos_token }}",
        "{% macro f(m) %}<{{ m.role ~ m['content'] }}>{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
        "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.nothing is defined }}{% endfor %}",
    ):
        lm.tokenizer.chat_template = template
        for last in ({"role": "user", "content": " a b "}, {"role": "assistant", "content": " b a "}):
            said = [{"role": "user", "content": "a", "reasoning": "r", "nothing": None}, {"role": "system", **last}]
            for goes_on in (False, True) if "m.content|trim" in template else (False,):
                whole = lm.tokenizer.apply_chat_template(said, tokenize=False, continue_final_message=goes_on)
                assert render(lm.tokenizer, said, goes_on=goes_on) == whole
    lm.tokenizer.chat_template = "{{ tools|tojson }}{{ messages[0].content }}{{ mood }}"
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    whole = lm.tokenizer.apply_chat_template([SAID], tokenize=False, tools=[tool], mood="x")
    assert render(lm.tokenizer, [SAID], {"tools": [tool], "mood": "x"}) == whole and '"name": "f"' in whole


def test_a_template_that_loops_for_ever_is_refused_and_others_are_not() -> None:
    lm = chat_model()
    messages = [{"role": "user", "content": "w5 w6"}] * 30
    before, traced = lm.encode(messages), sys.gettrace()
    lm.tokenizer.chat_template, kept = LOOP, lm.tokenizer.chat_template
    with pytest.raises(InputError, match="runs for too long"):
        lm.encode(messages)
    lm.tokenizer.chat_template = kept
    assert lm.encode(messages) == before and sys.gettrace() is traced
