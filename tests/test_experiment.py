"""The experiment whole, on a toy: everything in the record and on the page, and the same again from what was kept."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Tags

from thoughtmix.bench import experiment_models
from thoughtmix.bench.experiment import SETTINGS, Experiment, page
from thoughtmix.bench.experiment_models import ABLATIONS, ExperimentConfig
from thoughtmix.core.errors import InputError, ThoughtmixError
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
    with pytest.raises(InputError, match="other settings: steps was 6, is 7"):
        Experiment(dataclasses.replace(config, steps=7), tmp_path, lambda *_: None)
    _what_was_kept(config, tmp_path)


def _what_was_kept(config: ExperimentConfig, folder: Path) -> None:
    """Another text at the same place is another experiment, the same one elsewhere is not; damage is one line."""
    moved = folder / "moved.txt"
    text = Path(config.data).read_text()
    moved.write_text(text)
    other = dataclasses.replace(config, data=str(moved))
    Experiment(other, folder, lambda *_: None)
    moved.write_text(text + "more\n")
    with pytest.raises(InputError, match="other settings: data was 'sha256:"):
        Experiment(other, folder, lambda *_: None)
    some = next((folder / "sets").iterdir())
    for path, body in (
        (folder / "models" / "mixture-0" / "facts.json", "{"),
        (folder / "models" / "mixture-0" / "facts.json", "[]"),
        (some, '{"texts": []}'),
        (some, "\\xff"),
        (folder / "plan.json", "{}"),
    ):
        kept = path.read_text()
        path.write_text(body)
        with pytest.raises(ThoughtmixError, match=rf"{path.name} is damaged\. Type: rm "):
            Experiment(config, folder, lambda *_: None).run()
        path.write_text(kept)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by a clock of our own: a step takes 2 of a mixture and 1 of a baseline, a text half of one..."""
    now = [0.0]

    def slow(owner: Any, name: str, seconds: Any) -> None:
        inner = getattr(owner, name)

        def later(*args: Any, **kwargs: Any) -> Any:
            now[0] += seconds(*args)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, later)

    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(experiment_models, "load_embedder", Letters)
    monkeypatch.setattr(trainer, "save_loss_curve", lambda *_: None)
    slow(trainer.Trainer, "_train_step", lambda own, _: 2.0 if own.model.config.num_branches > 1 else 1.0)
    slow(experiment_models.LanguageTask, "evaluate", lambda own, *_: len(own.starts) / 50)
    slow(experiment_models.LocalEngine, "generate", lambda _, sequences: len(sequences) / 2)
    return now


def test_minutes_hold(config: ExperimentConfig, clock: list[float], tmp_path: Path) -> None:
    """Within 10%, with texts and evaluations in it; what cannot fit is refused at once, and says what does."""
    own = dataclasses.replace(config, steps=None, minutes=20.0, seeds=1)
    with pytest.raises(InputError, match="takes [0-9.]+ minutes here at least, not 1") as refused:
        Experiment(dataclasses.replace(own, minutes=1.0), tmp_path, lambda *_: None).run()
    assert clock[0] < 200 and not (tmp_path / "models").exists()
    clock[0] = 0.0
    result = Experiment(own, tmp_path, lambda *_: None).run()  # in the same folder: nothing was decided
    assert clock[0] == pytest.approx(1200, rel=0.1) and result["steps"] > 60
    with pytest.raises(InputError, match="minutes was 20.0, is 30.0"):
        Experiment(dataclasses.replace(own, minutes=30.0), tmp_path, lambda *_: None)
    steps = tmp_path / "steps.json"
    steps.write_text("x")
    with pytest.raises(ThoughtmixError, match="steps.json is damaged"):
        Experiment(own, tmp_path, lambda *_: None).run()
    needed = float(str(refused.value).partition("takes ")[2].partition(" ")[0])
    clock[0] = 0.0
    least = Experiment(dataclasses.replace(own, minutes=needed), tmp_path / "least", lambda *_: None)
    assert least.steps < result["steps"]  # what it names as needed is enough


def test_ctrl_c_while_it_is_timed(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises KeyboardInterrupt, as anywhere, and the same goes on."""
    monkeypatch.setattr(experiment_models, "load_embedder", Letters)
    own = dataclasses.replace(config, steps=None, minutes=20.0, seeds=1)
    step = trainer.Trainer._train_step

    def stopped(self: Any, number: int) -> None:
        signal.raise_signal(signal.SIGINT)
        step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            Experiment(own, tmp_path, lambda *_: None).run()
    assert Experiment(own, tmp_path, lambda *_: None).steps >= 20


def test_both_get_as_many_settings_and_every_ablation_changes_something() -> None:
    baseline, mixture = SETTINGS["baseline"], SETTINGS["mixture"]
    assert len(baseline) == len(mixture) == len({str(s) for s in baseline})
    base = ExperimentConfig("x").mixture
    for name, change in ABLATIONS.items():
        assert any(base.get(k) != v for k, v in change.items()), name
    with pytest.raises(InputError, match="Unknown ablation 'magic'"):
        ExperimentConfig("x", ablations=("magic",))
