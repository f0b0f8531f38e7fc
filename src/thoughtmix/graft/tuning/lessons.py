"""Lessons: answers of the base model under each branch's context, with the distributions that they were drawn from.

Made by our own decoding engine, kept a prompt at a time, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.graft.tuning.chorus import sing
from thoughtmix.graft.tuning.prompts import Context

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Lesson:
    """One answer. ids: its tokens with the end, cut where it was too long. top: of each token, the teacher's likeliest
    ids and their log-probabilities (at temperature 1)."""

    prompt: str
    prompt_ids: tuple[int, ...]
    branch: int
    ids: tuple[int, ...]
    top: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Teaching:
    """How lessons are made: `samples` answers of each prompt and context, at a temperature with min-p. own: how far
    each context speaks for itself, 1 alone, 0 all of them together (see `chorus`); after an open prompt always
    alone, since there nothing is right or wrong and ways differ."""

    samples: int = 2
    own: float = 1.0
    temperature: float = 1.0
    min_p: float = 0.1
    max_new_tokens: int = 32
    top: int = 32
    seed: int = 0


def make_lessons(
    lm: LanguageModel,
    prompts: Sequence[str],
    contexts: Sequence[Context],
    how: Teaching,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    open: Collection[str] = (),
) -> list[Lesson]:
    """Every prompt under every context; context i teaches branch i. cache: a folder in which finished prompts are kept.
    open: the prompts that come after the contexts' open examples.
    Raises `InputError` when the model has no chat template."""
    if not lm.tokenizer.chat_template and any(c.examples or c.instruction for c in contexts):
        raise InputError(f"{lm.name} has no chat template, so a context cannot be put before a prompt.",
                         "Use --objective lm --corpus FILE.")  # fmt: skip
    about = repr(([str(c) for c in contexts], how))  # the folder is the graft's own: one base model
    path = cache and cache / f"lessons-{hashlib.sha256(about.encode()).hexdigest()[:12]}.jsonl"
    known = _read(path) if path else {}
    out: list[Lesson] = []
    for at, prompt in enumerate(prompts):
        if prompt not in known:
            known[prompt] = _ask(lm, prompt, contexts, how, prompt in open)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([prompt, known[prompt]], separators=(",", ":")) + "\n")
        asked = tuple(lm.encode(prompt))
        out += [_lesson(prompt, asked, body) for body in known[prompt]]
        if on_progress:
            on_progress(at + 1, len(prompts))
    return out


def _ask(lm: LanguageModel, prompt: str, contexts: Sequence[Context], how: Teaching, open: bool) -> list[Any]:
    from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest

    sampler = SamplingParams(temperature=how.temperature, min_p=how.min_p)
    own = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) + how.seed * 2**33
    asked = [lm.encode(c.messages(prompt, open) if c.examples or c.instruction else prompt) for c in contexts]
    places = [(k, own + k * how.samples + i) for k in range(len(contexts)) for i in range(how.samples)]
    rows = [SequenceRequest(tuple(asked[k]), seed, sampler, how.max_new_tokens) for k, seed in places]
    if how.own != 1 and not open:
        done = sing(lm, rows, how.own, how.top)
    else:
        done = LocalEngine(lm).generate(rows, top_logprobs=how.top)
    if done.interrupted:
        raise KeyboardInterrupt
    return [
        [k, r.token_ids, [[ids, [round(v, 3) for v in values]] for ids, values in r.top]]
        for (k, _), r in zip(places, done.outputs, strict=True)
    ]


def _lesson(prompt: str, asked: tuple[int, ...], body: Any) -> Lesson:
    branch, ids, top = body
    return Lesson(prompt, asked, branch, tuple(ids), tuple((tuple(i), tuple(v)) for i, v in top))


def _read(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        return {}
    out: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            prompt, body = json.loads(line)
            out[prompt] = body
        except ValueError:
            continue  # the line that was being written when a run was stopped
    return out


def corpus_lessons(lm: LanguageModel, path: Path, length: int) -> tuple[list[Lesson], list[Lesson]]:
    """Windows of a text, each the continuation of the `length` tokens before it: (to learn from, to check by: the last
    tenth). Raises `InputError`."""
    from thoughtmix.training.data import read_text

    ids = lm.tokenizer(read_text(str(path)), add_special_tokens=False, verbose=False)["input_ids"]
    windows = [ids[at : at + 2 * length] for at in range(0, len(ids) - 2 * length, length)]
    if len(windows) < 20:
        raise InputError(f"{path} has {len(ids)} tokens.", f"Pass a text of {22 * length} or more (--corpus).")
    made = [Lesson(lm.decode(w[:length]), tuple(w[:length]), 0, tuple(w[length:]), ()) for w in windows]
    return made[: -len(made) // 10], made[-len(made) // 10 :]
