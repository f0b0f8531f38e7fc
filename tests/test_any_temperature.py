"""Whatever temperature a float can hold, and however small the vocabulary: the draw that the mathematics gives."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import openai
import pytest
import torch
from decoding import Row, decode
from serving import running
from tiny import language_model

import thoughtmix
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.policies import propose
from thoughtmix.engine import SamplingParams
from thoughtmix.engine.rng import generator
from thoughtmix.engine.sampling import SamplingTensors, draw
from thoughtmix.engine.without_replacement import WithoutReplacement

pytest_plugins = ["tinyland"]
TEMPERATURES = (
    0.0, 5e-324, 1e-300, 1e-45, 1e-39, 2.9e-39, 1e-30, 1e-9, 0.7, 1.0, 3.0, 1e9, 1e38, 1e45, 1e300, sys.float_info.max,
)  # fmt: skip
TRUNCATIONS: tuple[dict[str, Any], ...] = (
    {}, {"top_k": 3}, {"top_p": 0.7713}, {"min_p": 0.1}, {"top_nsigma": 1.0}, {"top_k": 5, "top_p": 0.6713, "min_p": 0.01},
    {"top_k": sys.maxsize, "top_nsigma": 1e308, "min_p": 5e-324},
)  # fmt: skip
SIZES = (1, 2, 3, 7, 15, 16, 17, 31, 97, 127, 129, 257, 320)
EVERY = [SamplingParams(temperature=t, **more) for t in TEMPERATURES for more in TRUNCATIONS]


def exact(logits: torch.Tensor, s: SamplingParams) -> torch.Tensor:
    """(vocabulary,) float64 probabilities, by the definitions, with Python's floats."""
    x = [float(v) for v in logits]
    top = max(x)
    if s.temperature == 0:
        p = [float(i == x.index(top)) for i in range(len(x))]
        return torch.tensor(p, dtype=torch.float64)
    inside = [v for v in x if math.isfinite(v)]
    mean = sum(inside) / len(inside)
    spread = math.sqrt(sum((v - mean) ** 2 for v in inside) / len(inside))
    kept = [math.isfinite(v) for v in x]
    if s.top_nsigma:
        kept = [k and v >= top - s.top_nsigma * spread for k, v in zip(kept, x, strict=True)]
    weight = [math.exp((v - top) / s.temperature) if math.isfinite(v) else 0.0 for v in x]
    if s.min_p:
        kept = [k and w >= s.min_p for k, w in zip(kept, weight, strict=True)]
    order = sorted(range(len(x)), key=lambda i: -x[i])
    if s.top_k:
        least = x[order[min(s.top_k, len(x)) - 1]]
        kept = [k and v >= least for k, v in zip(kept, x, strict=True)]
        order = [i for i in order if x[i] >= least and math.isfinite(x[i])]
    if s.top_p < 1:
        whole, mass, floor = sum(weight[i] for i in order), 0.0, -math.inf
        for i in order:
            if mass < s.top_p * whole:
                floor = x[i]
            mass += weight[i]
        kept = [k and v >= floor for k, v in zip(kept, x, strict=True)]
    p = torch.tensor([w if k else 0.0 for k, w in zip(kept, weight, strict=True)], dtype=torch.float64)
    return p / p.sum()


def logits_of(size: int, kind: str) -> torch.Tensor:
    x = torch.from_numpy(generator(size).normal(0, 2, size)).float()
    if kind == "tied" and size > 2:
        x[[0, size // 2]] = x.max() + 1
    if kind == "forbidden" and size > 2:
        x[1::3] = -torch.inf
    return x


@pytest.mark.parametrize("kind", ["plain", "tied", "forbidden"])
@pytest.mark.parametrize("size", SIZES)
def test_a_draw_is_what_the_definitions_say(size: int, kind: str) -> None:
    """All samplers as rows of one batch, as in a running batch: of each the token in whose interval the uniform falls,
    with its probability. Uniforms on a boundary between two tokens, as far as rounding goes, are not asked."""
    x = logits_of(size, kind)
    tensors = SamplingTensors.of(EVERY)
    probabilities = [exact(x, s) for s in EVERY]
    for u in (0.0, 0.237, 0.61, 1 - 2.0**-53):
        drawn = draw(x.expand(len(EVERY), -1), torch.full((len(EVERY),), u, dtype=torch.float64), tensors)
        assert torch.isfinite(drawn.logprobs).all()
        assert (drawn.rest >= 0).all() and (drawn.rest < 1).all()
        for s, p, token, share in zip(EVERY, probabilities, drawn.ids.tolist(), drawn.share.tolist(), strict=True):
            before, after = float(p[:token].sum()), float(p[: token + 1].sum())
            assert p[token] > 0 and before - 1e-5 <= u <= after + 1e-5, (s, token, p)
            assert share == pytest.approx(float(p[token]), abs=1e-5), s


@pytest.mark.parametrize("size", [1, 7, 97])
def test_without_replacement(size: int) -> None:
    """All rows of a group that draw their last token get different ones, while there are any."""
    x = logits_of(size, "plain")
    for temperature in (5e-324, 1e-39, 1.0, 1e300):
        for more in TRUNCATIONS[:4]:
            s = SamplingParams(temperature=temperature, **more)
            rows = min(3, int((exact(x, s) > 0).sum()))
            taken = WithoutReplacement([[]] * rows, [0] * rows)
            uniform = torch.tensor([0.9, 0.2, 0.5][:rows], dtype=torch.float64)
            given = x.expand(rows, -1), uniform, SamplingTensors.of([s] * rows), list(range(rows))
            ids, logprobs, shares = taken.draw(*given, [[]] * rows, [True] * rows)
            assert len(set(ids)) == rows and all(map(math.isfinite, [*logprobs, *shares])), s
            assert all(exact(x, s)[token] > 0 for token in ids)


def test_through_the_engine_with_arithmetic_draws_beside_other_rows() -> None:
    """One generate of rows with every temperature, half of them with an offset."""
    lm = language_model("llama")
    samplings = [SamplingParams(temperature=t, **m) for t in TEMPERATURES for m in ({}, {"top_p": 0.9})]
    rows = [Row(seed=i, sampling=s, offset=i / 64 if i % 2 else None) for i, s in enumerate(samplings)]
    greedy = decode(lm, [[5, 9, 77]], [Row(seed=0, sampling=SamplingParams(temperature=0))], max_new_tokens=6).outputs[
        0
    ]
    got = decode(lm, [[5, 9, 77]], rows, max_new_tokens=6, end_ids=frozenset()).outputs
    for sampling, output in zip(samplings, got, strict=True):
        assert all(map(math.isfinite, output.logprobs))
        if sampling.temperature <= 1e-9:
            assert output.token_ids == greedy.token_ids
    hot = {tuple(o.token_ids) for s, o in zip(samplings, got, strict=True) if s.temperature >= 1e9}
    assert len(hot) == sum(s.temperature >= 1e9 for s in samplings)


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-30, 1e300])
def test_in_text_diffusion(temperature: float) -> None:
    x = torch.stack([logits_of(24, "plain"), logits_of(24, "tied")])[None]
    uniform = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    got = propose(x, torch.ones(1, 2, dtype=torch.bool), uniform, torch.tensor([temperature], dtype=torch.float64))
    p = [exact(row, SamplingParams(temperature=temperature)) for row in x[0]]
    for at, token in enumerate(got.drawn[0].long().tolist()):
        assert float(p[at][:token].sum()) - 1e-9 <= float(uniform[0, at]) <= float(p[at][: token + 1].sum()) + 1e-9
    assert torch.isfinite(got.logq).all()


@pytest.mark.parametrize("name", ["temperature", "top_nsigma", "top_k"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 10**400, -1])
def test_what_no_float_holds_is_refused_in_a_line(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        SamplingParams(**{name: value})


def test_through_the_command_line_and_the_api(tinyland: Any, capsys: Any) -> None:
    """A temperature a thought: those too small to tell from 0 are greedy."""
    words = ["think", "w5 w9", "-n", "4", "--temperature", "5e-324,1e-39,1e-9,0", "--json", "--no-measure"]
    assert main([*words, "--max-new-tokens", "6", "--model", "llama"]) == 0
    assert len({thought["text"] for thought in json.loads(capsys.readouterr().out)["thoughts"]}) == 1
    hot = thoughtmix.think("w5 w9", model="llama", n=3, temperature=1e300, max_new_tokens=6, measure=False)
    assert len({thought.text for thought in hot}) == 3
    with pytest.raises(InputError, match="temperature"):
        thoughtmix.think("w5 w9", model="llama", n=1, temperature=10**400)


def test_through_the_server() -> None:
    with running() as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        texts = {
            client.completions.create(model="tiny-llama", prompt="w5 w9", temperature=t, max_tokens=6).choices[0].text
            for t in (5e-324, 1e-39, 1e-9, 0)
        }
        assert len(texts) == 1
