"""Distillation samples: answers of the base model under each branch's context, with the distributions that they were
drawn from. Made by our own decoding engine and kept a prompt at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import append_line, bounded_text
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.graft.tuning.product_of_experts import decode_product_of_experts
from thoughtmix.graft.tuning.prompts import PromptContext
from thoughtmix.models import LanguageModel
from thoughtmix.training.data import read_text


@dataclass(frozen=True, slots=True)
class DistillationSample:
    """One answer of the teacher, to be learned by one branch.

    ids: its tokens with the end, cut where it was too long. top: of each token, the teacher's likeliest ids and their
    log-probabilities (at temperature 1).
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    branch: int
    ids: tuple[int, ...]
    top: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """How samples are made.

    Args:
        samples: Answers of each prompt and context.
        own: How far each context speaks for itself: 1 alone, 0 all of them together (see `blend`). After an open prompt
            always alone, since there nothing is right or wrong and ways differ.
        temperature: Of the answers.
        min_p: Of the answers.
        max_new_tokens: Most tokens of an answer.
        top: How many of the likeliest tokens are noted at each step.
        seed: Of the answers.

    Raises:
        InputError: A number is too small.
    """

    samples: int = 2
    own: float = 1.0
    temperature: float = 1.0
    min_p: float = 0.1
    max_new_tokens: int = 32
    top: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise InputError("A number is below what works.", "Pass --samples 1, --temperature 0, ... or more.")


def make_samples(
    lm: LanguageModel,
    prompts: Sequence[str],
    contexts: Sequence[PromptContext],
    config: DistillationConfig,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    open: Collection[str] = (),
) -> list[DistillationSample]:
    """Let the base model answer every prompt under every context.

    Args:
        lm: The model; its branches have no say.
        prompts: The questions.
        contexts: Context i teaches branch i.
        config: How.
        cache: A folder in which finished prompts are kept, so that a run that was stopped goes on where it was.
        on_progress: Is told how many prompts are done, of how many.
        open: The prompts that come after the contexts' open examples.

    Raises:
        InputError: The model has no chat template.
    """
    if not lm.tokenizer.chat_template and any(c.examples or c.instruction for c in contexts):
        raise InputError(
            f"{lm.name} has no chat template, so a context cannot be put before a prompt.",
            "Use --objective lm --corpus FILE.",
        )
    about = repr(([str(c) for c in contexts], config))  # the folder is the graft's own: one base model
    path = cache and cache / f"lessons-{hashlib.sha256(about.encode()).hexdigest()[:12]}.jsonl"
    known = _load_answers(path) if path else {}
    samples: list[DistillationSample] = []
    for at, prompt in enumerate(prompts):
        if prompt not in known:
            known[prompt] = _answer(lm, prompt, contexts, config, prompt in open)
            if path:
                append_line(path, json.dumps([prompt, known[prompt]], separators=(",", ":")))
        prompt_ids = tuple(lm.encode(prompt))
        samples += [_sample(prompt, prompt_ids, answer) for answer in known[prompt]]
        if on_progress:
            on_progress(at + 1, len(prompts))
    return samples


def _answer(
    lm: LanguageModel, prompt: str, contexts: Sequence[PromptContext], config: DistillationConfig, open: bool
) -> list[Any]:
    """What is kept of one prompt: [context, token ids, top] of each answer."""
    sampling = SamplingParams(temperature=config.temperature, min_p=config.min_p)
    first = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) + config.seed * 2**33
    prompts = [tuple(lm.encode(c.messages(prompt, open) if c.examples or c.instruction else prompt)) for c in contexts]
    places = [(k, first + k * config.samples + i) for k in range(len(contexts)) for i in range(config.samples)]
    sequences = [SequenceRequest(prompts[k], seed, sampling, config.max_new_tokens) for k, seed in places]
    if config.own != 1 and not open:
        done = decode_product_of_experts(lm, prompts, sequences, config.own, config.top)
    else:
        done = LocalEngine(lm).generate(sequences, top_logprobs=config.top)
    if done.interrupted:
        raise KeyboardInterrupt
    return [
        [k, output.token_ids, [[ids, [round(v, 3) for v in values]] for ids, values in output.top]]
        for (k, _), output in zip(places, done.outputs, strict=True)
    ]


def _sample(prompt: str, prompt_ids: tuple[int, ...], answer: Any) -> DistillationSample:
    branch, ids, top = answer
    return DistillationSample(prompt, prompt_ids, branch, tuple(ids), tuple((tuple(i), tuple(v)) for i, v in top))


def _load_answers(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        return {}
    out: dict[str, list[Any]] = {}
    for line in bounded_text(path, 2**34).splitlines():
        try:
            prompt, body = json.loads(line)
            out[prompt] = body
        except ValueError:
            continue  # the line that was being written when a run was stopped
    return out


def corpus_samples(
    lm: LanguageModel, path: Path, length: int
) -> tuple[list[DistillationSample], list[DistillationSample]]:
    """Windows of a text, each the continuation of the `length` tokens before it.

    Returns:
        Those to learn from, and those to validate on: the last tenth.

    Raises:
        InputError: The text is too short.
    """
    ids = lm.encoder.text(read_text(str(path)), frame=False)
    windows = [ids[at : at + 2 * length] for at in range(0, len(ids) - 2 * length, length)]
    if len(windows) < 20:
        raise InputError(f"{path} has {len(ids)} tokens.", f"Pass a text of {22 * length} or more (--corpus).")
    made = [DistillationSample(lm.decode(w[:length]), tuple(w[:length]), 0, tuple(w[length:]), ()) for w in windows]
    return made[: -len(made) // 10], made[-len(made) // 10 :]
