"""The engine that a caller names: our own loop, an OpenAI-compatible server, or vLLM in this process.

What does not go together is refused here, before anything is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.engine.engine import Engine

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.models.endpoint import Endpoint

ENGINES = ("local", "endpoint", "vllm")
"""Where thoughts may be written, by name."""


def named_engine(
    engine: str | Engine | None,
    model: str | LanguageModel | None,
    endpoint: str | Endpoint | None,
    options: Mapping[str, Any] | None,
    loading: Mapping[str, str],
    on_progress: Callable[..., None] | None,
) -> Engine | None:
    """The engine that was named, or None where it is our own loop over `model`, which is loaded later.

    Args:
        engine: local, endpoint, vllm, an `Engine`, or None.
        model: As `model_name` gives it.
        endpoint: An address, a profile or an `Endpoint`.
        options: Arguments of `vllm.LLM`.
        loading: dtype, device, weights and path, as they were given.
        on_progress: Called with a line for each long step of loading.

    Raises:
        InputError, UnknownName: What was given does not go together.
        ModelError: The model cannot be loaded by vLLM, or the endpoint cannot be used.
    """
    _check(engine, options, endpoint)
    if engine == "vllm":
        return _vllm(model, loading, options, on_progress)
    made = None if isinstance(engine, str) else engine
    if made is not None and (model is not None or endpoint is not None):
        raise InputError("An engine was given, and a model or an endpoint.", "Pass one of them.")
    return made if endpoint is None else _elsewhere(endpoint, model)


def _check(engine: str | Engine | None, options: Mapping[str, Any] | None, endpoint: str | Endpoint | None) -> None:
    """Raises `InputError`, `UnknownName` for what does not go together."""
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise UnknownName("engine", engine, ENGINES)
        if (engine == "endpoint") != (endpoint is not None):
            raise InputError(
                f"The engine is {engine}, and {'an' if endpoint is not None else 'no'} endpoint was given.",
                "Pass --endpoint URL alone." if endpoint is None else "Drop one of the two.",
            )
    if options and engine != "vllm":
        raise InputError("Options of an engine are for vLLM.", "Pass --engine vllm, or drop --engine-option.")


def _vllm(
    model: Any, loading: Mapping[str, str], options: Mapping[str, Any] | None, tell: Callable[..., None] | None
) -> Engine:
    from thoughtmix.engine.vllm import VllmEngine

    if model is not None and not isinstance(model, str):
        raise InputError("vLLM loads models itself, and a loaded one was given.", "Pass its folder or Hugging Face id.")
    for name, value in loading.items():
        if name != "dtype" and value != "auto":
            raise InputError(f"--{name} is for our own loop.", "Drop it, or type --engine local.")
    return VllmEngine(model, dtype=loading["dtype"], options=options, on_progress=tell)


def model_name(model: Any) -> Any:
    """A path as text; a name, a loaded model and None as they are. Raises `InputError` for anything else."""
    if isinstance(model, os.PathLike):
        return os.fspath(model)
    if model is None or isinstance(model, str) or hasattr(model, "tokenizer"):
        return model
    raise InputError(
        f"A model is a name, a folder or a loaded LanguageModel, not {type(model).__name__}.",
        "Pass where it was saved: model='FOLDER', or its Hugging Face id.",
    )


def _elsewhere(endpoint: str | Endpoint, model: str | LanguageModel | None) -> Engine:
    from thoughtmix.engine.endpoint import EndpointEngine
    from thoughtmix.models.profile import connect

    if isinstance(endpoint, str):
        if model is not None and not isinstance(model, str):
            raise InputError("A loaded model and an endpoint were given.", "Pass one, or the model's name there.")
        return EndpointEngine(connect(endpoint, model, logprobs=True))
    if not hasattr(endpoint, "complete"):
        hint = "Pass http://host:port, @profile, or a thoughtmix.models.endpoint.Endpoint."
        raise InputError(f"An endpoint is an address or an Endpoint, not {type(endpoint).__name__}.", hint)
    if model is not None:
        raise InputError("A model was given beside an Endpoint.", "Give it to that: Endpoint(url, model).")
    return EndpointEngine(endpoint)
