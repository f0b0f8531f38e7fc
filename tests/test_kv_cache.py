"""The batch KV cache: whoever joins and leaves, every row attends over its own prompt and tokens, as if it stood alone."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix.engine.kv_cache import KVCache
from thoughtmix.engine.memory import untouched_zeros
from thoughtmix.engine.prompt_kv import PromptKV

H, D, LAYERS, STEPS = 2, 4, 2, 5


def prompt(length: int) -> PromptKV:
    keys, values = ([torch.randn(H, length, D) for _ in range(LAYERS)] for _ in range(2))
    return PromptKV(keys, values, length)


def plain_attention(
    read: PromptKV, layer: int, query: torch.Tensor, own: torch.Tensor, window: int | None, softcap: float | None
) -> torch.Tensor:
    """One row by itself, from copies: query (h, g, d), own (2, h, s, d)."""
    keys, values = torch.cat([read.keys[layer], own[0]], 1), torch.cat([read.values[layer], own[1]], 1)
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    scores = query @ keys.mT
    return torch.softmax(scores if softcap is None else torch.tanh(scores / softcap) * softcap, -1) @ values


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_every_row_attends_as_if_it_stood_alone(data: st.DataObject) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 10**6)))
        joined = data.draw(st.booleans())
        window, softcap = data.draw(st.sampled_from([None, 1, 3, 6])), data.draw(st.sampled_from([None, 2.0]))
        cache, names, place_of, own = KVCache(joined), list[int](), list[int](), list[torch.Tensor]()
        reads: list[PromptKV] = []

        def join() -> None:
            counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(sum))
            new = [prompt(data.draw(st.sampled_from([1, 2, 7, 16, 17, 30]))) for _ in counts]
            cache.join(new, counts, STEPS)
            for read, count in zip(new, counts, strict=True):
                reads.append(read)
                for _ in range(count):
                    names.append(len(own))
                    place_of.append(len(reads) - 1)
                    own.append(torch.zeros(LAYERS, 2, H, 0, D))

        join()
        for _ in range(STEPS):
            if joined and data.draw(st.booleans()):
                join()
            alive = [name for name in names if own[name].shape[3] < STEPS]
            if len(alive) < len(names):  # who has all its tokens leaves
                gone = [i for i, name in enumerate(names) if name not in set(alive)]
                names[:] = [names[old] for old in cache.drop(gone)]
            new = torch.randn(LAYERS, 2, cache.rows, H, D)
            query = torch.randn(cache.rows, H, 3, D)
            for row, name in enumerate(names):
                own[name] = torch.cat([own[name], new[:, :, row, :, None]], 3)
            lengths = [reads[place_of[name]].length + own[name].shape[3] - 1 for name in names]
            assert cache.positions().tolist() == lengths and cache.longest == max(lengths)
            for layer in range(LAYERS):
                cache.store(layer, new[layer, 0], new[layer, 1])
                got = cache.attend(layer, query, window, softcap)
                for row, name in enumerate(names):
                    read = reads[place_of[name]]
                    want = plain_attention(read, layer, query[row], own[name][layer], window, softcap)
                    torch.testing.assert_close(got[row], want, atol=1e-5, rtol=1e-5)
            cache.advance()
            for row, name in enumerate(names):
                keys, values = cache.own(row)
                assert torch.equal(torch.stack([keys, values], 1), own[name])
            gone = sorted(data.draw(st.sets(st.integers(0, cache.rows - 1), max_size=cache.rows - 1)))
            if gone:
                order = cache.drop(gone)
                assert sorted(order) == [r for r in range(len(names)) if r not in gone]
                names[:] = [names[old] for old in order]
                assert [place_of[n] for n in names] == sorted(place_of[n] for n in names), "prompts got mixed"


def test_memory_is_one_prompt_and_the_rows_own_tokens() -> None:
    cache, read = KVCache(), prompt(7)
    cache.join([read], [32], STEPS)
    bucket = cache.places[0].bucket
    assert bucket.own_keys.shape == (LAYERS, 1, 32, H, STEPS, D)
    assert bucket.prompt_keys is read.keys, "a lone prompt is not copied"


def test_like_rows_share_their_products() -> None:
    """Sixteen callers with prompts of like length stand in one bucket, which grows; an empty cache holds nothing."""
    cache = KVCache(joined=True)
    for length in range(17, 33):
        cache.join([prompt(length)], [3], STEPS)
    assert len(cache._buckets) == 1 and cache.rows == 48
    assert cache.drop(list(range(48))) == [] and not cache._buckets


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="Linux")
def test_room_for_rows_takes_memory_page_by_page() -> None:
    """A row's tokens lie in many places of a bucket; pages of 2 MiB for each of them made a chat wait for 0.1 s."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    room = untouched_zeros((60, 64, 4096), torch.bfloat16)
    assert room.shape == (60, 64, 4096) and room.dtype == torch.bfloat16 and room.is_contiguous()
    before = resident()
    room[:, 3, :100] = 1
    assert 60 * 4096 <= resident() - before < 2**22
    assert float(room.float().sum()) == 6000
    assert untouched_zeros((0, 3), torch.float32).shape == (0, 3)
