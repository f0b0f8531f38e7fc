"""A PEFT adapter's folder, put on a base model: as PEFT would, or not at all.

What PEFT injects into the model stays there. A tuned prompt (prompt tuning, P-tuning) is nothing injected: its virtual
tokens become rows of the model's own embedding, so that every path of the engine reads them like any others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError, ThoughtmixError
from thoughtmix.models.encoder_decoder import is_encoder_decoder
from thoughtmix.models.hardware import quiet
from thoughtmix.models.packaged import GENERATOR, names_default

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "*.gguf")
_VIRTUAL = {"PROMPT_TUNING", "P_TUNING", "CPT"}
_OTHER_TASKS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}
_OURS = "MOT"
_PLAIN_LORA = "Train a LoRA without alora_invocation_tokens."
_MERGE = "Train a LoRA instead, or merge it (merge_and_unload) and save the whole model."


@dataclass(frozen=True)
class PutAdapter:
    """A model with an adapter in place, the tokenizer that goes with it, and tokens that every sequence begins with."""

    model: Any
    tokenizer: Any
    virtual: tuple[int, ...] = ()


def adapter_folder(name: str | None) -> Path | None:
    """The folder, when `name` is one of a PEFT adapter. One with a whole model's weights beside it is that model."""
    try:
        folder = Path(name or "").expanduser()
        found = bool(name) and (folder / _CONFIG).is_file()
        whole = found and (folder / "config.json").is_file()
        if whole and any((folder / weights).is_file() for weights in _WEIGHTS):  # a trainer may leave a config there
            whole = any(True for pattern in _MODEL_WEIGHTS for _ in folder.glob(pattern))
    except (OSError, ValueError, RuntimeError):  # too long, a null character, a user that is not known
        return None
    return folder if found and not whole else None


def adapter_base(folder: Path) -> str:
    """The base model that a PEFT adapter names. Raises `ModelError`."""
    base = adapter_config(folder).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(
            f"The adapter {folder} does not name its base model.",
            f"Set base_model_name_or_path in {folder / _CONFIG} (a folder, a Hugging Face id, or {GENERATOR.title}).",
        )
    return GENERATOR.title if names_default(base) else base


def put_adapter(model: Any, tokenizer: Any, folder: Path, title: str) -> PutAdapter:
    """Put the adapter on `model`, in place.

    Args:
        model, tokenizer: Of the base model. The adapter's own tokenizer, if its folder has one, replaces it, and the
            vocabulary grows to what the adapter was trained with.
        folder: As `save_pretrained` of PEFT wrote it.
        title: What errors call the base model.

    Raises:
        ModelError: It does not fit, is damaged, or works only inside of PEFT's own forward.
    """
    from peft import PeftModel

    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelError(f"The adapter {folder} has no weights ({_WEIGHTS[0]}).", "Save the adapter again.")
    config = adapter_config(folder)
    _require_loadable(config, folder)
    if config.get("peft_type") in _VIRTUAL and is_encoder_decoder(model):
        raise ModelError(f"The adapter {folder} is a tuned prompt, and {title} has an encoder.", _MERGE)
    try:
        tokenizer = _own_tokenizer(folder, model) or tokenizer
        if config.get("peft_type") != _OURS:
            _fit_vocabulary(model, weights, config, len(tokenizer))
        with peft_warnings(), quiet():  # what is loaded is drawn at random before
            kind: Any = PeftModel
            peft = kind.from_pretrained(model, str(folder), local_files_only=True).eval()
        if config.get("peft_type") in _VIRTUAL:
            return PutAdapter(*_virtual_tokens(peft, model, folder, tokenizer))
        if config.get("peft_type") != _OURS:
            _require_injected(peft, folder)
    except ThoughtmixError:
        raise
    except Exception as error:  # PEFT, safetensors and torch each have errors of their own
        reason = " ".join((str(error) or type(error).__name__).split())[:200].rstrip(".")
        raise ModelError(f"Cannot put the adapter {folder} on {title}: {reason}.", "Save it again.") from None
    return PutAdapter(peft.get_base_model(), tokenizer)


@contextmanager
def peft_warnings() -> Iterator[None]:
    """PEFT's warnings while it wraps a model: missing weights, which it fills at random, are an error; that tied
    weights complicate merging, and that it asks transformers for a name that will go away, concerns no user of ours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("error", ".*Found missing adapter keys", UserWarning)
        yield


def adapter_config(folder: Path) -> dict[str, Any]:
    """What the adapter's adapter_config.json holds. Raises `ModelError`."""
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / _CONFIG} is not readable: {error}.", "Save the adapter again.") from None
    return config


def _require_loadable(config: dict[str, Any], folder: Path) -> None:
    kind, task = config.get("peft_type"), config.get("task_type")
    if task in _OTHER_TASKS:
        raise ModelError(f"The adapter {folder} classifies ({task}), it writes no text.", "Name another (--model).")
    if kind in {"PREFIX_TUNING", "CARTRIDGE"}:
        raise ModelError(
            f"The adapter {folder} is a {kind}: trained keys and values of tokens that no embedding gives.",
            "Train prompt tuning or a LoRA instead.",
        )
    if config.get("alora_invocation_tokens"):
        raise ModelError(f"The adapter {folder} is an activated LoRA, at work after certain tokens alone.", _PLAIN_LORA)
    if kind == "MULTITASK_PROMPT_TUNING":
        raise ModelError(f"The adapter {folder} wants a task with every prompt ({kind}).", "Train one prompt a task.")


def _own_tokenizer(folder: Path, model: Any) -> Any:
    """What was saved beside the adapter: added tokens, another chat template."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(
            str(folder), config=model.config, local_files_only=True, trust_remote_code=False
        )


def _fit_vocabulary(model: Any, weights: Path, config: dict[str, Any], tokens: int) -> None:
    """Give the model as many embeddings as the adapter was trained with, whose own fill the new rows. tokens: of the
    tokenizer. Raises `ModelError` where there are tokens that neither knows."""
    embedding: Any = model.get_input_embeddings()
    has, width = embedding.weight.shape
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    wanted = has
    for key, shape in _shapes(weights).items():
        whole = len(shape) == 2 and shape[1] == width and key.endswith("weight") and ".lora_" not in key
        if whole and any(f".{name}." in key for name in names):
            wanted = shape[0]
    indices = config.get("trainable_token_indices") or config.get("token_indices") or []
    lists = indices.values() if isinstance(indices, dict) else [indices]
    if wanted == has and any(i >= has for each in lists for i in each):
        wanted = tokens
    if wanted != has:
        with quiet():  # new rows are drawn at random before they are overwritten
            model.resize_token_embeddings(wanted, mean_resizing=False)
    if tokens > max(wanted, has):
        raise ModelError(
            f"The adapter's tokenizer has {tokens} tokens, and neither it nor its base model embeddings for them "
            f"({wanted}).",
            "Save it again with modules_to_save or trainable_token_indices for the tokens that were added.",
        )


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """Of an adapter's tensors, none of which is read."""
    if weights.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(weights, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  no mapping
    import torch

    state = torch.load(weights, map_location="meta", weights_only=True)
    return {key: tuple(value.shape) for key, value in state.items()}


def _virtual_tokens(peft: Any, model: Any, folder: Path, tokenizer: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """The model with the virtual tokens as rows of its embedding, which are thereby no longer shared with its head."""
    import torch
    from torch import nn

    embedding: Any = model.get_input_embeddings()
    with torch.no_grad():
        rows: Tensor = peft.get_prompt(batch_size=1)[0].to(embedding.weight)
        want = _last_logits(peft)
        # Gemma 3 scales in its embedding what others do not scale
        table = torch.cat([embedding.weight, rows / getattr(embedding, "embed_scale", 1.0)])
    has = len(embedding.weight)
    embedding.weight, embedding.num_embeddings = nn.Parameter(table, requires_grad=False), len(table)
    model.config.tie_word_embeddings = False
    virtual = tuple(range(has, len(table)))
    _require_same(_last_logits(model, virtual), want, folder)
    return model, tokenizer, virtual


def _require_injected(peft: Any, folder: Path) -> None:
    """Refuse an adapter that does more in PEFT's forward than what is in the model by itself."""
    _require_same(_last_logits(peft.get_base_model()), _last_logits(peft), folder)


def _last_logits(model: Any, before: tuple[int, ...] = ()) -> Tensor:
    import torch

    with torch.no_grad():
        ids = torch.tensor([[*before, 3, 5, 4]], device=model.device)
        answer = {"decoder_input_ids": ids[:, -1:]} if is_encoder_decoder(model) else {}
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **answer).logits[0, -1].float()


def _require_same(got: Tensor, want: Tensor, folder: Path) -> None:
    near = float((got - want).abs().max()) <= 0.02 * max(float(want.std()), 1e-6)
    if want.isfinite().all() and not near:
        raise ModelError(f"The adapter {folder} works only inside of PEFT's own forward.", _MERGE)
