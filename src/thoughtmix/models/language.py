"""A language model and its tokenizer, loaded from the cache, a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.errors import InputError, ModelError
from thoughtmix.models.packaged import DTYPES, GENERATOR, Progress, ensure

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
_TYPE_A_PROMPT = 'Type a prompt: thoughtmix think "Name a fruit."'


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model ready to decode: eval mode, no gradients."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    is_default: bool = False

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @cached_property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together; None when the config names no limit."""
        config: Any = self.model.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the generation config's, the tokenizer's, and a chat turn's end."""
        named = [getattr(self.model.generation_config, "eos_token_id", None), self.tokenizer.eos_token_id]
        ids = [i for value in named for i in (value if isinstance(value, list) else [value])]
        if self.tokenizer.chat_template:
            known = self.tokenizer.get_vocab()
            ids += [known.get(end) for end in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")]
        return frozenset(int(i) for i in ids if i is not None)

    def encode(self, prompt: str | Sequence[Mapping[str, str]], raw: bool = False) -> list[int]:
        """Token ids of a prompt, ending where the answer begins.

        A text becomes one user message in the model's chat template, unless there is none or `raw` asks to
        continue it as it stands; messages `{"role": ..., "content": ...}` need a template. Raises `InputError`.
        """
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InputError("The prompt is empty.", _TYPE_A_PROMPT)
            if raw or not self.tokenizer.chat_template:
                return list(self.tokenizer(prompt)["input_ids"])
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise InputError("raw continues a text, but messages were given.", "Pass a text, or drop raw.")
        messages = [_message(m, i) for i, m in enumerate(prompt)]
        if not messages:
            raise InputError("The conversation is empty.", _TYPE_A_PROMPT)
        if not self.tokenizer.chat_template:
            raise InputError(f"{self.name} has no chat template.", "Pass a text instead of messages.")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may refuse an order of roles with any Jinja error
            raise InputError(f"{self.name}'s chat template refuses this: {error}.", "Change the messages.") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _message(message: Any, index: int) -> dict[str, str]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(f"{where} lacks role or content.", 'Write {"role": "user", "content": "..."}.')
    if message["role"] not in _ROLES:
        raise InputError(f"{where} has role {message['role']!r}.", f"Known: {', '.join(sorted(_ROLES))}.")
    if not isinstance(message["content"], str):
        raise InputError(f"{where} has content that is no text.", 'Write {"role": "user", "content": "..."}.')
    return dict(message)


def wrap_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> LanguageModel:
    """A `LanguageModel` of a model and tokenizer that are loaded already."""
    return LanguageModel(model, tokenizer, name or model.config.name_or_path or type(model).__name__)


def auto_dtype(device: str) -> str:
    """bfloat16 where the hardware multiplies it, else float32 (a CPU without it emulates, several times slower)."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.startswith("cpu"):
        from thoughtmix.models.hardware import bf16_hardware

        return "bfloat16" if bf16_hardware() else "float32"
    return "float32"


def load_model(
    name: str | None = None, *, dtype: str = "auto", device: str = "auto", on_progress: Progress | None = None
) -> LanguageModel:
    """Load a causal language model.

    name: None or "default" for SmolLM2-135M-Instruct from the user's cache (fetched on first use, never from a
    hub); a local folder; or a Hugging Face id `org/name`, the only case in which a hub is asked.
    Raises `InputError` for unknown dtypes and devices, `ModelError` when the model cannot be loaded.
    """
    import torch

    if dtype not in {"auto", *DTYPES}:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass auto, {', '.join(DTYPES)} (--dtype auto).")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} cannot be used: {str(error).splitlines()[0]}.", "Pass --device cpu.") from None
    kind = auto_dtype(device) if dtype == "auto" else dtype
    default = name is None or name == "default"
    if default:
        source, title, hub = str(ensure(GENERATOR, kind, on_progress)), GENERATOR.title, False
    else:
        source, title, hub = _source(str(name))
    model, tokenizer = _from_pretrained(source, title, hub, getattr(torch, kind))
    model = model.to(place).eval().requires_grad_(False)  # type: ignore[arg-type]
    return LanguageModel(model, tokenizer, title, is_default=default)


def _source(name: str) -> tuple[str, str, bool]:
    """(what to load, what to call it, whether the hub may be asked)."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"The folder {name} holds no model (no config.json).", "Name a saved model (--model).")
        return str(path), path.name, False
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"There is no model folder {name!r}.",
            "Pass a folder, a Hugging Face id such as org/name, or leave --model out for the default.",
        )
    return name, name, True


def _from_pretrained(source: str, title: str, hub: bool, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from thoughtmix.models.quiet import quiet

    local = not hub
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, local_files_only=local)
            if config.is_encoder_decoder:
                raise ModelError(f"{title} is an encoder-decoder model.", "Choose a decoder-only one (--model).")
            if type(config) not in AutoModelForCausalLM._model_mapping:
                raise ModelError(
                    f"{title} ({config.model_type}) is not a causal language model.", "Choose another (--model)."
                )
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            model, info = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, local_files_only=local, output_loading_info=True
            )
    except ModelError:
        raise
    except Exception as error:  # the hub client, parsers and safetensors each have errors of their own
        reason = " ".join(str(error).split())[:160]
        way_out = "Check the id and the network." if hub else "Save it again, or leave --model out for the default."
        if title == GENERATOR.title:
            way_out = f"Type: rm -r {source} && thoughtmix pull"
        raise ModelError(f"Cannot load {title}: {reason or type(error).__name__}", way_out) from None
    missing = [key for key in info["missing_keys"] if "lm_head" not in key]
    if missing:  # transformers would fill them at random and only warn
        raise ModelError(f"{title} lacks the weights {missing[0]} (and {len(missing) - 1} more).", "Save it again.")
    return model, tokenizer
