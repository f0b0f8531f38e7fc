"""Embedders: unit rows that depend on their own text alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models import Embedder, load_embedder
from thoughtmix.models.minilm import MiniLM

TEXTS = [
    "A brick can hold a door open.",
    "",
    "Paris is the capital of France.",
    "You can keep a door from closing with a brick.",
    "naïve – 東京 🙂",
    "word " * 600,  # beyond 256 tokens
    *(f"sentence number {i} " * i for i in range(1, 30)),
]


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return load_embedder()


@pytest.mark.model
def test_rows_are_unit_and_finite(minilm: Embedder) -> None:
    rows = minilm.encode(TEXTS)
    assert (rows.shape, rows.dtype) == ((len(TEXTS), 384), np.float32)
    assert np.isfinite(rows).all()
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[3] > 0.7 > rows[0] @ rows[2] + 0.3
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.name == "all-MiniLM-L6-v2"


@pytest.mark.model
def test_a_row_does_not_depend_on_its_neighbours(minilm: Embedder) -> None:
    together = minilm.encode(TEXTS)
    assert np.abs(together - minilm.encode(TEXTS, batch_size=1)).max() < 1e-6
    assert np.abs(together[::-1] - minilm.encode(TEXTS[::-1], batch_size=7)).max() < 1e-6


@pytest.mark.model
@pytest.mark.usefixtures("global_state_untouched")
def test_loading_and_encoding_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    load_embedder("all-MiniLM-L6-v2").encode(["a"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.model
def test_the_same_as_sentence_transformers(minilm: Embedder, capfd: pytest.CaptureFixture[str]) -> None:
    from thoughtmix.models.packaged import EMBEDDER, ensure

    theirs = load_embedder(str(ensure(EMBEDDER)))  # a folder goes through sentence-transformers
    assert type(theirs).__name__ == "SentenceTransformerEmbedder"
    assert np.abs(theirs.encode(TEXTS) - minilm.encode(TEXTS)).max() < 1e-5
    assert "Loading" not in capfd.readouterr().err


@pytest.mark.model
def test_the_same_bits_as_transformers() -> None:
    """Of the forward and of the tokenizer: the packaged embedder needs neither (models/minilm.py)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from thoughtmix.models.hardware import quiet
    from thoughtmix.models.packaged import EMBEDDER, ensure

    folder = ensure(EMBEDDER)
    minilm = MiniLM(folder)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    few = [*TEXTS[:9], "[SEP] x [MASK]", "A\u0301 \u00df ﬁ\u200b\x00"]
    assert minilm.count_tokens(few) == [len(ids) for ids in tokenizer(few)["input_ids"]]
    for texts in (few, ["one"], ["as long", "as this"]):  # padded, and not
        some = sorted(texts, key=len)  # as `encode` goes through them
        batch = tokenizer(some, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states, real = model(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
            want = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=-1).numpy()
        assert (minilm.encode(some) == want).all()


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path)):
        with pytest.raises(ModelError):
            load_embedder(name)
    with pytest.raises(InputError, match="Device 'gpu' cannot be used"):
        load_embedder(device="gpu")


def test_without_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"Type: pip install sentence-transformers$"):
        load_embedder(str(tmp_path))


def test_a_folder_that_sentence_transformers_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ModelError, match="Cannot load the embedder") as at:
        load_embedder(str(tmp_path))
    assert "\n" not in str(at.value)
