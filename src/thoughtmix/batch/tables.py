"""Hugging Face `datasets` in and out: a column of prompts becomes columns of thoughts. The package is the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.batch.prompts import think_many
from thoughtmix.batch.records import COLUMNS, PromptSource
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet


def map_dataset(
    pipeline: Any,
    dataset: Any,
    column: str | None = None,
    n: int = 8,
    thinker: str | None = None,
    *,
    system: str | None = None,
    raw: bool = False,
    measure: bool = True,
    rows: int | None = None,
    batch_size: int = 256,
    **settings: Any,
) -> Any:
    """A dataset with thoughts for each of its rows: columns `thoughts` (n texts), `seeds`, `logprobs`, `metrics` and
    `error`, empty where there is none.

        dataset = thoughtmix.map_dataset(thoughtmix.Pipeline(), datasets.load_dataset(...)["train"], "question", n=4)

    Row k gets what prompt k of a batch gets (`Record.seed`; a column `id` counts as there).

    Args:
        pipeline: A `Pipeline`.
        dataset: A `datasets.Dataset`, or an `IterableDataset`, whose rows are then made as they are asked for.
        column: Of texts or of conversations; None: the first there is of messages, prompt and text.
        n: How many thoughts for each row.
        thinker: As of `Pipeline.stream`.
        raw: As of `Pipeline.stream`.
        measure: As of `Pipeline.stream`.
        rows: As of `Pipeline.stream`.
        settings: As of `Pipeline.stream`.
        system: A message before each prompt.
        batch_size: Rows at a time; their rows share steps.

    Raises:
        InputError: There is no such column, or settings that no prompt could be served with.
    """
    kind = pipeline.thinker(thinker)
    request = pipeline.request(kind, n, **settings)
    has = dataset.column_names or []
    names = [name for name in (COLUMNS if column is None else (column,)) if name in has or not has]
    if not names:
        missing = "no prompt" if column is None else f"no column {column!r}"
        raise InputError(f"The dataset has {missing}; it has {', '.join(has)}.", "Name its column: column=...")
    source = PromptSource("a dataset", column=names[0], system=system, raw=raw)

    def answer(batch: Mapping[str, Sequence[Any]], indices: Sequence[int]) -> dict[str, list[Any]]:
        records = []
        for at, index in enumerate(indices):
            records.append(source.record(index, {name: values[at] for name, values in batch.items()}))
        made = {r.index: s for r, s in think_many(pipeline, kind, request, records, measure=measure, rows=rows)}
        return _columns([made[index] for index in indices])

    how: dict[str, Any] = {"batched": True, "with_indices": True, "batch_size": batch_size}
    if hasattr(dataset, "cache_files"):  # no IterableDataset: a loaded model is not to be hashed for a cache's name
        from uuid import uuid4

        how |= {"load_from_cache_file": False, "new_fingerprint": uuid4().hex[:16], "desc": "thinking"}
    return dataset.map(answer, **how)


def _columns(sets: Sequence[ThoughtSet]) -> dict[str, list[Any]]:
    names = sorted({name for one in sets for name in one.metrics})
    return {
        "thoughts": [one.texts for one in sets],
        "seeds": [[t.seed for t in one] for one in sets],
        "logprobs": [[t.logprob for t in one] for one in sets],
        "metrics": [{name: one.metrics.get(name) for name in names} for one in sets],
        "error": [str(one.run.get("error", "")) for one in sets],
    }
