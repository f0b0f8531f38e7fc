"""Shared prompts: dropping rows keeps every row's own keys, and each prompt's rows together."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix.engine.kv_cache import Prompt, SharedPrefix

H, D, LAYERS, STEPS = 2, 4, 2, 5


def make(counts: list[int], lengths: list[int]) -> SharedPrefix:
    prompts = [
        Prompt([torch.randn(H, t, D) for _ in range(LAYERS)], [torch.randn(H, t, D) for _ in range(LAYERS)], t, n)
        for n, t in zip(counts, lengths, strict=True)
    ]
    return SharedPrefix(prompts, STEPS)


def plain_attention(
    state: SharedPrefix, layer: int, row: int, query: torch.Tensor, own: torch.Tensor, window: int | None
) -> torch.Tensor:
    """One row by itself, from copies: query (h, g, d), own (2, h, s, d)."""
    start = 0
    for prompt in state.prompts:
        if row < start + prompt.rows:
            break
        start += prompt.rows
    keys = torch.cat([prompt.keys[layer], own[0]], 1)
    values = torch.cat([prompt.values[layer], own[1]], 1)
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    return torch.softmax(query @ keys.mT, -1) @ values


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_attention_and_dropping_equal_rows_kept_apart(data: st.DataObject) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 10**6)))
        counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(sum))
        lengths = data.draw(st.lists(st.integers(1, 7), min_size=len(counts), max_size=len(counts)))
        window = data.draw(st.sampled_from([None, 1, 3, 6]))
        state = make(counts, lengths)
        own = {row: torch.zeros(LAYERS, 2, H, 0, D) for row in range(state.rows)}  # the truth, row by row
        names = list(range(state.rows))  # which row is at each batch position
        where = [p for p, n in enumerate(counts) for _ in range(n)]
        for _ in range(STEPS):
            new = torch.randn(LAYERS, 2, state.rows, H, D)
            query = torch.randn(state.rows, H, 3, D)
            for position, name in enumerate(names):
                own[name] = torch.cat([own[name], new[:, :, position, :, None]], 3)
            for layer in range(LAYERS):
                state.store(layer, new[layer, 0], new[layer, 1])
                got = state.attend(layer, query, window)
                for position, name in enumerate(names):
                    want = plain_attention(state, layer, position, query[position], own[name][layer], window)
                    torch.testing.assert_close(got[position], want, atol=1e-5, rtol=1e-5)
            state.advance()
            gone = data.draw(st.sets(st.integers(0, state.rows - 1), max_size=state.rows - 1))
            if gone:
                order = state.drop(sorted(gone))
                assert sorted(order) == [r for r in range(len(names)) if r not in gone]
                names = [names[old] for old in order]
                assert [where[n] for n in names] == sorted(where[n] for n in names), "prompts got mixed"


def test_memory_is_one_prompt_and_the_rows_own_tokens() -> None:
    state = make([32], [7])
    assert state._keys.shape == (LAYERS, 32, H, STEPS, D)
    assert state.prompts[0].keys[0].shape == (H, 7, D)
