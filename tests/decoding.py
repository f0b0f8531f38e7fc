"""Rows of several prompts through the local engine, as most tests of it want them: a prompt is named by its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tiny import tokenizer

from thoughtmix.engine import Generation, LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.models import LanguageModel


@dataclass(frozen=True)
class Row:
    """A sequence but for its prompt, of which it has the number."""

    seed: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    prompt: int = 0
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    offset: float | None = None


def requests(
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    max_new_tokens: int,
    end_ids: frozenset[int] | None = None,
    prefixes: Sequence[Any] | None = None,
    exclude: Sequence[Sequence[Any]] | None = None,
) -> list[SequenceRequest]:
    """prefixes, exclude: of each prompt."""
    return [
        SequenceRequest(
            tuple(prompts[row.prompt]),
            row.seed,
            row.sampling,
            max_new_tokens if row.max_new_tokens is None else row.max_new_tokens,
            row.stop,
            end_ids,
            row.offset,
            prefix=prefixes[row.prompt] if prefixes else None,
            exclude=tuple(exclude[row.prompt]) if exclude else (),
        )
        for row in rows
    ]


def decode(
    lm: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    end_ids: frozenset[int] | None = None,
    path: Any = "auto",
    weights: Any = "auto",
    prefixes: Sequence[Any] | None = None,
    exclude: Sequence[Sequence[Any]] | None = None,
    **how: Any,
) -> Generation:
    """how: further arguments of `Engine.generate`. exclude, even when empty: draws without replacement."""
    return LocalEngine(lm, path, weights).generate(
        requests(prompts, rows, max_new_tokens, end_ids, prefixes, exclude),
        without_replacement=exclude is not None,
        **how,
    )


def suffix(tokens: int) -> Any:
    """Rows without a state that read so many tokens of their prompt's end themselves."""
    from thoughtmix.engine.row_state import NoRowState

    state = NoRowState()
    state.unshared_suffix = tokens
    return state


def language_model_of(
    model: Any, context: int | None = 256, eos: frozenset[int] = frozenset(), name: str = "tiny"
) -> LanguageModel:
    """A model with the tests' tokenizer, and a window and end tokens as the test wants them."""
    made = LanguageModel(model, tokenizer(), name)
    vars(made).update(context_length=context, eos_ids=eos)
    return made
