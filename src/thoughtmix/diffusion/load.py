"""A mask predictor with its tokenizer, by name: texts in, states to denoise out, and back to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.diffusion.denoiser import Denoiser, MaskPredictor
from thoughtmix.diffusion.state import DiffusionState
from thoughtmix.models.text_encoder import TextEncoder

BUNDLED = {"shakespeare-diffusion": Path(__file__).parent / "weights" / "shakespeare"}
"""Models that are part of the package, by name."""
DEFAULT = "shakespeare-diffusion"

_GAP = re.compile(r"<mask(?::(\d+))?>")


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A denoiser, its tokenizer, and what is to be known of them."""

    denoiser: Denoiser = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    context: int | None = None  # most tokens of a row; None: no limit
    before: tuple[int, ...] = ()  # tokens that a text stands between: [CLS] and [SEP] of a BERT
    after: tuple[int, ...] = ()

    @property
    def fill(self) -> int:
        """What undecided positions hold."""
        return self.denoiser.mask_id or 0

    @cached_property
    def encoder(self) -> TextEncoder:
        """Texts into ids; a mask that a prompt names is text."""
        return TextEncoder(self.tokenizer, self.name)

    def encode(self, text: str) -> list[int]:
        return self.encoder.text(text, frame=False) if text else []

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text of ids, special tokens (the mask among them) left out."""
        plain = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return str(self.tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The text of each token by itself."""
        return [self.decode([int(i)]) for i in ids]

    def prompt_state(
        self,
        prompts: str | Sequence[str],
        length: int | Sequence[int] = 256,
        seeds: int | Sequence[int] = 1,
        temperature: float | Sequence[float] = 1.0,
    ) -> DiffusionState:
        """Rows of a locked prompt and tokens to write after it, padded on the right.

        Args:
            prompts: One for all rows, or one a row; "" is unconditional.
            length: Tokens to write, one number for all rows or one a row.
            seeds: A number of rows (seeds 0, 1, ...), or one seed a row.
            temperature: One for all rows, or one a row.

        Raises:
            InputError: When numbers do not fit, or a row is longer than the model reads.
        """
        given = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        texts = [prompts] * len(given) if isinstance(prompts, str) else list(prompts)
        if len(texts) != len(given) or not given:
            raise InputError(f"{len(texts)} prompts for {len(given)} seeds.", "Pass one prompt, or one a seed.")
        rows = [[*self.before, *self.encode(text)] for text in texts]
        device = self.denoiser.device
        state = DiffusionState.from_prompts(rows, length, given, self.fill, temperature, device, suffix=self.after)
        return self._check_length(state)

    def infill_state(
        self, text: str, seeds: int | Sequence[int] = 1, temperature: float | Sequence[float] = 1.0, gap: int = 16
    ) -> DiffusionState:
        """Rows of a text with gaps to fill in; all else is locked.

        Args:
            text: Each `<mask:20>` is 20 tokens to fill in, `<mask>` is `gap`.
            seeds, temperature: As in `prompt_state`.

        Raises:
            InputError: For a text without a gap, or longer than the model reads.
        """
        given = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        ids, masked, at = list(self.before), [False] * len(self.before), 0
        for found in _GAP.finditer(text):
            here = self.encode(text[at : found.start()])
            size = int(found[1]) if found[1] else gap
            ids += [*here, *[self.fill] * size]
            masked += [*[False] * len(here), *[True] * size]
            at = found.end()
        rest = [*self.encode(text[at:]), *self.after]
        ids, masked = [*ids, *rest], [*masked, *[False] * len(rest)]
        if not any(masked):
            raise InputError("The text has no gap to fill.", 'Mark one: "To be, <mask:12> not to be"')
        device = self.denoiser.device
        row = torch.tensor(ids, device=device).expand(len(given), -1)
        hidden = torch.tensor(masked, device=device).expand(len(given), -1)
        state = DiffusionState.from_tokens(row, hidden, given, temperature=temperature, fill=self.fill)
        return self._check_length(state)

    def texts(self, state: DiffusionState, prompt: bool = True) -> list[str]:
        """Each row's text; prompt False: without what was locked before the first position to write."""
        out = []
        for ids, real, locked in zip(state.ids, state.real, state.locked, strict=True):
            keep = real if prompt else real & ~(locked.cumprod(0) > 0)
            out.append(self.decode(ids[keep]))
        return out

    def _check_length(self, state: DiffusionState) -> DiffusionState:
        longest = int(state.real.sum(1).max())
        if self.context is not None and longest > self.context:
            raise InputError(
                f"Prompt and text have {longest} tokens, {self.name} reads {self.context}.",
                "Shorten the prompt, or pass a smaller --max-new-tokens.",
            )
        return state


def wrap_diffusion(model: Any, tokenizer: Any, name: str = "") -> DiffusionModel:
    """Wrap a `MaskedDiffusionTransformer`, or any Hugging Face masked language model. Puts it in eval mode.

    Raises:
        ModelError: When there is no mask token.
    """
    from thoughtmix.diffusion.model import MaskedDiffusionTransformer

    model.eval()
    c = model.config
    name = name or c.name_or_path or type(model).__name__
    if isinstance(model, MaskedDiffusionTransformer):
        unknown = () if c.unknown_token_id is None else (c.unknown_token_id,)
        denoiser = MaskPredictor(model, c.mask_token_id, c.vocab_size, unknown)
        return DiffusionModel(denoiser, tokenizer, name, c.max_position_embeddings)
    if tokenizer.mask_token_id is None:
        raise ModelError(f"{name} has no mask token.", "Choose a masked language model (--model).")
    special = [i for i in tokenizer.all_special_ids if i is not None]
    denoiser = MaskPredictor(model, tokenizer.mask_token_id, model.get_output_embeddings().out_features, special)
    before, after = _text_frame(tokenizer)
    return DiffusionModel(denoiser, tokenizer, name, _context_length(c), before, after)


def load_diffusion(name: str | None = None, device: str = "auto", dtype: str = "float32") -> DiffusionModel:
    """Load a mask predictor.

    Args:
        name: None or "shakespeare-diffusion" (part of the package, no download), a folder that `thoughtmix train
            diffusion` or save_pretrained wrote, or a Hugging Face id `org/name` of a masked language model, the only
            case in which a hub is asked.
        device: auto, cpu, cuda, ...
        dtype: Of the weights.

    Raises:
        ModelError: When it cannot be loaded, or is no mask predictor.
        InputError: For a device or dtype that there is not.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from thoughtmix.diffusion import model as _registered  # noqa: F401  the Auto classes know ours from here on
    from thoughtmix.models.checkpoint import lacks_tokenizer, locate
    from thoughtmix.models.hardware import DTYPES, quiet, usable_device

    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass {', '.join(DTYPES)} (--dtype float32).")
    device = usable_device(device)
    name = name or DEFAULT
    source, title, hub = (str(BUNDLED[name]), name, False) if name in BUNDLED else locate(name)
    settings: dict[str, Any] = {"local_files_only": not hub, "trust_remote_code": False}
    try:
        with quiet(downloads=hub):
            tokenizer: Any = AutoTokenizer.from_pretrained(source, **settings)
            model, info = AutoModelForMaskedLM.from_pretrained(
                source, dtype=getattr(torch, dtype), output_loading_info=True, **settings
            )
    except Exception as error:  # the hub client, parsers and safetensors each have errors of their own
        reason = str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
        raise lacks_tokenizer(source) or ModelError(
            f"Cannot load {title} as a masked model: {reason}.", f"Leave --model out for {DEFAULT}."
        ) from None
    if info["missing_keys"]:
        raise ModelError(f"{title} lacks the weights {min(info['missing_keys'])}.", "Choose another model (--model).")
    return wrap_diffusion(model.to(device).requires_grad_(False), tokenizer, title)


def _text_frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a text."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    outer = tokenizer("a", add_special_tokens=True)["input_ids"]
    for at in range(len(outer) - len(inner) + 1):
        if outer[at : at + len(inner)] == inner:
            return tuple(outer[:at]), tuple(outer[at + len(inner) :])
    return (), ()


def _context_length(config: Any) -> int | None:
    value = getattr(config, "max_position_embeddings", None)
    # RoBERTa's family counts positions from its padding id + 1
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    return value - offset if isinstance(value, int) and value > 0 else None
