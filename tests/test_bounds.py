"""What comes with a model does not keep a machine busy for ever."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from noiseland import chat_model

from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.models.bounds import require_buildable

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


def test_a_template_that_loops_for_ever_is_refused_and_others_are_not() -> None:
    lm = chat_model()
    messages = [{"role": "user", "content": "w5 w6"}] * 30
    before, traced = lm.encode(messages), sys.gettrace()
    lm.tokenizer.chat_template, kept = LOOP, lm.tokenizer.chat_template
    with pytest.raises(InputError, match="runs for too long"):
        lm.encode(messages)
    lm.tokenizer.chat_template = kept
    assert lm.encode(messages) == before and sys.gettrace() is traced
