"""Reading a Hugging Face checkpoint from a folder or the hub, or saying in one line why that cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError
from thoughtmix.models.bounds import require_buildable
from thoughtmix.models.gguf_files import check_gguf, gguf_settings, is_gguf, no_bar, unmark

if TYPE_CHECKING:
    import torch


_ARCHITECTURES: dict[str, str] = {}  # model_type of a config.json -> module
_MASK_PREDICTORS: set[str] = set()
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_LEFT_TO_RIGHT = {"bert-generation", "xlnet"}  # the others of their kind are also masked language models
_ANOTHER = "Choose a decoder-only model (--model), or leave --model out for the default."


def register_architecture(model_type: str, module: str, *, causal: bool = True) -> None:
    """Make a kind of model loadable that transformers does not know by itself.

    Args:
        model_type: As in its config.json.
        module: Importing it registers the configuration and the model with transformers' Auto classes.
        causal: False for a mask predictor, which writes in any order.
    """
    _ARCHITECTURES[model_type] = module
    if not causal:
        _MASK_PREDICTORS.add(model_type)


def locate(name: str, *marks: str) -> tuple[str, str, bool]:
    """Where a model is.

    Args:
        name: A model of this package, a folder, a GGUF file, or a Hugging Face id.
        marks: Files of which a model folder holds one; config.json.

    Returns:
        What to load, what to call it, whether the hub may be asked.

    Raises:
        ModelError: There is no such folder, and the name is no id.
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
    if exists and is_gguf(path):
        check_gguf(path)
        return str(path), path.stem, False
    if exists or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"{name!r} is a file, not a model folder or GGUF file."
            if exists
            else f"There is no model folder {name!r}.",
            "Pass a folder, a GGUF file, a Hugging Face id such as org/name, or leave --model out for the default.",
        )
    return name, name, True


def packaged_weights(name: str) -> Path | None:
    """The folder of a model that is part of this package: "shakespeare-diffusion" is diffusion/weights/shakespeare."""
    title, _, room = name.rpartition("-")
    if not title.isidentifier() or not room.isidentifier():
        return None
    folder = Path(__file__).parents[1] / room / "weights" / title
    return folder if (folder / "config.json").is_file() else None


def is_ours(config: Any) -> bool:
    """Whether its model is of a class of this package, which no other program knows."""
    return config.model_type in _ARCHITECTURES


def predicts_masks(config: Any) -> bool:
    """Whether its model is a mask predictor of ours, which writes in any order."""
    return config.model_type in _MASK_PREDICTORS


def read_checkpoint(source: str, title: str, dtype: torch.dtype, *, hub: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer, on the CPU. Runs no code of the checkpoint's.

    Args:
        source, title, hub: As `locate` returns them.

    Raises:
        ModelError: It cannot be read, is no causal model (nor a mask predictor of ours), or lacks weights.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    from thoughtmix.models.hardware import quiet

    # trust_remote_code left out would *ask*, on stdin
    settings: dict[str, Any] = {"local_files_only": not hub, "trust_remote_code": False}
    where, which = gguf_settings(source)
    settings |= which
    try:
        with quiet(downloads=hub), no_bar() if which else nullcontext():
            require_buildable(source)
            _register_own(source)
            config = AutoConfig.from_pretrained(where, **settings)
            automodel: Any = AutoModelForMaskedLM if predicts_masks(config) else AutoModelForCausalLM
            if not predicts_masks(config):
                require_causal(config, title)
                automodel = AutoModelForSeq2SeqLM if config.is_encoder_decoder else automodel
            tokenizer = _tokenizer(AutoTokenizer, where, source, settings)
            model, info = automodel.from_pretrained(
                where, config=config, dtype=dtype, output_loading_info=True, **settings
            )
            if which:
                unmark(model)
    except ModelError:
        raise
    except Exception as error:  # the hub client, parsers and safetensors each have errors of their own
        raise _explained(error, title, hub) from None
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills them at random, and only warns
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{title} lacks the weights {missing[0]}{more}.", _ANOTHER)
    return model, tokenizer


def _tokenizer(auto: Any, where: str, source: str, settings: Mapping[str, Any]) -> Any:
    try:
        return auto.from_pretrained(where, **settings)
    except Exception:
        lacking = lacks_tokenizer(source)
        if lacking is None:
            raise
        raise lacking from None


def lacks_tokenizer(source: str) -> ModelError | None:
    """What to say of a folder that holds a model and no tokenizer; None where something of one is there."""
    folder = Path(source)
    if not folder.is_dir() or any(any(folder.glob(mark)) for mark in ("tokenizer*", "vocab*", "*.model", "merges.txt")):
        return None
    return ModelError(
        f"The folder {source} holds a model, but no tokenizer (no tokenizer.json).",
        f"Save that of the model there, too: tokenizer.save_pretrained({source!r})",
    )


def read_config(source: str, title: str, *, hub: bool = False) -> Any:
    """The configuration alone, no weights, no tokenizer; otherwise as `read_checkpoint`."""
    from transformers import AutoConfig

    from thoughtmix.models.hardware import quiet

    with explained_load(title, hub), quiet(downloads=hub):
        require_buildable(source)
        _register_own(source)
        where, which = gguf_settings(source)
        return AutoConfig.from_pretrained(where, local_files_only=not hub, trust_remote_code=False, **which)


@contextmanager
def explained_load(title: str, hub: bool) -> Iterator[None]:
    """Turns what goes wrong in loading a part of a checkpoint into a `ModelError`."""
    try:
        yield
    except Exception as error:  # as in `read_checkpoint`
        raise _explained(error, title, hub) from None


def require_causal(config: Any, title: str) -> None:
    """Refuse what does not write from left to right. BERT and its kin are registered as causal models, too, but read
    both ways unless they are decoders.

    Raises:
        ModelError: It is an encoder, an encoder-decoder of other things than text, or no language model.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    masked: Any = MODEL_FOR_MASKED_LM_MAPPING
    texts: Any = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder:
        if type(config) not in texts:
            raise ModelError(f"{title} is an encoder-decoder that reads no text ({config.model_type}).", _ANOTHER)
        return
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
    """Let transformers know a model class of ours before it reads the configuration."""
    try:
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        module = _ARCHITECTURES.get(str(config.get("model_type")))
    except (OSError, ValueError, AttributeError):
        return  # a hub id, or a config that the loader will complain about better
    if module is not None:
        import_module(module)
