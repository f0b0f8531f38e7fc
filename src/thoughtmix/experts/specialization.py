"""The result of an analysis: what each expert is used for, how sure that is, and profiles made of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.types import write_whole
from thoughtmix.experts.profile import Profile

Array = NDArray[np.float64]
SCHEMA = "thoughtmix/experts-map"
_FLOOR = 0.01  # added to both rates of a ratio: an expert never seen under a label gets a finite bias


@dataclass(frozen=True)
class Specialization:
    """N texts, C labels, L layers, E experts (the largest number of a layer; absent ones are never used)."""

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
    total_information: float
    """Sum over layers."""
    total_p: float
    accuracy: float
    """Share of texts whose label is recovered from routing by the nearest mean, the text left out."""
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
        """(C, L, E): the same for each label."""
        return np.stack([self.rates[self.text_labels == c].mean(0) for c in range(len(self.labels))])

    @property
    def imbalance(self) -> Array:
        """(L,): largest load over the mean load; 1 is even, E / top-k the most."""
        mean = np.array(self.top_k) / np.array(self.num_experts)
        out: Array = self.load.max(1) / mean
        return out

    def typical(self, layer: int, expert: int, count: int = 3) -> tuple[list[int], list[int]]:
        """Texts (by number) for which the expert runs most and least often; ties in the order given."""
        order = np.argsort(-self.rates[:, layer, expert], kind="stable")
        return [int(i) for i in order[:count]], [int(i) for i in order[::-1][:count]]

    def experts_of(self, label: str) -> list[tuple[int, int, float]]:
        """(layer, expert, risk difference) of those over-used by a label beyond chance, the strongest first."""
        c = self._label(label)
        found = [
            (int(i), int(e)) for i, e in zip(*np.nonzero(self.significant[c] & (self.difference[c] > 0)), strict=True)
        ]
        return sorted(((i, e, float(self.difference[c, i, e])) for i, e in found), key=lambda x: -x[2])

    def profile(self, label: str, strength: float = 1.0) -> Profile:
        """Steers towards a label: each expert that it over- or under-uses beyond chance gets `strength` times the log
        of how much more often it runs there than elsewhere. Empty when there is none."""
        c = self._label(label)
        others = self.text_labels != c
        here, there = self.rates[~others].mean(0), self.rates[others].mean(0)
        bias: dict[int, dict[int, float]] = {}
        for layer, expert in zip(*np.nonzero(self.significant[c]), strict=True):
            ratio = math.log((here[layer, expert] + _FLOOR) / (there[layer, expert] + _FLOOR))
            bias.setdefault(int(layer), {})[int(expert)] = strength * ratio
        return Profile(label, bias=bias)

    def profiles(self, strength: float = 1.0) -> list[Profile]:
        """One a label, of those that have one."""
        made = [self.profile(label, strength) for label in self.labels]
        return [p for p in made if p]

    def forced(self, label: str, count: int | None = None) -> Profile:
        """Forces, at every layer, the `count` (None: top-k) experts with the largest risk difference."""
        c = self._label(label)
        force = {}
        for layer, (e, k) in enumerate(zip(self.num_experts, self.top_k, strict=True)):
            order = np.argsort(-self.difference[c, layer, :e], kind="stable")
            force[layer] = [int(x) for x in order[: count or k]]
        return Profile(label, force=force)

    def _label(self, label: str) -> int:
        if label not in self.labels:
            raise UnknownName("label", label, self.labels)
        return self.labels.index(label)

    def facts(self) -> dict[str, Any]:
        """The summary figures, as JSON."""
        return {
            "model": self.model, "texts": len(self.texts), "tokens": int(self.tokens.sum()),
            "labels": list(self.labels), "layers": list(self.layers), "num_experts": list(self.num_experts),
            "top_k": list(self.top_k), "mutual_information": round(self.total_information, 6),
            "mutual_information_p": self.total_p, "recovered": round(self.accuracy, 4),
            "recovered_p": self.accuracy_p, "permutations": self.permutations, "alpha": self.alpha,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON."""
        return {
            "schema": SCHEMA, "version": 1, **self.facts(),
            "by_layer": [
                {
                    "name": name, "mutual_information": float(self.information[i]), "p": float(self.information_p[i]),
                    "entropy": float(self.entropy[:, i].mean()), "imbalance": float(self.imbalance[i]),
                    "load": self.load[i, : self.num_experts[i]].tolist(),
                    "usage": {c: self.usage[j, i, : self.num_experts[i]].tolist() for j, c in enumerate(self.labels)},
                    "together": self.together[i, : self.num_experts[i], : self.num_experts[i]].tolist(),
                }
                for i, name in enumerate(self.layers)
            ],
            "over_used": {
                c: [{"layer": i, "expert": e, "risk_difference": d} for i, e, d in self.experts_of(c)]
                for c in self.labels
            },
            "profiles": [p.to_dict() for p in self.profiles()],
        }  # fmt: skip

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The JSON text; also written to `path`, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            write_whole(path, text + "\n")
        return text


def labelled(texts: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], list[str], NDArray[np.int64]]:
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
    return labels, flat, np.array([c for c, label in enumerate(labels) for _ in texts[label]], dtype=np.int64)
