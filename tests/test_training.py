"""The trainer's laws: resumed is uninterrupted, two processes are one with twice the batch, equal settings give equal
runs; and the text that goes in."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from thoughtmix.cli import main
from thoughtmix.cli.training import stopped
from thoughtmix.core.errors import InputError, NumericsError, ThoughtmixError
from thoughtmix.mixture import RECIPE
from thoughtmix.training import checkpoint, trainer
from thoughtmix.training.checkpoint import load_state
from thoughtmix.training.config import TrainConfig, make_optimizers
from thoughtmix.training.data import bpe_tokenizer, character_tokenizer, read_text, split
from thoughtmix.training.language import Shape, active_parameters, build_model, encode, tokenizer_of, train_language
from thoughtmix.training.task import LanguageTask
from thoughtmix.training.trainer import Trainer, TrainingResult, train_and_save

TEXT = "".join(
    f"The {a} {b} went to the {c}.\n"
    for a in ("red", "old", "sad")
    for b in ("cat", "dog", "king", "fool")
    for c in ("sea", "town", "well", "hill", "door")
)
SHAPE = Shape(layers=2, width=32, heads=2, context=16)
SPLITS = split(TEXT, 0.2)


def settings(**more: Any) -> TrainConfig:
    return TrainConfig(
        **{"steps": 12, "batch_size": 4, "warmup": 3, "evaluate_every": 4, "save_every": 4, "precision": "no", **more}
    )


@pytest.mark.parametrize("kind", ["mixture", "baseline"])
def test_training_learns_and_the_folder_thinks(
    kind: str, tmp_path: Path, global_state_untouched: None, capsys: Any
) -> None:
    _, _, done = train_language(kind, SPLITS, SHAPE, settings(steps=120, learning_rate=3e-3), tmp_path)
    assert done.log[-1]["lm_loss"] < 0.6 * done.log[0]["lm_loss"]
    assert done.best["val_loss"] == min(e["val_loss"] for e in done.log if "val_loss" in e)
    assert (tmp_path / "training" / "loss.svg").read_text().lstrip().startswith("<?xml")
    thinker = "mixture" if kind == "mixture" else "sampling"
    code = main(
        [
            "think",
            "The red ",
            "--model",
            str(tmp_path),
            "--thinker",
            thinker,
            "-n",
            "3",
            "--no-measure",
            "--json",
            "--max-new-tokens",
            "12",
        ]
    )
    body = json.loads(capsys.readouterr().out)
    assert code == 0 and len(body["thoughts"]) == 3 and all(t["text"] for t in body["thoughts"])


@pytest.mark.parametrize("kind", ["mixture", "baseline"])
@pytest.mark.parametrize(("ema", "optimizer"), [(0.0, "adamw"), (0.9, "adamw"), (0.9, "muon")])
def test_resumed_is_as_if_never_stopped(kind: str, ema: float, optimizer: str, tmp_path: Path) -> None:
    """Bit for bit, on one process: weights, losses and evaluations."""
    whole, _, straight = train_language(kind, SPLITS, SHAPE, settings(ema=ema, optimizer=optimizer), tmp_path / "whole")

    def stop(progress: Any) -> None:
        if progress.step == 9:
            raise KeyboardInterrupt

    _, _, cut = train_language(
        kind, SPLITS, SHAPE, settings(ema=ema, optimizer=optimizer), tmp_path / "cut", on_step=stop
    )
    assert cut.interrupted
    again, _, resumed = train_language(
        kind, SPLITS, SHAPE, settings(ema=ema, optimizer=optimizer), tmp_path / "cut", resume=True
    )
    assert resumed.log == straight.log
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("at", [1, 2, 7, 8, 11])
def test_ctrl_c_at_any_step_leaves_what_can_be_resumed(at: int, tmp_path: Path) -> None:
    """A real signal, while a step or an evaluation runs: it ends first, and nothing of it is lost."""

    class Task(LanguageTask):
        def batch(self, step: int, rows: range, total: int) -> Any:
            if step == at - 1 and rows.stop > 1:  # not the one that only looks at the length
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step, rows, total)

    def run(task: type[LanguageTask], folder: Path, resume: bool = False) -> Any:
        tokenizer = tokenizer_of(SPLITS, SHAPE)
        model = build_model("baseline", tokenizer, SHAPE, 0)
        made = task(encode(tokenizer, SPLITS.train), encode(tokenizer, SPLITS.validation), SHAPE.context)
        return model, train_and_save("x", model, made, settings(), folder, lambda _: None, resume)

    whole, straight = run(LanguageTask, tmp_path / "whole")
    _, cut = run(Task, tmp_path / "cut")
    assert cut.interrupted and cut.steps == cut.kept == at
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again, resumed = run(LanguageTask, tmp_path / "cut", resume=True)
    assert resumed.log == straight.log and resumed.best == straight.best
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_second_ctrl_c_stops_in_the_middle_and_the_advice_is_true(tmp_path: Path, capsys: Any) -> None:
    """That step cannot be kept: what was kept before it is named, or that there is nothing."""
    result = TrainingResult(8, 1.0, [], {}, interrupted=True, kept=6)
    assert stopped(result) == "Stopped at step 8. Type the same with --resume to go on from step 6."
    assert "again to start" in stopped(TrainingResult(3, 1.0, [], {}, interrupted=True))

    def twice(self: Any, step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt
        train_step(self, step)

    train_step = Trainer._train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", twice)
        done = train_language("baseline", SPLITS, SHAPE, settings(), tmp_path)[2]
    assert done.interrupted and (done.steps, done.kept) == (6, 4)
    (tmp_path / "text.txt").write_text(TEXT)
    assert main(["train", "baseline", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err


BASE = {"kind": "mixture", "data": TEXT, "sizes": SHAPE, "seed": 0, "fields": {}}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"data": TEXT[::-1]}, "another data (sha256:"),  # the same characters
        ({"data": TEXT.upper()}, "another data (sha256:"),  # as many characters, others
        ({"data": f"{TEXT}xyz"}, "another data (sha256:"),
        ({"kind": "baseline"}, "another kind: mixture, not baseline. Pass kind mixture again"),
        ({"sizes": replace(SHAPE, layers=1)}, "another layers: 2, not 1. Pass --layers 2 again"),
        ({"sizes": replace(SHAPE, context=8)}, "another context: 16, not 8"),
        ({"sizes": replace(SHAPE, heads=4)}, "another heads: 2, not 4"),
        ({"sizes": replace(SHAPE, vocabulary=300)}, "another vocabulary: 0, not 300"),
        ({"fields": {"num_branches": 4}}, "another branches"),
        ({"seed": 1}, "another seed: 0, not 1"),
    ],
)
def test_a_run_knows_what_it_is_resumed_with(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    def run(asked: dict[str, Any], resume: bool = False) -> Any:
        config = settings(steps=2, evaluate_every=2, seed=asked["seed"])
        parts = split(asked["data"], 0.2)
        return train_language(
            asked["kind"], parts, asked["sizes"], config, tmp_path, resume=resume, windows=2, **asked["fields"]
        )

    run(BASE)
    with pytest.raises(ThoughtmixError) as found:
        run({**BASE, **changed}, resume=True)
    assert says in str(found.value) and found.value.hint
    assert run(BASE, resume=True)[2].steps == 2


def test_a_full_disk_at_the_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(self: Any, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["train", "baseline", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--steps", "2"]
    small = ["--layers", "1", "--hidden-size", "16", "--heads", "2", "--context", "8"]
    assert main([*words, *small]) == 1
    assert "no space left. Free some space, then type the same" in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["training", "state.pt"]
    monkeypatch.undo()
    assert main([*words, *small, "--resume"]) == 0


@pytest.mark.parametrize("kind", ["mixture", "baseline"])
def test_muon_has_the_inner_matrices_and_adamw_the_rest(kind: str) -> None:
    """Each parameter that learns has one optimizer; Muon has no embedding, no head, nothing frozen, and it learns."""
    model = build_model(kind, tokenizer_of(SPLITS, SHAPE), SHAPE, 0)
    frozen = next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).weight.requires_grad_(False)
    adamw, muon = make_optimizers(model, settings(optimizer="muon"))
    ours = [[id(p) for g in o.param_groups for p in g["params"]] for o in (adamw, muon)]
    assert sorted(ours[0] + ours[1]) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    outer = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    assert outer <= set(ours[0]) and id(frozen) not in ours[0] + ours[1]
    assert all(p.ndim == 2 for g in muon.param_groups for p in g["params"])
    assert len(make_optimizers(model, settings())) == 1


def test_muon_learns(tmp_path: Path) -> None:
    _, _, done = train_language(
        "baseline", SPLITS, SHAPE, settings(steps=60, optimizer="muon", learning_rate=5e-3), tmp_path
    )
    assert done.log[-1]["lm_loss"] < 0.6 * done.log[0]["lm_loss"]


def trained_as(rank: int, arguments: list[str], environment: dict[str, str]) -> None:
    """What torchrun would start as process `rank`."""
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    assert main(arguments) == 0


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text(TEXT)
    common = [
        "train",
        "mixture",
        "--data",
        str(data),
        "--steps",
        "6",
        "--evaluate-every",
        "3",
        "--context",
        "16",
        "--layers",
        "2",
        "--hidden-size",
        "32",
        "--heads",
        "2",
        "--precision",
        "no",
    ]
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    two = [*common, "--batch-size", "4", "--out", str(tmp_path / "two")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["thoughtmix.training.language"])  # so that torch is imported once for both
    processes = [context.Process(target=trained_as, args=(rank, two, environment)) for rank in range(2)]
    for process in processes:
        process.start()
    assert main([*common, "--batch-size", "8", "--out", str(tmp_path / "one")]) == 0
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    logs = [torch.load(tmp_path / n / "training" / "state.pt", weights_only=True)["log"] for n in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        for name in ("lm_loss", "loss", "balance", "entropy", "norm", "val_loss"):
            if name in a:
                assert abs(a[name] - b[name]) < 2e-4 * max(1, abs(a[name])), (name, a["step"])


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    losses = [
        [e["lm_loss"] for e in train_language("mixture", SPLITS, SHAPE, settings(seed=s))[2].log] for s in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_every_parameter_of_the_recipe_learns() -> None:
    """What gets no gradient asks for none: several processes would wait for it in vain."""
    for kind in ("mixture", "baseline"):
        model = build_model(kind, tokenizer_of(SPLITS, SHAPE), SHAPE, 0, **RECIPE).train()  # type: ignore[arg-type]
        x = encode(tokenizer_of(SPLITS, SHAPE), TEXT[:128]).view(4, 32)
        model(x, labels=x, creativity=[0.0, 1.0, 1.0, 1.0], thought_seeds=range(4)).loss.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_minutes_become_steps_and_the_rate_ends_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: steps that get slower, and evaluations that would take longer than the run."""
    now = [0.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])

    def later(progress: Any) -> None:
        now[0] += 0.1 if progress.step < 100 else 0.3

    def evaluate(_: Any, model: Any, share: float = 1.0) -> dict[str, float]:
        now[0] += 200 * share
        return {"val_loss": 1.0 / now[0]}

    done = train_language("baseline", SPLITS, SHAPE, settings(steps=None, minutes=0.05), on_step=later)[2]
    assert done.seconds == pytest.approx(3, rel=0.1) and done.steps == pytest.approx(30, abs=3) and done.share == 1
    assert done.log[-1]["rate"] < 0.2e-3
    monkeypatch.setattr(LanguageTask, "evaluate", evaluate)
    done = train_language("baseline", SPLITS, SHAPE, settings(steps=None, minutes=1), on_step=later)[2]
    assert done.seconds == pytest.approx(60, rel=0.1) and 200 < done.steps < 250
    assert done.share == pytest.approx(0.06 * 60 / 200) and done.log[-1]["rate"] < 0.2e-3
    assert sum("val_loss" in entry for entry in done.log) > 1
    capped = train_language("baseline", SPLITS, SHAPE, settings(steps=20, minutes=1), on_step=later)[2]
    assert capped.steps == 20


def test_early_stop() -> None:
    done = train_language("baseline", SPLITS, SHAPE, settings(steps=200, patience=2, learning_rate=1e-9))[2]
    assert done.stopped_early is (done.steps < 200)
    done = train_language(
        "baseline", split(TEXT[:500], 0.2), SHAPE, settings(steps=400, patience=3, learning_rate=1e-2)
    )[2]
    assert done.stopped_early and done.steps < 400


def test_averaged_weights_are_the_ones_kept() -> None:
    plain = train_language("baseline", SPLITS, SHAPE, settings())[0]
    averaged = train_language("baseline", SPLITS, SHAPE, settings(ema=0.9))[0]
    start = build_model("baseline", tokenizer_of(SPLITS, SHAPE), SHAPE, 0)
    moved = [float((m.lm_head.weight - start.lm_head.weight).detach().norm()) for m in (plain, averaged)]
    assert 0 < moved[1] < moved[0]


def test_active_parameters_are_equal_and_counted_right() -> None:
    tokenizer = tokenizer_of(SPLITS, SHAPE)
    for more in (
        RECIPE,
        {},
        {"num_branches": 4, "noise": "none"},
        {"combiner": "weights"},
        {"tie_word_embeddings": False},
    ):
        mixture, baseline = (build_model(kind, tokenizer, SHAPE, 0, **more) for kind in ("mixture", "baseline"))  # type: ignore[arg-type]
        assert sum(p.numel() for p in baseline.parameters()) - 1 == active_parameters(baseline.config)  # - the factor
        unit = 2 * SHAPE.width * SHAPE.layers
        assert abs(active_parameters(mixture.config) - active_parameters(baseline.config)) <= unit
        if more.get("modes"):
            continue  # a thought has one of them
        every = build_model("mixture", tokenizer, SHAPE, 0, **{**more, "num_branches": 3, "branches_min": 3})
        assert sum(p.numel() for p in every.parameters()) - 1 == active_parameters(every.config)


def test_a_loss_that_is_no_number_stops_with_one_line() -> None:
    with pytest.raises(NumericsError, match="not a number"):
        train_language("baseline", SPLITS, SHAPE, settings(learning_rate=1e30, clip=1e30, warmup=1, steps=50))


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ThoughtmixError, match="nothing to resume"):
        load_state(tmp_path / "state.pt", settings())
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ThoughtmixError, match="is damaged"):
        load_state(tmp_path / "state.pt", settings())
    train_language("baseline", SPLITS, SHAPE, settings(), tmp_path)
    with pytest.raises(
        ThoughtmixError, match="another learning rate: 0.001, not 0.5. Pass --learning-rate 0.001 again"
    ):
        train_language("baseline", SPLITS, SHAPE, settings(learning_rate=0.5), tmp_path, resume=True)
    assert not list(tmp_path.rglob("*.part"))


def test_a_checkpoint_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_state(tmp_path / "state.pt", {"step": 1}, settings())
    before = (tmp_path / "state.pt").read_bytes()

    def full(*_: Any) -> None:
        Path(_[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(ThoughtmixError, match="no space left"):
        checkpoint.save_state(tmp_path / "state.pt", {"step": 2}, settings())
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


# --- text -------------------------------------------------------------------------------------------------------------


def test_characters_come_back_as_they_were() -> None:
    tokenizer = character_tokenizer(TEXT + "\t é")
    for text in (TEXT, " a  b\n\nc ", "é\té"):
        ids = encode(tokenizer, text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids.tolist()) == text.translate(
            {ord(c): "\N{REPLACEMENT CHARACTER}" for c in "bc" if c not in TEXT}
        )
    assert tokenizer.decode(encode(tokenizer, "Ω").tolist()) == "\N{REPLACEMENT CHARACTER}"


def test_bpe_loses_nothing() -> None:
    tokenizer = bpe_tokenizer(TEXT, 300)
    for text in (TEXT, " é\n\n  Ω\t", "x"):
        ids = encode(tokenizer, text)
        assert tokenizer.decode(ids.tolist()) == text
    assert len(encode(tokenizer, TEXT)) < 0.6 * len(TEXT)


def test_splits_are_contiguous_and_share_nothing() -> None:
    parts = split("".join(map(str, range(1000))), 0.1, 0.2)
    whole = "".join(map(str, range(1000)))
    assert parts.train + parts.held_out + parts.validation == whole
    assert abs(len(parts.validation) - len(whole) * 0.1) <= 1
    assert abs(len(parts.held_out) - len(whole) * 0.2) <= 1


@pytest.mark.parametrize(
    ("body", "says"), [(None, "There is no file"), (b"", "is empty"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_law_8_texts(body: bytes | None, says: str, tmp_path: Path) -> None:
    if body is not None:
        (tmp_path / "x.txt").write_bytes(body)
    with pytest.raises(InputError, match=says):
        read_text(str(tmp_path / "x.txt"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "magic", "--data", "x", "--out", "y"], "Unknown kind of model 'magic'"),
        (["train", "mixture", "--data", "nowhere.txt", "--out", "y"], "There is no file nowhere.txt"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--steps", "0"], "steps is 0"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--optimizer", "sgd"], "optimizer is 'sgd'"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--context", "9999"], "a window takes 10000"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--noise", "loud"], "noise is 'loud'"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--heads", "5"], "no multiple"),
        (["train", "mixture", "--data", "{text}", "--out", "{out}", "--resume"], "nothing to resume"),
        (["train", "mixture", "--data", "{text}", "--out", "{model}"], "already holds a model"),
        (["train", "baseline", "--data", "{text}", "--out", "{out}", "--vocabulary", "10"], "vocabulary of 10"),
    ],
)
def test_law_8_commands(arguments: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    places = {"text": tmp_path / "text.txt", "out": tmp_path / "out", "model": tmp_path / "model"}
    assert main([a.format(**places) for a in arguments]) in {1, 2}
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_trainer_takes_any_task() -> None:
    """A task of another kind, with a model of another kind: the mean of numbers."""

    class Mean:
        def batch(self, step: int, rows: range, total: int) -> dict[str, torch.Tensor]:
            draws = torch.rand(total, 1, generator=torch.Generator().manual_seed(step))
            return {"ids": draws[rows.start : rows.stop] + 2}

        def loss(self, model: Any, batch: Any) -> Any:
            return (model(torch.ones(1, 1)) - batch["ids"]).square().mean(), {}

        def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
            return {"val_loss": float((model(torch.ones(1, 1)) - 2.5).abs().detach())}

    model = torch.nn.Linear(1, 1, bias=False)
    done = Trainer(model, Mean(), settings(steps=300, learning_rate=0.05, weight_decay=0.0)).run()
    assert done.best["val_loss"] < 0.05
