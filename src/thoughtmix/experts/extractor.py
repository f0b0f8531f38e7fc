"""Reading what the routers and experts of a model do, while it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, Self

from torch import nn

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.experts.attached import join, leave
from thoughtmix.experts.families import find_moe_layers, refuse_compiled
from thoughtmix.experts.gate import Seen
from thoughtmix.experts.store import Activations, Store


class ExpertActivationExtractor:
    """Notes, for every forward inside the context and every token, what each layer's router said, which experts ran,
    with which weights, and what each of them gave.

        with ExpertActivationExtractor(model) as reader:
            model(input_ids)
        layer = reader.activations[0]         # Activations: .logits, .probabilities, .selected, .weights, .outputs

    layers: numbers (see `find_moe_layers`); None: all. outputs: "selected", the experts that ran, from the model's own
    run: nothing is computed twice, and the model's result is what it was (up to the order of a sum where the class sums
    by index_add); "all", every expert on every token, which costs experts / top-k times the layer; "" for none.
    folder: stream to this new folder instead of memory (read it with `Activations.load`). memory_limit: bytes to hold
    at most without a folder.

    Tokens are rows of all forwards one below the other, each batch row by row; `activations[i].batches` has (rows,
    tokens) of each forward. What controllers change is seen as changed. Raises `InputError` when the memory limit is
    reached, the folder is there already, or the disk is full; `ModelError` where outputs mean nothing (NLLB-MoE).
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
        every = find_moe_layers(model)
        refuse_compiled(model, every)
        if outputs not in {"selected", "all", ""}:
            raise InputError(f"outputs is {outputs!r}.", "Pass 'selected', 'all' or ''.")
        wrong = [x for x in layers or () if not 0 <= x < len(every)]
        if wrong:
            raise InputError(f"There is no mixture-of-experts layer {wrong[0]}.", f"Pass 0 to {len(every) - 1}.")
        self.layers = every if layers is None else tuple(every[i] for i in sorted(set(layers)))
        for layer in self.layers:
            if outputs and layer.family.deaf:
                raise ModelError(f"Outputs of {layer.name} mean nothing: {layer.family.deaf}.", 'Pass outputs="".')
        self.outputs: str = outputs
        self._store = Store(self.layers, folder, memory_limit)

    @property
    def activations(self) -> dict[int, Activations]:
        """By layer number; what was noted so far."""
        return self._store.read()

    def see(self, seen: Seen) -> None:
        """For the gates: see `gate.Watches`."""
        self._store.add(seen)

    def clear(self) -> None:
        """Forget what was noted in memory."""
        self._store.clear()

    def __enter__(self) -> Self:
        for layer in self.layers:
            join(layer, self, "watchers")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for layer in self.layers:
            leave(layer, self, "watchers")
        self._store.close(whole=kind is None)
