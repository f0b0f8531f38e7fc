"""The experiment whole, on a toy: everything in the record and on the page, and the same again from what was kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Tags

from thoughtmix.bench import experiment_models
from thoughtmix.bench.experiment import SETTINGS, Experiment, page
from thoughtmix.bench.experiment_models import ABLATIONS, ExperimentConfig
from thoughtmix.core.errors import InputError
from thoughtmix.report.experiment import verdict
from thoughtmix.training import trainer

WORDS = ["the", "red", "old", "sad", "cat", "dog", "king", "fool", "went", "to", "sea", "town", "well", "hill"]


class Letters:
    """An embedder that counts letters."""

    name = "letters"

    def encode(self, texts: Any, batch_size: int = 32) -> Any:
        counts = np.array([[t.count(c) + 0.1 for c in "abcdefghijklmnopqrstuvwxyz \n"] for t in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    rng = np.random.default_rng(0)
    data = tmp_path_factory.mktemp("data") / "text.txt"
    data.write_text("\n".join(" ".join(rng.choice(WORDS, 5)) + rng.choice([",", "?", "!"]) for _ in range(300)))
    return ExperimentConfig(
        data=str(data),
        steps=6,
        seeds=2,
        n=2,
        tokens=5,
        context=16,
        batch_size=4,
        layers=1,
        width=32,
        heads=2,
        branches=4,
        development=2,
        held_out=6,
        keep=3,
        ablations=("no modes",),
    )


def test_the_whole_of_it(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_models, "load_embedder", Letters)
    monkeypatch.setattr(trainer, "save_loss_curve", lambda *_: None)  # six pictures that test_training looks at
    said: list[str] = []
    result = Experiment(config, tmp_path, lambda words, _: said.append(words)).run()
    assert set(result["losses"]["mixture"]) == {"drawn", "deterministic", "marginal"}
    for how in ("drawn", "deterministic", "marginal"):
        each = np.subtract(result["losses"]["mixture"][how], result["losses"]["baseline"][how])
        found = result["losses"][f"difference_{how}"]
        assert found["value"] == pytest.approx(each.mean())
        assert found["high"] - found["value"] == pytest.approx(12.7062 * each.std(ddof=1) / 2**0.5, rel=1e-3)  # t, 1 df
    for s in (0, 1):  # other windows than the drawn loss has modes for, but the same mean of modes up to chance
        facts = result["models"][f"mixture-{s}"]
        assert facts["val_loss_marginal"] == pytest.approx(facts["val_loss"], abs=0.02)
    assert "val_loss_marginal" not in result["models"]["baseline-0"]
    assert result["ladder"][0]["identical"] == 1.0
    assert {len(v) for v in result["chosen"].values()} == {3}
    assert [a["name"] for a in result["ablations"]] == ["no modes"]
    assert result["models"]["mixture-0"]["tokens"] == result["models"]["baseline-0"]["tokens"] == 6 * 4 * 16
    whole = page(json.loads(json.dumps(result)))
    assert [t for t, _ in Tags(whole).tags].count("script") == 0
    assert "all modes" in whole and ">nan" not in whole
    assert any("the whole of it" in line for line in verdict(result))
    said.clear()
    again = Experiment(config, tmp_path, lambda words, _: said.append(words)).run()
    assert not [s for s in said if not s.startswith("training")]  # nothing is generated or scored anew
    assert {k: v for k, v in again.items() if k not in {"made", "seconds", "environment"}} == {
        k: v for k, v in result.items() if k not in {"made", "seconds", "environment"}
    }
    with pytest.raises(InputError, match="with other settings"):
        Experiment(dataclasses.replace(config, steps=7), tmp_path, lambda *_: None)


def test_both_get_as_many_settings_and_every_ablation_changes_something() -> None:
    baseline, mixture = SETTINGS["baseline"], SETTINGS["mixture"]
    assert len(baseline) == len(mixture) == len({str(s) for s in baseline})
    base = ExperimentConfig("x").mixture
    for name, change in ABLATIONS.items():
        assert any(base.get(k) != v for k, v in change.items()), name
    with pytest.raises(InputError, match="Unknown ablation 'magic'"):
        ExperimentConfig("x", ablations=("magic",))
