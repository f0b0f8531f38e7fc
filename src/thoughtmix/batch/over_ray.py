"""A batch over a Ray cluster: Ray Data's map stage, each worker with an engine of its own.

What a prompt gives depends on its own seed (`Record.seed`), so it is what one process would give.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from thoughtmix.batch.records import Record
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.core.types import ThoughtSet
from thoughtmix.core.waiting import NothingYet

Load = Callable[[], Callable[[Iterable[Record]], Iterator[tuple[Record, ThoughtSet]]]]
"""Loads what answers records (`run.Answer`). Called once in each worker; must be picklable."""
BLOCK = 64
"""Prompts that a worker takes at once: their rows share steps."""
_STAGE = 20_000
"""Prompts of one pass through Ray Data: what is read ahead, and for what the workers are started."""


def answer_over_ray(
    records: Iterable[Record | NothingYet], load: Load, workers: int, ordered: bool = False
) -> Iterator[tuple[Record, ThoughtSet]]:
    """Each record with its thoughts, a block at a time.

    Args:
        records: Are read `_STAGE` at a time.
        load: Makes a worker.
        workers: How many; each takes a CPU, and a GPU where the cluster has some.
        ordered: In the order of the records.

    Raises:
        InputError: There is no worker.
        ModelError: Ray, or what Ray Data needs, is not installed; a worker died.
    """
    if workers < 1:
        raise InputError(f"{workers} workers.", "Pass 1 or more (--ray-workers 2).")
    try:
        import pyarrow  # noqa: F401  # Ray Data's
        import ray
        import ray.data
    except ImportError as error:
        raise ModelError(
            f"{error.name} is not installed.", "Type: pip install 'ray[data]', or drop --ray-workers."
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)  # joins a cluster when RAY_ADDRESS names one
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = ordered, False
    some = (record for record in records if isinstance(record, Record))
    try:
        while stage := list(itertools.islice(some, _STAGE)):
            yield from _stage(ray, stage, load, workers)
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


def _stage(ray: Any, stage: list[Record], load: Load, workers: int) -> Iterator[tuple[Record, ThoughtSet]]:
    blocks = [stage[at : at + _block(len(stage), workers)] for at in range(0, len(stage), _block(len(stage), workers))]
    rows = [{"block": number, "records": pickle.dumps(block)} for number, block in enumerate(blocks)]
    gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_kwargs={"load": pickle.dumps(load)},
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        **gpus,
    )
    try:
        for row in made.iter_rows():
            for record, body in pickle.loads(row["answers"]):
                yield record, ThoughtSet.from_dict(json.loads(body))
    except ray.exceptions.RayError as error:
        raise ModelError(f"A worker failed: {str(error).splitlines()[-1][:200]}", "Type the same again.") from None


def _block(count: int, workers: int) -> int:
    """Prompts of a block: every worker has some."""
    return max(1, min(BLOCK, -(-count // workers)))


class _Worker:
    """What answers blocks, in a process of its own."""

    def __init__(self, load: bytes) -> None:
        self._answer = pickle.loads(load)()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        answers = []
        for records in batch["records"]:
            made = [(record, thoughts.to_json(indent=None)) for record, thoughts in self._answer(pickle.loads(records))]
            answers.append(pickle.dumps(made))
        return {"answers": answers}
