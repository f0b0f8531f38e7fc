"""Whether a decoding path computes what the model's own forward computes (law 4), found out by trying it.

Three rows of one prompt and two of another are decoded for three steps; after the first step some rows leave, so that
the others are reordered. Then each text goes through the model once, whole and without a cache, and the logits of every
step are compared with that pass. The second prompt is longer and begins as the first does, so that paths which keep
keys and values read its end as a piece that follows a known beginning: chunked prefill is tried as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import DecodingPath, Start, vocabulary_size
from thoughtmix.engine.row_state import NO_ROW_STATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Largest |difference| of logits, in standard deviations of the logits, by how numbers are kept.
TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3, torch.bfloat16: 0.4, torch.float16: 0.1}
_COUNTS = (3, 2)  # rows of each prompt
_GONE = (0, 3)  # rows that leave after the first step: the first of each prompt
_STEPS = 3


@torch.no_grad()
def agrees(model: PreTrainedModel, path: DecodingPath, tolerance: float | None = None) -> bool:
    """Whether the path reproduces the model's forward.

    A forward that gives no finite logits says nothing of the path: its model is refused at the first draw.

    Args:
        model: In eval mode.
        path: A fresh one over the model; it is closed afterwards.
        tolerance: The largest difference allowed, in standard deviations of the logits; None: that of the model's
            dtype.
    """
    limit = TOLERANCE.get(model.dtype, 0.05) if tolerance is None else tolerance
    prompts, rows = _texts(vocabulary_size(model))
    seen = _decoded(path, prompts, rows, model.device)
    for some, want in _whole(model, rows, {row for row, _, _ in seen}):
        for row, position, got in seen:
            if row not in some:
                continue
            expected, logits = want[some.index(row), position].float(), got.float()
            scale = max(float(expected.std()), 1e-6)
            if expected.isfinite().all() and not float((expected - logits).abs().max()) <= limit * scale:
                return False
    return True


def _texts(vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
    """The two prompts, and the whole text of each row. Fixed tokens: no random state is read."""

    def some(start: int, count: int) -> list[int]:
        return [(start + 7919 * i) % vocabulary for i in range(count)]

    first = some(11, 9)
    prompts = [first, [*first[:8], *some(5, 4)]]
    starts = [prompt for prompt, count in zip(prompts, _COUNTS, strict=True) for _ in range(count)]
    return prompts, [[*start, *some(3 + row, _STEPS)] for row, start in enumerate(starts)]


def _decoded(
    path: DecodingPath, prompts: list[list[int]], rows: list[list[int]], device: torch.device
) -> list[tuple[int, int, Tensor]]:
    """What the path says: (row, position, logits (vocabulary,) after the token there) of every step."""
    lengths = [len(text) - _STEPS for text in rows]
    live = list(range(len(rows)))
    seen: list[tuple[int, int, Tensor]] = []
    try:
        first, _ = path.start(Start(prompts, _COUNTS, _STEPS))
        assert first is not None, "no prefix was given: every prompt was read to its end"
        seen += [(row, lengths[row] - 1, first[row]) for row in live]
        for step in range(_STEPS):
            tokens = torch.tensor([rows[row][lengths[row] + step] for row in live], device=device)
            seen += [(row, lengths[row] + step, got) for row, got in zip(live, path.step(tokens), strict=True)]
            if step == 0:
                live = [live[old] for old in path.drop(list(_GONE))]
    finally:
        path.close()
    return seen


def _whole(model: PreTrainedModel, rows: list[list[int]], asked: set[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Texts of equal length in one forward each: which rows, and their logits (rows, tokens, vocabulary)."""
    from thoughtmix.engine.backends.shared import attention_lock

    for length in sorted({len(rows[row]) for row in asked}):
        some = [row for row in sorted(asked) if len(rows[row]) == length]
        ids = torch.tensor([rows[row] for row in some], device=model.device)
        with attention_lock(model), NO_ROW_STATE.probing():
            yield some, model(input_ids=ids, use_cache=False).logits
