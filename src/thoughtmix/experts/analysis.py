"""What is each expert for? Run labelled texts through a model, count, and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError
from thoughtmix.experts.extractor import ExpertActivationExtractor
from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.prompts import PROMPTS
from thoughtmix.experts.specialization import Specialization, labelled
from thoughtmix.experts.statistics import (
    mutual_information,
    one_hot,
    p_value,
    permuted,
    recoverer,
    risk_difference,
    scale_of,
)
from thoughtmix.experts.store import Activations

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

Array = NDArray[np.float64]


def analyze_expert_specialization(
    model: LanguageModel,
    texts: Mapping[str, Sequence[str]] | None = None,
    *,
    permutations: int = 999,
    alpha: float = 0.05,
    seed: int = 0,
    max_tokens: int = 256,
    on_text: Callable[[int, int], None] | None = None,
) -> Specialization:
    """Which experts run for which kind of text.

    texts: {label: [text, ...]}, at least two labels with three texts each; None: the built-in prompts (analytical,
    creative, practical, critical). A text is read as it is, without a chat template, its first max_tokens tokens.
    permutations: shufflings of the labels over texts, from `seed`; alpha: chance that any expert at all is wrongly
    called over- or under-used (the largest standardised difference of all is compared; Westfall & Young 1993).
    on_text: called with (done, total).

    Raises `InputError` for texts that cannot be compared and for models without mixture-of-experts layers.
    """
    if permutations < 19 or not 0 < alpha < 1:
        raise InputError(
            f"permutations={permutations}, alpha={alpha} make no test.", "Pass 19 or more, and 0 < alpha < 1."
        )
    labels, flat, which = labelled(PROMPTS if texts is None else texts)
    reader = ExpertActivationExtractor(model.model, outputs="")
    e = max(layer.num_experts for layer in reader.layers)
    rates = np.zeros((len(flat), len(reader.layers), e))
    entropy = np.zeros((len(flat), len(reader.layers)))
    together = np.zeros((len(reader.layers), e, e))
    tokens = np.zeros(len(flat), dtype=np.int64)
    limit = min(max_tokens, model.context_length or max_tokens)
    for i, text in enumerate(flat):
        ids = model.encode(text, raw=True)[:limit]
        reader.clear()
        with reader, torch.no_grad():
            model.model(input_ids=torch.tensor([ids], device=model.device))
        tokens[i] = len(ids)
        for at, layer in enumerate(reader.layers):
            rates[i, at], entropy[i, at], pairs = _count(reader.activations[layer.number], layer, e)
            together[at] += pairs / len(flat)
        if on_text is not None:
            on_text(i + 1, len(flat))
    hot = one_hot(which, len(labels))
    return Specialization(
        model=model.name, labels=labels, texts=tuple(flat), text_labels=which,
        layers=tuple(x.name for x in reader.layers), num_experts=tuple(x.num_experts for x in reader.layers),
        top_k=tuple(x.top_k for x in reader.layers), tokens=tokens, rates=rates, entropy=entropy, together=together,
        alpha=alpha, permutations=permutations, **_tested(rates, hot, permutations, alpha, seed),
    )  # fmt: skip


def _count(seen: Activations, layer: MoELayer, e: int) -> tuple[Array, float, Array]:
    """(e,) share of tokens for which each expert ran, mean entropy, (e, e) share for which both ran."""
    ran = torch.zeros(len(seen.selected), e, dtype=torch.float64)
    ran.scatter_reduce_(1, seen.selected, (seen.weights != 0).double(), "amax")
    p = seen.probabilities.double()
    entropy = float(-torch.special.xlogy(p, p).sum(-1).mean())
    return ran.mean(0).numpy(), entropy, (ran.T @ ran / len(ran)).numpy()


def _tested(rates: Array, hot: Array, permutations: int, alpha: float, seed: int) -> dict[str, Any]:
    """The statistics and what they reach by chance."""
    usage = rates / np.maximum(rates.sum(-1, keepdims=True), 1e-12)
    information = mutual_information(usage, hot)
    chance = permuted(hot, lambda h: mutual_information(usage, h), permutations, seed)
    share = recoverer(usage)
    accuracy = share(hot)
    guessed = permuted(hot, lambda h: np.array([share(x) for x in h]), permutations, seed)
    difference, scale = risk_difference(rates, hot), scale_of(rates, hot)
    largest = permuted(hot, lambda h: (np.abs(risk_difference(rates, h)) / scale).max((1, 2, 3)), permutations, seed)
    threshold = np.quantile(largest, 1 - alpha, method="higher")
    return {
        "information": information,
        "information_p": np.array([p_value(m, chance[:, i]) for i, m in enumerate(information)]),
        "total_information": float(information.sum()),
        "total_p": p_value(float(information.sum()), chance.sum(1)),
        "accuracy": accuracy,
        "accuracy_p": p_value(accuracy, guessed),
        "difference": difference,
        "significant": np.abs(difference) / scale > threshold,
    }
