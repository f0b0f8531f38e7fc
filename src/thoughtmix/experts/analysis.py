"""What is each expert for? Run labelled texts through a model, count who ran, and test by permuting the labels.

The unit is the text: its tokens are not independent, so labels are shuffled over whole texts, and every text counts
alike however long it is. Shapes: N texts, C labels, L layers, E experts (the most that a layer has; absent ones are
never used).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.files import write_whole
from thoughtmix.experts.association import (
    Array,
    mutual_information,
    nearest_mean_accuracy,
    one_hot,
    p_value,
    permuted,
    risk_difference,
    risk_difference_std,
)
from thoughtmix.experts.extractor import Activations, ExpertActivationExtractor
from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.profile import Profile
from thoughtmix.models.encoder_decoder import decoder_start

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

SCHEMA = "thoughtmix/experts-map"
PROMPTS: dict[str, list[str]] = json.loads(files(__package__).joinpath("prompts.json").read_text(encoding="utf-8"))
"""The built-in labelled texts. Labels differ in what is asked, not in subject (tea, cities, music and work come up
under each), so that an expert that only knows subjects does not pass for a style."""
_FLOOR = 0.01  # added to both rates of a ratio: an expert never seen under a label gets a finite bias


@dataclass(frozen=True)
class Specialization:
    """What each expert is used for, how sure that is, and profiles made of it."""

    model: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    text_labels: NDArray[np.int64]  # (N,) into labels
    layers: tuple[str, ...]
    num_experts: tuple[int, ...]
    top_k: tuple[int, ...]
    tokens: NDArray[np.int64]  # (N,)
    rates: Array  # (N, L, E): share of a text's tokens for which the expert ran
    entropy: Array  # (N, L): mean entropy of the router's probabilities, nats
    together: Array  # (L, E, E): share of tokens for which both ran; the diagonal is the load
    information: Array  # (L,): mutual information of label and expert, nats
    information_p: Array  # (L,): its p-value by permutation of labels over texts, of each layer
    total_information: float  # sum over layers
    total_p: float
    accuracy: float  # share of texts whose label is recovered by the nearest mean, the text left out
    accuracy_p: float
    difference: Array  # (C, L, E): risk difference
    significant: NDArray[np.bool_]  # (C, L, E): beyond what the largest of all reaches by chance at `alpha`
    alpha: float
    permutations: int

    @property
    def load(self) -> Array:
        """(L, E): share of tokens for which the expert ran, every text alike; sums to top-k."""
        out: Array = self.rates.mean(0)
        return out

    @property
    def usage(self) -> Array:
        """(C, L, E): the load of each label's texts."""
        return np.stack([self.rates[self.text_labels == c].mean(0) for c in range(len(self.labels))])

    @property
    def imbalance(self) -> Array:
        """(L,): largest load over the mean load; 1 is even, E / top-k the most."""
        mean = np.array(self.top_k) / np.array(self.num_experts)
        out: Array = self.load.max(1) / mean
        return out

    def typical(self, layer: int, expert: int, count: int = 3) -> tuple[list[int], list[int]]:
        """Texts (by number) for which the expert runs most and least often; ties in the order given."""
        order = np.argsort(-self.rates[:, layer, expert], kind="stable").tolist()
        return order[:count], order[::-1][:count]

    def experts_of(self, label: str) -> list[tuple[int, int, float]]:
        """(layer, expert, risk difference) of those over-used by a label beyond chance, the strongest first."""
        difference = self.difference[c := self._label(label)]
        found = np.argwhere(self.significant[c] & (difference > 0)).tolist()
        return sorted(((i, e, float(difference[i, e])) for i, e in found), key=lambda x: -x[2])

    def profile(self, label: str, strength: float = 1.0) -> Profile:
        """A profile that steers towards a label: each expert that it over- or under-uses beyond chance is biased by
        `strength` times the log of how much more often it runs there than elsewhere. Empty when there is none."""
        c = self._label(label)
        mine = self.text_labels == c
        ratio = np.log((self.rates[mine].mean(0) + _FLOOR) / (self.rates[~mine].mean(0) + _FLOOR))
        bias: dict[int, dict[int, float]] = {}
        for layer, expert in np.argwhere(self.significant[c]).tolist():
            bias.setdefault(layer, {})[expert] = strength * float(ratio[layer, expert])
        return Profile(label, bias=bias)

    def profiles(self, strength: float = 1.0) -> list[Profile]:
        """One profile for each label that has one."""
        return [p for label in self.labels if (p := self.profile(label, strength))]

    def forced(self, label: str, count: int | None = None) -> Profile:
        """A profile that forces, at every layer, the `count` (None: top-k) experts with the largest difference."""
        c = self._label(label)
        force = {}
        for layer, (e, k) in enumerate(zip(self.num_experts, self.top_k, strict=True)):
            order = np.argsort(-self.difference[c, layer, :e], kind="stable")
            force[layer] = order[: count or k].tolist()
        return Profile(label, force=force)

    def _label(self, label: str) -> int:
        if label not in self.labels:
            raise UnknownName("label", label, self.labels)
        return self.labels.index(label)

    def facts(self) -> dict[str, Any]:
        """The summary figures, as JSON."""
        return {
            "model": self.model,
            "texts": len(self.texts),
            "tokens": int(self.tokens.sum()),
            "labels": list(self.labels),
            "layers": list(self.layers),
            "num_experts": list(self.num_experts),
            "top_k": list(self.top_k),
            "mutual_information": round(self.total_information, 6),
            "mutual_information_p": self.total_p,
            "recovered": round(self.accuracy, 4),
            "recovered_p": self.accuracy_p,
            "permutations": self.permutations,
            "alpha": self.alpha,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON."""
        return {
            "schema": SCHEMA,
            "version": 1,
            **self.facts(),
            "by_layer": [self._layer_facts(i) for i in range(len(self.layers))],
            "over_used": {
                label: [{"layer": i, "expert": e, "risk_difference": d} for i, e, d in self.experts_of(label)]
                for label in self.labels
            },
            "profiles": [p.to_dict() for p in self.profiles()],
        }

    def _layer_facts(self, i: int) -> dict[str, Any]:
        e = self.num_experts[i]
        return {
            "name": self.layers[i],
            "mutual_information": float(self.information[i]),
            "p": float(self.information_p[i]),
            "entropy": float(self.entropy[:, i].mean()),
            "imbalance": float(self.imbalance[i]),
            "load": self.load[i, :e].tolist(),
            "usage": {label: self.usage[c, i, :e].tolist() for c, label in enumerate(self.labels)},
            "together": self.together[i, :e, :e].tolist(),
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The JSON text; also written to `path`, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            write_whole(path, text + "\n")
        return text


@overload
def analyze_expert_specialization(model: LanguageModel, texts: Sequence[str]) -> dict[str, dict[str, list[float]]]: ...
@overload
def analyze_expert_specialization(
    model: LanguageModel,
    texts: Mapping[str, Sequence[str]] | None = None,
    *,
    permutations: int = ...,
    alpha: float = ...,
    seed: int = ...,
    max_tokens: int = ...,
    on_text: Callable[[int, int], None] | None = ...,
) -> Specialization: ...
def analyze_expert_specialization(
    model: LanguageModel,
    texts: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    *,
    permutations: int = 999,
    alpha: float = 0.05,
    seed: int = 0,
    max_tokens: int = 256,
    on_text: Callable[[int, int], None] | None = None,
) -> Specialization | dict[str, dict[str, list[float]]]:
    """Find out which experts run for which kind of text, and test it.

    A list of prompts has no kinds to test: of each prompt, as the original prototype gives it, the share of tokens for
    which each expert ran, {prompt: {layer: [share, ...]}}, as JSON takes it.

    Args:
        model: A loaded mixture-of-experts model.
        texts: {label: [text, ...]}, at least two labels with three texts each; None for the built-in prompts
            (analytical, creative, practical, critical). Texts are read without a chat template; an encoder-decoder
            reads each with its encoder, and with its decoder as the answer.
        permutations: How often the labels are shuffled over the texts.
        alpha: The chance that any expert at all is wrongly called over- or under-used: the largest standardised
            difference of all is compared (Westfall & Young 1993).
        seed: Of the shufflings.
        max_tokens: How many tokens of a text are read at most.
        on_text: Called with (done, total) after each text.

    Raises:
        InputError: The texts cannot be compared, or the model has no mixture-of-experts layers.
    """
    if permutations < 19 or not 0 < alpha < 1:
        raise InputError(
            f"permutations={permutations}, alpha={alpha} make no test.", "Pass 19 or more, and 0 < alpha < 1."
        )
    reader = ExpertActivationExtractor(model.model, outputs="")
    if texts is not None and not isinstance(texts, Mapping):
        return _usage_by_prompt(model, reader, [texts] if isinstance(texts, str) else list(texts), max_tokens, on_text)
    labels, flat, text_labels = _flatten(PROMPTS if texts is None else texts)
    counts = _read_texts(model, reader, flat, max_tokens, on_text)
    return Specialization(
        model=model.name,
        labels=labels,
        texts=tuple(flat),
        text_labels=text_labels,
        layers=tuple(x.name for x in reader.layers),
        num_experts=tuple(x.num_experts for x in reader.layers),
        top_k=tuple(x.top_k for x in reader.layers),
        alpha=alpha,
        permutations=permutations,
        **counts,
        **_tests(counts["rates"], one_hot(text_labels, len(labels)), permutations, alpha, seed),
    )


def _usage_by_prompt(
    model: LanguageModel,
    reader: ExpertActivationExtractor,
    prompts: Sequence[str],
    max_tokens: int,
    on_text: Callable[[int, int], None] | None,
) -> dict[str, dict[str, list[float]]]:
    if not prompts or any(not isinstance(p, str) or not p.strip() for p in prompts):
        raise InputError("A prompt is missing or empty.", "Pass one text or more.")
    rates = _read_texts(model, reader, prompts, max_tokens, on_text)["rates"]  # (prompts, layers, e)
    return {
        prompt: {layer.name: rates[i, j, : layer.num_experts].tolist() for j, layer in enumerate(reader.layers)}
        for i, prompt in enumerate(prompts)
    }


def _flatten(texts: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], list[str], NDArray[np.int64]]:
    """(labels, texts, label of each). Raises `InputError` when they cannot be compared."""
    labels = tuple(texts)
    if len(labels) < 2:
        raise InputError("There is only one label.", "Pass texts of at least two labels: {label: [text, ...]}.")
    few = [label for label in labels if len(texts[label]) < 3]
    if few:
        raise InputError(f"The label {few[0]!r} has {len(texts[few[0]])} texts.", "Pass three or more of each label.")
    flat = [text for label in labels for text in texts[label]]
    if any(not isinstance(t, str) or not t.strip() for t in flat):
        raise InputError("A text is empty.", "Leave it out.")
    return labels, flat, np.repeat(np.arange(len(labels)), [len(texts[label]) for label in labels])


def _read_texts(
    model: LanguageModel,
    reader: ExpertActivationExtractor,
    texts: Sequence[str],
    max_tokens: int,
    on_text: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The tokens, rates, entropy and together of a `Specialization`."""
    n, layers, e = len(texts), len(reader.layers), max(layer.num_experts for layer in reader.layers)
    tokens = np.zeros(n, dtype=np.int64)
    rates, entropy, together = np.zeros((n, layers, e)), np.zeros((n, layers)), np.zeros((layers, e, e))
    limit = min(max_tokens, model.context_length or max_tokens)
    for i, text in enumerate(texts):
        ids = model.begun(model.encoder.text(text))[:limit]
        reader.clear()
        with reader, torch.no_grad():
            model.model(**_reading(model, ids))
        tokens[i] = len(ids)
        activations = reader.activations
        for j, layer in enumerate(reader.layers):
            rates[i, j], entropy[i, j], pairs = _count(activations[layer.number], layer, e)
            together[j] += pairs / n
        if on_text is not None:
            on_text(i + 1, n)
    return {"tokens": tokens, "rates": rates, "entropy": entropy, "together": together}


def _reading(model: LanguageModel, ids: list[int]) -> dict[str, torch.Tensor]:
    """The arguments of a forward that reads a text; a decoder with an encoder reads it, too, as its own answer."""
    text = torch.tensor([ids], device=model.device)
    if not model.encoder_decoder:
        return {"input_ids": text}
    shifted = torch.tensor([[decoder_start(model.model), *ids[:-1]]], device=model.device)
    return {"input_ids": text, "attention_mask": torch.ones_like(text), "decoder_input_ids": shifted}


def _count(seen: Activations, layer: MoELayer, e: int) -> tuple[Array, float, Array]:
    """(e,) share of tokens for which each expert ran, mean entropy, (e, e) share for which both ran."""
    ran = torch.zeros(len(seen.selected), e, dtype=torch.float64)
    ran.scatter_reduce_(1, seen.selected, (seen.weights != 0).double(), "amax")
    p = seen.probabilities.double()
    entropy = float(-torch.special.xlogy(p, p).sum(-1).mean())
    return ran.mean(0).numpy(), entropy, (ran.T @ ran / len(ran)).numpy()


def _tests(rates: Array, onehot: Array, permutations: int, alpha: float, seed: int) -> dict[str, Any]:
    """The statistics of a `Specialization`, and what they reach by chance."""

    def by_chance(statistic: Callable[[Array], Array]) -> Array:
        return permuted(onehot, statistic, permutations, seed)

    usage = rates / np.maximum(rates.sum(-1, keepdims=True), 1e-12)
    information = mutual_information(usage, onehot)
    chance = by_chance(lambda h: mutual_information(usage, h))
    recovered = nearest_mean_accuracy(usage)
    accuracy = recovered(onehot)
    difference, std = risk_difference(rates, onehot), risk_difference_std(rates, onehot)
    largest = by_chance(lambda h: (np.abs(risk_difference(rates, h)) / std).max((1, 2, 3)))
    threshold = np.quantile(largest, 1 - alpha, method="higher")
    return {
        "information": information,
        "information_p": np.array([p_value(m, chance[:, i]) for i, m in enumerate(information)]),
        "total_information": float(information.sum()),
        "total_p": p_value(float(information.sum()), chance.sum(1)),
        "accuracy": accuracy,
        "accuracy_p": p_value(accuracy, by_chance(lambda h: np.array([recovered(x) for x in h]))),
        "difference": difference,
        "significant": np.abs(difference) / std > threshold,
    }


# --- statistics of usage and labels; labels are one-hot ---
