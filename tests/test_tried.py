"""The default model's path is remembered where it was tried: the same thoughts sooner, and never from a stale note."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from test_models_packaged import _own_cache, mind  # noqa: F401  fixtures: a cache of its own, a tiny default model

from thoughtmix import Pipeline
from thoughtmix.core.errors import InputError
from thoughtmix.engine.backends.known import path_of
from thoughtmix.models import load_model, packaged, tried
from thoughtmix.models.plain_tokenizer import PlainTokenizer
from thoughtmix.models.tried import FusedFacts, recall
from thoughtmix.models.unloaded import UnloadedModel

pytestmark = pytest.mark.usefixtures("mind")
PROMPT = "he he <|im_end|> he"


def thoughts(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    made = pipeline(PROMPT, n=3, max_new_tokens=5, measure=False)
    path = {name: made.run[name] for name in ("path", "device", "dtype")}
    return [*((t.token_ids, t.text, t.token_logprobs) for t in made), path]


def folder() -> Path:
    return packaged.folder_of(packaged.GENERATOR)


def notes(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "paths").iterdir())


def test_the_second_process_has_the_same_thoughts_and_lays_nothing_out() -> None:
    first, second = Pipeline(), Pipeline()
    want = thoughts(first)
    assert not isinstance(first.model, UnloadedModel)
    assert thoughts(second) == want
    lm = second.model
    assert isinstance(lm, UnloadedModel) and not lm.is_loaded
    known = first.model
    assert (lm.device, lm.dtype, lm.name, lm.languages, lm.is_default) == (
        known.device, known.dtype, known.name, known.languages, True,
    )  # fmt: skip
    assert (lm.vocabulary, lm.context_length, lm.eos_ids) == (known.vocabulary, known.context_length, known.eos_ids)
    assert type(lm.model) is type(known.model) and lm.is_loaded
    assert lm.model is lm.model and lm.kv_numbers == known.kv_numbers
    path: Any = path_of(lm)
    assert thoughts(second) == want and path_of(lm).home is path.home, "loaded and as it was: nothing is packed again"
    weight: Any = lm.model.get_input_embeddings().weight
    with torch.no_grad():
        weight.mul_(1.5)
    assert lm.is_changed and path_of(lm).home is not path.home
    assert thoughts(second) != want, "once somebody has changed it, it is the changed model that decodes"


def test_a_process_notes_a_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noted, right = list[Any](), tried.remember
    monkeypatch.setattr(tried, "remember", lambda *given: (noted.append(given), right(*given)))
    lm = load_model()
    for _ in range(3):
        path_of(lm)
    assert len(noted) == 1


def test_its_tokenizer_is_the_one_that_transformers_chooses() -> None:
    want = load_model()
    thoughts(Pipeline())
    lm = load_model()
    assert isinstance(lm, UnloadedModel)
    mine, other = lm.tokenizer, want.tokenizer
    assert lm.tokenizer is mine and type(mine) is type(other)
    assert mine.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert (mine.chat_template, mine.special_tokens_map) == (other.chat_template, other.special_tokens_map)
    assert lm.encode(PROMPT) == want.encode(PROMPT) and lm.decode([3, 4, 99]) == want.decode([3, 4, 99])


def test_until_somebody_asks_for_its_tokenizer_texts_are_made_without_transformers() -> None:
    """And are the same, control tokens in what people write among them."""
    want = load_model()
    thoughts(Pipeline())
    lm = load_model()
    texts = ["", "he he", " he  he\n", "<|im_end|> he", "\u00e9\u4e2d he", "he<|im_start|>user"]
    chats = [[{"role": "user", "content": text or "he"}, {"role": "assistant", "content": "he"}] for text in texts]
    codec, other = lm.codec, want.tokenizer
    assert type(codec) is PlainTokenizer and want.codec is other and len(codec) == len(other)
    for text in texts:
        assert codec(text)["input_ids"] == other(text)["input_ids"]
        assert lm.encoder.text(text) == want.encoder.text(text) and lm.encoder.spans(text) == want.encoder.spans(text)
    for chat in chats:
        assert lm.encode(chat) == want.encode(chat)
    for ids in ([], [0, 1, 2, 3, 4, 99], list(range(40))):
        assert lm.decode(ids) == want.decode(ids) == codec.decode(ids, skip_special_tokens=True)
        assert codec.decode(ids) == other.decode(ids)
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(codec, f"{name}_token_id") == getattr(other, f"{name}_token_id")
    assert (codec.all_special_tokens, codec.all_special_ids) == (other.all_special_tokens, other.all_special_ids)
    with pytest.raises(InputError, match="gets no 'documents'"):
        lm.encode(chats[1], template_kwargs={"documents": "x"})
    lm.tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    assert lm.codec is lm.tokenizer and lm.encode("he he") == want.encode("he he!", raw=True), (
        "who has it may change it"
    )


@pytest.mark.parametrize("damage", ["cut", "number", "circumstances", "empty", "binary"])
def test_a_damaged_note_is_made_again(tmp_path: Path, damage: str) -> None:
    want = thoughts(Pipeline())
    (note,) = notes(tmp_path)
    whole = note.read_text()
    body = json.loads(whole)
    if damage == "number":
        body["facts"]["frequencies"][0] += 0.5
    elif damage == "circumstances":
        body["circumstances"]["threads"] += 1
    cut = {"cut": whole[:-40], "empty": ""}
    note.write_bytes(b"\xff\xfe\x00" if damage == "binary" else cut.get(damage, json.dumps(body)).encode())
    assert recall(folder()) == "damaged"
    assert "damaged" in tried.described(folder())
    lines: list[str] = []
    again = Pipeline(on_progress=lines.append)
    assert thoughts(again) == want
    assert lines == ["Tiny: the note of its decoding path is damaged; trying the path again"]
    assert note.read_text() == whole


@pytest.mark.parametrize("change", ["model", "sources", "library", "threads", "kernels"])
def test_a_note_of_other_circumstances_does_not_count(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    thoughts(Pipeline())
    assert isinstance(recall(folder()), FusedFacts)
    if change == "model":
        manifest = folder() / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"transformers": "', '"transformers": "x'))
    elif change == "sources":
        monkeypatch.setattr(tried, "_sources", lambda: "others")
    elif change == "library":
        monkeypatch.setattr(torch, "__version__", "99")
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert recall(folder()) == "" and "not tried" in tried.described(folder())


def test_installations_that_share_a_cache_leave_each_other_their_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thoughts(Pipeline())
    (mine,) = notes(tmp_path)
    facts = recall(folder())
    assert isinstance(facts, FusedFacts)
    monkeypatch.setattr(tried, "_sources", lambda: "another's")
    tried.remember(folder(), facts)
    assert mine in notes(tmp_path) and len(notes(tmp_path)) == 2
    for number in range(tried._KEPT):
        monkeypatch.setattr(tried, "_sources", lambda number=number: str(number))
        tried.remember(folder(), facts)
    assert mine not in notes(tmp_path) and len(notes(tmp_path)) == tried._KEPT, "the oldest went"
    assert recall(folder()) == facts
    tried.forget(folder())
    assert not notes(tmp_path)


def test_a_model_that_was_changed_is_not_remembered(tmp_path: Path) -> None:
    pipeline = Pipeline()
    weight: Any = pipeline.model.model.get_output_embeddings().weight
    with torch.no_grad():
        weight.mul_(2)
    thoughts(pipeline)
    assert not (tmp_path / "cache" / "paths").exists()


def test_without_a_place_for_notes_all_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "paths").write_text("a file stands here, as on a disk that cannot be written to")
    want = thoughts(Pipeline())
    second = Pipeline()
    assert thoughts(second) == want and not isinstance(second.model, UnloadedModel)


def _write(where: Path, facts: FusedFacts, times: int) -> None:
    for _ in range(times):
        tried.remember(where, facts)


def test_two_processes_note_it_at_once(tmp_path: Path) -> None:
    thoughts(Pipeline())
    facts = recall(folder())
    assert isinstance(facts, FusedFacts)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write, args=(folder(), facts, 30)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = [recall(folder())]
    while any(writer.is_alive() for writer in writers):
        seen.append(recall(folder()))
    for writer in writers:
        writer.join()
    assert all(found == facts for found in seen) and not any(writer.exitcode for writer in writers)
    assert len(notes(tmp_path)) == 1, "and no temporary file stays"


def test_weights_that_are_not_what_they_were_are_seen(tmp_path: Path) -> None:
    """What the quick look at the folder cannot see: a tensor is missing. The whole is loaded, which mends it."""
    from safetensors.torch import load_file, save_file

    want = thoughts(Pipeline())
    file = folder() / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    second = Pipeline()
    assert isinstance(second.model, UnloadedModel)
    save_file(tensors, file, metadata={"format": "pt"})
    assert thoughts(second) == want


def test_pull_has_it_tried_again(tmp_path: Path) -> None:
    thoughts(Pipeline())
    packaged.pull("float32", embedder=False)
    assert not notes(tmp_path)
