"""Prefixes that outlive their batch: a text continued from one is the text read anew, and no token is computed twice."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from operator import eq
from typing import Any

import pytest
import torch
from decoding import Row, decode, suffix
from tiny import fresh, language_model, tiny, tokenizer

from thoughtmix.core.errors import InputError
from thoughtmix.engine import Prefix, SamplingParams
from thoughtmix.engine.prefix_cache import PrefixCache
from thoughtmix.engine.prompt_kv import PromptKV
from thoughtmix.models import wrap_model

PROMPT = [5, 9, 77, 33, 12, 8, 100, 41]
OTHER = [44, 17, 3]
FAMILIES = {
    "llama": "fused", "qwen3": "fused", "mistral": "fused", "mistral-window": "shared", "gemma2": "shared",
    "gemma3_text": "shared", "gpt2": "shared", "gpt_neox": "shared", "opt": "shared", "phi3": "shared",
    "mixtral": "shared", "bloom": "expanded", "mamba": "expanded",
}  # fmt: skip
KEEPS = [family for family, path in FAMILIES.items() if path != "expanded"]
GREEDY = SamplingParams(temperature=0)


def run(model: Any, prompts: list[list[int]], rows: list[Row], tokens: int = 10, **more: Any) -> Any:
    lm = wrap_model(model, tokenizer(), "tiny")
    return decode(lm, prompts, rows, max_new_tokens=tokens, **{"weights": "native", "end_ids": frozenset(), **more})


def alike(a: Any, b: Any) -> None:
    for x, y in zip(a.outputs, b.outputs, strict=True):
        assert x.token_ids == y.token_ids
        torch.testing.assert_close(torch.tensor(x.logprobs), torch.tensor(y.logprobs), atol=5e-4, rtol=1e-4)


def grown(model: Any, **more: Any) -> tuple[list[list[int]], list[Prefix]]:
    """Two prompts, three rows each, of different lengths: whole texts and their prefixes."""
    rows = [Row(seed=s, prompt=s % 2, max_new_tokens=2 + s) for s in range(6)]
    got = run(model, [PROMPT, OTHER], rows, keep_prefixes=True, **more)
    return [[*(OTHER if s % 2 else PROMPT), *r.token_ids] for s, r in enumerate(got.outputs)], got.prefixes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_continued_from_a_prefix_is_the_text_read_anew(family: str, global_state_untouched: None) -> None:
    """Also twice over, past sliding windows (6), and mixed with a prompt that is not known."""
    model, path = tiny(family), FAMILIES[family]
    texts, prefixes = grown(model)
    assert [p.ids() for p in prefixes] == [t[:-1] for t in texts]
    texts, prefixes = [*texts, [7, 70, 99, 21]], [*prefixes, None]
    rows = [Row(seed=40 + s, prompt=s % 7) for s in range(14)]
    plain, known = run(model, texts, rows), run(model, texts, rows, prefixes=prefixes, keep_prefixes=True)
    assert known.path == path
    alike(plain, known)
    longer = [[*texts[r.prompt], *c.token_ids] for r, c in zip(rows, known.outputs, strict=True)]
    again = [Row(seed=80 + s, prompt=s) for s in range(14)]
    alike(run(model, longer, again), run(model, longer, again, prefixes=known.prefixes))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_tokens_computed_are_tokens_new(family: str) -> None:
    model = tiny(family)
    first = run(model, [PROMPT], [Row(seed=s) for s in range(3)], 6, keep_prefixes=True)
    assert first.computed == len(PROMPT) + 3 * 5, "a drawn token is not read before it has to be"
    texts = [[*PROMPT, *r.token_ids] for r in first.outputs]
    rows = [Row(seed=s, prompt=s % 3) for s in range(6)]
    assert run(model, texts, rows, 4, prefixes=first.prefixes).computed == 6 * 4
    spared = 2 * len(PROMPT)  # what they share is read once
    assert run(model, texts, rows, 4).computed == sum(map(len, texts)) - spared + 6 * 3


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_where_nothing_is_kept_the_text_is_read_again(family: str) -> None:
    texts, prefixes = grown(tiny(family))
    rows = [Row(seed=s, prompt=s) for s in range(6)]
    assert all(p.keys is None for p in prefixes)
    assert run(tiny(family), texts, rows, 3, prefixes=prefixes).computed == sum(len(t) - 1 for t in texts) + 6 * 3


@pytest.mark.parametrize("family", KEEPS)
def test_more_text_after_a_prefix_is_read_at_once(family: str) -> None:
    """A question to a judge, say: any number of tokens past the prefix, also fewer than it has."""
    model = tiny(family)
    texts, prefixes = grown(model)
    asked = [[*t, *range(30, 30 + 3 * i)] for i, t in enumerate(texts)]
    rows = [Row(seed=s, prompt=s) for s in range(6)]
    got = run(model, asked, rows, 5, prefixes=prefixes)
    alike(run(model, asked, rows, 5), got)
    new = sum(len(a) - p.length for a, p in zip(asked, prefixes, strict=True))
    assert got.computed == new + 6 * 4
    alike(
        run(model, texts, rows, 5, row_state=suffix(3)),
        run(model, texts, rows, 5, prefixes=prefixes, row_state=suffix(3)),
    )


def test_segments_share_their_parents_tensors() -> None:
    model = tiny("llama")
    first = run(model, [PROMPT], [Row(seed=s) for s in range(2)], 4, keep_prefixes=True)
    a, b = first.prefixes
    assert a.parent is b.parent and a.parent.own == tuple(PROMPT)
    texts = [[*PROMPT, *r.token_ids] for r in first.outputs]
    second = run(model, texts, [Row(seed=s, prompt=s % 2) for s in range(4)], 4, prefixes=[a, b], keep_prefixes=True)
    assert [p.parent for p in second.prefixes] == [a, b, a, b]
    assert all(len(p.own) == 4 for p in second.prefixes), "the token that was drawn last, and all new ones but the last"
    assert second.prefixes[0].nbytes == 2 * 3 * 2 * 4 * 8 * 4  # keys and values, layers, heads, tokens, width, float32


def test_a_prefix_outlives_its_batch_and_its_neighbours_and_goes_when_it_is_let_go() -> None:
    """Rows ended before, between and after; then only what is still referenced is held."""
    model = tiny("gpt2")
    texts, prefixes = grown(model)
    before = [prefix.prompt().keys[0].clone() for prefix in prefixes]
    run(model, texts, [Row(seed=s, prompt=s % 6, max_new_tokens=1 + s % 4) for s in range(12)], 4, prefixes=prefixes)
    for prefix, then in zip(prefixes, before, strict=True):
        assert torch.equal(prefix.prompt().keys[0], then), "nobody writes into a prefix"
    child = run(model, texts[:1], [Row(seed=0)], 3, prefixes=prefixes[:1], keep_prefixes=True).prefixes[0]
    held = [weakref.ref(p) for p in prefixes]
    tensors = [weakref.ref(p.keys[0]) for p in prefixes]
    root = weakref.ref(prefixes[1].parent)
    del prefixes, prefix
    gc.collect()
    assert [r() is not None for r in held] == [True] + [False] * 5, "the child's parent alone"
    assert [r() is not None for r in tensors] == [True] + [False] * 5
    assert root() is None, "the other prompt's beginning went with its last row"
    del child
    gc.collect()
    assert held[0]() is None


def test_other_weights_and_other_paths_read_again() -> None:
    model = fresh("llama")
    first = run(model, [PROMPT], [Row(seed=0, sampling=GREEDY)], 6, keep_prefixes=True)
    texts = [[*PROMPT, *first.outputs[0].token_ids]]
    row = [Row(seed=0, sampling=GREEDY)]
    assert run(model, texts, row, 4, prefixes=first.prefixes).computed == 4
    on_shared = run(model, texts, row, 4, prefixes=first.prefixes, path="shared")
    assert on_shared.computed == len(texts[0]) + 3
    alike(run(model, texts, row, 4), on_shared)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(-1.0)
    changed = run(model, texts, row, 4, prefixes=first.prefixes)
    assert changed.computed == len(texts[0]) + 3, "keys and values of other weights"
    alike(run(model, texts, row, 4), changed)


def test_rows_with_a_state_of_their_own() -> None:
    """A graft's standing routes go on from a prefix; a model that remembers more than keys reads again. Both right."""
    from graftland import grafted

    from thoughtmix.graft import graft_of
    from thoughtmix.graft.branched import branch_row_state

    base = grafted("llama", router="prior", combiner="router", noise="held", tail=1).get_base_model()
    graft = graft_of(base)

    def ours(prompt: list[int], seed: int, **more: Any) -> Any:
        row_state = graft.row_state([seed], [1.0], base.device)
        return run(base, [prompt], [Row(seed=seed)], 6, row_state=row_state, **more)

    first = ours(PROMPT, 3, keep_prefixes=True)
    whole = [*PROMPT, *first.outputs[0].token_ids]
    then = ours(whole, 3, prefixes=first.prefixes)
    logits_of = run(base, [whole], [Row(seed=3)], 6)
    assert then.path == "fused" and then.computed == 6
    assert then.outputs[0].logprobs != logits_of.outputs[0].logprobs, "the route has a say"
    longer = run(base, [PROMPT], [Row(seed=3)], 12, row_state=graft.row_state([3], [1.0], base.device), top_logprobs=1)
    forced = run(base, [whole], [Row(seed=3, sampling=GREEDY)], 1, row_state=graft.row_state([3], [1.0], base.device),
                 prefixes=first.prefixes, top_logprobs=1)  # fmt: skip
    assert longer.outputs[0].token_ids[:6] == first.outputs[0].token_ids
    torch.testing.assert_close(
        torch.tensor(forced.outputs[0].top[0][1]), torch.tensor(longer.outputs[0].top[6][1]), atol=5e-4, rtol=1e-4
    )
    mixture = language_model("mixture")
    got = decode(
        mixture,
        [PROMPT],
        [Row(seed=1)],
        max_new_tokens=5,
        row_state=branch_row_state(mixture, [1], [1.0]),
        keep_prefixes=True,
    )
    text = [*PROMPT, *got.outputs[0].token_ids]
    for creativity in (None, [1.0]):
        more: list[Any] = [
            {} if creativity is None else {"row_state": branch_row_state(mixture, [1], creativity)} for _ in range(2)
        ]
        a = decode(mixture, [text], [Row(seed=1)], max_new_tokens=5, **more[0])
        b = decode(mixture, [text], [Row(seed=1)], max_new_tokens=5, prefixes=got.prefixes, **more[1])
        alike(a, b)


@pytest.mark.parametrize(
    ("known", "prompts", "more", "says"),
    [
        ([Prefix(tuple(PROMPT))], [PROMPT], {}, "or is all of it"),
        ([Prefix((1, 2))], [PROMPT], {}, "not the beginning of prompt 0"),
        ([Prefix((5,)), None], [PROMPT, [4]], {}, "one token beside known"),
        (None, [PROMPT], {"read": "each", "keep_prefixes": True}, "keep no prefix"),
    ],
)
def test_law_8(known: Any, prompts: Any, more: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        run(tiny("llama"), prompts, [Row(seed=0, prompt=p) for p in range(len(prompts))], 2, prefixes=known, **more)
    assert caught.value.hint


def test_a_prefix_cache_knows_the_longest_beginning_and_keeps_what_is_shared_once() -> None:
    """Against a search through all that is kept; keys and values say which tokens they are of."""
    home = tiny("llama")

    def read(ids: list[int]) -> PromptKV:
        keys = torch.tensor(ids, dtype=torch.float32)[None, :, None].repeat(2, 1, 3)
        return PromptKV([keys.clone(), keys + 1], [keys + 2, keys + 3], len(ids))

    dice = random.Random(1)
    for least in (1, 4) * 20:
        cache, seen = PrefixCache(dice.choice([12, 40, 200])), list[list[int]]()
        cache.least, cache.prompts = least, 9
        for _ in range(40):
            begun = dice.choice(seen)[: dice.randrange(30)] if seen and dice.random() < 0.8 else []
            ids = [*begun, *(dice.randrange(3) for _ in range(dice.randrange(1, 12)))]
            kept = [key[1:] for key in cache._kept]
            best = max((sum(itertools.accumulate(map(eq, other, ids[:-1]), min)) for other in kept), default=0)
            known, whole = cache.longest(ids, home), cache.logits_after(ids, home)
            assert (known.length if known else 0) == (best if best >= least else 0)
            if known is not None:
                assert known.ids() == ids[: known.length]
                got, want = known.prompt(), read(ids[: known.length])
                assert all(map(torch.equal, [*got.keys, *got.values], [*want.keys, *want.values]))
            assert whole is None or (whole[0].ids() == ids and float(whole[1]) == sum(ids))
            cache.keep(ids, read(ids), home, torch.tensor([float(sum(ids))]))
            assert cache.tokens <= cache.most and len(cache._sorted) == len(cache._kept) <= 9
            if least == 1:
                segments = {id(part): part for each in cache._kept.values() for part in each.prefix.chain()}
                beginnings = {key[1 : end + 1] for key in cache._kept for end in range(1, len(key))}
                assert sum(len(part.own) for part in segments.values()) == len(beginnings)
            seen.append(ids)
    gone = wrap_model(fresh("llama"), tokenizer(), "tiny")
    cache.keep([1, 2, 3], read([1, 2, 3]), gone)
    del gone
    gc.collect()
    cache.keep([1, 2], read([1, 2]), home)
    assert not [key for key, each in cache._kept.items() if each.prefix.home is None or each.prefix.home() is None]
