"""Baselines that are no thinkers: paraphrases, styles, examples, diverse beams, Gaussian noise.

Each takes (pipeline, request, setting) and gives a thought set like that of any thinker, within the same token budget.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from thoughtmix.bench.trials import Setting, TrialRequest
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.engine.row_state import NoRowState, Read

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thoughtmix.pipeline import Pipeline

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
Prompt = str | list[dict[str, str]]


def paraphrases(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
    """Thought i is asked in wording i: as written first, then the paraphrases, then from the start again."""
    item = request.item
    if not item.paraphrases:
        raise InputError(
            f"{item.id} has no paraphrases.", "Add `prompt_paraphrases` to its line, or drop the paraphrase baseline."
        )
    return _asked(pipeline, request, (item.prompt, *item.paraphrases), setting, "paraphrase")


def styles(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
    """Thought i follows style instruction i, which is put after the prompt."""
    prompts = [f"{request.item.prompt}\n\n{style}" for style in STYLES]
    return _asked(pipeline, request, prompts, setting, "styles")


def few_shot_examples(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
    """Thought i is asked after the examples of context i of a graft's teachers: what a tuned graft does without them.

    Without a chat template the turns are paragraphs.
    """
    from thoughtmix.graft.tuning.prompts import built_in_contexts

    item = request.item
    chats = [context.messages(item.prompt, item.kind == "open") for context in built_in_contexts()]
    if pipeline.model.tokenizer.chat_template:
        return _asked(pipeline, request, chats, setting, "examples")
    texts = ["\n\n".join(turn["content"] for turn in chat) for chat in chats]
    return _asked(pipeline, request, texts, setting, "examples")


def diverse_beam_search(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
    """Diverse beam search (Vijayakumar et al. 2018) with n groups of one beam, through `generate`.

    At each step a group takes its likeliest token after `penalty` nats are taken off for each earlier group that took
    it. There is no randomness: every seed gives the same thoughts.
    """
    import torch

    lm = pipeline.model
    ids = lm.encode(request.item.prompt)
    rows = torch.tensor([ids] * request.n, device=lm.device)
    ends = sorted(lm.eos_ids)
    began = time.perf_counter()
    with torch.inference_mode():
        model: Any = lm.model
        out = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            logits_processor=[_HammingPenalty(float(setting["penalty"]))],
        )
    bodies = [_until_end(row.tolist()[len(ids) :], lm.eos_ids) for row in out]
    thoughts = [
        Thought(
            lm.decode(body),
            tuple(body),
            request.seed + i,
            0.0,
            "stop" if body and body[-1] in lm.eos_ids else "length",
        )
        for i, body in enumerate(bodies)
    ]
    run = {"tokens": sum(map(len, bodies)), "seconds": round(time.perf_counter() - began, 4)}
    return _thought_set(pipeline, request, thoughts, "beam", setting, run)


class _HammingPenalty:
    """A logits processor: row by row, what earlier rows take at this step is made less likely."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.log_softmax(-1)
        taken = scores.new_zeros(scores.shape[1])
        for row in scores:
            row -= self.penalty * taken
            taken[row.argmax()] += 1
        return scores


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to and with the first that ends a text."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:stop])


def gaussian_noise(pipeline: Pipeline, request: TrialRequest, setting: Setting) -> ThoughtSet:
    """A random direction of `strength` is held for each thought, see `added_noise`. One thought at a time."""
    from thoughtmix.engine import SamplingParams, SequenceRequest
    from thoughtmix.engine.requests import DEFAULT_MIN_P, as_thoughts

    how = dict(setting)
    strength = float(how.pop("strength"))
    lm, sampling = pipeline.model, SamplingParams(**{"min_p": DEFAULT_MIN_P, **how})
    ids, seeds = tuple(lm.encode(request.item.prompt)), range(request.seed, request.seed + request.n)
    outputs, facts = [], list[Mapping[str, Any]]()
    for seed in seeds:
        with added_noise(lm.model, seed, strength) as noise:
            sequence = SequenceRequest(ids, seed, sampling, request.max_new_tokens)
            done = pipeline.local_engine.generate([sequence], row_state=noise)
        if done.interrupted:
            raise KeyboardInterrupt
        outputs += done.outputs
        facts.append(done.facts)
    run = {name: sum(each[name] for each in facts) for name in ("tokens", "seconds")}
    thoughts = as_thoughts(outputs, seeds, [{"thinker": "gaussian"}] * request.n)
    return _thought_set(pipeline, request, thoughts, "gaussian", setting, run)


class AddedNoise(NoRowState):
    """What `added_noise` does to a row, for the engine: it changes the model's forward, but not while that is tried."""

    is_lora = False

    def __init__(self) -> None:
        self.active = True

    def prefilling(self, rows: slice, read: Read) -> AbstractContextManager[None]:
        return super().probing()

    def stepping(self, rows: slice) -> AbstractContextManager[None]:
        return super().probing()

    @contextlib.contextmanager
    def probing(self) -> Iterator[None]:
        self.active = False
        try:
            with super().probing():
                yield
        finally:
            self.active = True


@contextlib.contextmanager
def added_noise(model: nn.Module, seed: int, strength: float) -> Iterator[AddedNoise]:
    """While open, `model` adds strength * r * u to its middle layer's output at every position.

    u is a random unit vector of `seed`, and r the median length of the states of the prompt that was read last (a
    median, since first tokens are often a hundred times longer). The model is left as it was. Decode one prompt and one
    row at a time.
    """
    import torch

    from thoughtmix.engine.rng import NOISE, generator

    state, noise = dict[str, Any](), AddedNoise()

    def add(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not noise.active:
            return output
        hidden: Tensor = output[0] if isinstance(output, tuple) else output  # (1, t, d)
        if "unit" not in state:
            drawn = torch.from_numpy(generator(seed, NOISE).standard_normal(hidden.shape[-1]))
            state["unit"] = (drawn / drawn.norm()).to(hidden)
        if hidden.shape[1] > 1 or "length" not in state:  # a prompt is being read
            state["length"] = hidden.float().norm(dim=-1).median().to(hidden.dtype)
        changed = hidden + strength * state["length"] * state["unit"]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = middle_layer(model).register_forward_hook(add)
    try:
        yield noise
    finally:
        handle.remove()


def middle_layer(model: nn.Module) -> nn.Module:
    """The middle one of the model's layers: of its longest list of modules. Raises `ModelError` when it has none."""
    from torch import nn

    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of layers.", "Drop the gaussian baseline.")
    layers = max(lists, key=len)
    return layers[len(layers) // 2]


def _asked(
    pipeline: Pipeline, request: TrialRequest, prompts: Sequence[Prompt], setting: Setting, name: str
) -> ThoughtSet:
    """n thoughts in one batch, thought i for prompt i mod len(prompts).

    setting: `draws`, and the sampler's own fields.
    """
    from thoughtmix.engine import SamplingParams, SequenceRequest
    from thoughtmix.engine.requests import DEFAULT_MIN_P, as_thoughts
    from thoughtmix.engine.rng import arithmetic_offset

    lm, how, n = pipeline.model, dict(setting), request.n
    apart, item_ids = how.pop("draws", "independent") == "arithmetic", lm.encode(request.item.prompt)
    sampling = SamplingParams(**{"min_p": DEFAULT_MIN_P, **how})
    prompts, seeds = prompts[:n], range(request.seed, request.seed + n)
    ids = [tuple(lm.encode(prompt)) for prompt in prompts]
    ways = [i % len(prompts) for i in range(n)]
    sequences = [
        SequenceRequest(
            ids[way],
            seed,
            sampling,
            request.max_new_tokens,
            offset=arithmetic_offset(seed, item_ids) if apart else None,
        )
        for way, seed in zip(ways, seeds, strict=True)
    ]
    done = pipeline.engine.generate(sequences)
    if done.interrupted:
        raise KeyboardInterrupt
    asked = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    origins = [{"thinker": name, "way": way, "asked": asked[way]} for way in ways]
    return _thought_set(pipeline, request, as_thoughts(done.outputs, seeds, origins), name, setting, done.facts)


def _thought_set(
    pipeline: Pipeline, request: TrialRequest, thoughts: Sequence[Thought], name: str, setting: Setting, run: Setting
) -> ThoughtSet:
    """A thought set of the item's own prompt, so that all are measured against the same question."""
    settings = {"n": request.n, "seed": request.seed, "max_new_tokens": request.max_new_tokens, **setting}
    return ThoughtSet(
        request.item.prompt,
        tuple(thoughts),
        thinker=name,
        model=pipeline.model.name,
        settings=settings,
        run=dict(run),
    )
