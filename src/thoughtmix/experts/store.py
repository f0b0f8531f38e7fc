"""Where what was read is kept: tensors in memory, or raw files in a folder with a description written last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.types import write_whole
from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.gate import Seen

SCHEMA = "thoughtmix/expert-activations"
_MANIFEST = "activations.json"
_PARTS = {
    "logits": "float32",
    "probabilities": "float32",
    "selected": "int64",
    "weights": "float32",
    "outputs": "float32",
}


@dataclass(frozen=True, slots=True)
class Activations:
    """What one layer did. T tokens over all forwards, e experts, k of them a token."""

    name: str
    logits: Tensor  # (T, e)
    probabilities: Tensor  # (T, e), sum 1: softmax of the logits, or sigmoids by their sum
    selected: Tensor  # (T, k) int64; a slot of weight 0 did not run
    weights: Tensor  # (T, k)
    outputs: Tensor | None  # (T, k, d) by slot, or (T, e, d) by expert; before weighing
    batches: tuple[tuple[int, int], ...] = ()  # (rows, tokens) of each forward

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> dict[int, Activations]:
        """What an extractor streamed to a folder, mapped from disk and not read into memory. Raises `InputError`."""
        root = Path(folder)
        hint = "Record it again: ExpertActivationExtractor(model, folder=...)."
        try:
            about = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{root} holds no whole recording: {error}.", hint) from None
        if about.get("schema") != SCHEMA or about.get("version") != 1:
            raise InputError(f"{root} holds no recording of version 1.", hint)
        out = {}
        for number, layer in about["layers"].items():
            parts: dict[str, Any] = dict.fromkeys(_PARTS)
            for name, shape in layer["shapes"].items():
                file = root / f"{number}.{name}"
                size = int(np.prod(shape)) * np.dtype(_PARTS[name]).itemsize
                if not file.is_file() or file.stat().st_size != size:
                    raise InputError(f"{file} is missing or cut short.", hint)
                mapped = np.memmap(file, dtype=_PARTS[name], mode="c", shape=tuple(shape))
                parts[name] = torch.from_numpy(mapped)
            out[int(number)] = Activations(layer["name"], **parts, batches=tuple(map(tuple, layer["batches"])))
        return out


@dataclass
class _Layer:
    name: str
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    tails: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shape after the tokens
    tokens: int = 0
    batches: list[tuple[int, int]] = field(default_factory=list)


class Store:
    """Takes what gates show, for some layers."""

    def __init__(self, layers: Sequence[MoELayer], folder: str | os.PathLike[str] | None, limit: int) -> None:
        self._layers = {x.number: _Layer(x.name) for x in layers}
        self._folder = None if folder is None else Path(folder)
        self._limit, self._held = limit, 0
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"Cannot make {folder}: {error.strerror}.", "Name a new folder.") from None

    def add(self, seen: Seen) -> None:
        layer = self._layers[seen.layer.number]
        given = {
            "logits": seen.logits, "probabilities": seen.layer.probabilities(seen.logits),
            "selected": seen.index, "weights": seen.weight, "outputs": seen.outputs,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                kept = value.detach().to("cpu", getattr(torch, _PARTS[name]), copy=True)
                self._keep(seen.layer.number, layer, name, kept)
        layer.tokens += len(seen.index)
        layer.batches.append((seen.batch, seen.steps))

    def _keep(self, number: int, layer: _Layer, name: str, value: Tensor) -> None:
        tail = tuple(value.shape[1:])
        if layer.tails.setdefault(name, tail) != tail:
            raise InputError(
                f"{layer.name} ran another number of experts than before.", "Record each setting of the control apart."
            )
        if self._folder is None:
            self._held += value.nbytes
            if self._held > self._limit:
                raise InputError(
                    f"What the experts gave is over {self._limit / 2**30:.3g} GiB.",
                    "Stream it (folder=...), or read fewer layers (layers=...) or no outputs.",
                )
            layer.parts.setdefault(name, []).append(value)
            return
        try:
            with (self._folder / f"{number}.{name}").open("ab") as file:
                file.write(value.contiguous().numpy().tobytes())
        except OSError as error:
            raise InputError(f"Cannot write to {self._folder}: {error.strerror}.", "Free some space.") from None

    def read(self) -> dict[int, Activations]:
        if self._folder is not None:
            return Activations.load(self._folder)
        found = {}
        for number, layer in self._layers.items():
            if layer.tokens:
                parts: dict[str, Any] = {name: torch.cat(pieces) for name, pieces in layer.parts.items()}
                found[number] = Activations(layer.name, **{"outputs": None, **parts}, batches=tuple(layer.batches))
        return found

    def clear(self) -> None:
        self._layers = {number: _Layer(layer.name) for number, layer in self._layers.items()}
        self._held = 0

    def close(self, whole: bool) -> None:
        """Describe the folder, which makes it readable; a broken run leaves no folder."""
        if self._folder is None:
            return
        if not whole:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        layers = {
            number: {
                "name": x.name,
                "batches": x.batches,
                "shapes": {name: (x.tokens, *tail) for name, tail in x.tails.items()},
            }
            for number, x in self._layers.items()
            if x.tokens
        }
        write_whole(self._folder / _MANIFEST, json.dumps({"schema": SCHEMA, "version": 1, "layers": layers}))
