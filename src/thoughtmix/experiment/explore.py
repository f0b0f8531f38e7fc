"""Generate thoughts for many prompts at once, and score each prompt's set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE, RowState
from thoughtmix.metrics import self_bleu, vendi
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models import LanguageModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
    from thoughtmix.models import Embedder

SEED_STEP = 10_000  # between the seeds of two prompts: no thought of one shares its stream with one of another


@dataclass(frozen=True, slots=True)
class Sets:
    """The thoughts of each prompt, and each prompt's scores."""

    texts: list[list[str]]  # (prompts, n)
    nll: NDArray[np.float64]  # (prompts,) under the judge, nats a token, LOWER is better
    vendi: NDArray[np.float64]  # (prompts,)
    difference: NDArray[np.float64]  # (prompts,) 1 - self-BLEU


def generate(
    model: MixtureOfThoughtsTransformer,
    tokenizer: Any,
    prompts: Sequence[str],
    setting: Mapping[str, float],
    n: int,
    tokens: int,
    seed: int = 0,
) -> list[list[str]]:
    """n texts for each prompt, all in one batch. setting: temperature, top_p, min_p, and creativity for a mixture."""
    ids = [tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    own: dict[str, Any] = {k: v for k, v in setting.items() if k != "creativity"}
    sampling = SamplingParams(**own)
    rows = [
        SequenceRequest(tuple(ids[p]), seed + p * SEED_STEP + i, sampling, tokens, end_ids=frozenset())
        for p in range(len(prompts))
        for i in range(n)
    ]
    engine = LocalEngine(LanguageModel(model, tokenizer, "experiment"), weights="native")
    row_state: RowState = NO_ROW_STATE
    if model.config.num_branches > 1:
        row_state = BranchRowState([r.seed for r in rows], [setting.get("creativity", 1.0)] * len(rows), model.device)
    done = engine.generate(rows, row_state=row_state)
    if done.interrupted:
        raise KeyboardInterrupt
    return [[r.text for r in done.outputs[p * n : (p + 1) * n]] for p in range(len(prompts))]


@torch.no_grad()
def judge_nll(
    judge: MixtureOfThoughtsTransformer, tokenizer: Any, prompts: Sequence[str], texts: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """(prompts,) mean negative log-likelihood of a token given prompt and earlier tokens, nats."""
    out = []
    for prompt, mine in zip(prompts, texts, strict=True):
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        bodies = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in mine]
        width = max(map(len, bodies))
        rows = torch.tensor([start + b + [0] * (width - len(b)) for b in bodies], device=judge.device)
        logits = judge(rows[:, :-1]).logits[:, len(start) - 1 :].float()
        loss = F.cross_entropy(logits.transpose(1, 2), rows[:, len(start) :], reduction="none")
        real = torch.tensor([[i < len(b) for i in range(width)] for b in bodies], device=judge.device)
        out.append(float((loss * real).sum() / real.sum().clamp(min=1)))
    return np.array(out)


def scored(
    texts: list[list[str]],
    prompts: Sequence[str],
    judge: MixtureOfThoughtsTransformer,
    tokenizer: Any,
    embedder: Embedder,
) -> Sets:
    n = len(texts[0])
    vectors = embedder.encode([t for mine in texts for t in mine]).reshape(len(texts), n, -1)
    return Sets(
        texts,
        judge_nll(judge, tokenizer, prompts, texts),
        np.array([vendi(v) for v in vectors]),
        np.array([1 - self_bleu(mine) for mine in texts]),
    )
