"""Reading what the routers and experts of a model do while it runs, into memory or into a folder.

A folder holds raw files, one for each layer and tensor, and a description that is written last and makes it readable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.core.files import bounded_text, parse_json, write_whole, writing
from thoughtmix.experts.families import layers_to_hook
from thoughtmix.experts.hooks import RoutingRecord, attach, detach

SCHEMA = "thoughtmix/expert-activations"
_MANIFEST = "activations.json"
_DTYPES = {
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
        """What an extractor streamed to a folder, by layer number, mapped from disk and not read into memory.

        Raises:
            InputError: The folder holds no whole recording.
        """
        root = Path(folder)
        hint = "Record it again: ExpertActivationExtractor(model, folder=...)."
        try:
            about = parse_json(bounded_text(root / _MANIFEST))
        except (OSError, ValueError) as error:
            raise InputError(f"{root} holds no whole recording: {error}.", hint) from None
        if about.get("schema") != SCHEMA or about.get("version") != 1:
            raise InputError(f"{root} holds no recording of version 1.", hint)
        out = {}
        for number, layer in about["layers"].items():
            tensors: dict[str, Any] = dict.fromkeys(_DTYPES)
            for name, shape in layer["shapes"].items():
                file = root / f"{number}.{name}"
                size = int(np.prod(shape)) * np.dtype(_DTYPES[name]).itemsize
                if not file.is_file() or file.stat().st_size != size:
                    raise InputError(f"{file} is missing or cut short.", hint)
                tensors[name] = torch.from_numpy(np.memmap(file, _DTYPES[name], mode="c", shape=tuple(shape)))
            out[int(number)] = Activations(layer["name"], **tensors, batches=tuple(map(tuple, layer["batches"])))
        return out


class ExpertActivationExtractor:
    """Notes, for every forward inside the context and every token, what each layer's router said, which experts ran,
    with which weights, and what each of them gave.

        with ExpertActivationExtractor(model) as reader:
            model(input_ids)
        layer = reader.activations[0]         # Activations: .logits, .probabilities, .selected, .weights, .outputs

    Tokens are rows of all forwards one below the other, each batch row by row; `activations[i].batches` has (rows,
    tokens) of each forward. What controllers change is seen as changed.

    Args:
        model: A model of transformers with mixture-of-experts layers.
        layers: Numbers of the layers to read (see `find_moe_layers`); None for all.
        outputs: "selected" for the experts that ran, from the model's own run: nothing is computed twice, and the
            model's result is what it was (up to the order of a sum where the class sums by index_add). "all" for
            every expert on every token, which costs experts / top-k times the layer. "" for none.
        folder: Stream to this new folder instead of memory (read it with `Activations.load`).
        memory_limit: Bytes to hold at most without a folder.

    Raises:
        InputError: The memory limit is reached, the folder is there already, or the disk is full.
        ModelError: Outputs mean nothing in this model (NLLB-MoE).
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        outputs: Literal["selected", "all", ""] = "selected",
        *,
        folder: str | os.PathLike[str] | None = None,
        memory_limit: int = 2 << 30,
    ) -> None:
        if outputs not in {"selected", "all", ""}:
            raise InputError(f"outputs is {outputs!r}.", "Pass 'selected', 'all' or ''.")
        _, self.layers = layers_to_hook(model, layers)
        for layer in self.layers:
            if outputs and layer.family.unheard:
                raise ModelError(f"Outputs of {layer.name} mean nothing: {layer.family.unheard}.", 'Pass outputs="".')
        self.outputs: str = outputs
        self._listening = False
        self._recorded = {x.number: _Recorded(x.name) for x in self.layers}
        self._folder = None if folder is None else Path(folder)
        self._limit, self._held = memory_limit, 0  # bytes
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"Cannot make {folder}: {error.strerror}.", "Name a new folder.") from None

    @property
    def activations(self) -> dict[int, Activations]:
        """What was noted so far, by layer number."""
        if self._folder is not None:
            return Activations.load(self._folder)
        found = {}
        for number, layer in self._recorded.items():
            if layer.tokens:
                tensors: dict[str, Any] = {name: torch.cat(some) for name, some in layer.tensors.items()}
                found[number] = Activations(layer.name, **{"outputs": None, **tensors}, batches=tuple(layer.batches))
        return found

    def extract_expert_outputs(self, layer: int) -> dict[int, Tensor]:
        """What each expert of a layer gave so far: expert -> (tokens that it ran for, d), in the order of the tokens.

        The original prototype's call: the first one begins to listen, outside any context too, and gives {}; after a
        forward it gives what ran. `clear_hooks` ends that.

        Raises:
            InputError: There is no such layer, or outputs are not noted here.
        """
        if layer not in self._recorded:
            raise InputError(f"There is no layer {layer} here.", f"Pass one of {', '.join(map(str, self._recorded))}.")
        if not self.outputs:
            raise InputError('This extractor notes no outputs (outputs="").', 'Make it with outputs="selected".')
        if not self._listening:
            self.__enter__()
        seen = self.activations.get(layer)
        if seen is None or seen.outputs is None:
            return {}
        if self.outputs == "all":
            return {e: seen.outputs[:, e] for e in range(seen.outputs.shape[1])}
        ran = seen.weights != 0
        experts = sorted(int(e) for e in seen.selected[ran].unique())
        return {e: seen.outputs[(seen.selected == e) & ran] for e in experts}

    def clear_hooks(self) -> None:
        """Stop listening, and forget what was noted in memory."""
        for layer in self.layers:
            detach(layer, self)
        self._listening = False
        self.clear()

    def clear(self) -> None:
        """Forget what was noted in memory."""
        self._recorded = {x.number: _Recorded(x.name) for x in self.layers}
        self._held = 0

    def __enter__(self) -> Self:
        if not self._listening:
            for layer in self.layers:
                attach(layer, observers=[self])
        self._listening = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for layer in self.layers:
            detach(layer, self)
        self._listening = False
        if self._folder is not None and kind is not None:  # a broken run leaves no folder
            shutil.rmtree(self._folder, ignore_errors=True)
        elif self._folder is not None:
            layers = {number: layer.to_dict() for number, layer in self._recorded.items() if layer.tokens}
            write_whole(self._folder / _MANIFEST, json.dumps({"schema": SCHEMA, "version": 1, "layers": layers}))

    def record(self, seen: RoutingRecord) -> None:
        """For the hooks: see `hooks.Observer`."""
        layer = self._recorded[seen.layer.number]
        tensors = {
            "logits": seen.logits,
            "probabilities": seen.layer.probabilities(seen.logits),
            "selected": seen.index,
            "weights": seen.weight,
            "outputs": seen.outputs,
        }
        for name, value in tensors.items():
            if value is None:
                continue
            kept = value.detach().to("cpu", getattr(torch, _DTYPES[name]), copy=True)
            tail = tuple(kept.shape[1:])
            if layer.tails.setdefault(name, tail) != tail:
                raise InputError(
                    f"{layer.name} ran another number of experts than before.",
                    "Record each setting of the control apart.",
                )
            if self._folder is None:
                self._keep(layer, name, kept)
            else:
                _append(self._folder / f"{seen.layer.number}.{name}", kept)
        layer.tokens += len(seen.index)
        layer.batches.append((seen.batch, seen.length))

    def _keep(self, layer: _Recorded, name: str, value: Tensor) -> None:
        self._held += value.nbytes
        if self._held > self._limit:
            raise InputError(
                f"What the experts gave is over {self._limit / 2**30:.3g} GiB.",
                "Stream it (folder=...), or read fewer layers (layers=...) or no outputs.",
            )
        layer.tensors.setdefault(name, []).append(value)


@dataclass(slots=True)
class _Recorded:
    """What came of one layer."""

    name: str
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)  # by name, one a forward; empty with a folder
    tails: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by name, the shape after the tokens
    tokens: int = 0
    batches: list[tuple[int, int]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        shapes = {name: (self.tokens, *tail) for name, tail in self.tails.items()}
        return {"name": self.name, "batches": self.batches, "shapes": shapes}


def _append(file: Path, value: Tensor) -> None:
    with writing(file), file.open("ab") as stream:
        stream.write(value.contiguous().numpy().tobytes())
