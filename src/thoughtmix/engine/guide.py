"""Rows held to a grammar: at every step the tokens that it forbids are taken from the draw, and the rest renormalised.

That is the model's distribution given the grammar step by step (p(token | so far) over the allowed tokens), and not the
model's distribution given that the whole text is valid: a step does not look at how likely a valid end is behind each
token (Park et al. 2024, "Grammar-aligned decoding"). Every text that ends is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thoughtmix.core.grammar import Grammar
    from thoughtmix.models import LanguageModel


class Guide:
    """One row's way through a grammar.

    Args:
        model: Whose tokens.
        grammar: What the whole text must be.
        end_ids: Tokens that end the row: allowed where the text may end, and nowhere else.
    """

    def __init__(self, model: LanguageModel, grammar: Grammar, end_ids: frozenset[int]) -> None:
        self._compiler, self._grammar, self._ends = model.grammars, grammar, end_ids
        self._matcher = self._compiler.matcher(grammar)
        self._own_ends = tuple(self._compiler.tokens.eos_tokens)
        self.size = self._compiler.size

    def allow(self, bits: NDArray[np.uint8]) -> None:
        """Set the bits of the tokens that may come next, the lowest bit of a byte first. Where the grammar fails,
        `take` says so: others draw in the same batch."""
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, len(bits))
        if self._matcher.is_error():
            bits[:] = 255
        for token in self._own_ends:
            bits[token >> 3] &= 255 ^ 1 << (token & 7)
        accepts = self._matcher.is_accepting() and not self._matcher.is_error()
        for token in self._ends:
            if token >= self.size:
                continue
            if accepts:
                bits[token >> 3] |= 1 << (token & 7)
            else:
                bits[token >> 3] &= 255 ^ 1 << (token & 7)

    def take(self, token: int) -> bool:
        """Go on past a token that does not end the row; True when the text is whole and nothing can follow. Raises
        `InputError`."""
        if not self._matcher.consume_token(token):
            said = self._matcher.get_error().partition("\n")[0][:300]
            raise InputError(f"The grammar cannot be followed further: {said}.", "Write a simpler one.")
        return self._matcher.is_stopped()

    def whole(self, text: str) -> bool:
        """Whether a text, not only the row's own, is all that the grammar asks for."""
        return self._compiler.whole(self._grammar, text)


def allowed_tokens(guides: Sequence[Guide | None], width: int, device: torch.device) -> Tensor:
    """(rows, width) bool: which of `width` tokens each row may draw; all where it has no guide."""
    guided = [guide for guide in guides if guide is not None]
    size = max(guide.size for guide in guided)
    bits = np.zeros((len(guides), -(-size // 32) * 4), dtype=np.uint8)
    for row, guide in zip(bits, guides, strict=True):
        if guide is None:
            row[:] = 255
        else:
            guide.allow(row[: -(-guide.size // 32) * 4])
    allowed = torch.from_numpy(np.unpackbits(bits, axis=1, bitorder="little")).view(torch.bool)
    if allowed.shape[1] < width:
        wider = torch.zeros(len(guides), width, dtype=torch.bool)
        wider[:, : allowed.shape[1]] = allowed
        allowed = wider
        allowed[[guide is None for guide in guides]] = True
    return allowed[:, :width].to(device)
