"""A model without its weights, for engines that load those elsewhere: tokenizer, template, end tokens and limits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.adapter import adapter_base, adapter_folder
from thoughtmix.models.checkpoint import explained_load, is_ours, locate, read_config, require_causal
from thoughtmix.models.hardware import auto_dtype, quiet
from thoughtmix.models.language import LanguageModel
from thoughtmix.models.packaged import GENERATOR, Progress, default_folder, ensure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _NoWeights:
    """Stands where a `LanguageModel` has its model."""

    config: Any
    generation_config: Any


@dataclass(frozen=True)
class BareModel:
    """What is known of a model that another program loads.

    lm: Encodes and decodes; `lm.model` has a configuration and nothing else.
    source: The folder or Hugging Face id of its weights.
    adapter: The folder of the PEFT adapter that was named, on that model.
    """

    lm: LanguageModel
    source: str
    adapter: Path | None = None


def read_bare(name: str | None, who: str, on_progress: Progress | None = None) -> BareModel:
    """What `load_model` would load, without the weights.

    Args:
        name: As there.
        who: What loads them, for errors.
        on_progress: Called with one line before each long step.

    Raises:
        InputError: It is a model that `who` cannot load.
        ModelError: It cannot be read.
    """
    adapter = adapter_folder(name)
    if adapter is not None:
        base = read_bare(adapter_base(adapter), who, on_progress)
        if base.adapter is not None:
            raise InputError(f"{name} is an adapter on an adapter.", "Type --engine local.")
        return replace(base, lm=replace(base.lm, name=adapter.resolve().name, is_default=False), adapter=adapter)
    default = name is None or name in {"default", GENERATOR.title}
    if default:
        source, title, hub = str(default_folder() or ensure(GENERATOR, auto_dtype("cpu"), on_progress)), "", False
        title = GENERATOR.title
    else:
        source, title, hub = locate(str(name))
    if Path(source).is_file():
        raise InputError(f"{title} is a GGUF file, which {who} is not given here.", "Type --engine local.")
    config = read_config(source, title, hub=hub)
    if is_ours(config):
        raise InputError(f"{who} knows no models of the kind {config.model_type}.", "Type --engine local.")
    if config.is_encoder_decoder:
        raise InputError(f"{title} reads with an encoder, as {who} does not.", "Type --engine local.")
    require_causal(config, title)
    languages = GENERATOR.languages if default else ()
    model = cast("PreTrainedModel", _NoWeights(config, _generation_config(source, hub)))
    lm = LanguageModel(model, _tokenizer(source, title, hub), title, is_default=default, languages=languages)
    return BareModel(lm, source)


def _tokenizer(source: str, title: str, hub: bool) -> Any:
    from transformers import AutoTokenizer

    with explained_load(title, hub), quiet(downloads=hub):
        return AutoTokenizer.from_pretrained(source, local_files_only=not hub, trust_remote_code=False)


def _generation_config(source: str, hub: bool) -> Any:
    """None where it has none."""
    from transformers import GenerationConfig

    try:
        with quiet(downloads=hub), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GenerationConfig.from_pretrained(source, local_files_only=not hub)
    except (OSError, ValueError, ModelError):
        return None
