"""The training loop: warmup and cosine, clipping, averaged weights, checkpoints that resume bit for bit.

One process or several (Accelerate): process p of P takes rows p*b .. (p+1)*b of the P*b rows of a step, so the loss
curve of P processes is that of one with P times the batch, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from thoughtmix.core.errors import NumericsError, ThoughtmixError
from thoughtmix.training.checkpoint import load_state, save_loss_curve, save_state
from thoughtmix.training.config import TrainConfig, make_optimizers
from thoughtmix.training.pace import Pace, interrupts_noted

_PROBED = 2  # the step after which an evaluation is timed, where minutes are to hold
_SAVED_AFTER = 300  # seconds, if `save_every` is not there yet

Batch = dict[str, Tensor]


class Task(Protocol):
    """What is trained. A batch is a function of (step, row), so that a run resumed, or spread over processes, sees the
    same ones."""

    def batch(self, step: int, rows: range, total: int) -> Batch:
        """Rows `rows` of the `total` of this step, on the CPU."""
        ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What is made small (a mean over rows), and what is worth plotting beside it."""
        ...

    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """`val_loss`, by which the best state is chosen, and others, on an evenly spread share of what there is."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a run stands, given to `on_step` after every step. steps: of the whole run; an estimate where minutes are
    given."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    last_evaluation: dict[str, float]


@dataclass(slots=True)
class TrainingResult:
    """How a run ended. log: an entry for each step with its losses, and the evaluation where there was one. best: the
    best evaluation, with its step. share: of the validation text, that evaluations looked at. kept: the step that the
    run can be resumed from; None: from none."""

    steps: int
    seconds: float
    log: list[dict[str, float]]
    best: dict[str, float]
    stopped_early: bool = False
    interrupted: bool = False
    share: float = 1.0
    kept: int | None = None


def train_and_save(
    name: str,
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    folder: Path | None,
    save: Callable[[Path], None],
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a model in place, leave it frozen in eval mode, and write it with its loss curve unless it was interrupted.

    Args:
        name: What is trained, for the title of the loss curve.
        folder: Where the checkpoints, the loss curve and the model go; None: nothing is written.
        save: Writes the model into the folder, in the main process.
        about: What the run learns from and what learns, by name, as JSON: it can be resumed with the same alone.
    """
    trainer = Trainer(model, task, config, folder, on_step, about or {})
    result = trainer.run(resume)
    model.eval().requires_grad_(False)
    if folder is not None and not result.interrupted and trainer.accelerator.is_main_process:
        save(folder)
        save_loss_curve(name, result.log, folder / "training" / "loss.svg")
    return result


@dataclass
class Trainer:
    """Trains `model` in place; in the end it holds the averaged weights if `ema` asks for them, else the last ones.
    Checkpoints go into `folder`, if there is one; `on_step` is called in the main process."""

    model: nn.Module
    task: Task
    config: TrainConfig
    folder: Path | None = None
    on_step: Callable[[TrainingProgress], None] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def run(self, resume: bool = False) -> TrainingResult:
        """Train to the end. Ctrl-C lets the step end, keeps the run and returns with `interrupted`.

        Raises:
            NumericsError: The loss is no longer a number.
            ThoughtmixError: Resuming failed, or a checkpoint could not be written.
        """
        self._prepare()
        state: dict[str, Any] = self._resumed() if resume else {"step": 0, "best": {}, "waited": 0, "pace": {}}
        step, best, waited = state["step"], state["best"], state["waited"]
        self.pace = Pace(self.config, **state["pace"])
        result = TrainingResult(step, 0.0, self.log, best, kept=step if resume else None)
        begun, whole = step, False
        position: dict[str, Any] = {}
        try:
            with interrupts_noted() as self.asked:
                while not self._stopping() and not self._finished(step):
                    whole = False  # until the step is done, the run is not what it was, nor what it will be
                    self._train_step(step)
                    step += 1
                    if self.config.minutes is not None and step == _PROBED:
                        self.pace.probe(self._evaluate)
                    last = self._finished(step)
                    if self.pace.evaluates(step, last):
                        with self.pace.timed_evaluation():
                            found = self._evaluate(self.pace.share)
                        self.log[-1] |= found
                        waited = 0 if not best or found["val_loss"] < best["val_loss"] else waited + 1
                        best = best if waited else {**found, "step": float(step)}
                    result.stopped_early = 0 < self.config.patience <= waited
                    whole, position = True, {"step": step, "best": best, "waited": waited}
                    self._report(step, step - begun)
                    if last or result.stopped_early or self._due(step):
                        result.kept = self._save(**position)
                    if result.stopped_early:
                        break
                result.interrupted = not result.stopped_early and not self._finished(step)
        except KeyboardInterrupt:
            result.interrupted = True
        if result.interrupted and whole and result.kept != step:
            result.kept = self._save(**position)
        result.steps, result.best, result.share, result.seconds = step, best, self.pace.share, self.pace.seconds
        if self.average is not None and not result.interrupted:
            self._load_weights(self.average)
        return result

    def _finished(self, step: int) -> bool:
        steps = self.pace.steps(step)
        return steps is not None and step >= steps

    def _stopping(self) -> bool:
        """Whether Ctrl-C was pressed; of several processes, when they agreed on it last."""
        return self.stop_agreed or (self.accelerator.num_processes == 1 and self.asked())

    def _due(self, step: int) -> bool:
        return step % self.config.save_every == 0 or time.perf_counter() - self.saved > _SAVED_AFTER

    def _prepare(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        c = self.config
        cuda = torch.cuda.is_available()
        # Not Accelerate's mixed precision: that is one setting for the whole process, fixed by whoever came first.
        self.bf16 = c.precision == "bf16" or (c.precision == "auto" and cuda and torch.cuda.is_bf16_supported())
        # Routes that follow the text never ask the prior, say: not every parameter has a part in every loss.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not cuda, kwargs_handlers=[unused])
        # `wrapped` is the model itself, moved to its device, or what spreads it over processes.
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.model, *make_optimizers(self.model, c))
        self.path = (self.folder or Path()) / "training" / "state.pt"
        self.log: list[dict[str, float]] = []
        self.about = {**self.about, "processes": self.accelerator.num_processes}
        self.stop_agreed, self.saved = False, time.perf_counter()
        self.average: dict[str, Tensor] | None = None
        if c.ema:
            self.average = {k: v.detach().clone() for k, v in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        """What training changes: all but frozen parameters."""
        named = self.model.named_parameters(remove_duplicate=False)  # a tied head is a second name of the embedding
        frozen = {name for name, p in named if not p.requires_grad}
        return {name: x for name, x in self.model.state_dict().items() if name not in frozen}

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights, strict=False)

    def _train_step(self, step: int) -> None:
        c, a = self.config, self.accelerator
        self.wrapped.train()
        rows = range(a.process_index * c.batch_size, (a.process_index + 1) * c.batch_size)
        batch = self.task.batch(step, rows, c.batch_size * a.num_processes)
        batch = {name: x.to(a.device, non_blocking=True) for name, x in batch.items()}
        rate = c.learning_rate_at(step, self.pace.steps(step) or 10**9)
        for group in (g for o in self.optimizers for g in o.param_groups):
            group["lr"] = rate
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            loss, logs = self.task.loss(self.wrapped, batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        a.backward(loss)
        norm = a.clip_grad_norm_(self.wrapped.parameters(), c.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            # Fused AdamW on CPUs does not count what it writes, and packed copies of weights go by that count.
            increment_version([p for group in optimizer.param_groups for p in group["params"]])
        if self.average is not None:
            self._update_average(self.average)
        names = ["loss", *logs]
        values = torch.stack([loss.detach().float(), *(v.to(loss.device, torch.float32) for v in logs.values())])
        found = self._agree(values)
        if found[0] != found[0]:
            raise NumericsError(
                f"The loss at step {step} is not a number.", "Try a smaller --learning-rate, or --precision no."
            )
        self.log.append({"step": step + 1, **dict(zip(names, found, strict=True)), "norm": float(norm), "rate": rate})

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor]) -> None:
        for name, x in self._weights().items():
            if x.is_floating_point():
                average[name].lerp_(x, 1 - self.config.ema)
            else:
                average[name].copy_(x)

    def _agree(self, values: Tensor) -> list[float]:
        """The means of `values` over processes, which also agree on the time and on whether to stop."""
        here = (*self.pace.measured, float(self.asked()))
        if self.accelerator.num_processes == 1:
            self.pace.agreed = self.pace.measured
            return list(values.tolist())
        both = torch.cat([values, values.new_tensor(here)])
        *found, seconds, evaluating, evaluation, stop = self.accelerator.reduce(both, "mean").tolist()
        self.pace.agreed, self.stop_agreed = (seconds, evaluating, evaluation), stop > 0
        return found

    def _evaluate(self, share: float) -> dict[str, float]:
        self.model.eval()
        if self.average is None:
            return self.task.evaluate(self.model, share)
        now = {k: v.detach().clone() for k, v in self._weights().items()}
        self._load_weights(self.average)
        try:
            return self.task.evaluate(self.model, share)
        finally:
            self._load_weights(now)

    def _report(self, step: int, count: int) -> None:
        """Tell `on_step`, `count` steps after this run or its resumption began."""
        if self.on_step is None or not self.accelerator.is_main_process:
            return
        elapsed, steps = self.pace.seconds - self.pace.before, self.pace.steps(step) or step
        length = self.task.batch(0, range(1), 1)["ids"].shape[1]
        tokens = length * self.config.batch_size * self.accelerator.num_processes
        loss = self.log[-1].get("lm_loss", self.log[-1]["loss"])
        speed, left = tokens * count / max(elapsed, 1e-9), (steps - step) * elapsed / max(count, 1)
        evaluated = next((entry for entry in reversed(self.log) if "val_loss" in entry), {})
        last_evaluation = {name: value for name, value in evaluated.items() if name.startswith("val_")}
        self.on_step(TrainingProgress(step, steps, loss, speed, left, last_evaluation))

    def _save(self, **position: Any) -> int | None:
        """Keep the run with its `position`: step, best, waited. Gives the step that can be resumed."""
        if self.folder is None:
            return None
        if self.accelerator.is_main_process:
            body = {"model": self._weights(), "average": self.average, "log": self.log, **position}
            body |= {"pace": self.pace.to_dict(), "about": self.about}
            body["optimizers"] = [o.state_dict() for o in self.optimizers]
            save_state(self.path, body, self.config)
        self.saved = time.perf_counter()
        return int(position["step"])

    def _resumed(self) -> dict[str, Any]:
        """The state of the run in the folder, put into the model and the optimizers. Raises `ThoughtmixError`."""
        state = load_state(self.path, self.config, self.about)
        try:
            self.average, self.log = state["average"], state["log"]
            self._load_weights(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0][:120].rstrip(".:")
            raise ThoughtmixError(f"{self.path} does not fit this model: {reason}.", f"Type: rm {self.path}") from None
        return state
