"""Hidden states of a step, for rows whose draw depends on them (`row_state.LogitsAdjuster`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = -1
"""The key of what the head reads, beside numbers of layers."""


class NotesHidden:
    """A path that notes hidden states at each step."""

    note: frozenset[int] = frozenset()
    """After how many layers; empty: nothing is noted."""
    reads_on = False
    """Whether it can `read_on`."""
    hidden: Mapping[int, Tensor] = {}
    """Of the last step: (rows, width) float32 after each of `note` layers, and under `HEAD` what the head read."""

    def read_on(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """See `DecodingPath`."""
        raise NotImplementedError

    @contextmanager
    def noting(self, model: PreTrainedModel) -> Iterator[None]:
        """Around the forwards of one step through the model's own modules, which carry hooks meanwhile."""
        if not self.note:
            self.hidden = {}
            yield
            return
        parts: dict[int, list[Tensor]] = {}
        with hooks(model, self.note, lambda key, x: parts.setdefault(key, []).append(x)):
            yield
        self.hidden = {key: torch.cat(some) for key, some in parts.items()}


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers that a token goes through, in their order. Raises `InputError` where they are no list."""
    body = model.get_decoder() if hasattr(model, "get_decoder") else model
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    lists = [m for m in (body or model).modules() if isinstance(m, nn.ModuleList) and len(m) == count > 0]
    if not lists:
        raise InputError(f"{type(model).__name__} has no list of layers.", "Type --thinker sampling.")
    return lists[0]


@contextmanager
def hooks(model: PreTrainedModel, note: frozenset[int], take: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within, every forward of this thread shows the states of its last token, (rows, width) float32. Other threads'
    forwards pass unseen."""
    thread = threading.get_ident()

    def show(key: int, x: Any) -> None:
        x = x[0] if isinstance(x, (tuple, list)) else x
        if threading.get_ident() == thread:
            take(key, x.detach()[:, -1].float() if x.ndim == 3 else x.detach().float())

    layers = decoder_layers(model)
    head = model.get_output_embeddings()
    with ExitStack() as stack:
        for number in note:
            hook = layers[number - 1].register_forward_hook(lambda _, __, out, key=number: show(key, out))
            stack.callback(hook.remove)
        stack.callback(head.register_forward_pre_hook(lambda _, given: show(HEAD, given)).remove)
        yield
