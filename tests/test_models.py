"""Language models: what is loaded, what is refused and in which words, prompts in and text out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import fresh, language_model, tokenizer

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models import LanguageModel, hardware, load_model, loading, wrap_model

TURNS = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "w3 {{ m['content'] }} END {% endfor %}{% if add_generation_prompt %}w4{% endif %}"
)


def chat(end: str = "</s>", template: str = TURNS) -> LanguageModel:
    own = copy.deepcopy(tokenizer())
    own.chat_template = template.replace("END", end)
    return wrap_model(fresh("llama"), own, name="tiny-chat")


def saved(folder: Path, family: str = "llama", **config: Any) -> Path:
    fresh(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if config:
        body = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(body | config))
    return folder


def one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value) and bool(getattr(error.value, "hint", ""))


# --- loading ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("global_state_untouched")
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "gpt_neox", "mamba"])
def test_a_folder_loads_as_it_was_saved(tmp_path: Path, family: str, capfd: pytest.CaptureFixture[str]) -> None:
    name = str(saved(tmp_path / "mine", family))
    capfd.readouterr()  # saving drew a bar
    lm = load_model(name, dtype="float32", device="cpu")
    assert capfd.readouterr().err == ""
    assert (lm.name, lm.is_default, lm.model.training) == ("mine", False, False)
    assert not any(p.requires_grad for p in lm.model.parameters())
    expected = fresh(family).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in lm.model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    lm = load_model(str(saved(tmp_path)), dtype=dtype, device="cpu")
    assert lm.dtype == getattr(torch, dtype)
    assert lm.device == torch.device("cpu")


def test_loading_leaves_the_switches_alone(tmp_path: Path) -> None:
    import huggingface_hub.utils as hub
    from transformers.utils import logging

    name = str(saved(tmp_path))
    before = logging.get_verbosity()
    try:
        for level, bars in ((logging.INFO, True), (logging.ERROR, False)):
            logging.set_verbosity(level)
            (hub.enable_progress_bars if bars else hub.disable_progress_bars)()
            hub_level = hub.logging.get_verbosity()
            load_model(name, device="cpu")
            assert logging.get_verbosity() == level
            assert logging.is_progress_bar_enabled()
            assert hub.are_progress_bars_disabled() is not bars
            assert hub.logging.get_verbosity() == hub_level
    finally:
        logging.set_verbosity(before)
        hub.enable_progress_bars()


def test_auto_dtype_asks_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "bf16_hardware", lambda: True)
    monkeypatch.setattr(hardware, "packs", lambda: False)
    assert hardware.auto_dtype("cpu") == "bfloat16"
    monkeypatch.setattr(hardware, "packs", lambda: True)  # packed weights are quicker than bfloat16 ...
    assert hardware.auto_dtype("cpu") == "float32"
    for large in (hardware.LARGE, None):  # ... but take more memory
        assert hardware.auto_dtype("cpu", large) == "bfloat16"
    monkeypatch.setattr(hardware, "bf16_hardware", lambda: False)
    assert hardware.auto_dtype("cpu") == "float32"
    assert hardware.auto_dtype("mps") == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert hardware.auto_dtype("cuda:0") == "float32"  # emulated is not supported


def test_bf16_hardware_on_every_kind_of_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for avx512, amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda a=avx512: a)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda a=amx: a)
        assert hardware.bf16_hardware() is (avx512 or amx)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # an older or newer torch
    assert hardware.bf16_hardware() is False
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert isinstance(hardware.bf16_hardware(), bool)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"device": "gpu"}, "Device 'gpu' cannot be used"),
        ({"device": "cuda:77"}, "Device 'cuda:77' cannot be used"),
        ({"device": "meta"}, "holds no numbers"),
    ],
)
def test_settings_that_do_not_exist(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as at:
        load_model(**settings)
    assert one_line(at)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/at/all", "a/b/c", "", "~nobody/x", "x" * 5000, "a\0b"])
def test_a_name_that_is_neither_a_folder_nor_an_id_asks_no_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_checkpoint", None)
    with pytest.raises(ModelError, match="There is no model folder") as at:
        load_model(name)
    assert one_line(at)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model \(no config\.json\)") as at:
        load_model(str(tmp_path))
    assert one_line(at)
    file = tmp_path / "model.bin"
    file.touch()
    with pytest.raises(ModelError, match="is a file, not a model folder"):
        load_model(str(file))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="Cannot load") as at:
        load_model(str(tmp_path))
    assert one_line(at)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    weights = saved(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="Cannot load") as at:
        load_model(str(tmp_path))
    assert one_line(at)


def test_a_checkpoint_without_its_head_is_not_filled_at_random(tmp_path: Path) -> None:
    saved(tmp_path)
    fresh("llama").model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks the weights lm_head\.weight\."):
        load_model(str(tmp_path))
    saved(tmp_path / "tied", "llama-tied")
    fresh("llama-tied").model.save_pretrained(tmp_path / "tied")  # here the embedding is the head
    load_model(str(tmp_path / "tied"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bert", "is not a causal language model (bert)"),
        ("roberta", "is not a causal language model (roberta)"),
        ("modernbert", "is not a causal language model (modernbert)"),
        ("xlm", "is not a causal language model (xlm)"),
        ("xlnet", "is not a causal language model (xlnet)"),
        ("vit", "is not a causal language model (vit)"),
        ("whisper", "is an encoder-decoder that reads no text (whisper)"),
    ],
)
def test_models_that_do_not_write_from_left_to_right(tmp_path: Path, kind: str, said: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    with pytest.raises(ModelError) as at:
        load_model(str(tmp_path))
    assert said in str(at.value)
    assert one_line(at)


def test_an_architecture_nobody_knows_runs_no_code_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model_type": "brand-new", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(body))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("asked"))
    with pytest.raises(ModelError, match="Cannot load") as at:
        load_model(str(tmp_path))
    assert one_line(at)


def test_what_the_hub_says_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lines: list[str] = []
    with pytest.raises(ModelError, match="no folder no/where here, and the Hugging Face hub cannot") as at:
        load_model("no/where", on_progress=lines.append)
    assert lines == ["no/where: asking the Hugging Face hub"]
    assert one_line(at)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "is gated. Accept its terms at https://huggingface.co/no/where"),
        ("RepositoryNotFoundError", "no model no/where on the Hugging Face hub"),
        ("LocalEntryNotFoundError", "the Hugging Face hub cannot be reached"),
        ("ConnectionError", "the Hugging Face hub cannot be reached"),
        ("KeyError", "Cannot load no/where: many"),
    ],
)
def test_each_refusal_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: str, said: str) -> None:
    import huggingface_hub.errors
    from transformers import AutoConfig

    def refuse(*args: Any, **kwargs: Any) -> None:
        cls = getattr(huggingface_hub.errors, kind, None)
        # made without the HTTP response that these insist on
        cause = KeyError() if kind == "KeyError" else ConnectionError() if cls is None else cls.__new__(cls)
        raise OSError("many\nlines") from cause

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ModelError) as at:
        load_model("no/where")
    assert said in str(at.value)
    assert one_line(at)


# --- wrapping ---------------------------------------------------------------------------------------------------


def test_wrap_model() -> None:
    model = fresh("gpt2").train()
    lm = wrap_model(model, tokenizer())
    assert (lm.name, lm.model.training, lm.context_length) == ("GPT2LMHeadModel", False, 256)
    assert "Embedding" not in repr(lm)  # not the whole network
    with pytest.raises(ModelError, match=r"GPT2Model has no language-model head\. Load it with AutoModelFor"):
        wrap_model(model.transformer, tokenizer())


def test_context_length_none_where_nothing_limits_it() -> None:
    assert language_model("llama").context_length == 256
    model = fresh("mamba")
    del model.config.max_position_embeddings  # which tiny models carry whether or not their kind has it
    assert wrap_model(model, tokenizer()).context_length is None


def test_eos_ids_are_all_that_end_an_answer() -> None:
    lm = wrap_model(fresh("llama"), tokenizer())
    assert lm.eos_ids == {2}
    model = fresh("llama")
    model.generation_config.eos_token_id = [5, 7]
    assert wrap_model(model, tokenizer()).eos_ids == {2, 5, 7}
    model.generation_config = None
    assert wrap_model(model, tokenizer()).eos_ids == {2}


def test_the_chat_template_names_the_end_of_a_turn() -> None:
    own = copy.deepcopy(tokenizer())
    own.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    turn_end = own.convert_tokens_to_ids("<|im_end|>")

    def ends(template: str) -> frozenset[int]:
        own.chat_template = template
        return wrap_model(fresh("llama"), own).eos_ids

    assert ends(TURNS.replace("END", "<|im_end|>")) == {2, turn_end}
    assert ends(TURNS.replace("END", "")) == {2}
    assert ends(TURNS.replace("END", "w9")) == {2}  # a common word ends nothing
    assert ends("<|im_end|> nothing of what is said") == {2}
    assert ends("{{ raise_exception('never') }}") == {2}


# --- prompts ----------------------------------------------------------------------------------------------------


def test_a_text_becomes_a_user_message_unless_raw() -> None:
    lm = chat()
    assert lm.tokenizer.convert_ids_to_tokens(lm.encode("w9")) == ["w3", "w9", "</s>", "w4"]
    assert lm.encode("w9") == lm.encode([{"role": "user", "content": "w9"}])
    assert lm.encode("w9", raw=True) == [9]
    assert language_model("llama").encode("w9") == [9]  # no template: the text as it stands


def test_an_answer_that_was_begun_is_continued() -> None:
    said = [{"role": "user", "content": "w9"}, {"role": "assistant", "content": "w8 w7"}]
    assert chat().tokenizer.convert_ids_to_tokens(chat().encode(said)) == ["w3", "w9", "</s>", "w3", "w8", "w7"]


def test_plain_texts_get_the_tokenizers_own_special_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    own = copy.deepcopy(tokenizer())
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    lm = wrap_model(fresh("llama"), own)
    assert lm.encode("w9", raw=True) == [1, 9]
    own.chat_template = "<s> {{ messages[0]['content'] }}"
    assert lm.encode("w9") == [1, 9]  # the template writes it: not twice


_USER = {"role": "user", "content": "w9"}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "The prompt is empty"),
        (" \n\t", "The prompt is empty"),
        ("a\udcff", "not valid Unicode"),
        ([], "The conversation is empty"),
        ([{"role": "user", "content": " "}], "The conversation is empty"),
        ([{"role": "user"}], r"messages\[0\] lacks role or content"),
        ([_USER, {"content": "w9"}], r"messages\[1\] lacks role or content"),
        ([_USER, {"role": "king", "content": "w9"}], r"messages\[1\] has role 'king'"),
        ([{"role": ["user"], "content": "w9"}], r"messages\[0\] has role \['user'\]"),
        ([{"role": "user", "content": 3}], r"messages\[0\] has content that is no text"),
        ([{"role": "tool", "content": "w9"}], "chat template of tiny-chat refuses this: no tools here"),
        (["w9"], r"messages\[0\] lacks role or content"),
        (_USER, "A prompt is a text or a list of messages, not dict"),
        (None, "not NoneType"),
        (b"w9", "not bytes"),
    ],
)
def test_prompts_that_cannot_be_served(prompt: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as at:
        chat().encode(prompt)
    assert one_line(at)


def test_messages_need_a_template_and_are_never_raw() -> None:
    with pytest.raises(InputError, match=r"tiny-llama has no chat template\. Pass a text instead of messages\."):
        language_model("llama").encode([_USER])
    with pytest.raises(InputError, match="raw continues a text"):
        chat().encode([_USER], raw=True)


def test_a_prompt_that_is_no_token_at_all() -> None:
    from tokenizers.normalizers import Replace

    own = copy.deepcopy(tokenizer())
    own.backend_tokenizer.normalizer = Replace("w9", "")
    with pytest.raises(InputError, match="The prompt has no tokens"):
        wrap_model(fresh("llama"), own).encode("w9")


@pytest.mark.usefixtures("global_state_untouched")
def test_a_long_prompt_is_no_reason_to_warn(capfd: pytest.CaptureFixture[str]) -> None:
    own = copy.deepcopy(tokenizer())
    own.model_max_length = 4
    assert len(wrap_model(fresh("llama"), own).encode("w9 " * 20)) == 20  # the engine says what is too long
    assert capfd.readouterr().err == ""


# --- the real default model -------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.usefixtures("global_state_untouched")
def test_the_default_model(capfd: pytest.CaptureFixture[str]) -> None:
    lm = load_model(dtype="float32", device="cpu")
    assert capfd.readouterr().err == ""
    assert (lm.name, lm.is_default, lm.context_length, lm.eos_ids) == ("SmolLM2-135M-Instruct", True, 8192, {2})
    ids = lm.encode("What is the capital of France?")
    assert lm.tokenizer.decode(ids).endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    answer = lm.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in lm.decode(answer.tolist())
    text = "It's 3 o'clock , isn't it ?\n\n  naïve – 東京 🙂"
    assert lm.decode(lm.encode(text, raw=True)) == text
