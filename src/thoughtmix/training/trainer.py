"""The training loop: warmup and cosine, clipping, averaged weights, checkpoints that resume bit for bit.

One process or several (Accelerate): process p of P takes rows p*b .. (p+1)*b of the P*b rows of a step, so the loss
curve of P processes is that of one with P times the batch, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thoughtmix.core.errors import NumericsError
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.optimizers import optimizers_of
from thoughtmix.training.state import load_state, save_state
from thoughtmix.training.task import Task

_TIMING_STEPS = 12  # steps measured before `minutes` become steps; the first two are not counted


@dataclass(frozen=True, slots=True)
class Progress:
    """After every step, to `on_step`."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    last_evaluation: dict[str, float]


@dataclass(slots=True)
class Trained:
    """The end of a run. log: one entry for every step with its losses, and with the evaluation where there was one."""

    steps: int
    seconds: float
    log: list[dict[str, float]]
    best: dict[str, float]
    stopped_early: bool = False
    interrupted: bool = False


@dataclass
class Trainer:
    """model: trained in place; in the end it holds the averaged weights if `ema` asks for them, else the last ones.
    folder: where checkpoints go; None: nowhere."""

    model: nn.Module
    task: Task
    config: TrainConfig
    folder: Path | None = None
    on_step: Callable[[Progress], None] | None = None
    _log: list[dict[str, float]] = field(default_factory=list)

    def run(self, resume: bool = False) -> Trained:
        """Raises `NumericsError` when the loss is no longer a number, `ThoughtmixError` when resuming fails. Ctrl-C
        returns with `interrupted`; what was saved last can be resumed."""
        self._prepare()
        c = self.config
        steps = c.steps
        begun, best = 0, {}
        seconds = 0.0
        waited = 0
        if resume:
            body = load_state(self._path(), c)
            self._restore(body)
            begun, best, steps = body["step"], body["best"], body["steps"]
            self._log, seconds, waited = body["log"], body["seconds"], body["waited"]
        done = Trained(begun, seconds, self._log, best)
        clock = time.perf_counter()
        step = begun
        try:
            while steps is None or step < steps:
                self._step(step, steps or 10**9)
                step += 1
                if steps is None:
                    steps = self._fit(step, time.perf_counter() - clock)
                last = steps is not None and step >= steps
                if step % c.evaluate_every == 0 or last:
                    found = self._evaluate()
                    self._log[-1] |= found
                    waited = 0 if not best or found["val_loss"] < best["val_loss"] else waited + 1
                    if not waited:
                        best = {**found, "step": float(step)}
                elapsed = seconds + time.perf_counter() - clock
                self._report(step, steps, elapsed, time.perf_counter() - clock, step - begun)
                stop = bool(c.patience) and waited >= c.patience
                if step % c.save_every == 0 or last or stop:
                    self._save(step, steps, best, elapsed, waited)
                if stop:
                    done.stopped_early = True
                    break
        except KeyboardInterrupt:
            done.interrupted = True  # perhaps in the middle of a step: that half is not worth keeping
        done.steps, done.best = step, best
        done.seconds = seconds + time.perf_counter() - clock
        if self.average is not None and not done.interrupted:
            self._take(self.average)
        return done

    def _prepare(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        c = self.config
        cuda = torch.cuda.is_available()
        quick = cuda and torch.cuda.is_bf16_supported()
        # Not Accelerate's mixed precision: that is one setting for the whole process, fixed by whoever came first.
        self.bf16 = c.precision == "bf16" or (c.precision == "auto" and quick)
        # Routes that follow the text never ask the prior, say: not every parameter has a part in every loss.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not cuda, kwargs_handlers=[unused])
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.model, *optimizers_of(self.model, c))
        self.raw: nn.Module = self.accelerator.unwrap_model(self.wrapped)
        self.average: dict[str, torch.Tensor] | None = None
        if c.ema:
            self.average = {k: v.detach().clone() for k, v in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        """What training changes: all but frozen parameters."""
        frozen = {name for name, p in self.raw.named_parameters() if not p.requires_grad}
        return {name: x for name, x in self.raw.state_dict().items() if name not in frozen}

    def _take(self, state: dict[str, torch.Tensor]) -> None:
        self.raw.load_state_dict(state, strict=False)

    def _step(self, step: int, steps: int) -> None:
        c, a = self.config, self.accelerator
        self.wrapped.train()
        rows = range(a.process_index * c.batch_size, (a.process_index + 1) * c.batch_size)
        batch = self.task.batch(step, rows, c.batch_size * a.num_processes)
        batch = {name: x.to(a.device, non_blocking=True) for name, x in batch.items()}
        rate = c.rate(step, steps)
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
            with torch.no_grad():
                for name, x in self._state().items():
                    self.average[name].lerp_(x, 1 - c.ema) if x.is_floating_point() else self.average[name].copy_(x)
        names = ["loss", *logs]
        values = torch.stack([loss.detach().float(), *(v.float() for v in logs.values())])
        found = a.reduce(values, "mean").tolist() if a.num_processes > 1 else values.tolist()
        if found[0] != found[0]:
            raise NumericsError(
                f"The loss at step {step} is not a number.", "Try a smaller --learning-rate, or --precision no."
            )
        self._log.append({"step": step + 1, **dict(zip(names, found, strict=True)), "norm": float(norm), "rate": rate})

    def _fit(self, step: int, elapsed: float) -> int | None:
        """How many steps `minutes` allow, once enough were timed."""
        if step == 2:
            self._timed = elapsed
        if step < _TIMING_STEPS:
            return None
        each = (elapsed - self._timed) / (step - 2)
        return max(step, int(60 * float(self.config.minutes or 0) * 0.95 / each))

    def _evaluate(self) -> dict[str, float]:
        self.raw.eval()
        if self.average is None:
            return self.task.evaluate(self.raw)
        now = {k: v.detach().clone() for k, v in self._state().items()}
        self._take(self.average)
        try:
            return self.task.evaluate(self.raw)
        finally:
            self._take(now)

    def _report(self, step: int, steps: int | None, elapsed: float, since: float, count: int) -> None:
        if self.on_step is None or not self.accelerator.is_main_process:
            return
        ids = self.task.batch(0, range(1), 1)["ids"].shape[1]
        tokens = ids * self.config.batch_size * self.accelerator.num_processes
        evaluations = [e for e in self._log if "val_loss" in e]
        self.on_step(
            Progress(
                step,
                steps or 0,
                self._log[-1].get("lm_loss", self._log[-1]["loss"]),
                tokens * count / max(since, 1e-9),
                ((steps or step) - step) * since / max(count, 1),
                {k: v for k, v in evaluations[-1].items() if k.startswith("val")} if evaluations else {},
            )
        )

    def _path(self) -> Path:
        return (self.folder or Path()) / "training" / "state.pt"

    def _save(self, step: int, steps: int | None, best: dict[str, float], seconds: float, waited: int) -> None:
        if self.folder is None or not self.accelerator.is_main_process:
            return
        body = {
            "model": self._state(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average,
            "step": step,
            "steps": steps,
            "best": best,
            "seconds": seconds,
            "waited": waited,
            "log": self._log,
        }
        save_state(self._path(), body, self.config)

    def _restore(self, body: dict[str, Any]) -> None:
        self._take(body["model"])
        for optimizer, state in zip(self.optimizers, body["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.average = body["average"]
