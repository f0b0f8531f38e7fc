"""`think`, the one call most people need: `Pipeline`, whose model stays loaded between calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions
from thoughtmix.core.request import LANDING, MAX_NEW_TOKENS, OnStep, PromptLike
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import Pipeline
from thoughtmix.thinkers.base import Thinker

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.models.endpoint import Endpoint


def think(
    prompt: PromptLike,
    n: int = 8,
    thinker: str | Thinker | None = None,
    *,
    model: str | LanguageModel | Pipeline | None = None,
    endpoint: str | Endpoint | None = None,
    judge: str | LanguageModel | Endpoint | None = None,
    options: Mapping[str, Any] | ThinkerOptions | None = None,
    creativity: float | None = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    landing: float = LANDING,
    temperature: float | Sequence[float] | None = None,
    top_k: int | Sequence[int] = 0,
    top_p: float | Sequence[float] = 1.0,
    min_p: float | Sequence[float] | None = None,
    top_nsigma: float | Sequence[float] = 0.0,
    stop: str | Sequence[str] = (),
    json_schema: Any = None,
    regex: str | None = None,
    raw: bool = False,
    measure: bool = True,
    on_step: OnStep | None = None,
    **thinker_options: Any,
) -> ThoughtSet:
    """Turn one prompt into n thoughts. The same model stays loaded between calls.

    Args:
        prompt: A text (for a chat model, one user message, unless raw=True) or a list of chat messages
            `{"role": ..., "content": ...}`.
        n: How many thoughts.
        thinker: A name from `thoughtmix.thinker_names()` or a `Thinker`; auto chooses for the prompt, as the command
            line does (docs/ways.md). None: what the model is made for, sampling for most: thought i is its seed's own.
        model: None for the default model, a local folder, a Hugging Face id, or a loaded `Pipeline`.
        endpoint: An OpenAI-compatible server that writes in place of a model here; `model` is its model's name there.
        judge: A model that scores every thought, named like `model`, or an `Endpoint`.
        options: The thinker's own options, by name or as an instance of its `Options`. They may also be given as
            further keyword arguments, where no setting of the call has the same name.
        creativity: 0 is deterministic, 1 the default strength, more is bolder.
        seed: Thought i has seed + i, and can be made again alone by it.
        max_new_tokens: Longest thought, in tokens.
        landing: In this share of them, the last ones, a thought ends with its sentence; what is still unfinished at the
            last token is cut back to the last whole sentence. 0: exactly max_new_tokens.
        temperature: Divides the logits; None: the thinker's own. This and the next four are one value, or n.
        top_k: Keep the k likeliest tokens; 0: all.
        top_p: Keep the likeliest tokens that together have this probability; 1: all.
        min_p: Keep tokens at least this likely beside the likeliest; None: the thinker's own.
        top_nsigma: Keep logits within so many standard deviations of the highest; 0: all.
        stop: Strings that end a thought.
        json_schema: What every thought must be: a JSON schema (a mapping, its JSON, or a pydantic model class). Every
            thought that ends (finish "stop") is valid; one that runs out of tokens is cut (finish "length").
        regex: A regular expression that every thought must match as a whole.
        raw: Continue the text as it stands, without the chat template. The name of a control token (`<|im_end|>`) in
            it is that token; else it is text, whoever wrote it.
        measure: False leaves out embedding and metrics.
        on_step: Called with a `StepEvent` after every step.
        thinker_options: Options of the thinker (docs/thinkers.md), by name.

    Returns:
        The thoughts in order of their seeds, with distances, scores and metrics.

    Raises:
        InputError: The request cannot be served as written.
        ModelError: A model cannot be found or loaded.
        NumericsError: The model gave NaN or infinity.
        Interrupted: On Ctrl-C; carries what was complete.
    """
    if isinstance(model, Pipeline):
        for name, given in (("judge", judge), ("endpoint", endpoint)):
            if given is not None:
                says = f"{'An endpoint' if name == 'endpoint' else 'A judge'} was given beside a Pipeline."
                raise InputError(says, f"Give it to the Pipeline: Pipeline({name}=...).")
        pipeline = model
    else:
        pipeline = _kept(model, endpoint, judge)
    return pipeline(
        prompt,
        n,
        thinker,
        options=options,
        creativity=creativity,
        seed=seed,
        max_new_tokens=max_new_tokens,
        landing=landing,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        top_nsigma=top_nsigma,
        stop=stop,
        json_schema=json_schema,
        regex=regex,
        raw=raw,
        measure=measure,
        on_step=on_step,
        **thinker_options,
    )


_LAST: list[Pipeline] = []  # at most one: two large models would not fit
_LOCK = threading.Lock()


def _kept(model: Any, endpoint: Any, judge: Any) -> Pipeline:
    with _LOCK:
        if not (_LAST and _LAST[0].asked == (model, endpoint, judge)):
            _LAST[:] = [Pipeline(model, endpoint=endpoint, judge=judge)]
        return _LAST[0]
