"""Where a step of `tune --objective set` goes, in processor seconds: `OMP_NUM_THREADS=1 python benchmarks/tune.py`

The packaged graft practises the bench's development tasks and open prompts, twelve a step, as `tune` does (without
WordNet, whose categories are asked and checked alike, and without asking first what the graft knows). The two model
passes are drawing the thoughts (prompts read, steps, and the draw itself) and the loss with its gradient. Everything
else is outside of them: templates and texts, what texts are worth, the embedder, packing the branches, the optimizer.
The first step packs everything and does not count.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from thoughtmix import graft
from thoughtmix.bench.config import split_items
from thoughtmix.bench.tasks import answer_parser, coverage_tasks
from thoughtmix.bench.tasks.puzzles import puzzle_tasks
from thoughtmix.engine import loop
from thoughtmix.engine.backends.fused import FusedPath, FusedWeights
from thoughtmix.graft.tuning.prompts import open_prompts
from thoughtmix.graft.tuning.set_prompts import PracticePrompt
from thoughtmix.graft.tuning.set_task import SetConfig, SetTask
from thoughtmix.models import load_model
from thoughtmix.models.embed import load_embedder
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.trainer import train_and_save

GRAFT = Path(graft.__file__).parent / "weights" / "smollm2"
PASSES = ("prompts", "steps", "draws", "loss", "gradient")


class Clock:
    """Processor seconds by part; what a part calls of another is the other's alone."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._open: list[str] = ["other"]
        self._since = time.process_time()

    def turn(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the calls of a function as a part."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self._open.pop()

        setattr(owner, name, watched)

    def restart(self) -> None:
        self.turn()
        self.seconds.clear()


def prompts() -> list[PracticePrompt]:
    development, _ = split_items([*coverage_tasks(), *puzzle_tasks()], 0.3)

    def known(parse: Any) -> Any:
        return lambda text: found.answer if (found := parse(text)).valid else None

    tasks = [PracticePrompt(i.id, "task", (i.prompt, *i.paraphrases), known(answer_parser(i))) for i in development]
    return tasks + [PracticePrompt(f"open/{prompt}", "open", (prompt,)) for prompt in sorted(open_prompts())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="that count")
    parser.add_argument("--batch-size", type=int, default=12, help="prompts of a step")
    args = parser.parse_args()
    lm, practice = load_model(str(GRAFT)), prompts()
    task = SetTask(lm, practice, practice[:2], load_embedder(), SetConfig())
    for name, parameter in lm.model.named_parameters():
        parameter.requires_grad_("mot_A" in name or "mot_B" in name)
    clock = Clock()
    clock.watch(FusedPath, "prefill_packed", "prompts")
    clock.watch(FusedPath, "step", "steps")
    clock.watch(loop, "draw", "draws")
    clock.watch(SetTask, "_loss_of", "loss")
    clock.watch(FusedWeights, "with_branches_of", "packing")
    clock.watch(SetTask, "_judged", "worth")
    clock.watch(SetTask, "draw", "texts and rows")
    clock.watch(Accelerator, "backward", "gradient")
    clock.watch(SetTask, "evaluate", "evaluation")
    config = TrainConfig(args.steps + 1, batch_size=args.batch_size, learning_rate=8e-4, evaluate_every=10**6)

    def on_step(progress: Any) -> None:
        if progress.step == 1:
            clock.restart()

    with tempfile.TemporaryDirectory() as folder:
        train_and_save("set", lm.model, task, config, Path(folder), lambda *_: None, False, on_step, {})
    clock.turn()
    seconds = dict(clock.seconds)
    seconds.pop("evaluation", None)
    whole = sum(seconds.values())
    for part, used in sorted(seconds.items(), key=lambda item: -item[1]):
        where = "" if part in PASSES else "  (outside)"
        print(f"{part:16}{used / args.steps:8.3f} s a step {used / whole:7.1%}{where}")
    outside = sum(used for part, used in seconds.items() if part not in PASSES)
    print(f"outside of the two model passes: {outside / whole:.1%} of {whole / args.steps:.2f} s a step")


if __name__ == "__main__":
    main()
