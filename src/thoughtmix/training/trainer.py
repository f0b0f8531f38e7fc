"""The training loop: warmup and cosine, clipping, averaged weights, checkpoints that resume bit for bit.

One process or several (Accelerate): process p of P takes rows p*b .. (p+1)*b of the P*b rows of a step, so the loss
curve of P processes is that of one with P times the batch, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import NumericsError
from thoughtmix.training.checkpoint import load_state, save_loss_curve, save_state
from thoughtmix.training.config import TrainConfig, make_optimizers

_TIMING_STEPS = 12  # steps measured before `minutes` become steps; the first two are not counted

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

    def evaluate(self, model: Any) -> dict[str, float]:
        """`val_loss`, by which the best state is chosen, and others."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a run stands, given to `on_step` after every step. steps: 0 while `minutes` have not become steps yet."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    last_evaluation: dict[str, float]


@dataclass(slots=True)
class TrainingResult:
    """How a run ended. log: an entry for each step with its losses, and the evaluation where there was one. best: the
    best evaluation, with its step."""

    steps: int
    seconds: float
    log: list[dict[str, float]]
    best: dict[str, float]
    stopped_early: bool = False
    interrupted: bool = False


def train_and_save(
    name: str,
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    folder: Path | None,
    save: Callable[[Path], None],
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train a model in place, leave it frozen in eval mode, and write it with its loss curve unless it was interrupted.

    Args:
        name: What is trained, for the title of the loss curve.
        folder: Where the checkpoints, the loss curve and the model go; None: nothing is written.
        save: Writes the model into the folder, in the main process.
    """
    trainer = Trainer(model, task, config, folder, on_step)
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

    def run(self, resume: bool = False) -> TrainingResult:
        """Train to the end. Ctrl-C returns with `interrupted`; what was saved last can be resumed.

        Raises:
            NumericsError: The loss is no longer a number.
            ThoughtmixError: Resuming failed, or a checkpoint could not be written.
        """
        self._prepare()
        c = self.config
        steps = c.steps
        begun, best, seconds, waited = 0, {}, 0.0, 0
        if resume:
            state = load_state(self.path, c)
            self._restore(state)
            begun, steps, best = state["step"], state["steps"], state["best"]
            seconds, waited = state["seconds"], state["waited"]
        result = TrainingResult(begun, seconds, self.log, best)
        clock = time.perf_counter()
        step = begun
        try:
            while steps is None or step < steps:
                self._train_step(step, steps or 10**9)
                step += 1
                if steps is None:
                    steps = self._steps_in_minutes(step, time.perf_counter() - clock)
                last = steps is not None and step >= steps
                if step % c.evaluate_every == 0 or last:
                    found = self._evaluate()
                    self.log[-1] |= found
                    waited = 0 if not best or found["val_loss"] < best["val_loss"] else waited + 1
                    if not waited:
                        best = {**found, "step": float(step)}
                elapsed = time.perf_counter() - clock
                self._report(step, steps, elapsed, step - begun)
                stop = bool(c.patience) and waited >= c.patience
                if step % c.save_every == 0 or last or stop:
                    self._save(step=step, steps=steps, best=best, seconds=seconds + elapsed, waited=waited)
                if stop:
                    result.stopped_early = True
                    break
        except KeyboardInterrupt:
            result.interrupted = True  # perhaps in the middle of a step: that half is not worth keeping
        result.steps, result.best = step, best
        result.seconds = seconds + time.perf_counter() - clock
        if self.average is not None and not result.interrupted:
            self._load_weights(self.average)
        return result

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
        self.average: dict[str, Tensor] | None = None
        if c.ema:
            self.average = {k: v.detach().clone() for k, v in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        """What training changes: all but frozen parameters."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {name: x for name, x in self.model.state_dict().items() if name not in frozen}

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights, strict=False)

    def _train_step(self, step: int, steps: int) -> None:
        c, a = self.config, self.accelerator
        self.wrapped.train()
        rows = range(a.process_index * c.batch_size, (a.process_index + 1) * c.batch_size)
        batch = self.task.batch(step, rows, c.batch_size * a.num_processes)
        batch = {name: x.to(a.device, non_blocking=True) for name, x in batch.items()}
        rate = c.learning_rate_at(step, steps)
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
        if self.average is not None:
            self._update_average(self.average)
        names = ["loss", *logs]
        values = torch.stack([loss.detach().float(), *(v.float() for v in logs.values())])
        found = a.reduce(values, "mean").tolist() if a.num_processes > 1 else values.tolist()
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

    def _steps_in_minutes(self, step: int, elapsed: float) -> int | None:
        """How many steps `minutes` allow, once enough were timed."""
        if step == 2:
            self._timed = elapsed
        if step < _TIMING_STEPS:
            return None
        each = (elapsed - self._timed) / (step - 2)
        return max(step, int(60 * float(self.config.minutes or 0) * 0.95 / each))

    def _evaluate(self) -> dict[str, float]:
        self.model.eval()
        if self.average is None:
            return self.task.evaluate(self.model)
        now = {k: v.detach().clone() for k, v in self._weights().items()}
        self._load_weights(self.average)
        try:
            return self.task.evaluate(self.model)
        finally:
            self._load_weights(now)

    def _report(self, step: int, steps: int | None, elapsed: float, count: int) -> None:
        """Tell `on_step`, `count` steps and `elapsed` seconds after this run or its resumption began."""
        if self.on_step is None or not self.accelerator.is_main_process:
            return
        length = self.task.batch(0, range(1), 1)["ids"].shape[1]
        tokens = length * self.config.batch_size * self.accelerator.num_processes
        loss = self.log[-1].get("lm_loss", self.log[-1]["loss"])
        speed, left = tokens * count / max(elapsed, 1e-9), ((steps or step) - step) * elapsed / max(count, 1)
        evaluated = next((entry for entry in reversed(self.log) if "val_loss" in entry), {})
        last_evaluation = {name: value for name, value in evaluated.items() if name.startswith("val")}
        self.on_step(TrainingProgress(step, steps or 0, loss, speed, left, last_evaluation))

    def _save(self, **position: Any) -> None:
        """Keep the run with its `position`: step, steps, best, seconds, waited."""
        if self.folder is None or not self.accelerator.is_main_process:
            return
        body = {"model": self._weights(), "average": self.average, "log": self.log, **position}
        body["optimizers"] = [o.state_dict() for o in self.optimizers]
        save_state(self.path, body, self.config)

    def _restore(self, state: dict[str, Any]) -> None:
        self.average, self.log = state["average"], state["log"]
        self._load_weights(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
