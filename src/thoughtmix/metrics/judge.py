"""Quality by a judge: how likely another language model finds each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError, NumericsError
from thoughtmix.core.interruptible import interruptible

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

_TOKENS = {"cpu": 384}
"""Of a forward, or one text where that is longer, by device: activations of more fall out of a CPU's cache."""
_MOST_TOKENS = 4096
"""On other devices: logits of a vocabulary of 50,000 are 800 MB."""
_SCORED = 256
"""Tokens whose probabilities are worked out at once."""


def judge_nll(prompt: str, texts: Sequence[str], judge: LanguageModel, batch_size: int = 8) -> NDArray[np.float64]:
    """Mean negative log-likelihood of a token of each text, given the prompt, under `judge`. LOWER is better.

    Rewards blandness and loops, and flatters the judge's own texts: name a judge that did not write them. Prompt and
    text are tokenised apart and joined, as in generation. An empty text is scored by the token that ends it.

    Returns:
        (n,) nats a token.

    Raises:
        InputError: when prompt and text do not fit the judge's context, or the judge is no causal model.
        NumericsError: when the judge gives NaN or infinity.
    """
    return ids_nll(judge.encode(prompt), texts, judge, batch_size)


def ids_nll(
    start: Sequence[int],
    texts: Sequence[str],
    judge: LanguageModel,
    batch_size: int = 8,
) -> NDArray[np.float64]:
    """`judge_nll` after the judge's own tokens of a prompt."""
    import torch
    import torch.nn.functional as F

    from thoughtmix.models.encoder_decoder import answer_logits

    if not texts:
        raise InputError("There are no texts to judge.", "Pass at least one thought.")
    if not judge.causal:
        raise InputError(f"{judge.name} does not read from left to right.", "Name a causal model (--judge).")
    start = list(start)
    end = min(judge.eos_ids) if judge.eos_ids else 0
    bodies = [judge.encoder.text(t, frame=False) or [end] for t in texts]
    lengths = [len(start), max(map(len, bodies))]
    longest = max(lengths) if judge.encoder_decoder else sum(lengths)
    if judge.context_length is not None and longest > judge.context_length:
        raise InputError(
            f"Prompt and text have {longest} tokens, the judge {judge.name} reads {judge.context_length}.",
            "Name a judge with a longer context (--judge).",
        )
    out, model = np.zeros(len(texts)), judge.model
    order = sorted(range(len(texts)), key=lambda i: len(bodies[i]))
    batch_size = max(1, min(batch_size, _TOKENS.get(judge.device.type, _MOST_TOKENS) // longest))
    with torch.inference_mode():
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            width = max(len(bodies[i]) for i in part)
            # Padding on the right, after everything a causal model can see: no mask is needed.
            rows = [bodies[i] + [end] * (width - len(bodies[i])) for i in part]
            ids = torch.tensor(rows, device=judge.device)
            with interruptible():
                logits = answer_logits(model, start, ids)
                for i, own, row in zip(part, ids, logits, strict=True):
                    own, row = own[: len(bodies[i])], row[: len(bodies[i])]
                    some = zip(own.split(_SCORED), row.split(_SCORED), strict=True)
                    loss = [F.cross_entropy(each.float(), wanted, reduction="none") for wanted, each in some]
                    out[i] = float(torch.cat(loss).mean())
    if not np.isfinite(out).all():
        raise NumericsError(f"The judge {judge.name} gave NaN or infinity.", "Try --dtype float32.")
    return out
