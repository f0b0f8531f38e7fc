"""What thoughts are tuned on: prompts and contexts written for this project, or the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json, parse_toml

_WRITE = (
    'Write [[context]] tables with name = "..." and examples = [["question", "answer"], ...], or instruction = "...".'
)


@dataclass(frozen=True, slots=True)
class PromptContext:
    """A way to answer, for one branch (context distillation: Askell et al. 2021).

    examples: (question, answer) before the prompt. instruction: after it. open: the examples before prompts that can be
    answered in many words, where they are others.
    """

    name: str
    examples: tuple[tuple[str, str], ...] = ()
    instruction: str = ""
    open: tuple[tuple[str, str], ...] = ()

    def messages(self, prompt: str, open: bool = False) -> list[dict[str, str]]:
        shown = self.open if open and self.open else self.examples
        turns = [(role, text) for pair in shown for role, text in zip(("user", "assistant"), pair, strict=True)]
        asked = f"{prompt}\n\n{self.instruction}" if self.instruction else prompt
        return [{"role": role, "content": text} for role, text in (*turns, ("user", asked))]


NO_CONTEXT = PromptContext("none")


def built_in_prompts(seed: int = 0) -> list[str]:
    """Every "Name ..." prompt, some put in another way, and as many open ones, shuffled by seed. None is put by
    `thoughtmix bench`."""
    body = tomllib.loads(_packaged_text("prompts.toml"))
    rng = np.random.default_rng([seed, 77])
    things, also = body["name"]["x"], body["name"]["also"]
    short = [t.format(x=x) for t in body["name"]["templates"] for x in things]
    short += [also[i % len(also)].format(x=things[at]) for i, at in enumerate(rng.permutation(len(things))[::3])]
    many = sorted(open_prompts())
    chosen = [*short, *(many[i] for i in rng.permutation(len(many))[: len(short)])]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def open_prompts() -> frozenset[str]:
    """Those of the built-in prompts that can be answered in many words."""
    body = tomllib.loads(_packaged_text("prompts.toml"))
    kinds = [body[part] for part in ("open", "use")]
    return frozenset(t.format(x=x) for kind in kinds for t in kind["templates"] for x in kind["x"])


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one a line: a text, or JSON with `prompt`.

    Raises:
        InputError: It cannot be read, or has fewer than 10 prompts.
    """
    try:
        lines = [line.strip() for line in bounded_text(path).splitlines() if line.strip()]
        found = [parse_json(line)["prompt"] if line.startswith("{") else line for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read the prompts of {path}: {error}.", "Write one prompt a line.") from None
    if len(found) < 10 or not all(isinstance(p, str) and p for p in found):
        raise InputError(f"{path} has {len(found)} prompts.", "Write 10 or more, one a line.")
    return found


def built_in_contexts() -> list[PromptContext]:
    """The eight that come with thoughtmix."""
    return _parse_contexts(_packaged_text("contexts.toml"), "contexts.toml")


def read_contexts(path: Path) -> list[PromptContext]:
    """Contexts of a TOML file.

    Raises:
        InputError: It cannot be read, or holds none.
    """
    try:
        return _parse_contexts(bounded_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.", _WRITE) from None


def _parse_contexts(text: str, where: str) -> list[PromptContext]:
    try:
        found = [_parse_context(row) for row in parse_toml(text)["context"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where} holds no contexts: {error}.", _WRITE) from None
    if not found or len({c.name for c in found}) < len(found):
        raise InputError(f"{where} names no context, or one twice.", _WRITE)
    return found


def _parse_context(row: Any) -> PromptContext:
    examples, shown = (tuple((str(q), str(a)) for q, a in row.get(part, ())) for part in ("examples", "open"))
    if not examples and not row.get("instruction"):
        raise ValueError(f"{row.get('name')!r} has neither examples nor an instruction")
    return PromptContext(str(row["name"]), examples, str(row.get("instruction", "")), shown)


def _packaged_text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def train_validation_split(items: Sequence[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Nine tenths to learn from and one tenth, at least one, to validate on."""
    order = np.random.default_rng([seed, 78]).permutation(len(items))
    held = max(1, len(items) // 10)
    return [items[i] for i in sorted(order[held:])], [items[i] for i in sorted(order[:held])]
