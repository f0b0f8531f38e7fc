"""Baselines that are no thinkers: other words, styles, examples, a list in one answer, diverse beams, Gaussian noise.

Each takes (pipeline, ask, setting) and gives a thought set like any thinker's, within the same token budget.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.types import Thought, ThoughtSet

if TYPE_CHECKING:
    from thoughtmix.api import Pipeline
    from thoughtmix.bench.contestants import Ask

STYLES = (
    "Answer plainly and briefly.",
    "Answer in an unexpected way that few people would think of.",
    "Answer as a poet would.",
    "Answer as a scientist would, with precision.",
    "Answer as an enthusiastic child would.",
    "Answer with dry humour.",
    "Answer as someone from a far country and another time would.",
    "Answer as a cautious expert would.",
)
_MARK = re.compile(r"^[ \t]*(?:\*\*)?(\d{1,3})[.):](?:\*\*)?[ \t]+", re.MULTILINE)


def paraphrased(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """Thought i is asked in way i: as written first, then the paraphrases, then from the start again."""
    if not ask.item.paraphrases:
        raise InputError(
            f"{ask.item.id} has no paraphrases.",
            "Add `prompt_paraphrases` to its line, or drop the paraphrase baseline.",
        )
    return _asked(pipeline, ask, (ask.item.prompt, *ask.item.paraphrases), setting, "paraphrase")


def styled(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """Thought i follows style instruction i, put after the prompt."""
    return _asked(pipeline, ask, [f"{ask.item.prompt}\n\n{style}" for style in STYLES], setting, "styles")


def shown(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """Thought i is asked after the examples of context i of a graft's teachers: what a tuned graft does without them.
    Without a chat template the turns are paragraphs."""
    from thoughtmix.graft.tuning.prompts import built_in_contexts

    ways = [c.messages(ask.item.prompt, ask.item.kind == "open") for c in built_in_contexts()]
    if pipeline.model.tokenizer.chat_template:
        return _asked(pipeline, ask, ways, setting, "examples")
    return _asked(pipeline, ask, ["\n\n".join(turn["content"] for turn in way) for way in ways], setting, "examples")


def listed(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """One answer with n numbered parts and the tokens of all n. What it leaves out is missing, not made up."""
    prompt = f"{ask.item.prompt}\n\nGive {ask.n} different answers, numbered from 1 to {ask.n}."
    whole = pipeline(prompt, 1, seed=ask.seed, max_new_tokens=ask.n * ask.max_new_tokens, measure=False, **setting)
    parts = numbered(whole[0].text)[: ask.n]
    thoughts = [
        Thought(part, (), ask.seed, 0.0, whole[0].finish, origin={"thinker": "list", "part": i})
        for i, part in enumerate(parts)
    ]
    return _set(pipeline, ask, thoughts, "list", setting, whole.run)


def numbered(text: str) -> list[str]:
    """The parts of a numbered list; without one, the lines that are not empty; never nothing."""
    marks = list(_MARK.finditer(text))
    if marks:
        ends = [m.start() for m in marks[1:]] + [len(text)]
        parts = [text[m.end() : end].strip() for m, end in zip(marks, ends, strict=True)]
    else:
        parts = [line.strip() for line in text.splitlines()]
    return [p for p in parts if p] or [text]


def beamed(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """Diverse beam search (Vijayakumar et al. 2018) with n groups of one beam, through `generate`: at each step a group
    takes its likeliest token after `penalty` nats off for each earlier group that took it. No randomness: every seed
    gives the same thoughts."""
    import torch

    lm = pipeline.model
    ids = lm.encode(ask.item.prompt)
    rows = torch.tensor([ids] * ask.n, device=lm.device)
    ends = sorted(lm.eos_ids)
    began = time.perf_counter()
    with torch.inference_mode():
        model: Any = lm.model
        out = model.generate(
            input_ids=rows, attention_mask=torch.ones_like(rows), max_new_tokens=ask.max_new_tokens, do_sample=False,
            num_beams=1, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0,
            logits_processor=[_Apart(float(setting["penalty"]))],
        )  # fmt: skip
    texts = [(own := _until_end(row.tolist()[len(ids) :], lm.eos_ids), lm.decode(own)) for row in out]
    thoughts = [
        Thought(text, tuple(own), ask.seed + i, 0.0, "stop" if own[-1:] and own[-1] in lm.eos_ids else "length")
        for i, (own, text) in enumerate(texts)
    ]
    run = {"tokens": sum(len(own) for own, _ in texts), "seconds": round(time.perf_counter() - began, 4)}
    return _set(pipeline, ask, thoughts, "beam", setting, run)


class _Apart:
    """A logits processor: row by row, what earlier rows take at this step is made less likely."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.log_softmax(-1)
        taken = scores.new_zeros(scores.shape[1])
        for row in scores:
            row -= self.penalty * taken
            taken[row.argmax()] += 1
        return scores


def perturbed(pipeline: Pipeline, ask: Ask, setting: Mapping[str, Any]) -> ThoughtSet:
    """Gaussian noise held for a whole thought: a random direction added to the middle layer's output at every position,
    `strength` times the median length of the prompt's states there. One thought at a time, each with its own."""
    from thoughtmix.bench.gaussian import noise

    how = dict(setting)
    strength = float(how.pop("strength"))
    made = []
    for i in range(ask.n):
        with noise(pipeline.model.model, ask.seed + i, strength):
            made.append(
                pipeline(ask.item.prompt, 1, seed=ask.seed + i, max_new_tokens=ask.max_new_tokens, measure=False, **how)
            )  # fmt: skip
    run = {name: sum(m.run[name] for m in made) for name in ("tokens", "seconds")}
    return _set(pipeline, ask, [m[0] for m in made], "gaussian", setting, run)


def _asked(
    pipeline: Pipeline,
    ask: Ask,
    ways: Sequence[str | list[dict[str, str]]],
    setting: Mapping[str, Any],
    name: str,
) -> ThoughtSet:
    """n thoughts, thought i for prompt i mod len(ways), in one batch. setting: `draws` and the sampler's own fields."""
    from thoughtmix.engine import SamplingParams, SequenceRequest
    from thoughtmix.engine.requests import DEFAULT_MIN_P, as_thoughts
    from thoughtmix.engine.rng import arithmetic_offset

    lm, how = pipeline.model, dict(setting)
    ways = ways[: ask.n]
    apart, item = how.pop("draws", "independent") == "arithmetic", lm.encode(ask.item.prompt)
    sampling = SamplingParams(**{"min_p": DEFAULT_MIN_P, **how})
    prompts, seeds = [tuple(lm.encode(w)) for w in ways], range(ask.seed, ask.seed + ask.n)
    done = pipeline.engine.generate(
        [
            SequenceRequest(
                prompts[i % len(ways)],
                seed,
                sampling,
                ask.max_new_tokens,
                offset=arithmetic_offset(seed, item) if apart else None,
            )
            for i, seed in enumerate(seeds)
        ]
    )
    if done.interrupted:
        raise KeyboardInterrupt
    numbers = [i % len(ways) for i in range(ask.n)]
    origins = [{"thinker": name, "way": way, "asked": _last(ways[way])} for way in numbers]
    return _set(pipeline, ask, as_thoughts(done.outputs, seeds, origins), name, setting, done.facts)


def _last(way: str | list[dict[str, str]]) -> str:
    return way if isinstance(way, str) else way[-1]["content"]


def _set(
    pipeline: Pipeline,
    ask: Ask,
    thoughts: Sequence[Thought],
    name: str,
    setting: Mapping[str, Any],
    run: Mapping[str, Any],
) -> ThoughtSet:
    """A thought set of the item's own prompt, so that all are measured against the same question."""
    settings = {"n": ask.n, "seed": ask.seed, "max_new_tokens": ask.max_new_tokens, **setting}
    return ThoughtSet(
        ask.item.prompt, tuple(thoughts), thinker=name, model=pipeline.model.name, settings=settings, run=dict(run)
    )


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to the first that ends, and that one."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:stop])
