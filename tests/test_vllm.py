"""The vLLM engine without vLLM: what it is asked for, what is refused, and the adapters of thoughts.

A stand-in (`fakevllm`) takes its place, so nothing here says what vLLM itself does: tests/test_vllm_laws.py does that with
the real one (`make vllm`).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import fakevllm
import pytest
import torch
from fakevllm import Loaded, SamplingParams
from graftland import grafted, inputs
from peft import PeftModel
from safetensors.torch import load_file
from test_engines import rows as table
from tiny import tiny, tokenizer
from tinyland import HashEmbedder

from thoughtmix import Pipeline
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError, Interrupted, ModelError, UnknownName
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import Prompt
from thoughtmix.engine.engine import LocalModelEngine, SequenceRequest, TokenEngine
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams as Draw
from thoughtmix.engine.vllm import VllmEngine
from thoughtmix.graft import export_lora, save_graft, thoughts
from thoughtmix.graft.adapters import ThoughtAdapters
from thoughtmix.models import load_model
from thoughtmix.models.bare import read_bare
from thoughtmix.thinkers.registry import auto_thinker

SHORT: dict[str, Any] = {"max_new_tokens": 4, "measure": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's."""
    made = tmp_path_factory.mktemp("models") / "base"
    tiny("llama").save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def graft(folder: Path) -> Path:
    """A graft's on it, whose thoughts are LoRA adapters exactly."""
    made = folder.parent / "graft"
    save_graft(grafted("llama", noise="none", branches_max=2), made, str(folder))
    return made


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loaded:
    monkeypatch.setenv("THOUGHTMIX_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    made = fakevllm.put(monkeypatch)
    yield_env = dict(os.environ)
    monkeypatch.setattr(os, "environ", yield_env)  # what loading sets is undone
    return made


def pipeline(model: Path | str, **more: Any) -> Pipeline:
    return Pipeline(str(model), engine="vllm", embedder=HashEmbedder(), **more)


# --- what it is asked for ---


def test_what_vllm_is_loaded_with_and_asked_for(loaded: Loaded, folder: Path) -> None:
    there = pipeline(folder, dtype="float32", engine_options={"tensor_parallel_size": 2, "max_model_len": 64})
    before = torch.get_rng_state(), random.getstate()
    made = there("w5 w9", 3, "sampling", seed=7, temperature=(0.0, 0.5, 1.0), top_k=4, top_p=0.9, min_p=0.2, **SHORT)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    (arguments,) = loaded.arguments
    assert arguments["model"] == str(folder) and arguments["dtype"] == "float32"
    assert arguments["tensor_parallel_size"] == 2 and arguments["max_model_len"] == 64
    assert arguments["enable_prefix_caching"] is True and "enable_lora" not in arguments
    assert 0 < arguments["kv_cache_memory_bytes"] <= 4 * 2**30
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" and os.environ["VLLM_LOGGING_LEVEL"] == "INFO"
    asked = loaded.engines[0].asked
    prompt = LocalEngine(load_model(str(folder))).encode(Prompt("w5 w9"))
    assert [r.prompt for r in asked] == [prompt] * 3, "the same tokens as our own loop's"
    assert [r.params.seed for r in asked] == [7, 8, 9] and [r.params.temperature for r in asked] == [0.0, 0.5, 1.0]
    one = asked[0].params
    assert (one.top_k, one.top_p, one.min_p, one.max_tokens, one.logprobs) == (4, 0.9, 0.2, 4, 0)
    assert one.ignore_eos and one.stop_token_ids == [2] and not one.detokenize
    assert one.output_kind is fakevllm.RequestOutputKind.DELTA and all(r.lora is None for r in asked)
    assert made.run["vllm"] == "0.0.fake" and made.run["path"] == "vllm" and made.run["cached_tokens"] == 3
    assert made.run["dtype"] == "float32" and made.run["device"] == "cpu" and made.run["tokens"] == 12
    assert [t.logprob for t in made] == [-2.0] * 3 and [t.finish for t in made] == ["length"] * 3
    assert made[0].text == tokenizer().decode([fakevllm.words(prompt, one, i) for i in range(4)])


def test_what_the_user_names_goes_before(loaded: Loaded, folder: Path) -> None:
    how = {"enable_prefix_caching": False, "gpu_memory_utilization": 0.5, "enforce_eager": False}
    pipeline(folder, engine_options=how)("w5", 1, "sampling", **SHORT)
    assert loaded.arguments[0] | how == loaded.arguments[0] and "kv_cache_memory_bytes" not in loaded.arguments[0]


def test_a_gpu_keeps_vllms_own_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    loaded = fakevllm.put(monkeypatch, on_cpu=False)
    pipeline(folder)("w5", 1, "sampling", **SHORT)
    assert not {"kv_cache_memory_bytes", "block_size", "enforce_eager", "max_model_len"} & set(loaded.arguments[0])


def test_where_a_row_ends(loaded: Loaded, folder: Path) -> None:
    """By an end token, a string, the sentence that it lands on, or its last token."""
    spoken = {0: "w4 w5 w6 w7 w8", 1: "w4 w5 . w7 w8"}
    ids = {seed: tokenizer()(text)["input_ids"] for seed, text in spoken.items()}
    loaded.rule = lambda prompt, params, at: 2 if (params.seed, at) == (2, 3) else ids[(params.seed or 0) % 2][at]
    there = pipeline(folder)
    made = there("w5", 3, "sampling", max_new_tokens=5, measure=False)
    assert [t.finish for t in made] == ["length", "length", "stop"]
    assert made[2].token_ids[-1] == 2 and made[2].text == "w4 w5 w6"
    loaded.rule = lambda *given: time.sleep(0.002) or ids[0][min(given[2], 4)]
    stopped = there("w5", 1, "sampling", max_new_tokens=50, stop="w6 w7", measure=False)[0]
    assert (stopped.text, stopped.finish, len(stopped.token_ids)) == ("w4 w5 ", "stop", 4)
    there.engine.close()  # type: ignore[attr-defined]
    assert len(loaded.engines[0].aborted) == 1, "vLLM is told so"


def test_alternatives_and_steps(loaded: Loaded, folder: Path) -> None:
    engine, events = VllmEngine(str(folder)), list[Any]()
    request = SequenceRequest(Prompt("w5"), 1, Draw(), 3)
    done = engine.generate([request, request], top_logprobs=1, on_step=events.append)
    assert done.outputs[0].top == [([3], [-0.25])] * 3
    assert [e.done for e in events] == [2, 4, 6] and events[-1].total == 6 and events[-1].finished == [True, True]
    assert "".join(e.pieces[0] for e in events) == done.outputs[0].text


def test_grammars_go_there(loaded: Loaded, folder: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    engine = VllmEngine(str(folder))
    forms = [Grammar.from_json_schema(schema), Grammar.from_regex("w[0-9]"), Grammar("lark", 'start: "w5"')]
    engine.generate([SequenceRequest(Prompt("w5"), 0, Draw(), 2, grammar=form) for form in forms])
    asked = [r.params.structured_outputs for r in loaded.engines[0].asked]
    sent = json.loads(asked[0].json)
    assert sent["properties"] == schema["properties"] and sent["additionalProperties"] is False
    assert sent["x-guidance"]["whitespace_pattern"] and asked[1].regex == "w[0-9]" and asked[2].grammar == 'start: "w5"'


def test_ctrl_c_gives_what_is_there(loaded: Loaded, folder: Path) -> None:
    def on_step(event: Any) -> None:
        if event.done >= 4:
            raise KeyboardInterrupt

    loaded.rule = lambda *given: time.sleep(0.002) or fakevllm.words(*given)
    there = pipeline(folder)
    with pytest.raises(Interrupted) as caught:
        there("w5", 2, "sampling", max_new_tokens=50, on_step=on_step, measure=False)
    assert [t.finish for t in caught.value.thoughts] == ["cancelled"] * 2
    there.engine.close()  # type: ignore[attr-defined]
    assert all(len(t.token_ids) >= 2 for t in caught.value.thoughts) and len(loaded.engines[0].aborted) == 2


def test_many_prompts_share_the_steps(loaded: Loaded, folder: Path) -> None:
    prompts = [f"w{5 + i}" for i in range(9)]
    there = pipeline(folder)
    gate = threading.Event()
    rule = loaded.rule

    def after_all(prompt: list[int], params: SamplingParams, at: int) -> int:
        if len(loaded.engines[0].asked) >= 12:
            gate.set()
        gate.wait(0.01)
        return rule(prompt, params, at)

    loaded.rule = after_all
    made = list(there.stream(prompts, 2, "sampling", max_new_tokens=30, rows=8, measure=False))
    assert [s.run["index"] for s in made] == list(range(9)) and loaded.engines[0].most >= 4
    alone = [
        there(p, 2, "sampling", seed=s[0].seed, max_new_tokens=30, measure=False)
        for p, s in zip(prompts, made, strict=True)
    ]
    assert [s.texts for s in alone] == [s.texts for s in made]


def test_a_batch_on_the_command_line(loaded: Loaded, folder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("w5\nw6\nw7\n")
    words = ["think", "-m", str(folder), "--engine", "vllm", "--prompts", str(source), "--out", str(out), "-n", "2"]
    words += ["--no-measure", "--max-new-tokens", "3", "--engine-option", "max-model-len=32"]
    assert main(words) == 0 and main(words) == 0, "there is nothing left to do"
    assert len(out.read_text().splitlines()) == 3 and loaded.arguments[0]["max_model_len"] == 32
    assert main([*words, "--engine-option", "seed=1"]) != 0, "made otherwise"


def test_the_command_line(
    loaded: Loaded, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["think", "w5", "-m", str(folder), "--json", "--no-measure", "-n", "2", "--max-new-tokens", "3"]
    assert main([*words, "--engine", "vllm", "--engine-option", "quantization=awq"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["path"] == "vllm"
    assert loaded.arguments[-1]["quantization"] == "awq"
    monkeypatch.setenv("THOUGHTMIX_ENGINE", "vllm")
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["run"]["path"] == "vllm"
    assert main([*words, "--engine", "local"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["path"] != "vllm"
    assert main(["doctor", "--json"]) in {0, 1}
    assert "vllm" in json.loads(capsys.readouterr().out)["engines"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"engine": "vlm"}, "Did you mean 'vllm'"),
        ({"engine": "vllm", "engine_options": {"max_model_length": 3}}, "Did you mean 'max_model_len'"),
        ({"engine": "vllm", "engine_options": {"model": "x"}}, "Pass --model"),
        ({"engine_options": {"max_model_len": 3}}, "Pass --engine vllm, or drop"),
        ({"engine": "vllm", "device": "cpu"}, "--engine local"),
        ({"engine": "vllm", "weights": "fp16"}, "--engine local"),
        ({"engine": "vllm", "endpoint": "http://localhost:1"}, "Drop one of the two"),
        ({"engine": "endpoint"}, "--endpoint URL"),
        ({"engine": "vllm", "engine_options": {"quantization": "none-such"}}, "quantization method: none-such. Change"),
    ],
)
def test_what_does_not_go_together(loaded: Loaded, folder: Path, how: dict[str, Any], says: str) -> None:
    with pytest.raises((InputError, UnknownName, ModelError)) as caught:
        Pipeline(str(folder), **how)("w5", 1, "sampling", **SHORT)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"top_nsigma": 1.0}, "takes no top_nsigma"),
        ({"draws": "arithmetic"}, "draws=arithmetic needs arithmetic sampling"),
        ({"max_new_tokens": 4000}, "new ones that is over the model's"),
        ({"max_new_tokens": 66, "stop": "x"}, ""),
    ],
)
def test_settings_that_vllm_has_not(loaded: Loaded, folder: Path, more: dict[str, Any], says: str) -> None:
    settings = {**SHORT, **more}
    if not says:
        assert len(pipeline(folder)("w5", 1, "sampling", **settings)) == 1
        return
    with pytest.raises(InputError) as caught:
        pipeline(folder)("w5", 1, "sampling", **settings)
    assert says in str(caught.value) and not loaded.engines, "before anything is loaded"
    if "nsigma" in says or "arithmetic" in says:
        assert str(caught.value).endswith("--engine local.")


def test_what_vllm_itself_says(loaded: Loaded, folder: Path) -> None:
    """A request that it refuses is the caller's mistake, and it goes on; what breaks a step is told as it is."""
    there = VllmEngine(str(folder), options={"max_model_len": 4096})
    object.__setattr__(there.model, "context_length", 4096)
    with pytest.raises(InputError, match="The number is not lucky"):
        there.generate([SequenceRequest(Prompt("w5"), 0, Draw(), 666)])
    assert len(there.generate([SequenceRequest(Prompt("w5"), 0, Draw(), 3)]).outputs[0].token_ids) == 3
    loaded.rule = lambda *given: 999
    with pytest.raises(RuntimeError, match="on fire"):
        there.generate([SequenceRequest(Prompt("w5"), 0, Draw(), 3)])
    there.close()


def test_without_vllm(monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else found(name, *a))
    assert main(["think", "w5", "-m", str(folder), "--engine", "vllm"]) != 0
    said = capsys.readouterr().err
    assert "vLLM is not installed. Type: pip install vllm" in said and said.count("\n") == 1


@pytest.mark.parametrize("thinker", sorted(table()))
def test_every_thinker(loaded: Loaded, folder: Path, thinker: str) -> None:
    """As the table of docs/engines.md says: n thoughts, or one line before anything is loaded."""
    said = table()[thinker][-2]
    there = pipeline(folder)
    if thinker == "mixture":
        with pytest.raises(InputError, match="has no thought branches"):
            there("w5 w6", 2, thinker, **SHORT)
        return
    if said.startswith("works"):
        made = there("w5 w6", 2, thinker, max_new_tokens=8, measure=False)
        assert 1 <= len(made) <= 2 and all(made.texts)
        assert made.thinker == made.run.get("chosen", {"thinker": thinker})["thinker"]
        return
    with pytest.raises(InputError) as caught:
        there("w5 w6", 2, thinker, **SHORT)
    needs = said.removeprefix("refused: needs ")
    assert f"The thinker {thinker} needs {needs}, which base (vllm) lacks. Use our own loop: --engine local." in str(
        caught.value
    )
    assert not loaded.engines


def test_models_that_vllm_has_not(loaded: Loaded, tmp_path: Path) -> None:
    from transformers import T5Config

    (tmp_path / "t5").mkdir()
    T5Config(num_layers=1).save_pretrained(tmp_path / "t5")
    for name, says in (("shakespeare-diffusion", "thoughtmix_diffusion"), (str(tmp_path / "t5"), "with an encoder")):
        with pytest.raises(InputError, match=says) as caught:
            pipeline(name)("w5", 1, "sampling", **SHORT)
        assert str(caught.value).endswith("Type --engine local.")


# --- a model without its weights ---


def test_a_bare_model_is_the_model_but_for_its_weights(loaded: Loaded, folder: Path) -> None:
    whole, bare = load_model(str(folder)), read_bare(str(folder), "vLLM").lm
    assert bare.name == whole.name and bare.eos_ids == whole.eos_ids and bare.context_length == whole.context_length
    for prompt in ("w5 w6", "w5 </s> w6"):
        assert bare.encode(prompt) == whole.encode(prompt)
    engine = VllmEngine(str(folder))
    assert isinstance(engine, TokenEngine) and not isinstance(engine, LocalModelEngine)


# --- thoughts as adapters ---


def test_rows_of_thoughts_are_adapters(loaded: Loaded, graft: Path, folder: Path) -> None:
    there = pipeline(graft)
    plain = there("w5", 2, "sampling", **SHORT)
    assert "enable_lora" not in loaded.arguments[0] and plain.model == "graft"
    made = there("w5", 4, "mixture", seed=3, **SHORT)
    assert loaded.arguments[1]["enable_lora"] is True and loaded.arguments[1]["max_lora_rank"] == 8
    assert loaded.arguments[1]["model"] == str(folder) and len(loaded.engines) == 2, "once more, with room for them"
    loras = [r.lora for r in loaded.engines[1].asked]
    assert all(Path(lora.lora_path, "adapter_model.safetensors").is_file() for lora in loras)
    routes = [json.dumps([t.origin["branches"], t.origin["weights"]]) for t in made]
    assert len({lora.lora_int_id for lora in loras}) == len(set(routes)) == made.run["adapters"] > 1
    assert made.run["read"] == "each" and made[0].origin["creativity"] == 1.0
    own = LocalEngine(load_model(str(graft)))
    same = Pipeline(engine=own)("w5", 4, "mixture", seed=3, **SHORT)
    assert [t.origin["branches"] for t in made] == [t.origin["branches"] for t in same]
    there("w5", 2, "mixture", creativity=0, **SHORT)
    neutral = loaded.engines[1].asked[-1].lora
    assert neutral is not None, "vLLM's CPU build must not be given rows without one"
    tensors = load_file(Path(neutral.lora_path, "adapter_model.safetensors"))
    assert all(not t.any() for name, t in tensors.items() if "lora_B" in name)
    assert auto_thinker(there.engine).name == "mixture"
    again = pipeline(graft)("w5", 4, "mixture", seed=3, **SHORT)
    assert [r.lora.lora_path for r in loaded.engines[2].asked] == [lora.lora_path for lora in loras], "kept"
    assert again.texts == made.texts


def test_an_adapter_is_the_thought(loaded: Loaded, graft: Path, tmp_path: Path) -> None:
    """The same tensors as `export_lora` writes; and the model with it says what the thought says."""
    rows = ThoughtAdapters(graft, read_bare(str(graft), "vLLM").lm.model.config).rows(range(5, 8), [1.5] * 3)
    lm = load_model(str(graft))
    export_lora(lm.model, tmp_path / "out", thoughts=3, seed=5, creativity=1.5)
    given = inputs("llama")
    for i, folder in enumerate(rows.folders):
        assert folder is not None
        got = load_file(folder / "adapter_model.safetensors")
        want = load_file(tmp_path / "out" / f"thought-{i}" / "adapter_model.safetensors")
        assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
        kind: Any = PeftModel
        peft = kind.from_pretrained(tiny("llama"), str(folder)).eval()
        with torch.no_grad(), thoughts(lm.model, 1.5, [5 + i] * 3):
            near = (peft(**given).logits - lm.model(**given).logits).abs().max()
        assert near < 1e-4
        peft.unload()


def test_branches_of_other_thinkers(loaded: Loaded, graft: Path) -> None:
    pipeline(graft)("w5 w6", 2, "iterate", branches=True, max_new_tokens=6, measure=False)
    assert any(r.lora is not None for r in loaded.engines[0].asked)


def test_a_lora_adapter_is_every_rows(loaded: Loaded, graft: Path, folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(load_model(str(folder)).model, LoraConfig(r=4, target_modules=["down_proj"])).save_pretrained(
        tmp_path / "lora"
    )
    pipeline(tmp_path / "lora")("w5", 2, "sampling", **SHORT)
    assert loaded.arguments[0]["max_lora_rank"] == 8 and loaded.arguments[0]["model"] == str(folder)
    assert {r.lora.lora_path for r in loaded.engines[0].asked} == {str(tmp_path / "lora")}
