"""GGUF files as `--model FILE.gguf`: the model, its tokenizer and its chat template, all from the one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from ggufland import random_model, write_gguf
from serving import running
from test_text_encoder import made
from transformers import AutoModelForCausalLM

import thoughtmix
from thoughtmix.cli import main
from thoughtmix.core.errors import ModelError
from thoughtmix.models import load_model

KINDS = ["llama", "qwen2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, tokenizer = tmp_path_factory.mktemp("gguf"), made("byte-level BPE")
    return {
        kind: write_gguf(folder / f"tiny-{kind}.gguf", random_model(kind, len(tokenizer)), tokenizer) for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_that_was_written(kind: str, files: dict[str, Path], tmp_path: Path, capfd: Any) -> None:
    tokenizer = made("byte-level BPE")
    before = torch.get_rng_state()
    lm = load_model(str(files[kind]), dtype="float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")  # no bar
    assert (lm.name, lm.context_length, lm.causal) == (f"tiny-{kind}", 256, True)
    assert 5 in lm.eos_ids  # <|im_end|>
    prompt = [{"role": "user", "content": "hello there"}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    assert lm.encode("hello there") == list(ids)
    want = random_model(kind, len(tokenizer))
    row = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(row).logits, want(row).logits)
    got = thoughtmix.think("hello there", n=2, model=str(files[kind]), max_new_tokens=6, temperature=0, measure=False)
    plain = want.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=6, do_sample=False, pad_token_id=3)
    assert list(got[0].token_ids) == plain[0, row.shape[1] :].tolist()
    lm.model.save_pretrained(tmp_path / "saved")  # no longer marked as quantised
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(again(row).logits, lm.model(row).logits)


def test_the_command_line_and_the_server_take_it(files: dict[str, Path], capsys: Any) -> None:
    assert main(["think", "hello", "-n", "2", "--model", str(files["llama"]), "--max-new-tokens", "4", "--json"]) == 0
    assert '"model": "tiny-llama"' in capsys.readouterr().out
    assert main(["cost", str(files["qwen2"])]) == 0
    assert "tiny-qwen2" in capsys.readouterr().out
    asked = {"messages": [{"role": "user", "content": "hello <|im_end|>"}], "n": 2, "max_tokens": 4, "seed": 1}
    with running(load_model(str(files["qwen2"]), dtype="float32")) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked).json()
    assert answer["model"] == "tiny-qwen2" and len(answer["choices"]) == 2


def test_what_is_no_whole_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match=r"no\.gguf is no GGUF file.* Download it again"):
        load_model(str(tmp_path / "no.gguf"))
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(files["llama"].read_bytes())
    with pytest.raises(ModelError, match="one part of a model.*--merge"):
        load_model(str(part))
    cut = tmp_path / "cut.gguf"
    whole = files["llama"].read_bytes()
    for size in (40, 3000, len(whole) - 500):
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="Cannot load cut: "):
            load_model(str(cut))
    with pytest.raises(ModelError, match="no model folder"):
        load_model(str(tmp_path / "missing.gguf"))
