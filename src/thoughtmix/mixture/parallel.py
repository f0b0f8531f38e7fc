"""N thoughts of a prompt at rising creativity, in one batch: the original prototype's call, on the decoding engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import Read
from thoughtmix.mixture.metrics import LayerMetrics
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models import LanguageModel

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer


def generate_parallel_thoughts(
    model: MixtureOfThoughtsTransformer,
    input_ids: Tensor,
    num_parallel: int = 4,
    max_length: int = 50,
    *,
    creativity: Sequence[float] | float | None = None,
    seed: int = 0,
    temperature: float = 0.8,
    min_p: float = 0.0,
    read: Read = "shared",
) -> list[dict[str, Any]]:
    """num_parallel thoughts, each up to max_length new tokens, for every prompt in input_ids (b, t).

    creativity: one value, or one a thought; None: evenly spaced from 0.5 to 1.5. Thought i has seed + i.
    Returns one dict a thought: `generated_ids` (b, t + new), padded on the right with the pad (else end, else first)
    token where a prompt's thought ended early; `creativity_level`; `metrics` (one dict a layer, of this thought);
    `branch_id`, its number; `seed`. Raises `InputError`.
    """
    if num_parallel < 1:
        raise InputError(f"num_parallel is {num_parallel}.", "Pass 1 or more.")
    levels = _levels(creativity, num_parallel)
    prompts = input_ids.tolist()
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = frozenset(end if isinstance(end, list) else [] if end is None else [end])
    tokenizer: Any = _NoText()
    engine = LocalEngine(LanguageModel(model, tokenizer, "MoT"))
    rows = [
        SequenceRequest(
            tuple(prompt),
            seed + i,
            SamplingParams(temperature=temperature * (levels[i] > 0), min_p=min_p),
            max_length,
            end_ids=ends,
        )
        for i in range(num_parallel)
        for prompt in prompts
    ]
    row_state = BranchRowState([r.seed for r in rows], [c for c in levels for _ in prompts], model.device)
    was_training = model.training
    model.eval()  # dropout is training's; noise is creativity's and stays
    try:
        done = engine.generate(rows, row_state=row_state, read=read)
    finally:
        model.train(was_training)
    pad = model.config.pad_token_id if model.config.pad_token_id is not None else min(ends, default=0)
    out = []
    for i, level in enumerate(levels):
        mine = done.outputs[i * len(prompts) : (i + 1) * len(prompts)]
        longest = max(len(r.token_ids) for r in mine)
        full = [p + r.token_ids + [pad] * (longest - len(r.token_ids)) for p, r in zip(prompts, mine, strict=True)]
        ids = torch.tensor(full, device=model.device)
        begins = input_ids.shape[1] if read == "shared" else 0
        own = {"creativity": level, "thought_seeds": [seed + i] * len(prompts), "prompt_lengths": begins}
        out.append(
            {
                "generated_ids": ids,
                "creativity_level": level,
                "metrics": LayerMetrics(partial(_metrics, model, ids, own)),
                "branch_id": i,
                "seed": seed + i,
            }
        )
    return out


@torch.no_grad()
def _metrics(model: MixtureOfThoughtsTransformer, ids: Tensor, own: dict[str, Any]) -> list[dict[str, Any]]:
    return list(model(ids, **own).metrics or [])


def _levels(creativity: Sequence[float] | float | None, n: int) -> list[float]:
    if creativity is None:
        return [1.0] if n == 1 else [0.5 + i / (n - 1) for i in range(n)]
    if isinstance(creativity, (int, float)):
        return [float(creativity)] * n
    if len(creativity) != n:
        raise InputError(f"creativity has {len(creativity)} values for {n} thoughts.", f"Pass one value, or {n}.")
    return [float(c) for c in creativity]


class _NoText:
    """Stands for a tokenizer where only ids are wanted."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return ""
