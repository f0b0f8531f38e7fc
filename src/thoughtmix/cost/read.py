"""From a name to a model without numbers: the configuration is read, the modules are made on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPE = "Type: thoughtmix cost FOLDER (or config.json, or org/name; the default model without)."


def read(name: str | None = None) -> tuple[Any, str]:
    """(configuration, title). name: None or "default"; a folder or a config.json; a Hugging Face id `org/name`, the
    only case in which a hub is asked, and then for the configuration alone. Raises `ModelError`.
    """
    from thoughtmix.models.checkpoint import locate, read_config
    from thoughtmix.models.hardware import DTYPES
    from thoughtmix.models.packaged import GENERATOR, ensure, folder_of, ready

    try:
        if name is None or name in {"default", GENERATOR.title}:
            at = next((folder_of(GENERATOR, d) for d in DTYPES if ready(GENERATOR, d)), None)
            return read_config(str(at or ensure(GENERATOR)), GENERATOR.title), GENERATOR.title
        path = Path(name)
        if name.endswith(".json") and path.is_file():
            title = path.resolve().parent.name if path.name == "config.json" else path.stem
            return read_config(str(path.parent if path.name == "config.json" else path), title), title
        source, title, hub = locate(name)
        return read_config(source, title, hub=hub), title
    except ModelError as error:  # its hint speaks of --model
        raise ModelError(error.message, _TYPE) from None


def build(config: Any, title: str) -> PreTrainedModel:
    """The model on the meta device: modules and shapes, not one weight. Of a model that also sees or hears, the text
    part. Raises `ModelError` when transformers makes no language model of this configuration.
    """
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
    )

    from thoughtmix.models.checkpoint import _require_causal
    from thoughtmix.models.quiet import quiet

    kinds: tuple[tuple[Any, Any], ...] = (
        (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
        (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    )
    for part in (config.get_text_config(), config):
        maker = next((make for known, make in kinds if type(part) in known), None)
        if maker is None:
            continue
        try:
            if maker is AutoModelForCausalLM:
                _require_causal(part, title)
            with quiet(), torch.device("meta"):
                model: PreTrainedModel = maker.from_config(part)
        except ModelError as error:
            raise ModelError(error.message, _TYPE) from None
        except Exception as error:  # whatever a model's own code raises at sizes that do not fit together
            reason = str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
            raise ModelError(f"Cannot lay out {title}: {reason}.", f"Check its config.json. {_TYPE}") from None
        return model
    raise ModelError(f"{title} is not a language model that transformers makes ({config.model_type}).", _TYPE)


def context_length(config: Any) -> int | None:
    """Most tokens that the configuration names."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
