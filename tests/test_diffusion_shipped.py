"""The model that is part of the package, and the command that trains such a one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thoughtmix.cli import main
from thoughtmix.core.errors import ModelError
from thoughtmix.diffusion.load import BUNDLED, load_diffusion
from thoughtmix.diffusion.policies import make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig, denoise
from thoughtmix.engine.local import LocalEngine
from thoughtmix.thinkers.registry import auto_thinker

TEXT = "".join(
    f"The {a} {b} went to the {c}.\n"
    for a in ("red", "old", "sad")
    for b in ("cat", "dog", "king", "fool")
    for c in ("sea", "town", "well", "hill", "door")
)


def test_the_packaged_model_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, offline, small, with a card; its branches differ; letters only; words come out."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = BUNDLED["shakespeare-diffusion"]
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 12e6 and (folder / "MODEL_CARD.md").exists()
    model = load_diffusion()
    config = model.denoiser.model.config  # type: ignore[attr-defined]
    assert model.name == "shakespeare-diffusion" and config.guidance and config.trained_length == 256
    out = denoise(
        model.denoiser, model.prompt_state("ROMEO:", 58, 3), DenoisingConfig(make_policy("confidence", noise=0.5), 20)
    )
    texts = model.texts(out)
    assert len(set(texts)) == 3 and all(t.startswith("ROMEO:") and len(t) == 64 for t in texts)
    assert sum(t.count(" ") for t in texts) > 15


def test_the_packaged_model_knows_which_letters_are_missing() -> None:
    """Three of five at least, by the likeliest letter; a guess by letter frequency would have one in ten each."""
    model = load_diffusion()
    gapped = "KING RICHARD:\nWhat sa<mask:1> yo<mask:1> to th<mask:1> king of Eng<mask:1>and, my goo<mask:1> lord?\n"
    state = model.infill_state(gapped, temperature=0.0)
    found = denoise(model.denoiser, state, DenoisingConfig(make_policy("confidence"), 5)).ids[state.masked]
    assert sum(a == b for a, b in zip(model.decode(found), "yueld", strict=True)) >= 3


def test_it_is_no_causal_model() -> None:
    from thoughtmix.models import load_model

    lm = load_model("shakespeare-diffusion")
    assert not lm.causal and auto_thinker(LocalEngine(lm)).name == "diffusion"


def test_the_command_trains_one(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    common = [
        "train",
        "diffusion",
        "--data",
        str(tmp_path / "text.txt"),
        "--out",
        str(tmp_path / "out"),
        "--context",
        "24",
        "--layers",
        "1",
        "--hidden-size",
        "32",
        "--heads",
        "2",
        "--batch-size",
        "4",
        "--evaluate-every",
        "5",
        "--precision",
        "no",
    ]
    assert main([*common, "--steps", "10"]) == 0
    said = capsys.readouterr().out
    assert "nats a token at most" in said and "thoughtmix diffuse --model" in said
    model = load_diffusion(str(tmp_path / "out"))
    assert model.texts(denoise(model.denoiser, model.prompt_state("The ", 10, 1)))[0].startswith("The ")
    assert main([*common, "--steps", "10"]) == 2 and "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--weighting", "half"], "weighting is 'half'"),
        (["--masking", "some"], "masking is 'some'"),
        (["--prefix", "2"], "prefix is 2.0"),
        (["--heads", "5"], "no multiple of 2 x"),
    ],
)
def test_law_8_commands(more: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["train", "diffusion", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), *more]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out" / "config.json").exists()


def test_a_broken_folder_is_one_line(tmp_path: Path) -> None:
    model = load_diffusion()
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((BUNDLED["shakespeare-diffusion"] / "config.json").read_bytes())
    whole = (BUNDLED["shakespeare-diffusion"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="Cannot load") as told:
        load_diffusion(str(tmp_path))
    assert "\n" not in str(told.value)
