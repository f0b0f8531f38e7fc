"""`think`, the one call most people need, and `Pipeline`, the same with the model kept loaded.

Data flows one way: prompt -> model -> thinker -> ThoughtSet -> metrics.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, Interrupted, UnknownName
from thoughtmix.core.registry import get_thinker
from thoughtmix.core.thinker import Request, StepEvent, Thinker
from thoughtmix.core.types import ThoughtSet

if TYPE_CHECKING:
    from thoughtmix.models import Embedder, LanguageModel

Prompt = str | Sequence[Mapping[str, str]]
AUTO = "auto"
"""A thinker's name: mixture where a model was trained or grafted to have thought branches, diffusion where it writes in
any order, else sampling."""


class Pipeline:
    """A loaded model that turns prompts into thought sets; call it as often as you like.

    model: None for the default (SmolLM2-135M-Instruct), a local folder, a Hugging Face id, or a `LanguageModel`.
    dtype: auto (bfloat16 where the hardware multiplies it, else float32), float32, bfloat16 or float16.
    weights: how a decoding step reads the weights: auto, native (as loaded) or fp16 (x86 CPUs; see
    `engine.backends.packing`). path: auto, fused, shared or expanded (see `engine.backends.base`).
    judge: a model that scores every thought's NLL, named like `model`; it should not be the generator.

    Models are loaded at the first call. Raises `ModelError` when one cannot be.
    """

    def __init__(
        self,
        model: str | LanguageModel | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        weights: str = "auto",
        path: str = "auto",
        embedder: str | Embedder | None = None,
        judge: str | LanguageModel | None = None,
        on_progress: Callable[..., None] | None = None,
    ) -> None:
        self._model, self._embedder, self._judge = model, embedder, judge
        self.dtype, self.device, self.weights, self.path = dtype, device, weights, path
        self._on_progress = on_progress

    def _load(self, model: str | LanguageModel | None) -> LanguageModel:
        from thoughtmix.models import load_model

        if model is not None and not isinstance(model, str):
            return model
        return load_model(model, dtype=self.dtype, device=self.device, on_progress=self._on_progress)

    @cached_property
    def model(self) -> LanguageModel:
        """The generating model."""
        return self._load(self._model)

    @cached_property
    def judge(self) -> LanguageModel | None:
        """The judging model, if one was named."""
        return None if self._judge is None else self._load(self._judge)

    @cached_property
    def embedder(self) -> Embedder:
        """What measures how far thoughts lie apart."""
        from thoughtmix.models import load_embedder

        if self._embedder is not None and not isinstance(self._embedder, str):
            return self._embedder
        return load_embedder(self._embedder, on_progress=self._on_progress)

    def __call__(
        self,
        prompt: Prompt,
        n: int = 8,
        thinker: str | Thinker = AUTO,
        *,
        creativity: float | None = None,
        seed: int = 0,
        max_new_tokens: int = 64,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 1.0,
        min_p: float | Sequence[float] | None = None,
        top_nsigma: float | Sequence[float] = 0.0,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        measure: bool = True,
        on_step: Callable[[StepEvent], None] | None = None,
        **options: Any,
    ) -> ThoughtSet:
        """n thoughts for one prompt. See `thoughtmix.think`."""
        request = Request(
            n=n,
            seed=seed,
            max_new_tokens=max_new_tokens,
            creativity=creativity,
            temperature=_frozen(temperature),
            top_k=_frozen(top_k),
            top_p=_frozen(top_p),
            min_p=_frozen(min_p),
            top_nsigma=_frozen(top_nsigma),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            options=options,
            on_step=on_step,
            path=self.path,  # type: ignore[arg-type]  # checked by decode
            weights=self.weights,  # type: ignore[arg-type]
        )
        if thinker == AUTO:
            thinker = self.model.own_thinker
        kind = get_thinker(thinker) if isinstance(thinker, str) else thinker
        for name in options:
            if name not in kind.options:
                raise UnknownName(f"option of thinker {kind.name!r}:", name, kind.options)
        ids = self.model.encode(prompt, raw=raw)
        began = time.perf_counter()
        thoughts, facts = kind.think(self.model, ids, request)
        facts = {**facts, "wall_seconds": round(time.perf_counter() - began, 4)}
        interrupted = bool(facts.pop("interrupted", False))
        result = ThoughtSet(
            prompt=prompt if isinstance(prompt, str) else _last_user(prompt),
            messages=() if isinstance(prompt, str) else tuple(dict(m) for m in prompt),
            thoughts=tuple(thoughts),
            thinker=kind.name,
            model=self.model.name,
            settings={**request.recorded(), "raw": raw},
            run={**facts, **_environment(self.model)},
        )
        if interrupted:
            raise Interrupted(result)
        if measure:
            from thoughtmix.metrics import measure as measured

            result = measured(result, embedder=self.embedder, judge=self.judge)
        return result


def think(
    prompt: Prompt,
    n: int = 8,
    thinker: str | Thinker = AUTO,
    *,
    model: str | LanguageModel | Pipeline | None = None,
    judge: str | LanguageModel | None = None,
    **settings: Any,
) -> ThoughtSet:
    """Turn one prompt into n thoughts.

    prompt: a text (for a chat model, one user message, unless raw=True) or a list of chat messages
    `{"role": ..., "content": ...}`. thinker: a name from `thoughtmix.thinker_names()`, a `Thinker`, or auto: what the
    model is made for.
    model: None for the default model, a local folder, a Hugging Face id, or a loaded `Pipeline`.

    Further settings: creativity (0 deterministic, 1 the default strength), seed (thought i has seed + i),
    max_new_tokens, temperature, top_k, top_p, min_p, top_nsigma (each one value, or n), stop (strings that end a
    thought), raw, measure (False: no embedding, no metrics), on_step (called with a `StepEvent` a step), and the
    thinker's own options.

    The same model stays loaded between calls. Raises `InputError`, `ModelError` or `NumericsError`;
    on Ctrl-C `Interrupted`, which carries what was complete.
    """
    if isinstance(model, Pipeline):
        if judge is not None:
            raise InputError("A judge was given beside a Pipeline.", "Give it to the Pipeline: Pipeline(judge=...).")
        return model(prompt, n, thinker, **settings)
    return _kept(model, judge)(prompt, n, thinker, **settings)


_LAST: list[Pipeline] = []  # at most one: two large models would not fit
_LOCK = threading.Lock()


def _kept(model: Any, judge: Any) -> Pipeline:
    with _LOCK:
        if not (_LAST and _LAST[0]._model == model and _LAST[0]._judge == judge):
            _LAST[:] = [Pipeline(model, judge=judge)]
        return _LAST[0]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _last_user(messages: Sequence[Mapping[str, str]]) -> str:
    said = [m["content"] for m in messages if m.get("role") == "user"]
    return said[-1] if said else messages[-1]["content"]


def _environment(model: LanguageModel) -> dict[str, Any]:
    import torch
    import transformers

    from thoughtmix import __version__

    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "thoughtmix": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
