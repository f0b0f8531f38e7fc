"""Rows that carry a state through the model: it goes with its row, whatever leaves and whoever stands beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from decoding import Row, decode
from test_decoding import OTHER, PROMPT, lm
from tiny import fresh, tiny

from thoughtmix.core.errors import InputError


class Push:
    """Adds each row's own vector to the output of one block, by a hook, and nothing to prompts that rows share."""

    def __init__(self, block: torch.nn.Module, vectors: torch.Tensor) -> None:
        self.vectors, self.now = vectors, torch.zeros(1)
        self.hook = block.register_forward_hook(lambda _m, _a, out: self._add(out))

    def _add(self, out: Any) -> Any:
        if isinstance(out, tuple):
            return (self._add(out[0]), *out[1:])
        return out + (self.now[:, None] if self.now.ndim == 2 else 0.0)

    unshared_suffix = 0
    is_lora = False

    def row_lora(self) -> None:
        return None

    def reorder(self, order: Sequence[int]) -> None:
        self.vectors = self.vectors[list(order)]

    @contextmanager
    def _with(self, now: torch.Tensor) -> Iterator[None]:
        self.now = now
        try:
            yield
        finally:
            self.now = torch.zeros(1)

    def prefilling(self, rows: slice, read: str) -> Any:
        return self._with(self.vectors[rows] if read == "each" else torch.zeros(1))

    def stepping(self, rows: slice) -> Any:
        return self._with(self.vectors[rows])

    def probing(self) -> Any:
        return self._with(torch.zeros(1))


def pushed(family: str, values: list[float], rows: list[Row], **more: Any) -> Any:
    model = fresh(family)
    layers = getattr(model, "model", None) or model.transformer
    block = (layers.layers if hasattr(layers, "layers") else layers.h)[1]
    vectors = torch.tensor(values)[:, None] * torch.linspace(-1, 1, 48)
    state = Push(block, vectors)
    try:
        return decode(lm(model), [PROMPT, OTHER], rows, max_new_tokens=10, row_state=state, **more)
    finally:
        state.hook.remove()


@pytest.mark.parametrize(("family", "path"), [("llama", "shared"), ("gpt2", "shared"), ("bloom", "expanded")])
@pytest.mark.parametrize("read", ["shared", "each"])
def test_a_row_keeps_its_own_state(family: str, path: str, read: str) -> None:
    values = [0.0, 3.0, -3.0, 6.0, 0.0, -6.0]
    rows = [Row(seed=7, prompt=i % 2, max_new_tokens=10 - 2 * (i % 3)) for i in range(6)]
    together = pushed(family, values, rows, read=read)
    assert together.path == ("expanded" if read == "each" else path)
    for value, row, result in zip(values, rows, together.outputs, strict=True):
        alone = pushed(family, [value], [row], read=read)
        assert result.token_ids == alone.outputs[0].token_ids
    plain = decode(lm(tiny(family)), [PROMPT, OTHER], rows, max_new_tokens=10, weights="native").outputs
    same = [a.token_ids == b.token_ids for a, b in zip(together.outputs, plain, strict=True)]
    assert same[0] and same[4], "a state of nothing changes nothing"
    assert not all(same), "the state must reach the model"


def test_the_prompt_read_by_each_row_is_its_own() -> None:
    rows = [Row(seed=7, prompt=0, max_new_tokens=1) for _ in range(3)]
    firsts = [r.logprobs[0] for r in pushed("llama", [0.0, 4.0, -4.0], rows, read="each").outputs]
    assert len(set(firsts)) == 3
    shared = [r.logprobs[0] for r in pushed("llama", [0.0, 4.0, -4.0], rows, read="shared").outputs]
    assert len(set(shared)) == 1, "the first token comes from the shared reading"


def test_a_prompt_without_rows_is_skipped() -> None:
    for read in ("shared", "each"):
        got = decode(
            lm(tiny("gpt2")), [PROMPT, OTHER], [Row(seed=1, prompt=1)] * 2, max_new_tokens=4, read=read, path="expanded"
        )  # type: ignore[arg-type]
        assert got.outputs[0].token_ids == got.outputs[1].token_ids


def test_reading_in_an_unknown_way() -> None:
    with pytest.raises(InputError, match="Unknown way to read 'twice'"):
        decode(lm(tiny("gpt2")), [PROMPT], [Row(seed=0)], max_new_tokens=2, read="twice")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot share it"):
        decode(lm(tiny("gpt2")), [PROMPT], [Row(seed=0)], max_new_tokens=2, read="each", path="shared")
