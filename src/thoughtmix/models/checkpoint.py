"""Reading a Hugging Face checkpoint from a folder or the hub, or saying in one line why that cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError

if TYPE_CHECKING:
    import torch

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_LEFT_TO_RIGHT = {"bert-generation", "xlnet"}  # the others of their kind are also masked language models
_ANOTHER = "Choose a decoder-only model (--model), or leave --model out for the default."


def locate(name: str, *marks: str) -> tuple[str, str, bool]:
    """(what to load, what to call it, whether the hub may be asked); a model folder holds one of `marks`.

    Raises `ModelError`.
    """
    inside = packaged_weights(name)
    if inside is not None:
        return str(inside), name, False
    path = Path(name)
    try:
        path = path.expanduser()
        exists = bool(name) and path.exists()  # Path("") is the current folder
        is_folder = exists and path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a null character, a user that is not known
        is_folder = exists = False
    if is_folder:
        if not any((path / mark).is_file() for mark in marks or ("config.json",)):
            raise ModelError(
                f"The folder {name} holds no model (no config.json).",
                "Name a folder that save_pretrained wrote (--model).",
            )
        return str(path), path.resolve().name, False
    if exists or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"{name!r} is a file, not a model folder." if exists else f"There is no model folder {name!r}.",
            "Pass a folder, a Hugging Face id such as org/name, or leave --model out for the default.",
        )
    return name, name, True


def packaged_weights(name: str) -> Path | None:
    """The folder of a model that is part of this package: "shakespeare-diffusion" is diffusion/weights/shakespeare."""
    title, _, room = name.rpartition("-")
    if not title.isidentifier() or not room.isidentifier():
        return None
    folder = Path(__file__).parents[1] / room / "weights" / title
    return folder if (folder / "config.json").is_file() else None


def predicts_masks(config: Any) -> bool:
    """Whether its model is a mask predictor of ours, which writes in any order."""
    return str(config.model_type) == "thoughtmix_diffusion"


def read_checkpoint(source: str, title: str, dtype: torch.dtype, *, hub: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) on the CPU. Runs no code of the checkpoint's. Raises `ModelError`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    from thoughtmix.models.quiet import quiet

    # trust_remote_code left out would *ask*, on stdin
    settings: dict[str, Any] = {"local_files_only": not hub, "trust_remote_code": False}
    try:
        with quiet(downloads=hub):
            _register_own(source)
            config = AutoConfig.from_pretrained(source, **settings)
            automodel: Any = AutoModelForMaskedLM if predicts_masks(config) else AutoModelForCausalLM
            if not predicts_masks(config):
                _require_causal(config, title)
            tokenizer = AutoTokenizer.from_pretrained(source, **settings)
            model, info = automodel.from_pretrained(
                source, config=config, dtype=dtype, output_loading_info=True, **settings
            )
    except ModelError:
        raise
    except Exception as error:  # the hub client, parsers and safetensors each have errors of their own
        raise _explained(error, title, hub) from None
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills them at random, and only warns
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{title} lacks the weights {missing[0]}{more}.", _ANOTHER)
    return model, tokenizer


def read_config(source: str, title: str, *, hub: bool = False) -> Any:
    """The configuration alone, no weights, no tokenizer. Runs no code of the checkpoint's. Raises `ModelError`."""
    from transformers import AutoConfig

    from thoughtmix.models.quiet import quiet

    try:
        with quiet(downloads=hub):
            _register_own(source)
            return AutoConfig.from_pretrained(source, local_files_only=not hub, trust_remote_code=False)
    except Exception as error:  # as in `read_checkpoint`
        raise _explained(error, title, hub) from None


def _require_causal(config: Any, title: str) -> None:
    """BERT and its kin are registered as causal models, too, but read both ways unless they are decoders."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    masked: Any = MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder:
        raise ModelError(f"{title} is an encoder-decoder model ({config.model_type}).", _ANOTHER)
    both_ways = type(config) in masked or config.model_type in _NOT_LEFT_TO_RIGHT
    told = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if type(config) not in causal or (both_ways and not told):
        raise ModelError(f"{title} is not a causal language model ({config.model_type}).", _ANOTHER)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explained(error: Exception, title: str, hub: bool) -> ModelError:
    from huggingface_hub import errors as said

    causes = list(_chain(error))
    reason = str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
    if not hub:
        return ModelError(f"Cannot load {title}: {reason}.", "Save it again, or leave --model out.")

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    page = f"https://huggingface.co/{title}"
    if any_of(said.GatedRepoError):
        return ModelError(f"{title} is gated.", f"Accept its terms at {page}, then type: hf auth login")
    if any_of(said.RepositoryNotFoundError):
        return ModelError(
            f"There is no folder {title} here and no model {title} on the Hugging Face hub.",
            "Check the spelling (a private one: type hf auth login), or leave --model out for the default.",
        )
    if any_of(said.LocalEntryNotFoundError, said.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return ModelError(
            f"There is no folder {title} here, and the Hugging Face hub cannot be reached.",
            "Check the network, pass a folder, or leave --model out for the default, which needs no hub.",
        )
    return ModelError(f"Cannot load {title}: {reason}.", "Choose another model (--model).")


def _register_own(source: str) -> None:
    """A model class of ours ("thoughtmix_mixture") is known to transformers once its module is imported."""
    try:
        kind = str(json.loads((Path(source) / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return  # a hub id, or a config that the loader will complain about better
    room = kind.removeprefix("thoughtmix_")
    if room != kind and room.isidentifier() and find_spec(f"thoughtmix.{room}"):
        import_module(f"thoughtmix.{room}.model")
